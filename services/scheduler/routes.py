"""The routes under /v1."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response

from scheduler import refusals, runs, schedules
from scheduler.access import needs
from scheduler.db import Session
from scheduler.errors import (
    DatabaseUnavailable,
    InvalidRequest,
    MalformedRequest,
    NotAuthenticated,
    RunNotFound,
    ScheduleNotFound,
    SchedulerError,
    ScopeMissing,
    TokenRefused,
)
from scheduler.problems import documented
from scheduler.schemas import NoQuery, PageQuery, RunOut, RunPage, ScheduleOut, SchedulePage
from scheduler.tokens import RUNS_READ, SCHEDULES_READ, SCHEDULES_WRITE

ALWAYS = (
    MalformedRequest,
    NotAuthenticated,
    TokenRefused,
    ScopeMissing,
    InvalidRequest,
    SchedulerError,
    DatabaseUnavailable,
)
LOCATION: dict[str, Any] = {"Location": {"description": "The path of the new run.", "schema": {"type": "string"}}}

router = APIRouter(prefix="/v1", dependencies=[Depends(refusals.repeated_parameters)])


@router.get(
    "/schedules",
    operation_id="listSchedules",
    tags=["schedules"],
    dependencies=[needs(SCHEDULES_READ)],
    responses=documented(*ALWAYS),
)
async def list_schedules(session: Session, query: Annotated[PageQuery, Query()]) -> SchedulePage:
    """List schedules, oldest first."""
    found, more = await schedules.page(session, query.cursor, query.limit)
    return SchedulePage(items=[ScheduleOut.of(s) for s in found], next_cursor=more, has_more=more is not None)


@router.get(
    "/schedules/{schedule_id}",
    operation_id="getSchedule",
    tags=["schedules"],
    dependencies=[needs(SCHEDULES_READ)],
    responses=documented(*ALWAYS, ScheduleNotFound),
)
async def show_schedule(schedule_id: UUID, session: Session, _: Annotated[NoQuery, Query()]) -> ScheduleOut:
    """Read a schedule."""
    return ScheduleOut.of(await schedules.get(session, schedule_id))


@router.post(
    "/schedules/{schedule_id}/trigger",
    operation_id="triggerSchedule",
    tags=["schedules"],
    status_code=201,
    dependencies=[needs(SCHEDULES_WRITE), Depends(refusals.body)],
    responses={201: {"headers": LOCATION}, **documented(*ALWAYS, ScheduleNotFound)},
)
async def trigger(schedule_id: UUID, session: Session, response: Response, _: Annotated[NoQuery, Query()]) -> RunOut:
    """Run a schedule now. It starts within seconds; when it is due next does not change."""
    run = RunOut.of(await runs.trigger(session, schedule_id))
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run


@router.get(
    "/runs",
    operation_id="listRuns",
    tags=["runs"],
    dependencies=[needs(RUNS_READ)],
    responses=documented(*ALWAYS),
)
async def list_runs(session: Session, query: Annotated[PageQuery, Query()]) -> RunPage:
    """List runs, newest first."""
    found, more = await runs.page(session, query.cursor, query.limit)
    return RunPage(items=[RunOut.of(run) for run in found], next_cursor=more, has_more=more is not None)


@router.get(
    "/runs/{run_id}",
    operation_id="getRun",
    tags=["runs"],
    dependencies=[needs(RUNS_READ)],
    responses=documented(*ALWAYS, RunNotFound),
)
async def show_run(run_id: UUID, session: Session, _: Annotated[NoQuery, Query()]) -> RunOut:
    """Read a run."""
    return RunOut.of(await runs.get(session, run_id))
