"""The site: starlette-admin's shell, routes and files, with pages, a guard and forms of our own.

Its lists and forms need script and style inside the page, which our Content-Security-Policy does not let run, and its
cookies are no session that ends with a token: see docs/decisions/0025.
"""

from pathlib import Path
from secrets import token_hex
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette_admin import Link
from starlette_admin.base import BaseAdmin

from scheduler.console import shown
from scheduler.console.audit import AuditPages
from scheduler.console.backups import BackupPages, RowPages
from scheduler.console.entrance import Entrance
from scheduler.console.overview import OverviewPages
from scheduler.console.parts import Pages
from scheduler.console.restores import RestorePages
from scheduler.console.retention import RetentionPages
from scheduler.console.runs import AlarmPages, RunPages
from scheduler.console.schedules import SchedulePages
from scheduler.console.subscriptions import SubscriptionPages
from scheduler.errors import SchedulerError
from scheduler.problems import title

FOLDER = Path(__file__).parent
PATH = "/ops"
_PAGES: tuple[type[Pages], ...] = (
    SchedulePages,
    RunPages,
    AlarmPages,
    BackupPages,
    RowPages,
    RestorePages,
    RetentionPages,
    SubscriptionPages,
    AuditPages,
)

_SAID = {
    403: ("The token lacks a scope", "What you signed in with may not see this page. Sign in with a token that may."),
    404: ("There is nothing here", "The address is wrong, or what was here is gone."),
}


class Site(BaseAdmin):
    """Nothing of it is in a cookie but a session: see `entrance`."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            title="Holdfast backups",
            base_url=PATH,
            templates_dir=str(FOLDER / "templates"),
            static_dir=str(FOLDER / "static"),
            index_view=OverviewPages(app),
            auth_provider=Entrance(app, self.refuse),
            secret_key=token_hex(),  # nothing is signed with it
            timezone_config=None,
        )
        for pages in _PAGES:
            self.add_view(pages(app))
        self.add_link(Link("Notes", url="/admin/"))
        self.templates.env.filters |= shown.FILTERS
        self.templates.context_processors.append(_around)
        app.add_route(PATH, _to_first_page, include_in_schema=False)
        self.mount_to(app)
        self.app.state.outside = app.state.outside  # what a schedule may call is checked as the API does it
        for kind in (HTTPException, SchedulerError):
            self.app.add_exception_handler(kind, self._failed)

    def _init_flash(self) -> None:
        """What a page says of what was done is kept in the session."""

    def _init_csrf(self) -> None:
        """Forms are proved by the session."""

    def _collect_core_routes(self) -> list[Route]:
        """Those of its own lists and forms, of which there are none."""
        return []

    async def refuse(self, request: Request, status: int, heading: str, why: str) -> Response:
        """A page that says what is wrong and what to do."""
        context: dict[str, Any] = {"status": status, "heading": heading, "why": why, "told": None}
        return self.templates.TemplateResponse(request, "refused.html", context, status)

    async def _failed(self, request: Request, error: Exception) -> Response:
        if isinstance(error, SchedulerError):
            return await self.refuse(request, error.status, title(error), error.detail)
        assert isinstance(error, HTTPException)
        heading, why = _SAID.get(error.status_code, ("This cannot be done", error.detail))
        return await self.refuse(request, error.status_code, heading, why or error.detail)


async def _to_first_page(_: Request) -> Response:
    return RedirectResponse(f"{PATH}/", 308)


def _around(request: Request) -> dict[str, Any]:
    """What the frame of each page is made of."""
    state = request.state
    session, proof = getattr(state, "session", None), getattr(state, "proof", "")  # none while the database is away
    return {"root": request.scope["root_path"], "session": session, "proof": proof}
