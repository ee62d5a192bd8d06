"""The scheduler under faults: `python -m tests.scheduler.soak MINUTES`.

Workers on a PostgreSQL and a Valkey of their own have schedules that are due every minute. Workers are killed and
stopped, Redis forgets, both servers go away, and the gateway is as gateways are. At the end every due time has its row
and every run its one backup, or the exit code is 1.
"""

import asyncio
import contextlib
import json
import random
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
from arq.connections import ArqRedis
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local import valkey
from deploy.local.postgres import ROLES, UNPRIVILEGED_USER, Postgres
from deploy.local.process import Process, Program, ProgramError
from scheduler import db, jobs, schedules
from scheduler.definitions import ScheduleIn
from scheduler.settings import Settings
from tests.scheduler import gateway, oracle, replicas
from tests.scheduler.gateway import Gateway, problem
from tests.servers import free_port, private_directory

WORKERS, SCHEDULES = 3, 60
DATABASE = "soak"
PAUSE_SECONDS = (1.0, 4.0)  # between two faults
END_SECONDS = 300  # of all runs, when faults have stopped
LINE = "{:34} {:>9} {:>9} {:>9} {:>9}".format
LATE = """
    select percentile_disc(array[0.5, 0.9, 0.99, 1]) within group (
        order by extract(epoch from {} - due_at)::float - jitter_seconds
    )
    from scheduler.runs where trigger = 'schedule' and {} is not null
"""


class Soak:
    def __init__(self, home: Path, database_home: Path, stand_in: Gateway) -> None:
        self.home, self.gateway = home, stand_in
        self.done: Counter[str] = Counter()
        passwords = {role: secrets.token_urlsafe(16) for role in ("postgres", *ROLES)}
        self.server = Postgres(database_home, free_port(), passwords, durable=True)
        port, password = free_port(), secrets.token_urlsafe(16)
        self.redis_url, self.database_url = valkey.url(port, password), self.server.url("scheduler_app", DATABASE)
        self._valkey = valkey.program(home, port, password)
        self._running: dict[str, tuple[Program, Process]] = {}

    async def run(self, minutes: float) -> bool:
        """Whether all is accounted for."""
        self.server.prepare()
        await self.start(self.server.program())
        await self.start(self._valkey)
        await asyncio.to_thread(replicas.make_database, self.server, DATABASE)
        engine = db.create_engine(Settings.from_env({"HOLDFAST_DATABASE_URL": self.database_url}))
        redis = jobs.connect(self.redis_url)
        try:
            made = [await self.add(engine, number) for number in range(SCHEDULES)]
            for number in range(WORKERS):
                urls = (self.database_url, self.redis_url, self.gateway.url)
                await self.start(replicas.worker(f"worker-{number}", *urls))
            until = monotonic() + 60 * minutes
            while monotonic() < until:
                await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
                await self.fault(redis)
                self.change_of_mood()
            self.gateway.loses_answers, self.gateway.outcome = False, {"state": "stored"}
            self.gateway.instead.clear()
            for schedule_id in made:
                async with db.transaction(engine) as session:
                    schedule = await schedules.locked(session, schedule_id)
                    await schedules.pause(session, schedule, "The soak is over.", None, "soak")
            connection = await asyncpg.connect(self.server.url("postgres", DATABASE))
            try:
                return await self.account(connection)
            finally:
                await connection.close()
        finally:
            await redis.aclose(close_connection_pool=True)
            await engine.dispose()

    async def add(self, engine: AsyncEngine, number: int) -> Any:
        """Due every minute, by cron or so many seconds after it."""
        now = datetime.now().astimezone() + timedelta(seconds=number)
        when = {"cron": "* * * * *"} if number % 3 == 0 else {"every_seconds": 60, "start_at": now.isoformat()}
        kind = ("backup", "retention")[number % 4 == 0]
        definition = {
            "name": f"schedule {number}",
            "target": {"kind": kind},
            "overlap": ("skip", "allow", "cancel_previous")[number % 3],
            "catch_up": {"policy": ("none", "latest", "all" if kind == "retention" else "latest")[number % 3]},
            "jitter_seconds": (0, 5)[number % 2],
            "time_limit_seconds": 120,
            **when,
        }
        async with db.transaction(engine) as session:
            return (await schedules.create(session, ScheduleIn.model_validate(definition), "soak")).id

    # Faults

    async def fault(self, redis: ArqRedis) -> None:
        a_worker = f"worker-{random.randrange(WORKERS)}"
        kinds: dict[str, tuple[int, Callable[[], Awaitable[Any]]]] = {
            "worker killed": (6, lambda: self.restart(a_worker, kill=True)),
            "worker stopped": (2, lambda: self.restart(a_worker)),
            "Redis emptied": (2, redis.flushall),
            "Redis killed": (1, lambda: self.restart("valkey", kill=True)),
            "PostgreSQL stopped": (1, lambda: self.restart("postgres")),
            "PostgreSQL killed": (1, lambda: self.restart("postgres", kill=True)),
        }
        [kind] = random.choices([*kinds], [weight for weight, _ in kinds.values()])
        await kinds[kind][1]()
        self.done[kind] += 1

    def change_of_mood(self) -> None:
        self.gateway.loses_answers = random.random() < 0.2
        self.gateway.outcome = {"state": random.choice(["stored", "stored", "running", "failed"]), "reason": "so"}
        answers = [
            lambda: problem(409, "Another one is being made."),
            lambda: problem(429, "Later.", **{"Retry-After": "1"}),
            lambda: problem(500, "Broken."),
        ]
        self.gateway.instead.extend(random.choice(answers)() for _ in range(random.randrange(4)))

    async def start(self, program: Program) -> None:
        """PostgreSQL may have to wait for what a killed one has left. Raises ProgramError."""
        for seconds in (1, 1, 2, 4, None):
            process = Process(program, self.home)
            self._running[program.name] = program, process
            try:
                await asyncio.to_thread(process.wait_until_it_answers, 60)
                return
            except ProgramError:
                if seconds is None:
                    raise
                await asyncio.sleep(seconds)

    async def restart(self, name: str, kill: bool = False) -> None:
        program, process = self._running[name]
        process.check()
        await asyncio.to_thread(process.kill if kill else process.stop)
        await self.start(program)

    def stop(self) -> None:
        for _, process in reversed(self._running.values()):
            process.stop()

    # Its account

    async def account(self, connection: asyncpg.Connection) -> bool:
        active = "select count(*) from scheduler.runs where ended_at is null"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while await connection.fetchval(active):  # noqa: ASYNC110 - processes set no event
                    await asyncio.sleep(1)
        faults = {"runs that have not ended": await connection.fetchval(active)}
        due = rows = 0
        lost: Counter[str] = Counter()
        for one in await connection.fetch("select * from scheduler.schedule_revisions where live order by since"):
            definition, since, until = json.loads(one["definition"]), one["since"], one["until"]
            wanted = Counter(oracle.expected(definition, since, until))
            found = await connection.fetch(
                "select due_at from scheduler.runs where schedule_id = $1 and trigger = 'schedule'", one["schedule_id"]
            )
            recorded = Counter(row["due_at"] for row in found)
            due, rows = due + wanted.total(), rows + recorded.total()
            lost["lost"] += len(wanted.keys() - recorded.keys())
            lost["not due"] += len(recorded.keys() - wanted.keys())
            lost["doubled"] += recorded.total() - len(recorded)
        runs = {
            str(run["id"]): run["backup_id"]
            for run in await connection.fetch("select id, backup_id from scheduler.runs")
        }
        backups = self.gateway.backups
        faults |= {name: lost[name] for name in ("lost", "doubled", "not due")}
        faults["backups that no run asked for"] = len(backups.keys() - runs.keys())
        faults["runs with another's backup"] = sum(runs.get(key) not in {made, None} for key, made in backups.items())
        say(LINE("due times", due, "rows", rows, ""))
        for name, count in {**self.done, "backups asked for": len(self.gateway.keys), "made": len(backups)}.items():
            say(LINE(name, count, "", "", ""))
        for row in await connection.fetch("select state, count(*) from scheduler.runs group by 1 order by 2 desc"):
            say(LINE(f"runs that have {row['state']}", row["count"], "", "", ""))
        say(LINE("seconds late", "p50", "p90", "p99", "max"))
        for what, column in (("recorded", "created_at"), ("dispatched", "dispatched_at"), ("accepted", "accepted_at")):
            late = await connection.fetchval(LATE.format(column, column)) or []
            say(LINE(f"due to {what}", *(f"{seconds:.2f}" for seconds in late)))
        for name, count in faults.items():
            say(LINE(name, count, "", "", "" if count == 0 else "FAULT"))
        return due > 0 and not any(faults.values())


def say(what: str) -> None:
    sys.stdout.write(what.rstrip() + "\n")
    sys.stdout.flush()


async def main(minutes: float) -> bool:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with ExitStack() as leaving:
        homes = leaving.enter_context(private_directory()), leaving.enter_context(private_directory(UNPRIVILEGED_USER))
        async with gateway.serving() as stand_in:
            soak = Soak(*homes, stand_in)
            leaving.callback(soak.stop)
            say(f"{minutes:g} minutes, {SCHEDULES} schedules, {WORKERS} workers")
            return await soak.run(minutes)


if __name__ == "__main__":
    sys.exit(not asyncio.run(main(float(sys.argv[1]))))
