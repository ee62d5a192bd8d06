"""Search."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from notes_api import search
from notes_api.access import Reader
from notes_api.db import Db, Row
from notes_api.errors import InvalidCursor
from notes_api.problems import documented
from notes_api.routes.lists import NEXT, Filtered, linked, next_page
from notes_api.routes.parts import ALWAYS, Route
from notes_api.schemas import NoteListed

router = APIRouter(prefix="/v1", tags=["lists"], route_class=Route)


class SearchQuery(Filtered):
    q: Annotated[
        str,
        Field(
            min_length=1,
            max_length=500,
            pattern=r"^[^\u0000]*$",
            description='Words, that a note has all of; `"a phrase"`; `or` between words; `-` before what it should not'
            " have. Common words, as `the`, are left out.",
            examples=['bread or "rye flour" -yeast'],
        ),
    ]
    mode: Annotated[
        search.Mode,
        Field(
            description="`words`; `prefix`, where the last word may be the beginning of one; `fuzzy`, for titles with"
            " words that are nearly these, typing errors included."
        ),
    ] = "words"
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: Annotated[str | None, Field(max_length=4000, description="`next_cursor` of the page before.")] = None


class Hit(BaseModel):
    note: NoteListed
    rank: Annotated[float, Field(description="To compare within one answer, and nothing else.")]
    title_html: Annotated[str, Field(description="Escaped; what is found is in `<mark>`. `fuzzy` marks nothing.")]
    snippet_html: Annotated[str, Field(description="The same, of where in the content it is, or how that begins.")]

    @classmethod
    def of(cls, row: Row) -> "Hit":
        return cls.model_construct(
            note=NoteListed.of({name: row[name] for name in NoteListed.model_fields if name != "etag"}),
            rank=row["rank"],
            title_html=search.as_html(row["title_marked"]),
            snippet_html=search.as_html(row["snippet_marked"]),
        )


class Hits(BaseModel):
    items: list[Hit]
    ranked_all: Annotated[
        bool, Field(description=f"False when more than {search.RANKED:,} match: those changed last are ranked.")
    ]
    hint: Annotated[str | None, Field(description="Why nothing was searched for, if so.")]
    next_cursor: str | None
    has_more: bool
    next: Annotated[str | None, Field(description="Where the next page is.")]


@router.get(
    "/search",
    operation_id="searchNotes",
    response_model=Hits,
    responses={200: {"headers": {"Link": NEXT}}, **documented(*ALWAYS, InvalidCursor)},
)
async def find(request: Request, caller: Reader, connection: Db, query: Annotated[SearchQuery, Query()]) -> Response:
    """Notes that are not in the trash, by what is in title, tags and content; the best first."""
    signer, filters = request.app.state.signer, query.filters("q", "mode")
    of = ["searchNotes", caller.owner, query.q, query.mode, filters]
    after = None if query.cursor is None else search.Place.read(signer.read(query.cursor, of))
    wanted = await search.understand(connection, query.q, query.mode, filters)
    found = await search.best(connection, caller.owner, wanted, after, query.limit)
    cursor = found.last and signer.sign(found.last.written(), of)
    page = Hits.model_construct(
        items=[Hit.of(row) for row in found.rows],
        ranked_all=found.ranked_all,
        hint=wanted.hint,
        next_cursor=cursor,
        has_more=cursor is not None,
        next=cursor and next_page(request, cursor),
    )
    return Response(page.model_dump_json(), 200, linked(page.next), "application/json")
