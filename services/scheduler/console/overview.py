"""The first page, which says whether we are safe."""

from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from scheduler import overview
from scheduler.console import drawn
from scheduler.console.parts import Pages
from scheduler.tokens import RUNS_READ


class OverviewPages(Pages):
    menu_label = "Overview"
    path = "/"

    @route("")
    async def index(self, request: Request) -> Response:
        async with self.reading(request, RUNS_READ) as database:
            found = await overview.look(database)
        whole = [each for each in found.backups if each.state in overview.GOOD]
        charts = [
            ("Rows", "amount", drawn.chart([(each.created_at, float(each.rows)) for each in whole])),
            ("Size", "size", drawn.chart([(each.created_at, float(each.bytes)) for each in whole])),
            ("Duration", "lasting", drawn.chart([(each.created_at, each.seconds or 0.0) for each in whole])),
        ]
        weeks = [found.days[start : start + 7] for start in range(0, len(found.days), 7)]
        return await self.page(request, "overview.html", found=found, charts=charts, weeks=weeks)
