"""What all pages have in common."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette_admin import CustomView

from notes_api import db
from notes_api.console import sessions
from notes_api.console.entrance import address
from notes_api.console.sessions import Session
from notes_api.db import Connection
from notes_api.errors import NotesError, ScopeMissing
from notes_api.tokens import Caller

Wrong = Mapping[str, str]  # by field, what is wrong with it; "" is of the form as a whole


class Pages(CustomView):
    """A part of the console. Its routes are methods with `@route`, its pages templates."""

    def __init__(self, app: Starlette) -> None:
        super().__init__()
        self.outside = app.state

    def is_active(self, request: Request) -> bool:
        inside = request.scope["path"].removeprefix(request.scope["root_path"])
        return bool(inside == self.path or inside.startswith(f"{self.path}/"))

    @asynccontextmanager
    async def reading(self, request: Request, scope: str = "notes:read") -> AsyncIterator[tuple[Connection, Caller]]:
        """Raises ScopeMissing and DatabaseUnavailable."""
        caller = allowed(request, scope)
        async with db.connected(self.outside.pool) as connection:
            yield connection, caller

    @asynccontextmanager
    async def doing(
        self, request: Request, action: str, subject: str = "", scope: str = "notes:write", *, told: str = ""
    ) -> AsyncIterator[tuple[Connection, Caller]]:
        """A change in one transaction with its entry in the audit list, and with what the next page says of it."""
        session: Session = request.state.session
        async with self.reading(request, scope) as (connection, caller), connection.transaction():
            yield connection, caller
            await sessions.record(connection, session, address(request), action, subject)
            if told:
                await sessions.tell(connection, session, {"kind": "success", "text": told})

    async def page(self, request: Request, template: str, status: int = 200, /, **context: Any) -> Response:
        """`context` may have `wrong`. What was to be told is told, once."""
        session: Session = request.state.session
        told = None
        if session.told and request.method == "GET" and "x-live" not in request.headers:
            told = session.told
            async with db.connected(self.outside.pool) as connection:
                await sessions.tell(connection, session, None)
        assert self.templates
        return self.templates.TemplateResponse(request, template, {"wrong": {}, "told": told, **context}, status)

    def to(self, request: Request, path: str) -> Response:
        """After a form: the page is asked for anew, and loading it again sends nothing twice."""
        return RedirectResponse(request.scope["root_path"] + path, 303)


def allowed(request: Request, scope: str) -> Caller:
    """Raises ScopeMissing."""
    session: Session = request.state.session
    if not session.may(scope):
        raise ScopeMissing([scope])
    return session.caller


def wrong_fields(error: ValidationError | NotesError) -> Wrong:
    """What a form shows beside its fields."""
    if isinstance(error, ValidationError):
        return {str(e["loc"][0]) if e["loc"] else "": _sentence(e["msg"]) for e in reversed(error.errors())}
    parts: Sequence[Mapping[str, str]] = error.members.get("errors") or ()
    found = {str(part.get("pointer", "")).removeprefix("#/"): part["detail"] for part in parts}
    return found or {"": error.detail}


def number(text: str) -> int | None:
    """Of a query: a number, or none. Raises HTTPException 404: no link of ours has another text."""
    if text and not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise HTTPException(404, "There is no such page.")
    return int(text) if text else None


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".").capitalize() + "."
