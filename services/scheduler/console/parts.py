"""What all pages have in common."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette_admin import CustomView

from scheduler import db
from scheduler.console import sessions
from scheduler.console.entrance import address
from scheduler.console.sessions import Session
from scheduler.errors import ScopeMissing

Wrong = Mapping[str, str]  # by field, what is wrong with it; "" is of the form as a whole


class Pages(CustomView):
    """A part of the console. Its routes are methods with `@route`, its pages templates."""

    def __init__(self, app: Starlette) -> None:
        super().__init__()
        self.outside = app.state

    def is_active(self, request: Request) -> bool:
        inside = request.scope["path"].removeprefix(request.scope["root_path"])
        return bool(inside == self.path or (self.path != "/" and inside.startswith(f"{self.path}/")))

    @asynccontextmanager
    async def reading(self, request: Request, scope: str) -> AsyncIterator[AsyncSession]:
        """Raises ScopeMissing and DatabaseUnavailable."""
        allowed(request, scope)
        async with db.transaction(self.outside.engine) as database:
            yield database

    @asynccontextmanager
    async def doing(
        self, request: Request, scope: str, action: str, subject: str = "", *, told: str = ""
    ) -> AsyncIterator[AsyncSession]:
        """A change in one transaction with its entry in the audit list, and with what the next page says of it."""
        session: Session = request.state.session
        async with self.reading(request, scope) as database:
            yield database
            sessions.record(database, session, address(request), action, subject)
            if told:
                await self.tell(database, session, told)

    async def tell(self, database: AsyncSession, session: Session, told: str) -> None:
        """On the next page."""
        await sessions.tell(database, session, {"kind": "success", "text": told})

    async def page(self, request: Request, template: str, status: int = 200, /, **context: Any) -> Response:
        """`context` may have `wrong`. What was to be told is told, once."""
        session: Session = request.state.session
        told = None
        if session.told and request.method == "GET" and "x-live" not in request.headers:
            told = session.told
            async with db.transaction(self.outside.engine) as database:
                await sessions.tell(database, session, None)
        assert self.templates
        return self.templates.TemplateResponse(request, template, {"wrong": {}, "told": told, **context}, status)

    def to(self, request: Request, path: str) -> Response:
        """After a form: the page is asked for anew, and loading it again sends nothing twice."""
        return RedirectResponse(request.scope["root_path"] + path, 303)


def allowed(request: Request, scope: str) -> None:
    """Raises ScopeMissing."""
    session: Session = request.state.session
    if not session.may(scope):
        raise ScopeMissing([scope])


def wrong_fields(error: ValidationError) -> Wrong:
    """What a form shows beside its fields, by the first part of their place."""
    return {str(e["loc"][0]) if e["loc"] else "": sentence(e["msg"]) for e in reversed(error.errors())}


def sentence(message: str) -> str:
    text = message.removeprefix("Value error, ").rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
