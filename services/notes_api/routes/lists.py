"""Lists of notes, and the tags that notes have."""

import re
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from notes_api import lists, tags
from notes_api.access import Reader
from notes_api.db import Connection, Db
from notes_api.errors import InvalidCursor
from notes_api.fields import Tag, Time
from notes_api.lists import Order, Place, Sort
from notes_api.problems import documented
from notes_api.routes.parts import ALWAYS, Route, header
from notes_api.schemas import NoteListed, NotePage, PageQuery

router = APIRouter(prefix="/v1", tags=["lists"], route_class=Route)

MAX_LINK_CHARACTERS = 2000
NEXT = header("The next page, `rel=next`, if there is one and its address is not overlong.")
_COUNT = re.compile(r"(?:^|,)\s*count\s*=\s*\"?(?P<how>exact|estimated)\"?\s*(?=$|[,;])", re.IGNORECASE)
FilterTags = Annotated[list[Tag], Field(max_length=20)]


class Filtered(BaseModel):
    """The filters that lists and searches have."""

    model_config = ConfigDict(extra="forbid")

    tag: Annotated[FilterTags, Field(description="Has this tag; all of them, when it is repeated.")] = []
    any_tag: Annotated[FilterTags, Field(description="Has any of these tags.")] = []
    pinned: bool | None = None
    archived: bool | None = None

    def filters(self, *without: str) -> dict[str, Any]:
        """Those that are given, in one form however they were written."""
        given = self.model_dump(exclude={"limit", "cursor", *without}, exclude_none=True)
        return {name: sorted(set(v)) if isinstance(v, list) else v for name, v in given.items() if v != []}


class ListQuery(Filtered, PageQuery):
    trashed: Annotated[bool, Field(description="What is in the trash, and only that.")] = False
    created_after: Annotated[Time | None, Field(description="Made at this time or later.")] = None
    created_before: Annotated[Time | None, Field(description="Made before this time.")] = None
    updated_after: Annotated[Time | None, Field(description="Changed last at this time or later.")] = None
    updated_before: Annotated[Time | None, Field(description="Changed last before this time.")] = None
    sort: Annotated[
        Sort, Field(description="With `-`, the last first. Titles are in the order of their characters' code points.")
    ] = "-created_at"


class NoteList(NotePage):
    next: Annotated[str | None, Field(description="Where the next page is.")] = None
    count: Annotated[
        int | None, Field(description="Of all notes that pass the filters, if `Prefer` asked for it; else null.")
    ] = None


Prefer = Annotated[
    str | None,
    Header(
        description="`count=exact` counts all notes that pass, which takes longer the more there are; `count=estimated`"
        f" is exact below {lists.COUNTED:,}, and from there what statistics say. Other preferences are ignored.",
        examples=["count=estimated"],
    ),
]


@router.get(
    "/notes",
    operation_id="listNotes",
    response_model=NoteList,
    responses={
        200: {
            "headers": {
                "Link": NEXT,
                "Preference-Applied": header("The preference that was followed."),
            }
        },
        **documented(*ALWAYS, InvalidCursor),
    },
)
async def listed(
    request: Request, caller: Reader, connection: Db, query: Annotated[ListQuery, Query()], prefer: Prefer = None
) -> Response:
    """Notes without their content, a page at a time, the newest first or in another order."""
    filters, signer = query.filters("sort"), request.app.state.signer
    of = ["listNotes", caller.owner, filters, query.sort]
    after = None if query.cursor is None else Place.read(signer.read(query.cursor, of))
    rows, place = await lists.page(connection, caller.owner, filters, Order(query.sort, after), query.limit)
    cursor = place and signer.sign(place.written(), of)
    counted, headers = await _counted(connection, caller.owner, filters, prefer)
    page = NoteList.model_construct(
        items=[NoteListed.of(row) for row in rows],
        next_cursor=cursor,
        has_more=cursor is not None,
        next=cursor and next_page(request, cursor),
        count=counted,
    )
    return Response(page.model_dump_json(), 200, headers | linked(page.next), "application/json")


async def _counted(
    connection: Connection, owner: UUID, filters: lists.Filters, prefer: str | None
) -> tuple[int | None, dict[str, str]]:
    """With the header that says which preference was followed. RFC 7240: one that is not known is ignored."""
    wanted = _COUNT.search(prefer or "")
    if wanted is None:
        return None, {}
    count = lists.count if wanted["how"] == "exact" else lists.estimate
    return await count(connection, owner, filters), {"Preference-Applied": f"count={wanted['how']}"}


def next_page(request: Request, cursor: str) -> str:
    """The address of this request, as its client reaches us, with another cursor."""
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return f"{str(request.base_url).rstrip('/')}{request.scope['path']}?{urlencode([*query, ('cursor', cursor)])}"


def linked(next_: str | None) -> dict[str, str]:
    """A proxy refuses an answer whose headers are too long for its buffer: the body has the address in any case."""
    return {"Link": f'<{next_}>; rel="next"'} if next_ and len(next_) <= MAX_LINK_CHARACTERS else {}


class TagCount(BaseModel):
    tag: str
    notes: Annotated[int, Field(description="How many have it, those in the trash not counted.")]


class TagList(BaseModel):
    items: list[TagCount]
    next_cursor: str | None
    has_more: bool
    next: Annotated[str | None, Field(description="Where the next page is.")]


@router.get(
    "/tags",
    operation_id="listTags",
    response_model=TagList,
    responses={200: {"headers": {"Link": NEXT}}, **documented(*ALWAYS, InvalidCursor)},
)
async def tagged(request: Request, caller: Reader, connection: Db, query: Annotated[PageQuery, Query()]) -> Response:
    """The tags that notes have, in the order of their characters' code points."""
    signer, of = request.app.state.signer, ["listTags", caller.owner]
    after = None if query.cursor is None else signer.read(query.cursor, of)
    rows, last = await tags.page(connection, caller.owner, after, query.limit)
    cursor = last and signer.sign(last, of)
    page = TagList(
        items=[TagCount(**row) for row in rows],
        next_cursor=cursor,
        has_more=cursor is not None,
        next=cursor and next_page(request, cursor),
    )
    return Response(page.model_dump_json(), 200, linked(page.next), "application/json")
