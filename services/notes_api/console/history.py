"""What a note was before each change."""

from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from notes_api import notes, revisions
from notes_api.console.parts import Pages, allowed, number
from notes_api.notes import Version
from notes_api.schemas import etag
from notes_api.tokens import WRITE

AT_ONCE = 30
MAX_REVISION = 2**31 - 1


class HistoryPages(Pages):
    add_to_menu = False
    path = "/notes/{note_id:uuid}/history"

    @route("")
    async def index(self, request: Request) -> Response:
        note_id, given = request.path_params["note_id"], request.query_params.get("from", "")
        try:
            start = datetime.fromisoformat(given).astimezone(UTC) if given else None
        except (ValueError, OverflowError):
            raise HTTPException(404, "There is no such page.") from None
        async with self.reading(request) as (connection, caller):
            note = await notes.get(connection, caller.owner, note_id)
            found = await revisions.page(connection, caller.owner, note_id, start, AT_ONCE)
        more = f"?from={found.next.isoformat().replace('+', '%2B')}" if found.next else ""
        first = "?" if start else ""
        return await self.page(request, "history.html", note=note, states=found.rows, next=more, first=first)

    @route("/{revision:number}")
    async def diff(self, request: Request) -> Response:
        """Of a revision, what has changed since: up to another one, or to now."""
        note_id, of = request.path_params["note_id"], request.path_params["revision"]
        to = number(request.query_params.get("to", ""))
        if max(of, to or 1) > MAX_REVISION:
            raise HTTPException(404, "There is no such revision.")
        async with self.reading(request) as (connection, caller):
            note = await notes.get(connection, caller.owner, note_id)
            found = await revisions.diff(connection, caller.owner, note_id, of, to)
        return await self.page(request, "note_diff.html", note=note, diff=found, version=etag(note), to=to)

    @route("/{revision:number}/restore", methods=["POST"])
    async def restore(self, request: Request) -> Response:
        allowed(request, WRITE)
        note_id, of = request.path_params["note_id"], request.path_params["revision"]
        if of > MAX_REVISION:
            raise HTTPException(404, "There is no such revision.")
        expected = Version.read(str(request.state.form.get("version", "")) or None)
        told = f"It is again what it was in revision {of}. That is a change as any: it can be taken back."
        async with self.doing(request, f"restored revision {of}", str(note_id), told=told) as (connection, caller):
            await revisions.restore(connection, caller.owner, note_id, of, expected)
        return self.to(request, f"/notes/{note_id}")
