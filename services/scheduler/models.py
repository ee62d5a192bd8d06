"""The tables of schema `scheduler`. Rights on them are not ours to give: deploy/postgres/roles.sql does."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    and_,
    func,
    not_,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "scheduler"


class Table(DeclarativeBase):
    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_name)s_key",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        },
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's name and form
        str: Text,
        list[str]: ARRAY(Text),
        dict[str, Any]: JSONB,
        datetime: DateTime(timezone=True),
        bytes: LargeBinary,
    }


class Schedule(Table):
    """`next_due_at` only moves forward, in the transaction that makes the run of the due time it leaves.

    It is null while nothing is to come: the schedule is paused, over or deleted.
    """

    __tablename__ = "schedules"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    name: Mapped[str]
    cron: Mapped[str | None] = mapped_column(CheckConstraint("num_nonnulls(cron, every_seconds, at) = 1", name="when"))
    every_seconds: Mapped[int | None]
    at: Mapped[datetime | None]
    timezone: Mapped[str]
    start_at: Mapped[datetime | None]
    end_at: Mapped[datetime | None]
    anchor_at: Mapped[datetime] = mapped_column(server_default=func.now())  # what intervals are counted from
    overlap: Mapped[str] = mapped_column(
        CheckConstraint("overlap in ('skip', 'allow', 'cancel_previous')", name="overlap"), server_default="skip"
    )
    catch_up: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("""'{"policy": "latest", "window_seconds": 86400, "max_runs": 1}'""")
    )
    jitter_seconds: Mapped[int] = mapped_column(server_default=text("0"))
    time_limit_seconds: Mapped[int] = mapped_column(server_default=text("21600"))
    too_long_seconds: Mapped[int | None]
    retry: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("""'{"max_attempts": null, "min_seconds": 1, "max_seconds": 60}'""")
    )
    overdue_grace_seconds: Mapped[int] = mapped_column(server_default=text("300"))
    alarm_after_skips: Mapped[int] = mapped_column(server_default=text("3"))
    target: Mapped[dict[str, Any]]
    revision: Mapped[int] = mapped_column(server_default=text("1"))
    paused_at: Mapped[datetime | None]
    paused_until: Mapped[datetime | None]
    paused_note: Mapped[str | None]
    next_due_at: Mapped[datetime | None]
    skips: Mapped[int] = mapped_column(server_default=text("0"))  # in a row
    accounted_from: Mapped[datetime] = mapped_column(server_default=func.now())  # runs before it were pruned
    audited_until: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]


Index("schedules_name_idx", Schedule.name, unique=True, postgresql_where=Schedule.deleted_at.is_(None))
Index("schedules_next_due_at_idx", Schedule.next_due_at)
Index("schedules_paused_until_idx", Schedule.paused_until, postgresql_where=Schedule.paused_until.is_not(None))
Index("schedules_audited_until_idx", Schedule.audited_until)


class Revision(Table):
    """What a schedule said in (since, until], and who made it so: what due times are accounted by."""

    __tablename__ = "schedule_revisions"

    schedule_id: Mapped[UUID] = mapped_column(ForeignKey(Schedule.id), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    since: Mapped[datetime]
    until: Mapped[datetime | None]
    change: Mapped[str] = mapped_column(
        CheckConstraint("change in ('created', 'edited', 'paused', 'resumed', 'deleted')", name="change")
    )
    live: Mapped[bool]  # due times in it are to have runs: neither paused nor deleted
    definition: Mapped[dict[str, Any]]
    note: Mapped[str | None]
    changed_by: Mapped[str | None]  # a token's name; null for the scheduler itself


class Run(Table):
    """One due time, or one wish of a person. Terminal once `ended_at` is set: only `announce_at` changes then.

    The row is also the outbox of its steps (`wake_at`: when one is to be put on the queue) and of its alarm
    (`announce_at`: when it is to be sent). One that is `held` waits for another run of its schedule to end.
    """

    __tablename__ = "runs"

    # UUIDv7: newest first is the primary key, backwards. In hex it is the id of the run's trace.
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    schedule_id: Mapped[UUID | None] = mapped_column(ForeignKey(Schedule.id))  # null: adopted, nobody scheduled it
    trigger: Mapped[str] = mapped_column(
        CheckConstraint("trigger in ('schedule', 'manual', 'backfill', 'adopted')", name="trigger")
    )
    due_at: Mapped[datetime]
    jitter_seconds: Mapped[int] = mapped_column(server_default=text("0"))  # later than due on purpose
    revision: Mapped[int | None]  # of the schedule
    target: Mapped[dict[str, Any]]  # as the schedule had it: a retried request must be the same one
    retry: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    state: Mapped[str] = mapped_column(
        CheckConstraint(
            "state in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled', 'skipped', 'missed')",
            name="state",
        ),
        server_default="queued",
    )
    reason: Mapped[str | None]
    backup_id: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None]  # as the backup API tells it
    memo: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # from its steps to those after them
    events: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'"))
    exclusive: Mapped[bool] = mapped_column(server_default=text("false"))  # not beside another one of its schedule
    held: Mapped[bool] = mapped_column(server_default=text("false"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))  # in a row that got no answer to use
    crashes: Mapped[int] = mapped_column(server_default=text("0"))  # workers that died with it
    seq: Mapped[int] = mapped_column(server_default=text("1"))  # the step that comes next, or that is in hand
    wake_at: Mapped[datetime] = mapped_column(server_default=func.now())
    lease_until: Mapped[datetime | None]
    deadline_at: Mapped[datetime]
    overdue_at: Mapped[datetime | None]
    too_long_at: Mapped[datetime | None]
    announce_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    request_key: Mapped[str | None]
    again_of: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    dispatched_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    accepted_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


_ACTIVE = Run.state.in_(["queued", "running", "waiting"])
# The store's own guard against two runs of one due time; the tick's row lock is the first.
Index("runs_due_idx", Run.schedule_id, Run.due_at, unique=True, postgresql_where=Run.trigger == "schedule")
Index(
    "runs_backfill_idx",
    Run.schedule_id,
    Run.due_at,
    unique=True,
    postgresql_where=and_(Run.trigger == "backfill", _ACTIVE),
)
Index("runs_backfilled_idx", Run.schedule_id, Run.due_at, postgresql_where=Run.trigger == "backfill")
# And against two at a time where a schedule wants one.
Index(
    "runs_exclusive_idx",
    Run.schedule_id,
    unique=True,
    postgresql_where=and_(Run.exclusive, not_(Run.held), _ACTIVE),
)
Index("runs_request_idx", Run.schedule_id, Run.request_key, unique=True, postgresql_where=Run.request_key.is_not(None))
Index("runs_schedule_idx", Run.schedule_id, Run.id)
Index("runs_state_idx", Run.state, Run.id, postgresql_where=Run.state != "succeeded")
Index("runs_backup_idx", Run.backup_id, postgresql_where=Run.backup_id.is_not(None))
# What the worker's loops look for every second, each a handful of rows whatever the history.
Index("runs_wake_at_idx", Run.wake_at, postgresql_where=Run.state.in_(["queued", "waiting"]))
Index("runs_held_idx", Run.schedule_id, Run.due_at, postgresql_where=and_(Run.held, Run.state == "queued"))
Index("runs_lease_until_idx", Run.lease_until, postgresql_where=Run.state == "running")
Index("runs_overdue_at_idx", Run.overdue_at, postgresql_where=and_(Run.accepted_at.is_(None), _ACTIVE))
Index("runs_too_long_at_idx", Run.too_long_at, postgresql_where=_ACTIVE)
Index("runs_announce_at_idx", Run.announce_at, postgresql_where=Run.announce_at.is_not(None))
Index("runs_ended_at_idx", Run.ended_at, postgresql_where=Run.ended_at.is_not(None))


class Alarm(Table):
    """Something that is wrong, from when it was seen until it was over; the outbox of its two messages, too.

    `subject` is what it is about: of a kind, one alarm about it is open.
    """

    __tablename__ = "alarms"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    kind: Mapped[str] = mapped_column(
        CheckConstraint(
            "kind in ('failing', 'overdue', 'too_long', 'skipped', 'stale', 'unaccounted')",
            name="kind",
        )
    )
    subject: Mapped[str]
    schedule_id: Mapped[UUID | None] = mapped_column(ForeignKey(Schedule.id))
    run_id: Mapped[UUID | None]
    detail: Mapped[str]
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str | None]
    tell_opened_at: Mapped[datetime | None]  # when that is to be sent, null once it was
    tell_closed_at: Mapped[datetime | None]


Index("alarms_open_idx", Alarm.kind, Alarm.subject, unique=True, postgresql_where=Alarm.closed_at.is_(None))
Index("alarms_open_of_schedule_idx", Alarm.schedule_id, postgresql_where=Alarm.closed_at.is_(None))
Index("alarms_tell_opened_at_idx", Alarm.tell_opened_at, postgresql_where=Alarm.tell_opened_at.is_not(None))
Index("alarms_tell_closed_at_idx", Alarm.tell_closed_at, postgresql_where=Alarm.tell_closed_at.is_not(None))


class Watch(Table):
    """One row: what was last seen of the backups that there are, and who looks next."""

    __tablename__ = "watch"

    id: Mapped[int] = mapped_column(CheckConstraint("id = 1", name="one"), primary_key=True, autoincrement=False)
    since: Mapped[datetime]  # backups before it are nobody's business
    looked_at: Mapped[datetime]
    last_proven_id: Mapped[str | None]
    last_proven_at: Mapped[datetime | None]  # when its rows were read
    proven_within_seconds: Mapped[int | None]  # what the worker that looked last wants
    seen_at: Mapped[datetime | None]  # when the backups were told last


class SeenBackup(Table):
    """A backup as it was seen last. One that retention has removed stays here, in the state that it had."""

    __tablename__ = "backups"

    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    label: Mapped[str | None]
    created_at: Mapped[datetime]
    seconds: Mapped[float | None]  # from its begin to its end, proofs not counted
    rows: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str | None]


Index("backups_created_at_idx", SeenBackup.created_at)


class Token(Table):
    """A bearer token, of which only the SHA-256 is kept: it has 256 random bits, so no slow hash is needed."""

    __tablename__ = "tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    name: Mapped[str]
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None]


class ConsoleSession(Table):
    """Somebody who has signed in to the console. It goes with the token."""

    __tablename__ = "sessions"

    secret_hash: Mapped[bytes] = mapped_column(primary_key=True)
    token_id: Mapped[UUID] = mapped_column(ForeignKey(Token.id, ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    used_at: Mapped[datetime] = mapped_column(server_default=func.now())
    told: Mapped[dict[str, Any] | None]  # what the next page says of what was done


Index("sessions_token_id_idx", ConsoleSession.token_id)


class Trial(Table):
    """A dry run of a restore that a person asked for: what is done, for good, when they confirm it."""

    __tablename__ = "trials"

    restore_id: Mapped[str] = mapped_column(primary_key=True)
    backup_id: Mapped[str]
    wanted: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Audit(Table):
    """What a person did by the console. Of a sign-in that was refused nobody is known."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    token_id: Mapped[UUID | None]  # of a token that may be gone: `who` is the name that it had
    who: Mapped[str]
    client: Mapped[str]  # an address
    action: Mapped[str]
    subject: Mapped[str]


Index("audit_client_at_idx", Audit.client, Audit.at, postgresql_where=Audit.action == "sign-in refused")
