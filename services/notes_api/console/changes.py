"""The changes feed, as it runs: the newest on top."""

from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from notes_api import feed
from notes_api.console.parts import Pages, number

AT_ONCE = 50
SAID = {
    "note.created": "made",
    "note.updated": "changed",
    "note.deleted": "put into the trash",
    "note.restored": "taken out of the trash",
    "note.purged": "deleted for good",
}


class ChangesPages(Pages):
    menu_label = "Changes"
    path = "/changes"

    @route("")
    async def index(self, request: Request) -> Response:
        before = number(request.query_params.get("before", ""))
        async with self.reading(request) as (connection, caller):
            standing = await feed.standing(connection, caller.owner)
            until = min(before - 1 if before else standing.newest, standing.newest)
            after = max(until - AT_ONCE, standing.before_oldest)
            rows = await feed.page(connection, caller.owner, after, until - after) if until > after else []
        more = f"?before={after + 1}" if after > standing.before_oldest else ""
        changes = list(reversed(rows))
        return await self.page(
            request, "changes.html", changes=changes, said=SAID, next=more, first="?" if before else ""
        )
