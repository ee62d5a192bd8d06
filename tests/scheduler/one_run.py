"""A run that was just made, and what its steps need."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import db, runs, steps
from scheduler.runs import New, Step
from scheduler.steps import Reach
from tests.scheduler.chain import DAILY
from tests.scheduler.gateway import Gateway

BACKUP = {"kind": "backup", "label": "daily-backup"}


@dataclass(frozen=True)
class OneRun:
    id: UUID
    engine: AsyncEngine
    reach: Reach
    gateway: Gateway
    sql: asyncpg.Connection

    async def take(self, seq: int) -> asyncpg.Record:
        """The run when its step of this number has been taken."""
        await steps.take(self.engine, self.reach, Step(self.id, seq))
        return await self.row()

    async def row(self) -> asyncpg.Record:
        found = await self.sql.fetchrow(
            "select *, wake_at - now() as wakes_in from scheduler.runs where id = $1", self.id
        )
        assert found is not None
        return found

    async def be_overdue(self) -> None:
        await self.sql.execute("update scheduler.runs set deadline_at = now()")

    async def be_cancelled(self) -> None:
        await self.sql.execute("update scheduler.runs set cancel_requested_at = now()")


Make = Callable[..., Awaitable[OneRun]]


async def made(engine: AsyncEngine, reach: Reach, gateway: Gateway, sql: asyncpg.Connection, **new: Any) -> OneRun:
    """`new` are fields of runs.New."""
    values: dict[str, Any] = {
        "trigger": "manual",
        "due_at": datetime.now(UTC),
        "schedule_id": UUID(DAILY),
        "target": BACKUP,
    } | new
    async with db.transaction(engine) as session:
        (run,) = await runs.make(session, [New(**values)])
    return OneRun(run.id, engine, reach, gateway, sql)
