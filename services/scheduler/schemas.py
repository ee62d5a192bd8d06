"""What goes over the wire."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from scheduler.definitions import CatchUp, Line, Moment, Retry, SpanEnd
from scheduler.ledger import Due, Ledger, Outcome
from scheduler.models import Alarm, Revision, Run, Schedule

State = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled", "skipped", "missed"]
Trigger = Literal["schedule", "manual", "backfill", "adopted"]


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Pause(_Out):
    at: datetime
    until: Annotated[datetime | None, Field(description="When it goes on by itself.")]
    note: str | None


class ScheduleOut(_Out):
    """A schedule. `state` is `over` when nothing is to come: its time has passed."""

    id: UUID
    name: str
    cron: str | None
    every_seconds: int | None
    at: datetime | None
    timezone: Annotated[str, Field(description="An IANA name; `cron` is in its local time.")]
    start_at: datetime | None
    end_at: datetime | None
    anchor_at: Annotated[datetime, Field(description="What `every_seconds` is counted from.")]
    target: dict[str, Any]
    overlap: Literal["skip", "allow", "cancel_previous"]
    catch_up: CatchUp
    jitter_seconds: int
    time_limit_seconds: int
    too_long_seconds: int | None
    retry: Retry
    overdue_grace_seconds: int
    alarm_after_skips: int
    state: Literal["active", "paused", "over"]
    paused: Pause | None
    revision: Annotated[int, Field(description="Its ETag, in quotes. A run that was made does not change it.")]
    next_due_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, schedule: Schedule) -> Self:
        values = {name: getattr(schedule, name) for name in cls.model_fields.keys() - {"state", "paused"}}
        paused = None
        if schedule.paused_at:
            paused = Pause(at=schedule.paused_at, until=schedule.paused_until, note=schedule.paused_note)
        state = "paused" if paused else "active" if schedule.next_due_at else "over"
        return cls.model_validate(values | {"state": state, "paused": paused})


class RevisionOut(_Out):
    """What a schedule said after `since`, up to `until`, and who made it so; null is the scheduler itself."""

    revision: int
    since: datetime
    until: datetime | None
    change: Literal["created", "edited", "paused", "resumed", "deleted"]
    definition: dict[str, Any]
    note: str | None
    changed_by: str | None

    @classmethod
    def of(cls, revision: Revision) -> Self:
        return cls.model_validate(revision)


class Event(BaseModel):
    """`event`: recorded, dispatched, claimed, accepted, waiting, lost, released, cancel_requested, or a last state."""

    at: datetime
    event: str
    detail: str | None = None


class Times(BaseModel):
    """When a run came how far: where it was late, and for how long. `lateness_seconds` is from planned to taken on."""

    due_at: datetime
    planned_at: Annotated[datetime, Field(description="Due, and its jitter.")]
    recorded_at: datetime
    dispatched_at: datetime | None
    claimed_at: datetime | None
    accepted_at: datetime | None
    ended_at: datetime | None
    lateness_seconds: float | None


class RunOut(_Out):
    id: UUID
    schedule_id: Annotated[UUID | None, Field(description="Null when the backup was asked for by somebody else.")]
    trigger: Trigger
    due_at: datetime
    state: Annotated[
        State,
        Field(description="`waiting` is for the backup to end, or to try again. Those from `succeeded` on are final."),
    ]
    reason: Annotated[str | None, Field(description="Why it failed, what went wrong last, or what its success lacks.")]
    backup_id: Annotated[str | None, Field(description="As the backup API names it, once it took the request.")]
    progress: Annotated[dict[str, Any] | None, Field(description="Of the backup, as the backup API tells it.")]
    target: dict[str, Any]
    revision: Annotated[int | None, Field(description="Of the schedule, when it made the run.")]
    held: Annotated[bool, Field(description="It waits for another run of its schedule to end.")]
    attempts: Annotated[int, Field(description="In a row that got no answer to use.")]
    crashes: Annotated[int, Field(description="Workers that went away while they held it.")]
    again_of: UUID | None
    cancel_requested_at: datetime | None
    deadline_at: datetime
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    times: Times
    trace_id: str

    @classmethod
    def of(cls, run: Run) -> Self:
        planned_at = run.due_at + timedelta(seconds=run.jitter_seconds)
        times = Times(
            due_at=run.due_at,
            planned_at=planned_at,
            recorded_at=run.created_at,
            dispatched_at=run.dispatched_at,
            claimed_at=run.started_at,
            accepted_at=run.accepted_at,
            ended_at=run.ended_at,
            lateness_seconds=run.accepted_at and (run.accepted_at - planned_at).total_seconds(),
        )
        values = {name: getattr(run, name) for name in RunOut.model_fields.keys() - {"times", "trace_id"}}
        return cls.model_validate(values | {"times": times, "trace_id": run.id.hex} | cls._more(run))

    @classmethod
    def _more(cls, _: Run) -> dict[str, Any]:
        return {}


class RunShown(RunOut):
    """A run with all that happened to it, in order; of a long one the first hundred."""

    events: list[Event]

    @classmethod
    def _more(cls, run: Run) -> dict[str, Any]:
        return {"events": run.events}


class SchedulePage(BaseModel):
    items: list[ScheduleOut]
    next_cursor: UUID | None
    has_more: bool


class RevisionPage(BaseModel):
    items: list[RevisionOut]
    next_cursor: int | None
    has_more: bool


class RunPage(BaseModel):
    items: list[RunOut]
    next_cursor: UUID | None
    has_more: bool


class AlarmOut(_Out):
    """Something that is wrong, from `opened_at` until `closed_at`."""

    id: UUID
    kind: Literal["failing", "overdue", "too_long", "skipped", "stale", "unaccounted"]
    schedule_id: UUID | None
    run_id: UUID | None
    detail: str
    opened_at: datetime
    closed_at: datetime | None
    closed_by: str | None

    @classmethod
    def of(cls, alarm: Alarm) -> Self:
        return cls.model_validate(alarm)


class AlarmPage(BaseModel):
    items: list[AlarmOut]
    next_cursor: UUID | None
    has_more: bool


class DueTimeOut(_Out):
    at: datetime
    local: Annotated[datetime, Field(description="On the clocks of the schedule's zone, with their offset.")]


class PreviewOut(BaseModel):
    """What is due next, and what the next changes of the zone's clocks do to it."""

    timezone: str
    due: list[DueTimeOut]
    clock_changes: list[str]


class EditPreviewOut(PreviewOut):
    """Of the due times before and after the edit, as far as both are looked at."""

    disappear: list[DueTimeOut]
    appear: list[DueTimeOut]


class PauseIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    note: Annotated[Line | None, Field(description="Why, for whoever finds it paused.")] = None
    until: Annotated[Moment | None, Field(description="It goes on by itself then.")] = None


class BackfillPlanIn(BaseModel):
    """Due times after `from` up to `to`: those that nothing came of, also failed ones, or all."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: Annotated[SpanEnd, Field(alias="from")]
    to: SpanEnd
    which: Literal["missing", "failed", "all"] = "missing"


class BackfillIn(BackfillPlanIn):
    count: Annotated[int, Field(ge=1, le=1000, description="As the preview said it.")]


class BackfillPlanOut(BaseModel):
    """`due` are the first 100."""

    count: int
    due: list[datetime]


class BackfillOut(BaseModel):
    """They run one after the other: see GET /v1/runs?trigger=backfill."""

    count: int


class LedgerItem(BaseModel):
    """A due time and the best that became of it, backfills included."""

    due_at: datetime
    outcome: Outcome
    run_id: UUID | None
    reason: str | None
    backup_id: str | None

    @classmethod
    def of(cls, due: Due) -> Self:
        best = due.best
        return cls(
            due_at=due.due_at,
            outcome=due.outcome,
            run_id=best and best.id,
            reason=best and best.reason,
            backup_id=best and best.backup_id,
        )


class PausedOut(_Out):
    after: datetime
    until: datetime
    note: str | None


class LedgerOut(BaseModel):
    """Every due time after `from` up to `to`, computed anew from what the schedule said when, and what became of it.

    `complete` says that each has its row, and no row is at another time. Runs before `accounted_from` were pruned.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    schedule_id: UUID
    from_: Annotated[datetime, Field(alias="from")]
    to: datetime
    accounted_from: datetime
    complete: bool
    says: str
    counts: dict[str, int]
    unaccounted: list[datetime]
    unexpected: list[UUID]
    paused: list[PausedOut]
    items: list[LedgerItem]
    has_more: Annotated[bool, Field(description="Go on from `to`.")]

    @classmethod
    def of(cls, schedule: Schedule, ledger: Ledger) -> Self:
        found = ledger.counts
        counted = ", ".join(f"{number} {outcome}" for outcome, number in sorted(found.items())) or "none"
        gaps = f"{len(ledger.unaccounted)} have no row, and {len(ledger.unexpected)} runs were at no due time"
        verdict = "every one is accounted for" if ledger.complete else gaps
        says = f"Of {found.total()} due times, {verdict}: {counted}." if found else f"Nothing was due: {verdict}."
        return cls.model_validate(
            {
                "schedule_id": schedule.id,
                "from": ledger.after,
                "to": ledger.until,
                "accounted_from": schedule.accounted_from,
                "complete": ledger.complete,
                "says": says,
                "counts": found,
                "unaccounted": ledger.unaccounted,
                "unexpected": [row.id for row in ledger.unexpected],
                "paused": ledger.paused,
                "items": [LedgerItem.of(each) for each in ledger.due],
                "has_more": ledger.more,
            },
            from_attributes=True,
        )


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[UUID | None, Field(description="`next_cursor` of the page before.")] = None


class SchedulesQuery(PageQuery):
    name: Annotated[
        str | None, Field(max_length=200, pattern=r"^[^\x00]*$", description="The one that is called so.")
    ] = None


class RunsQuery(PageQuery):
    schedule_id: UUID | None = None
    state: State | None = None
    trigger: Trigger | None = None


class AlarmsQuery(PageQuery):
    open: Annotated[bool | None, Field(description="Those that are, or those that are not.")] = None
    schedule_id: UUID | None = None


class RevisionsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="`next_cursor` of the page before.")] = None


class CountQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(ge=1, le=100)] = 10


class LedgerQuery(BaseModel):
    """The last day, if it says nothing."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: Annotated[SpanEnd | None, Field(alias="from")] = None
    to: SpanEnd | None = None


class NoQuery(BaseModel):
    """Refuses all query parameters: one that is ignored is a client's bug that nobody sees."""

    model_config = ConfigDict(extra="forbid")


class InvalidPart(BaseModel):
    """Where the request is wrong: in the body at a JSON pointer, or in a parameter."""

    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None
    code: str
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it. Switch on `type`: its meaning never changes."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[InvalidPart] | None = None
