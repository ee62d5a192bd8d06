"""Runs: what became of each due time, and where its time went."""

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlencode
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from scheduler import alarms, history
from scheduler.console import drawn
from scheduler.console.parts import Pages
from scheduler.console.sessions import Session
from scheduler.models import Run, Schedule
from scheduler.schemas import RunOut, RunShown, RunsQuery
from scheduler.tokens import RUNS_READ, RUNS_WRITE

AT_ONCE = 30


async def names(database: AsyncSession, found: Sequence[Run]) -> dict[UUID, str]:
    """Of the schedules of these runs, deleted ones too."""
    ids = {run.schedule_id for run in found if run.schedule_id}
    rows = await database.execute(select(Schedule.id, Schedule.name).where(Schedule.id.in_(ids)))
    return {row.id: row.name for row in rows}


class RunPages(Pages):
    menu_label = "Runs"
    path = "/runs"

    @route("")
    async def index(self, request: Request) -> Response:
        given = {name: value for name, value in request.query_params.items() if value}
        try:
            query = RunsQuery.model_validate({"limit": AT_ONCE, **given})
        except ValidationError:
            raise HTTPException(404, "There is no such list of runs.") from None
        async with self.reading(request, RUNS_READ) as database:
            found, more = await history.page(database, query)
            known = await names(database, found)
            schedules = (await database.execute(select(Schedule.id, Schedule.name).order_by(Schedule.name))).all()
        shown = [(run, RunOut.of(run), drawn.phases(RunOut.of(run).times, datetime.now(UTC))) for run in found]
        filters = {name: value for name, value in given.items() if name != "cursor"}
        return await self.page(
            request,
            "runs.html",
            runs=shown,
            names=known,
            schedules=[(str(row.id), row.name) for row in schedules],
            given=filters,
            first=f"?{urlencode(filters)}" if query.cursor else "",
            next=f"?{urlencode({**filters, 'cursor': more})}" if more else "",
        )

    @route("/{run_id:uuid}")
    async def show(self, request: Request) -> Response:
        async with self.reading(request, RUNS_READ) as database:
            run = await history.get(database, request.path_params["run_id"])
            known = await names(database, [run])
        shown = RunShown.of(run)
        parts = drawn.phases(shown.times, datetime.now(UTC))
        return await self.page(request, "run.html", run=shown, name=known.get(run.schedule_id or run.id), phases=parts)

    @route("/{run_id:uuid}/cancel", methods=["POST"])
    async def cancel(self, request: Request) -> Response:
        run_id, session = request.path_params["run_id"], _session(request)
        told = "It is cancelled, or will be as soon as its backup has been given up."
        async with self.doing(request, RUNS_WRITE, "cancelled a run", str(run_id), told=told) as database:
            await history.cancel(database, run_id, session.name)
        return self.to(request, f"/runs/{run_id}")

    @route("/{run_id:uuid}/again", methods=["POST"])
    async def again(self, request: Request) -> Response:
        run_id = request.path_params["run_id"]
        told = "It runs again: this is the new run."
        async with self.doing(request, RUNS_WRITE, "ran again", str(run_id), told=told) as database:
            run = await history.again(database, run_id, None)
        return self.to(request, f"/runs/{run.id}")


class AlarmPages(Pages):
    """They are shown on the overview; this only closes one."""

    add_to_menu = False
    path = "/alarms"

    @route("")
    async def index(self, request: Request) -> Response:
        return self.to(request, "/")

    @route("/{alarm_id:uuid}/close", methods=["POST"])
    async def close(self, request: Request) -> Response:
        alarm_id, session = request.path_params["alarm_id"], _session(request)
        async with self.doing(request, RUNS_WRITE, "closed an alarm", str(alarm_id), told="It is closed.") as database:
            await alarms.close_by_hand(database, alarm_id, session.name)
        return self.to(request, "/")


def _session(request: Request) -> Session:
    session: Session = request.state.session
    return session
