"""Backups: listed, shown with their evidence, made, given up, proven, looked into, compared."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette_admin import route

from scheduler import catalogue, reading, watch
from scheduler.answers import AnswerError, Refused
from scheduler.backups import Backups
from scheduler.console.parts import Pages, allowed
from scheduler.console.sessions import Session
from scheduler.models import SeenBackup, Watch
from scheduler.tokens import BACKUPS_READ, BACKUPS_WRITE

KNOWN = 100  # that are shown when the backup API is away
ROWS_AT_ONCE = 50
NOT_CONNECTED = "This service was not told where the backup API is: set HOLDFAST_BACKUPS_URL."


class BackupParts(Pages):
    """What pages about backups have in common: they ask the backup API, which may be away."""

    @property
    def api(self) -> Backups:
        """Raises Refused when there is none."""
        found: Backups | None = self.outside.backups
        if found is None:
            raise Refused(NOT_CONNECTED)
        return found

    @asynccontextmanager
    async def asking(self, request: Request, action: str, subject: str, *, told: str) -> AsyncIterator[Backups]:
        """To be done by the backup API: first it is in the audit list, then it is done, and then it is told."""
        session: Session = request.state.session
        async with self.doing(request, BACKUPS_WRITE, action, subject):
            pass
        yield self.api
        async with self.reading(request, BACKUPS_WRITE) as database:
            await self.tell(database, session, told)
            await watch.soon(database)

    async def refused(self, request: Request, error: AnswerError) -> Response:
        """A page that says why the backup API did not do it."""
        status = error.status if isinstance(error, Refused) and error.status else 503
        return await self.page(request, "not_done.html", status, why=str(error), again=not isinstance(error, Refused))


class BackupPages(BackupParts):
    menu_label = "Backups"
    path = "/backups"

    def is_accessible(self, request: Request) -> bool:
        return may_read(request)

    @route("")
    async def index(self, request: Request) -> Response:
        """What the backup API lists; while it is away, what was seen last."""
        return await self._list(request)

    async def _list(self, request: Request, status: int = 200, **more: Any) -> Response:
        allowed(request, BACKUPS_READ)
        before = request.query_params.get("before") or None
        try:
            found = await catalogue.page(self.api, before)
        except AnswerError as error:
            async with self.reading(request, BACKUPS_READ) as database:
                query = select(SeenBackup).order_by(SeenBackup.created_at.desc()).limit(KNOWN)
                known = list(await database.scalars(query))
                seen_at = await database.scalar(select(Watch.seen_at))
            return await self.page(request, "backups.html", status, backups=known, away=str(error), seen_at=seen_at)
        if before is None and "x-live" not in request.headers:
            async with self.reading(request, BACKUPS_READ) as database:
                await watch.note(database, found.items)
        next_ = f"?before={found.next_cursor}" if found.next_cursor else ""
        first = "?" if before else ""
        return await self.page(request, "backups.html", status, backups=found.items, next=next_, first=first, **more)

    @route("/new", methods=["POST"])
    async def make(self, request: Request) -> Response:
        label = str(request.state.form.get("label", "")).strip() or None
        try:
            async with self.asking(request, "asked for a backup", label or "", told="It is being made.") as api:
                made = await api.start(label, _once(request))
        except Refused as error:
            wrong = {"label": error.parts.get("label", str(error))}
            return await self._list(request, error.status or 422, label=label, wrong=wrong)
        except AnswerError as error:
            return await self.refused(request, error)
        return self.to(request, f"/backups/{made.id}")

    @route("/{backup_id}")
    async def show(self, request: Request) -> Response:
        allowed(request, BACKUPS_READ)
        backup_id = request.path_params["backup_id"]
        try:
            found = await catalogue.show(self.api, backup_id)
            others = (await catalogue.page(self.api)).items
        except AnswerError as error:
            return await self.refused(request, error)
        newer = [each for each in others if each.id != found.id and each.state in {"proven", "stored", "suspect"}]
        return await self.page(request, "backup.html", backup=found, others=newer)

    @route("/{backup_id}/cancel", methods=["POST"])
    async def cancel(self, request: Request) -> Response:
        backup_id = request.path_params["backup_id"]
        try:
            async with self.asking(request, "cancelled a backup", backup_id, told="It is being given up.") as api:
                await api.cancel(backup_id)
        except AnswerError as error:
            return await self.refused(request, error)
        return self.to(request, f"/backups/{backup_id}")

    @route("/{backup_id}/prove", methods=["POST"])
    async def prove(self, request: Request) -> Response:
        backup_id = request.path_params["backup_id"]
        accept = bool(request.state.form.get("accept_suspect"))
        told = "It is being restored into a scratch database and compared. This page says how that ended."
        try:
            async with self.asking(request, "asked for a proof", backup_id, told=told) as api:
                await catalogue.prove(api, backup_id, accept_suspect=accept)
        except AnswerError as error:
            return await self.refused(request, error)
        return self.to(request, f"/backups/{backup_id}")

    @route("/{backup_id}/verify", methods=["POST"])
    async def verify(self, request: Request) -> Response:
        """What is stored is read, all of it, and compared with the manifest. Nothing is restored, as a proof does."""
        allowed(request, BACKUPS_READ)
        backup_id = request.path_params["backup_id"]
        try:
            found = await catalogue.show(self.api, backup_id)
            tables = await reading.verify(self.api, found)
        except AnswerError as error:
            return await self.refused(request, error)
        async with self.doing(request, BACKUPS_READ, "verified a backup", backup_id):
            pass
        return await self.page(request, "verified.html", backup=found, tables=tables)

    @route("/{backup_id}/tables/{table}/download")
    async def download(self, request: Request) -> Response:
        """A link of the bucket, which is good for minutes. Who took it is in the audit list."""
        backup_id, table = request.path_params["backup_id"], request.path_params["table"]
        async with self.doing(request, BACKUPS_READ, "downloaded", f"{table} of {backup_id}"):
            pass
        try:
            found = await catalogue.link(self.api, backup_id, table)
        except AnswerError as error:
            return await self.refused(request, error)
        return RedirectResponse(found.url, 303)

    @route("/{backup_id}/tables/{table}")
    async def browse(self, request: Request) -> Response:
        """Rows of a table, a few of one block at a time. They are what was stored: their digest is compared."""
        allowed(request, BACKUPS_READ)
        backup_id, table = request.path_params["backup_id"], request.path_params["table"]
        number, start = (_count(request, name) for name in ("block", "from"))
        try:
            link = await catalogue.link(self.api, backup_id, table)
            found = await reading.rows(link, number)
        except AnswerError as error:
            return await self.refused(request, error)
        shown = found.rows[start : start + ROWS_AT_ONCE]
        return await self.page(
            request,
            "rows.html",
            backup_id=backup_id,
            link=link,
            rows=shown,
            columns=list(shown[0]) if shown else [],
            first=found.before + start,
            next=_next(found, start),
        )

    @route("/{backup_id}/diff")
    async def diff(self, request: Request) -> Response:
        allowed(request, BACKUPS_READ)
        backup_id, query = request.path_params["backup_id"], request.query_params
        other = query.get("with") or "now"
        try:
            found = await catalogue.diff(self.api, backup_id, other, query.get("after") or None)
        except AnswerError as error:
            return await self.refused(request, error)
        more = f"?with={quote(other)}&after={quote(found.next)}" if found.next else ""
        return await self.page(
            request, "diff.html", backup_id=backup_id, other=other, diff=found, next=more, first=query.get("after", "")
        )


class RowPages(BackupParts):
    """One row, as a note is, and what it was in every backup."""

    menu_label = "Find a note"
    path = "/rows"

    def is_accessible(self, request: Request) -> bool:
        return may_read(request)

    @route("")
    async def index(self, request: Request) -> Response:
        allowed(request, BACKUPS_READ)
        table = request.query_params.get("table", "").strip() or "notes.notes"
        text = request.query_params.get("key", "").strip()
        if not text:
            return await self.page(request, "row.html", table=table, key="")
        try:
            key = read_key(text)
        except ValueError as error:
            return await self.page(request, "row.html", 422, table=table, key=text, wrong={"key": str(error)})
        try:
            found = await catalogue.history(self.api, table, key)
        except Refused as error:
            wrong = {"key": _words(error)}
            return await self.page(request, "row.html", error.status or 422, table=table, key=text, wrong=wrong)
        except AnswerError as error:
            return await self.refused(request, error)
        return await self.page(request, "row.html", table=table, key=text, found=found)


def may_read(request: Request) -> bool:
    session: Session | None = request.state.session
    return session is not None and session.may(BACKUPS_READ)


def read_key(text: str) -> Sequence[Any]:
    """One value as it is, or a JSON array of those of a key of several columns. Raises ValueError."""
    if not text.startswith("["):
        return [text]
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError('Give one value, or several as JSON: ["a", 1].') from None
    if not found or not all(isinstance(each, str | int) for each in found):
        raise ValueError('Give texts and numbers: ["a", 1].')
    return list(found)


def _words(error: Refused) -> str:
    return str(error).partition(": ")[2] or str(error)


def _once(request: Request) -> str:
    """Of this session and of the page that has the form: sent twice, it asks for one backup."""
    return f"{request.state.proof[:32]}-{str(request.state.form.get('once', ''))[:32]}"


def _count(request: Request, name: str) -> int:
    """Raises HTTPException 404: no link of ours has another text."""
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HTTPException(404, "There is no such page.")
    return int(text)


def _next(found: reading.Rows, start: int) -> str:
    if start + ROWS_AT_ONCE < len(found.rows):
        return f"?block={found.number}&from={start + ROWS_AT_ONCE}"
    return f"?block={found.number + 1}" if found.number + 1 < found.blocks else ""
