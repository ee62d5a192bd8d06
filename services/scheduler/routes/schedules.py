"""Routes of schedules."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Request, Response

from scheduler import backfills, due, ledger, preview, refusals, schedules
from scheduler.access import Caller, needs
from scheduler.db import Session
from scheduler.definitions import ScheduleEdit, ScheduleIn
from scheduler.errors import (
    BackfillRefused,
    KeyTaken,
    NameTaken,
    NeverDue,
    NotPaused,
    PreconditionMissing,
    RunActive,
    ScheduleNotFound,
    StillSettling,
    VersionMismatch,
)
from scheduler.problems import documented
from scheduler.routes.parts import (
    ALWAYS,
    ETAG,
    LOCATION,
    MERGE_PATCH,
    WITH_BODY,
    IfMatch,
    Key,
    Route,
    edited,
    etag,
    fitting,
    fitting_edit,
    optional_revision,
    revision,
    to_come,
)
from scheduler.schemas import (
    BackfillIn,
    BackfillOut,
    BackfillPlanIn,
    BackfillPlanOut,
    CountQuery,
    EditPreviewOut,
    LedgerOut,
    LedgerQuery,
    NoQuery,
    PauseIn,
    PreviewOut,
    RevisionOut,
    RevisionPage,
    RevisionsQuery,
    RunShown,
    ScheduleOut,
    SchedulePage,
    SchedulesQuery,
)
from scheduler.timing import Timing
from scheduler.tokens import SCHEDULES_READ, SCHEDULES_WRITE

router = APIRouter(
    prefix="/v1",
    tags=["schedules"],
    route_class=Route,
    dependencies=[Depends(refusals.repeated_parameters)],
)
READ, WRITE = needs(SCHEDULES_READ), needs(SCHEDULES_WRITE)
TO_CHANGE = (ScheduleNotFound, VersionMismatch, StillSettling)
NoParameters = Annotated[NoQuery, Query()]
Wanted = Annotated[ScheduleIn, Body(examples=[ScheduleIn.example()])]
Edit = Annotated[ScheduleEdit, Body(media_type=MERGE_PATCH, examples=[{"cron": "15 3 * * *"}])]


@router.get("/schedules", operation_id="listSchedules", dependencies=[READ], responses=documented(*ALWAYS))
async def list_schedules(session: Session, query: Annotated[SchedulesQuery, Query()]) -> SchedulePage:
    """List schedules, oldest first."""
    found, more = await schedules.page(session, query.cursor, query.limit, query.name)
    return SchedulePage(items=[ScheduleOut.of(s) for s in found], next_cursor=more, has_more=more is not None)


@router.post(
    "/schedules",
    operation_id="createSchedule",
    status_code=201,
    dependencies=[WRITE],
    responses={201: {"headers": ETAG | LOCATION}, **documented(*WITH_BODY, NameTaken)},
)
async def create(
    wanted: Wanted, request: Request, session: Session, caller: Caller, response: Response, _: NoParameters
) -> ScheduleOut:
    """Make a schedule."""
    made = await schedules.create(session, await fitting(request, wanted), caller)
    response.headers.update(etag(made) | {"Location": f"/v1/schedules/{made.id}"})
    return ScheduleOut.of(made)


@router.post(
    "/schedules:preview",
    operation_id="previewNewSchedule",
    dependencies=[READ],
    responses=documented(*WITH_BODY),
)
async def preview_new(wanted: Wanted, request: Request, query: Annotated[CountQuery, Query()]) -> PreviewOut:
    """See when a schedule would be due, before it is made."""
    now = datetime.now(UTC)
    return _preview((await fitting(request, wanted)).timing(now), now, query.count)


@router.get(
    "/schedules/{schedule_id}",
    operation_id="getSchedule",
    dependencies=[READ],
    responses={200: {"headers": ETAG}, **documented(*ALWAYS, ScheduleNotFound)},
)
async def show(schedule_id: UUID, session: Session, response: Response, _: NoParameters) -> ScheduleOut:
    """Read a schedule."""
    found = await schedules.get(session, schedule_id)
    response.headers.update(etag(found))
    return ScheduleOut.of(found)


@router.patch(
    "/schedules/{schedule_id}",
    operation_id="editSchedule",
    dependencies=[WRITE],
    responses={
        200: {"headers": ETAG},
        **documented(*WITH_BODY, *TO_CHANGE, NameTaken, NeverDue, PreconditionMissing),
    },
)
async def edit(
    schedule_id: UUID,
    change: Edit,
    request: Request,
    session: Session,
    caller: Caller,
    response: Response,
    _: NoParameters,
    if_match: IfMatch = None,
) -> ScheduleOut:
    """Change a schedule, by a JSON merge patch. What was due until now stays as it was."""
    changed = revision(if_match)
    # First what may take a while: a name is looked up, and nobody is to wait for that.
    await fitting_edit(request, change, await schedules.get(session, schedule_id))
    schedule = await schedules.locked(session, schedule_id, changed)
    wanted = edited(change, schedules.definition(schedule))
    schedule = await schedules.edit(session, schedule, wanted, caller)
    response.headers.update(etag(schedule))
    return ScheduleOut.of(schedule)


@router.delete(
    "/schedules/{schedule_id}",
    operation_id="deleteSchedule",
    status_code=204,
    dependencies=[WRITE],
    responses=documented(*ALWAYS, *TO_CHANGE, PreconditionMissing),
)
async def delete(
    schedule_id: UUID, session: Session, caller: Caller, _: NoParameters, if_match: IfMatch = None
) -> None:
    """Delete a schedule. Its runs stay; those that have not begun are cancelled, and others go on to their end."""
    await schedules.delete(session, await schedules.locked(session, schedule_id, revision(if_match)), caller)


@router.get(
    "/schedules/{schedule_id}/preview",
    operation_id="previewSchedule",
    dependencies=[READ],
    responses=documented(*ALWAYS, ScheduleNotFound, NeverDue),
)
async def preview_due(schedule_id: UUID, session: Session, query: Annotated[CountQuery, Query()]) -> PreviewOut:
    """See when a schedule is due next. While it is paused: when it would be."""
    schedule = await schedules.get(session, schedule_id)
    return _preview(due.timing(schedule), datetime.now(UTC), query.count)


@router.post(
    "/schedules/{schedule_id}/preview",
    operation_id="previewEdit",
    dependencies=[READ],
    responses=documented(*WITH_BODY, ScheduleNotFound, NeverDue),
)
async def preview_edit(
    schedule_id: UUID,
    change: Annotated[ScheduleEdit, Body(examples=[{"cron": "15 3 * * *"}])],
    request: Request,
    session: Session,
    query: Annotated[CountQuery, Query()],
) -> EditPreviewOut:
    """See what an edit would do, before it is made: which due times disappear, and which appear."""
    schedule, now = await schedules.get(session, schedule_id), datetime.now(UTC)
    wanted = await fitting_edit(request, change, schedule)
    before, after = due.timing(schedule), wanted.timing(schedules.anchor(schedule, wanted, now))
    gone, come = preview.difference(before, after, now, query.count)
    told = _preview(after, now, query.count).model_dump()
    return EditPreviewOut.model_validate(told | {"disappear": gone, "appear": come}, from_attributes=True)


@router.post(
    "/schedules/{schedule_id}/pause",
    operation_id="pauseSchedule",
    dependencies=[WRITE],
    responses={200: {"headers": ETAG}, **documented(*WITH_BODY, *TO_CHANGE)},
)
async def pause(
    schedule_id: UUID,
    session: Session,
    caller: Caller,
    response: Response,
    _: NoParameters,
    wanted: Annotated[PauseIn | None, Body()] = None,
    if_match: IfMatch = None,
) -> ScheduleOut:
    """Pause a schedule, any version of it or that of `If-Match`: nothing is due until it is resumed. Its runs go on."""
    schedule = await schedules.locked(session, schedule_id, optional_revision(if_match))
    wanted = to_come(wanted or PauseIn())
    paused = await schedules.pause(session, schedule, wanted.note, wanted.until, caller)
    response.headers.update(etag(paused))
    return ScheduleOut.of(paused)


@router.post(
    "/schedules/{schedule_id}/resume",
    operation_id="resumeSchedule",
    dependencies=[WRITE, Depends(refusals.body)],
    responses={200: {"headers": ETAG}, **documented(*ALWAYS, *TO_CHANGE, NotPaused)},
)
async def resume(
    schedule_id: UUID, session: Session, caller: Caller, response: Response, _: NoParameters, if_match: IfMatch = None
) -> ScheduleOut:
    """Resume a schedule, any version of it or that of `If-Match`: what was due meanwhile does not run."""
    schedule = await schedules.locked(session, schedule_id, optional_revision(if_match))
    resumed = await schedules.resume(session, schedule, caller)
    response.headers.update(etag(resumed))
    return ScheduleOut.of(resumed)


@router.post(
    "/schedules/{schedule_id}/trigger",
    operation_id="triggerSchedule",
    status_code=201,
    dependencies=[WRITE, Depends(refusals.body)],
    responses={201: {"headers": LOCATION}, **documented(*ALWAYS, ScheduleNotFound, RunActive, KeyTaken)},
)
async def trigger(
    schedule_id: UUID, session: Session, response: Response, _: NoParameters, key: Key = None
) -> RunShown:
    """Run a schedule now. It starts within seconds; when it is due next does not change."""
    run = RunShown.of(await schedules.trigger(session, await schedules.locked(session, schedule_id), key))
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run


@router.post(
    "/schedules/{schedule_id}/backfills/preview",
    operation_id="previewBackfill",
    dependencies=[READ],
    responses=documented(*WITH_BODY, ScheduleNotFound, BackfillRefused, NeverDue),
)
async def preview_backfill(
    schedule_id: UUID, wanted: BackfillPlanIn, session: Session, _: NoParameters
) -> BackfillPlanOut:
    """See how many runs a backfill would have."""
    schedule = await schedules.get(session, schedule_id)
    found = await backfills.plan(session, schedule, wanted.from_, _not_later(wanted.to), wanted.which)
    return BackfillPlanOut(count=len(found), due=found[:100])


@router.post(
    "/schedules/{schedule_id}/backfills",
    operation_id="startBackfill",
    status_code=202,
    dependencies=[WRITE],
    responses=documented(*WITH_BODY, ScheduleNotFound, BackfillRefused, NeverDue),
)
async def start_backfill(schedule_id: UUID, wanted: BackfillIn, session: Session, _: NoParameters) -> BackfillOut:
    """Run due times of the past, one after the other. `count` is what the preview said."""
    schedule = await schedules.locked(session, schedule_id)
    found = await backfills.plan(session, schedule, wanted.from_, _not_later(wanted.to), wanted.which)
    return BackfillOut(count=await backfills.start(session, schedule, found, wanted.count))


@router.get(
    "/schedules/{schedule_id}/ledger",
    operation_id="getLedger",
    dependencies=[READ],
    responses=documented(*ALWAYS, ScheduleNotFound, NeverDue),
)
async def show_ledger(schedule_id: UUID, session: Session, query: Annotated[LedgerQuery, Query()]) -> LedgerOut:
    """Account for every due time: what became of it, and whether one has no row."""
    schedule = await schedules.get(session, schedule_id)
    until = _not_later(query.to)
    return LedgerOut.of(
        schedule, await ledger.account(session, schedule, query.from_ or until - timedelta(days=1), until)
    )


@router.get(
    "/schedules/{schedule_id}/revisions",
    operation_id="listRevisions",
    dependencies=[READ],
    responses=documented(*ALWAYS, ScheduleNotFound),
)
async def list_revisions(
    schedule_id: UUID, session: Session, query: Annotated[RevisionsQuery, Query()]
) -> RevisionPage:
    """List who changed a schedule, when and to what, newest first."""
    await schedules.get(session, schedule_id)
    found, more = await schedules.revisions(session, schedule_id, query.cursor, query.limit)
    return RevisionPage(items=[RevisionOut.of(r) for r in found], next_cursor=more, has_more=more is not None)


def _preview(times: Timing, now: datetime, count: int) -> PreviewOut:
    told = {"due": preview.upcoming(times, now, count), "clock_changes": preview.clock_changes(times, now)}
    return PreviewOut.model_validate(told | {"timezone": times.timezone}, from_attributes=True)


def _not_later(moment: datetime | None) -> datetime:
    """The future is not accounted for."""
    now = datetime.now(UTC)
    return min(moment or now, now)
