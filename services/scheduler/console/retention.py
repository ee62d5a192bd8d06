"""Retention: what it would remove and why, and that it does so."""

from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from scheduler import catalogue
from scheduler.answers import AnswerError
from scheduler.console.backups import BackupParts, may_read
from scheduler.console.parts import allowed
from scheduler.tokens import BACKUPS_READ


class RetentionPages(BackupParts):
    menu_label = "Retention"
    path = "/retention"

    def is_accessible(self, request: Request) -> bool:
        return may_read(request)

    @route("")
    async def index(self, request: Request) -> Response:
        allowed(request, BACKUPS_READ)
        try:
            plan = await catalogue.plan(self.api)
        except AnswerError as error:
            return await self.refused(request, error)
        return await self.page(request, "retention.html", plan=plan)

    @route("", methods=["POST"])
    async def apply(self, request: Request) -> Response:
        """The plan that was shown, and no other: another one by now is refused."""
        digest = str(request.state.form.get("digest", ""))
        told = "It is done. What is left says why."
        try:
            async with self.asking(request, "applied retention", digest[:16], told=told) as api:
                await api.apply(digest)
        except AnswerError as error:
            return await self.refused(request, error)
        return self.to(request, "/retention")
