"""The same API as most would write it in Django REST framework: `gunicorn tests.bench.drf:application`.

It has no authentication, limits, metrics or logs either. BENCH_URL is the database, BENCH_OWNER whose notes they are.
"""

import os
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import django
from django.conf import settings

OWNER = UUID(os.environ["BENCH_OWNER"])
_url = urlsplit(os.environ["BENCH_URL"])
settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="not a secret: nothing is signed",
    INSTALLED_APPS=["django.contrib.postgres", "rest_framework"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _url.path.removeprefix("/"),
            "USER": _url.username,
            "PASSWORD": unquote(_url.password or ""),
            "HOST": _url.hostname,
            "PORT": _url.port,
            "CONN_MAX_AGE": None,
            "OPTIONS": {"options": "-c search_path=notes,public"},
        }
    },
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # it says how long an answer is
    USE_TZ=True,
    REST_FRAMEWORK={
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_PERMISSION_CLASSES": [],
        "UNAUTHENTICATED_USER": None,
    },
)
django.setup()

from django.contrib.postgres.fields import ArrayField  # noqa: E402
from django.contrib.postgres.search import (  # noqa: E402
    SearchHeadline,
    SearchQuery,
    SearchRank,
    SearchVectorField,
)
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import models  # noqa: E402
from django.db.models.functions import Now  # noqa: E402
from django.urls import include, path  # noqa: E402
from rest_framework import pagination, parsers, routers, serializers, viewsets  # noqa: E402


class MergePatchParser(parsers.JSONParser):
    media_type = "application/merge-patch+json"


class Note(models.Model):
    id = models.UUIDField(primary_key=True, db_default=models.Func(function="uuidv7"))
    owner = models.UUIDField(default=OWNER)
    title = models.TextField(max_length=300)
    content = models.TextField(default="", blank=True)
    tags = ArrayField(models.TextField(max_length=100), default=list, blank=True)
    pinned = models.BooleanField(default=False)
    archived = models.BooleanField(default=False)
    metadata = models.JSONField(default=dict, blank=True)
    attachment_count = models.IntegerField(default=0)
    revision = models.IntegerField(db_default=1)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    deleted_at = models.DateTimeField(null=True)
    purge_at = models.DateTimeField(null=True)
    search = models.GeneratedField(expression=models.F("title"), output_field=SearchVectorField(), db_persist=True)

    class Meta:
        app_label = "bench"
        managed = False
        db_table = "notes"


LISTED = (
    "id", "title", "tags", "pinned", "archived", "metadata", "attachment_count", "revision", "created_at",
    "updated_at", "deleted_at", "purge_at",
)  # fmt: skip
SERVERS = ("attachment_count", "revision", "created_at", "updated_at", "deleted_at", "purge_at")


class NoteSerializer(serializers.ModelSerializer):
    class Meta:
        model = Note
        fields = (*LISTED, "content")
        read_only_fields = ("id", *SERVERS)

    def update(self, instance: Note, validated: dict[str, Any]) -> Note:
        for name, value in validated.items():
            setattr(instance, name, value)
        instance.save(update_fields=list(validated))
        instance.refresh_from_db(fields=["revision", "updated_at"])  # which a trigger sets
        return instance


class ListedSerializer(serializers.ModelSerializer):
    class Meta:
        model = Note
        fields = LISTED


class FoundSerializer(serializers.ModelSerializer):
    rank = serializers.FloatField()
    title_html = serializers.CharField()
    snippet_html = serializers.CharField()

    class Meta:
        model = Note
        fields = (*LISTED, "rank", "title_html", "snippet_html")


class Pages(pagination.CursorPagination):
    page_size = 50
    page_size_query_param = "limit"
    ordering = ("-created_at", "-id")


class Notes(viewsets.ModelViewSet):
    pagination_class = Pages
    parser_classes = (parsers.JSONParser, MergePatchParser)

    def get_serializer_class(self) -> type[serializers.ModelSerializer]:
        return ListedSerializer if self.action == "list" else NoteSerializer

    def get_queryset(self) -> Any:
        if self.action == "list":
            return Note.objects.filter(owner=OWNER, deleted_at=None).defer("content", "search", "owner")
        return Note.objects.filter(owner=OWNER).defer("search")


class Search(viewsets.GenericViewSet):
    def list(self, request: Any) -> Any:
        from rest_framework.response import Response  # noqa: PLC0415

        query = SearchQuery(request.query_params["q"], config="english", search_type="websearch")
        best = (
            Note.objects.filter(owner=OWNER, deleted_at=None, search=query)
            .annotate(
                rank=SearchRank(models.F("search"), query, normalization=1),
                title_html=SearchHeadline("title", query, config="english", highlight_all=True),
                snippet_html=SearchHeadline(
                    "content", query, config="english", max_fragments=2, max_words=30, min_words=10
                ),
            )
            .order_by("-rank", "-id")
            .defer("content", "search")[: int(request.query_params.get("limit", 20))]
        )
        return Response({"items": FoundSerializer(best, many=True).data})


router = routers.SimpleRouter(trailing_slash=False)
router.register("notes", Notes, basename="note")
router.register("search", Search, basename="search")
urlpatterns = [path("v1/", include(router.urls))]
application = get_wsgi_application()
