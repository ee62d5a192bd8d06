"""The tables of schema `scheduler`. Rights on them are not ours to give: deploy/postgres/roles.sql does."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, MetaData, Text, func, text
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
    """`next_due_at` only moves forward, in the transaction that makes the run of the due time it leaves."""

    __tablename__ = "schedules"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    name: Mapped[str] = mapped_column(unique=True)
    cron: Mapped[str]
    timezone: Mapped[str]
    target: Mapped[dict[str, Any]]
    next_due_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


Index("schedules_next_due_at_idx", Schedule.next_due_at)


class Run(Table):
    """One due time, or one wish of a person. Terminal once `ended_at` is set: only `announce_at` changes then.

    The row is also the outbox of its steps (`wake_at`: when one is to be put on the queue) and of its alarm
    (`announce_at`: when it is to be sent).
    """

    __tablename__ = "runs"

    # UUIDv7: newest first is the primary key, backwards.
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    schedule_id: Mapped[UUID] = mapped_column(ForeignKey(Schedule.id))
    trigger: Mapped[str] = mapped_column(CheckConstraint("trigger in ('schedule', 'manual')", name="trigger"))
    due_at: Mapped[datetime]
    target: Mapped[dict[str, Any]]  # as the schedule had it: a retried request must be the same one
    state: Mapped[str] = mapped_column(
        CheckConstraint("state in ('queued', 'running', 'waiting', 'succeeded', 'failed')", name="state"),
        server_default="queued",
    )
    reason: Mapped[str | None]
    backup_id: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))  # in a row that got no answer to use
    seq: Mapped[int] = mapped_column(server_default=text("1"))  # the step that comes next, or that is in hand
    wake_at: Mapped[datetime] = mapped_column(server_default=func.now())
    lease_until: Mapped[datetime | None]
    deadline_at: Mapped[datetime]
    announce_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


# The store's own guard against two runs of one due time; the tick's row lock is the first.
Index("runs_due_idx", Run.schedule_id, Run.due_at, unique=True, postgresql_where=Run.trigger == "schedule")
# What the worker's loops look for every second, each a handful of rows whatever the history.
Index("runs_wake_at_idx", Run.wake_at, postgresql_where=Run.state.in_(["queued", "waiting"]))
Index("runs_lease_until_idx", Run.lease_until, postgresql_where=Run.state == "running")
Index("runs_announce_at_idx", Run.announce_at, postgresql_where=Run.announce_at.is_not(None))


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
