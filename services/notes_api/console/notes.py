"""Notes: listed and searched, written, put away and got back."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette_admin import route

from notes_api import lines, lists, notes, search
from notes_api.console import markdown, note_form
from notes_api.console.note_form import FormError
from notes_api.console.parts import Pages, Wrong, allowed
from notes_api.db import Connection, Row
from notes_api.errors import InvalidCursor, NoteTrashed, VersionMismatch
from notes_api.lists import Order, Place
from notes_api.notes import Version
from notes_api.routes.lists import ListQuery
from notes_api.schemas import NoteEdit, etag
from notes_api.tokens import WRITE, Caller

AT_ONCE = 30
SHELVES = {"": "Notes", "archived": "Archived", "trash": "Trash"}
_ON_SHELF: Mapping[str, Mapping[str, Any]] = {
    "": {"archived": False},
    "archived": {"archived": True},
    "trash": {"trashed": True},
}
SORTS = {
    "-updated_at": "changed last",
    "-created_at": "made last",
    "created_at": "made first",
    "title": "by title",
}
Change = Callable[[Connection, Caller, UUID, Version], Awaitable[object]]


class NotePages(Pages):
    menu_label = "Notes"
    path = "/"

    def is_active(self, request: Request) -> bool:
        inside = request.scope["path"].removeprefix(request.scope["root_path"])
        return bool(inside == "/" or inside.startswith("/notes/"))

    @route("")
    async def index(self, request: Request) -> Response:
        query = request.query_params
        given = {name: query.get(name, "").strip() for name in ("q", "tag", "pinned", "sort", "shelf")}
        filters = _filters(given)
        async with self.reading(request) as (connection, caller):
            found = await self._found(connection, caller, given, filters, query.get("cursor") or None)
        kept = {name: value for name, value in given.items() if value}
        return await self.page(
            request,
            "notes.html",
            given=given,
            shelves=SHELVES,
            sorts=SORTS,
            kept=urlencode({name: value for name, value in kept.items() if name != "shelf"}),
            first=f"?{urlencode(kept)}" if query.get("cursor") else "",
            next=f"?{urlencode({**kept, 'cursor': found['cursor']})}" if found["cursor"] else "",
            **found,
        )

    async def _found(
        self,
        connection: Connection,
        caller: Caller,
        given: Mapping[str, str],
        filters: lists.Filters,
        cursor: str | None,
    ) -> dict[str, Any]:
        """Raises HTTPException 404 for a cursor that is not of this list."""
        signer, sort = self.outside.signer, given["sort"] if given["sort"] in SORTS else "-updated_at"
        of = ["console", caller.owner, dict(given)]
        try:
            place = signer.read(cursor, of) if cursor else None
        except InvalidCursor:
            raise HTTPException(404, "There is no such page.") from None
        if given["q"]:
            filters = {name: value for name, value in filters.items() if name != "trashed"}
            wanted = await search.understand(connection, given["q"], "prefix", filters)
            hits = await search.best(connection, caller.owner, wanted, place and search.Place.read(place), AT_ONCE)
            rows = [
                {
                    **row,
                    "title_html": search.as_html(row["title_marked"]),
                    "html": search.as_html(row["snippet_marked"]),
                }
                for row in hits.rows
            ]
            last: Any = hits.last
            return {"notes": rows, "hint": wanted.hint, "cursor": last and signer.sign(last.written(), of)}
        order = Order(sort, place and Place.read(place))  # type: ignore[arg-type]  # one of SORTS
        rows_, next_ = await lists.page(connection, caller.owner, filters, order, AT_ONCE)
        return {"notes": rows_, "hint": None, "cursor": next_ and signer.sign(next_.written(), of)}

    @route("/notes/new")
    async def new(self, request: Request) -> Response:
        allowed(request, WRITE)
        return await self._form(request, {"tags": request.query_params.get("tag", "")})

    @route("/notes/new", methods=["POST"])
    async def create(self, request: Request) -> Response:
        allowed(request, WRITE)
        form: FormData = request.state.form
        try:
            wanted = note_form.read(form)
        except FormError as error:
            return await self._form(request, form, wrong=error.wrong, status=422)
        async with self.doing(request, "added a note", wanted.title, told="It is there.") as (connection, caller):
            row = await notes.create(connection, caller.owner, wanted)
        return self.to(request, f"/notes/{row['id']}")

    @route("/notes/preview", methods=["POST"])
    async def preview(self, request: Request) -> Response:
        text = str(request.state.form.get("content", ""))
        return HTMLResponse(await markdown.html(text) or '<p class="text-secondary mb-0">It is shown as you write.</p>')

    @route("/notes/{note_id:uuid}")
    async def show(self, request: Request) -> Response:
        return await show(self, request, request.path_params["note_id"])

    @route("/notes/{note_id:uuid}/edit")
    async def edit(self, request: Request) -> Response:
        async with self.reading(request, WRITE) as (connection, caller):
            note = await notes.get(connection, caller.owner, request.path_params["note_id"])
        if note["deleted_at"]:
            raise NoteTrashed("It is in the trash: restore it first.")
        return await self._form(request, note_form.written(note), of=note)

    @route("/notes/{note_id:uuid}/edit", methods=["POST"])
    async def save(self, request: Request) -> Response:
        form: FormData = request.state.form
        note_id: UUID = request.path_params["note_id"]
        async with self.reading(request, WRITE) as (connection, caller):
            there = await notes.get(connection, caller.owner, note_id)
        try:
            wanted = note_form.read(form)
        except FormError as error:
            return await self._form(request, form, of=there, wrong=error.wrong, status=422)
        expected = Version.read(str(form.get("version", "")) or None)
        try:
            async with self.doing(request, "changed a note", wanted.title, told="It is saved.") as (connection, caller):
                await notes.replace(connection, caller.owner, note_id, wanted, expected)
        except VersionMismatch:
            return await self._stale(request, form, note_id, wanted.content)
        return self.to(request, f"/notes/{note_id}")

    async def _stale(self, request: Request, form: FormData, note_id: UUID, mine: str) -> Response:
        """Somebody else was quicker: both versions are shown, and yours can be saved on top of theirs."""
        async with self.reading(request, WRITE) as (connection, caller):
            theirs = await notes.get(connection, caller.owner, note_id)
        difference = await lines.difference(theirs["content"], mine)
        values = {**form, "version": etag(theirs)}
        said = "Somebody else has changed this note since you opened it. Nothing of yours is lost: it is below."
        context = {"theirs": theirs, "difference": difference}
        return await self._form(request, values, of=theirs, wrong={"": said}, status=412, **context)

    @route("/notes/{note_id:uuid}/pin", methods=["POST"])
    async def pin(self, request: Request) -> Response:
        return await self._edited(request, "pinned", "It is pinned.", "It is not pinned any more.")

    @route("/notes/{note_id:uuid}/archive", methods=["POST"])
    async def archive(self, request: Request) -> Response:
        return await self._edited(request, "archived", "It is archived.", "It is out of the archive.")

    async def _edited(self, request: Request, field: str, on: str, off: str) -> Response:
        value = request.state.form.get("on") == "1"
        wanted = NoteEdit.model_validate({field: value})

        async def edit(connection: Connection, caller: Caller, note_id: UUID, expected: Version) -> object:
            return await notes.edit(connection, caller.owner, note_id, wanted, expected)

        return await self._changed(request, f"{'' if value else 'not '}{field}", on if value else off, edit)

    @route("/notes/{note_id:uuid}/trash", methods=["POST"])
    async def trash(self, request: Request) -> Response:
        days = self.outside.settings.trash_days

        async def trash(connection: Connection, caller: Caller, note_id: UUID, expected: Version) -> object:
            return await notes.trash(connection, caller.owner, note_id, expected, days)

        told = f"It is in the trash, from where it can be restored for {days} days."
        return await self._changed(request, "trashed a note", told, trash)

    @route("/notes/{note_id:uuid}/restore", methods=["POST"])
    async def restore(self, request: Request) -> Response:
        async def restore(connection: Connection, caller: Caller, note_id: UUID, expected: Version) -> object:
            return await notes.restore(connection, caller.owner, note_id, expected)

        return await self._changed(request, "restored a note", "It is out of the trash.", restore)

    @route("/notes/{note_id:uuid}/purge", methods=["POST"])
    async def purge(self, request: Request) -> Response:
        async def purge(connection: Connection, caller: Caller, note_id: UUID, expected: Version) -> None:
            await notes.purge(connection, caller.owner, note_id, expected)

        told = "It is deleted for good. A backup that has it can still give it back."
        return await self._changed(request, "deleted a note for good", told, purge, to="/?shelf=trash")

    async def _changed(self, request: Request, action: str, told: str, change: Change, to: str = "") -> Response:
        """A change of the version that the page shows."""
        allowed(request, WRITE)
        note_id: UUID = request.path_params["note_id"]
        expected = Version.read(str(request.state.form.get("version", "")) or None)
        async with self.doing(request, action, str(note_id), told=told) as (connection, caller):
            await change(connection, caller, note_id, expected)
        return self.to(request, to or f"/notes/{note_id}")

    async def _form(
        self, request: Request, values: Any, *, of: Row | None = None, status: int = 200, **more: Any
    ) -> Response:
        html = await markdown.html(str(values.get("content") or ""))
        return await self.page(request, "note_form.html", status, values=values, of=of, html=html, **more)


async def show(
    pages: Pages, request: Request, note_id: UUID, status: int = 200, wrong: Wrong | None = None
) -> Response:
    """The page of a note; `wrong` is of a form on it."""
    async with pages.reading(request) as (connection, caller):
        note = await notes.get(connection, caller.owner, note_id)
    context = {"note": note, "version": etag(note), "html": await markdown.html(note["content"]), "wrong": wrong or {}}
    return await pages.page(request, "note.html", status, bucket=pages.outside.storage is not None, **context)


def _filters(given: Mapping[str, str]) -> dict[str, Any]:
    """Raises HTTPException 404: no link of ours has other values."""
    if given["shelf"] not in SHELVES:
        raise HTTPException(404, "There is no such shelf.")
    wanted: dict[str, Any] = dict(_ON_SHELF[given["shelf"]])
    wanted |= {"tag": [given["tag"]]} if given["tag"] else {}
    wanted |= {"pinned": True} if given["pinned"] else {}
    try:
        return ListQuery.model_validate(wanted).filters("sort") | (
            {"trashed": True} if given["shelf"] == "trash" else {}
        )
    except ValidationError:
        raise HTTPException(404, "There is no such list of notes.") from None
