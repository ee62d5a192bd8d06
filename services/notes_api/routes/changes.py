"""What happened to somebody's notes, to be asked for and to be told of."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from notes_api import examples, feed, tokens
from notes_api.access import Reader
from notes_api.db import Connection, Db, Row
from notes_api.errors import CursorGone, TokenRefused, TooManyStreams
from notes_api.problems import documented
from notes_api.routes.parts import ALWAYS, InTime, Route
from notes_api.stream import Watch
from notes_api.tokens import Caller

router = APIRouter(prefix="/v1", tags=["changes"], route_class=Route)


class Change(BaseModel):
    """A change of a note. An owner's changes are numbered 1, 2, 3: who has them all can tell."""

    seq: int
    type: Annotated[
        str,
        Field(
            description="`note.created`, `note.updated`, `note.deleted` (to the trash), `note.restored` or"
            " `note.purged`; there may be more."
        ),
    ]
    note_id: UUID
    revision: int
    changed_fields: list[str]
    at: datetime

    @classmethod
    def of(cls, row: Row) -> "Change":
        return cls.model_construct(None, **row)


class ChangePage(BaseModel):
    items: list[Change]
    next_cursor: Annotated[str, Field(description="Where to go on, also when there was nothing.")]
    has_more: bool


class ChangesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[
        str | None, Field(max_length=2000, description="`next_cursor` of before, or `Changes-Cursor` of an export.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    wait: Annotated[int, Field(ge=0, le=25, description="Seconds to wait for a change, if there is none yet.")] = 0
    start: Annotated[
        Literal["oldest", "now"], Field(alias="from", description="Without a cursor: the oldest that is kept, or now.")
    ] = "oldest"


class StreamQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[str | None, Field(max_length=2000, description="As of the list; without it, from now on.")] = None


@router.get("/changes", operation_id="listChanges", responses=documented(*ALWAYS, CursorGone))
async def page(request: Request, caller: Reader, connection: Db, query: Annotated[ChangesQuery, Query()]) -> ChangePage:
    """List changes, oldest first, after a cursor."""
    after = await _after(request, connection, caller, query.cursor, query.start)
    found = await feed.page(connection, caller.owner, after, query.limit + 1)
    epoch = await feed.epoch(connection)
    if not found and query.wait:
        await request.state.held.release()
        await request.app.state.watch.later(caller.owner, after, query.wait)
        connection = await request.state.held.connection()
        if not await tokens.holds(connection, caller.token_id):
            raise TokenRefused
        found = await feed.page(connection, caller.owner, after, query.limit + 1)
    if found and found[0]["seq"] != after + 1:
        raise feed.gone("The changes that follow this cursor are not kept any more.")
    items = found[: query.limit]
    cursor = _cursor(request, epoch, caller, items[-1]["seq"] if items else after)
    return ChangePage(items=[Change.of(row) for row in items], next_cursor=cursor, has_more=len(found) > query.limit)


@router.get(
    "/changes/stream",
    operation_id="streamChanges",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: `id` is a cursor, `event` the type of the change, `data` the change.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": examples.STREAMED}},
        },
        **documented(*ALWAYS, CursorGone, TooManyStreams),
    },
)
async def stream(
    request: Request,
    caller: Reader,
    connection: Db,
    query: Annotated[StreamQuery, Query()],
    last_event_id: Annotated[str | None, Header(max_length=2000, description="The cursor to go on from.")] = None,
) -> StreamingResponse:
    """Be told of changes as they happen."""
    after = await _after(request, connection, caller, last_event_id or query.cursor, "now")
    epoch = await feed.epoch(connection)
    watch: Watch = request.app.state.watch
    watch.enter()
    return _Stream(
        watch,
        _told(request, watch, caller, epoch, after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


class _Stream(InTime):
    """It has left its place when it has been sent, or could not be."""

    def __init__(self, watch: Watch, content: AsyncIterator[str], **more: Any) -> None:
        super().__init__(content, **more)
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._watch.leave()


async def _told(request: Request, watch: Watch, caller: Caller, epoch: str, after: int) -> AsyncIterator[str]:
    yield f"id: {_cursor(request, epoch, caller, after)}\n: from here on\n\n"
    async for rows in watch.changes(caller, after):
        yield _events(request, epoch, caller, rows) or ": nothing yet\n\n"


def _events(request: Request, epoch: str, caller: Caller, rows: Sequence[Row]) -> str:
    events = []
    for row in rows:
        cursor, data = _cursor(request, epoch, caller, row["seq"]), Change.of(row).model_dump_json()
        events.append(f"id: {cursor}\nevent: {row['type']}\ndata: {data}\n\n")
    return "".join(events)


async def _after(request: Request, connection: Connection, caller: Caller, cursor: str | None, start: str) -> int:
    if cursor is not None:
        return await feed.read_cursor(connection, request.app.state.signer, caller.owner, cursor)
    newest, before_oldest = await feed.standing(connection, caller.owner)
    return newest if start == "now" else before_oldest


def _cursor(request: Request, epoch: str, caller: Caller, seq: int) -> str:
    return feed.cursor_at(request.app.state.signer, epoch, caller.owner, seq)
