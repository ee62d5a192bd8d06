"""Notes: listed and searched, written, put away and got back."""

from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from notes_api import lists
from notes_api.console.parts import Pages
from notes_api.lists import Order


class NotePages(Pages):
    menu_label = "Notes"
    path = "/"

    @route("")
    async def index(self, request: Request) -> Response:
        async with self.reading(request) as (connection, caller):
            rows, _ = await lists.page(connection, caller.owner, {}, Order("-updated_at", None), 50)
        return await self.page(request, "notes.html", notes=rows)
