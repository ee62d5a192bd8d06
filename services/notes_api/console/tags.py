"""The tags that notes have."""

from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from notes_api import tags
from notes_api.console.parts import Pages

AT_ONCE = 200


class TagPages(Pages):
    menu_label = "Tags"
    path = "/tags"

    @route("")
    async def index(self, request: Request) -> Response:
        after = request.query_params.get("after") or None
        async with self.reading(request) as (connection, caller):
            found, last = await tags.page(connection, caller.owner, after, AT_ONCE)
        return await self.page(request, "tags.html", tags=found, last=last, first="?" if after else "")
