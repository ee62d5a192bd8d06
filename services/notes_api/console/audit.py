"""What people did by the console: who, when, what."""

from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from notes_api.console import sessions
from notes_api.console.parts import Pages, number

AT_ONCE = 50


class AuditPages(Pages):
    menu_label = "Audit"
    path = "/audit"

    @route("")
    async def index(self, request: Request) -> Response:
        before = number(request.query_params.get("before", ""))
        async with self.reading(request) as (connection, caller):
            found = await sessions.audit(connection, caller.owner, before, AT_ONCE + 1)
        more = f"?before={found[AT_ONCE - 1]['id']}" if len(found) > AT_ONCE else ""
        return await self.page(request, "audit.html", entries=found[:AT_ONCE], next=more, first="?" if before else "")
