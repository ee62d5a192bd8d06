"""Routes of runs, and of alarms."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response

from scheduler import alarms, history, refusals
from scheduler.access import Caller, needs
from scheduler.db import Session
from scheduler.errors import AlarmNotFound, KeyTaken, NotScheduled, RunActive, RunEnded, RunNotFound, ScheduleNotFound
from scheduler.problems import documented
from scheduler.routes.parts import ALWAYS, LOCATION, Key, Route
from scheduler.schemas import AlarmOut, AlarmPage, AlarmsQuery, NoQuery, RunOut, RunPage, RunShown, RunsQuery
from scheduler.tokens import RUNS_READ, RUNS_WRITE

router = APIRouter(prefix="/v1", route_class=Route, dependencies=[Depends(refusals.repeated_parameters)])
READ, WRITE = needs(RUNS_READ), needs(RUNS_WRITE)
NoParameters = Annotated[NoQuery, Query()]


@router.get("/runs", operation_id="listRuns", tags=["runs"], dependencies=[READ], responses=documented(*ALWAYS))
async def list_runs(session: Session, query: Annotated[RunsQuery, Query()]) -> RunPage:
    """List runs, newest first."""
    found, more = await history.page(session, query)
    return RunPage(items=[RunOut.of(run) for run in found], next_cursor=more, has_more=more is not None)


@router.get(
    "/runs/{run_id}",
    operation_id="getRun",
    tags=["runs"],
    dependencies=[READ],
    responses=documented(*ALWAYS, RunNotFound),
)
async def show_run(run_id: UUID, session: Session, _: NoParameters) -> RunShown:
    """Read a run."""
    return RunShown.of(await history.get(session, run_id))


@router.post(
    "/runs/{run_id}/cancel",
    operation_id="cancelRun",
    tags=["runs"],
    status_code=202,
    dependencies=[WRITE, Depends(refusals.body)],
    responses=documented(*ALWAYS, RunNotFound, RunEnded),
)
async def cancel(run_id: UUID, session: Session, caller: Caller, _: NoParameters) -> RunShown:
    """Cancel a run: at once if it has not begun, else as soon as its backup has been given up."""
    return RunShown.of(await history.cancel(session, run_id, caller))


@router.post(
    "/runs/{run_id}/again",
    operation_id="runAgain",
    tags=["runs"],
    status_code=201,
    dependencies=[WRITE, Depends(refusals.body)],
    responses={
        201: {"headers": LOCATION},
        **documented(*ALWAYS, RunNotFound, RunActive, KeyTaken, NotScheduled, ScheduleNotFound),
    },
)
async def again(run_id: UUID, session: Session, response: Response, _: NoParameters, key: Key = None) -> RunShown:
    """Make another run like this one, now: with its target, whatever the schedule has become since."""
    run = RunShown.of(await history.again(session, run_id, key))
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run


@router.get("/alarms", operation_id="listAlarms", tags=["alarms"], dependencies=[READ], responses=documented(*ALWAYS))
async def list_alarms(session: Session, query: Annotated[AlarmsQuery, Query()]) -> AlarmPage:
    """List alarms, newest first."""
    found, more = await alarms.page(session, query.cursor, query.limit, query.open, query.schedule_id)
    return AlarmPage(items=[AlarmOut.of(alarm) for alarm in found], next_cursor=more, has_more=more is not None)


@router.get(
    "/alarms/{alarm_id}",
    operation_id="getAlarm",
    tags=["alarms"],
    dependencies=[READ],
    responses=documented(*ALWAYS, AlarmNotFound),
)
async def show_alarm(alarm_id: UUID, session: Session, _: NoParameters) -> AlarmOut:
    """Read an alarm."""
    return AlarmOut.of(await alarms.get(session, alarm_id))


@router.post(
    "/alarms/{alarm_id}/close",
    operation_id="closeAlarm",
    tags=["alarms"],
    dependencies=[WRITE, Depends(refusals.body)],
    responses=documented(*ALWAYS, AlarmNotFound),
)
async def close_alarm(alarm_id: UUID, session: Session, caller: Caller, _: NoParameters) -> AlarmOut:
    """Close an alarm by hand, as a gap that is known. One that still holds is opened anew."""
    return AlarmOut.of(await alarms.close_by_hand(session, alarm_id, caller))
