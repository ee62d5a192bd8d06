"""What people did by the console: who, when, what."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from scheduler.console import sessions
from scheduler.console.parts import Pages
from scheduler.tokens import SCHEDULES_READ

AT_ONCE = 50


class AuditPages(Pages):
    menu_label = "Audit"
    path = "/audit"

    @route("")
    async def index(self, request: Request) -> Response:
        given = request.query_params.get("before", "")
        if given and not (given.isascii() and given.isdecimal() and len(given) < 19):
            raise HTTPException(404, "There is no such page.")
        async with self.reading(request, SCHEDULES_READ) as database:
            found = await sessions.audit(database, int(given) if given else None, AT_ONCE + 1)
        more = f"?before={found[AT_ONCE - 1].id}" if len(found) > AT_ONCE else ""
        return await self.page(request, "audit.html", entries=found[:AT_ONCE], next=more, first="?" if given else "")
