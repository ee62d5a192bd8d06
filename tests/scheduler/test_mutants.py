"""Traces that the service survives and its mutants do not: what must hold is really looked at."""

import inspect
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import text

from scheduler import due, following, runs, schedules
from tests.scheduler import gateway
from tests.scheduler import world as worlds
from tests.scheduler.interrupted import Fault
from tests.scheduler.world import World
from tests.servers import Cluster

NOW = datetime(2026, 10, 25, 0, 20, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
EVERY_2, HOURLY = "*/2 * * * *", "0 * * * *"
AWAITS = range(1, 26)  # more than a tick or a change has

Trace = Callable[[World, int], Awaitable[None]]
Mutation = tuple[ModuleType, str, str, str]  # where, of what, what stands there, and what else


@pytest.fixture
async def world(cluster: Cluster, database: str, redis_url: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield await worlds.create(stack, cluster, database, redis_url)


async def add(world: World, cron: str = EVERY_2, **more: Any) -> Any:
    definition = {"name": "nightly", "target": {"kind": "backup"}, "catch_up": {"policy": "latest"}, "overlap": "allow"}
    return await world.add(cron=cron, **definition | more)


async def work(world: World, name: str = "worker-1") -> None:
    await world.tick(name)
    await world.dispatch(name)
    await world.deliver(name)


async def edited_while_it_ticks(world: World, number: int) -> None:
    schedule = await add(world)
    await world.move(2 * MINUTE)
    await world.tick("worker-1", Fault("pauses", number))
    await world.edit(schedule, cron=HOURLY)
    await world.go_on("worker-1")
    await world.move(2 * MINUTE)
    await world.tick("worker-2")


async def two_tick(world: World, number: int) -> None:
    await add(world)
    await world.move(2 * MINUTE)
    await world.tick("worker-1", Fault("pauses", number))
    await world.tick("worker-2")


async def edited_after_an_outage(world: World, _: int) -> None:
    schedule = await add(world)
    await world.move(11 * MINUTE)
    await world.edit(schedule, cron=HOURLY)


async def edited_on_an_old_clock(world: World, number: int) -> None:
    """It began before it was due, and got the schedule after the tick."""
    schedule = await add(world)
    await world.edit(schedule, Fault("pauses", number), cron=HOURLY)
    await world.move(4 * MINUTE)
    await world.tick("worker-1")


async def resumed(world: World, _: int) -> None:
    schedule = await add(world)
    await world.pause(schedule)
    await world.move(11 * MINUTE)
    await world.resume(schedule)
    await world.tick("worker-1")


async def changed_after_its_pause(world: World, _: int) -> None:
    for change in (World.pause, World.edit, World.delete):
        schedule = await add(world, name=change.__name__)
        await world.pause(schedule, world.now + 5 * MINUTE)
        await world.move(11 * MINUTE)
        await change(world, schedule)
        await world.tick("worker-1")


async def resumed_after_its_pause(world: World, _: int) -> None:
    schedule = await add(world)
    await world.pause(schedule, world.now + 5 * MINUTE)
    await world.move(11 * MINUTE)
    await world.resume(schedule)


async def nobody_ticked(world: World, _: int) -> None:
    await add(world)
    await world.move(11 * MINUTE)
    await world.tick("worker-1")


async def held_for_longer_than_its_lease(world: World, number: int) -> None:
    await add(world, HOURLY)
    await world.move(40 * MINUTE)
    await world.tick("worker-1")
    await world.dispatch("worker-1")
    await world.deliver("worker-1", fault=Fault("pauses", number))
    await world.move(2 * MINUTE)
    await world.look("worker-2")
    for _ in range(6):
        await world.dispatch("worker-2")
        await world.deliver("worker-2")
        await world.move(MINUTE)
    await world.check()


async def due_while_the_last_one_waits(world: World, _: int) -> None:
    await add(world, overlap="skip")
    world.gateway.outcome = {"state": "running"}
    for _ in range(3):
        await world.move(2 * MINUTE)
        await work(world)
        await world.check()


async def its_answer_was_lost(world: World, _: int) -> None:
    await add(world, HOURLY)
    world.gateway.loses_answers = True
    await world.move(40 * MINUTE)
    await work(world)
    world.gateway.loses_answers = False


async def redis_forgets(world: World, _: int) -> None:
    await add(world, HOURLY, time_limit_seconds=600)
    await world.move(40 * MINUTE)
    await world.tick("worker-1")
    await world.dispatch("worker-1")
    await world.redis_forgets()
    await world.end()
    assert await world.sql.fetchval("select state from scheduler.runs") == "succeeded", "Redis was not disposable"


async def one_takes_the_place_of_another(world: World, _: int) -> None:
    await add(world, overlap="cancel_previous", jitter_seconds=60)
    await world.move(timedelta(seconds=90))
    for _ in range(8):
        await work(world)
        await world.check()
        await world.move(2 * MINUTE)


async def cancelled_while_it_ends(world: World, number: int) -> None:
    await add(world, overlap="cancel_previous")
    await world.move(2 * MINUTE)
    await world.tick("worker-1")
    await world.dispatch("worker-1")
    world.gateway.instead.append(gateway.problem(422, "No."))
    await world.move(2 * MINUTE)
    await world.deliver("worker-1", fault=Fault("pauses", number))
    await world.tick("worker-2", Fault("pauses", number))
    await world.go_on("worker-1")
    await world.go_on("worker-2")
    await world.end()
    assert not await world.sql.fetchval("select max(crashes) from scheduler.runs"), "they waited for each other"


UNLOCKED = (due, "_DUE", "for update skip locked", "")
TWICE = (runs, "_MAKE", "on conflict (schedule_id, due_at) where trigger = 'schedule' do nothing", "")
MUTANTS: dict[str, tuple[Trace, list[Mutation], str]] = {
    "a tick without a lock": (edited_while_it_ticks, [UNLOCKED], ""),
    "neither a lock nor an unique index": (two_tick, [UNLOCKED, TWICE], "runs_due_idx"),
    "an edit that does not settle": (
        edited_after_an_outage,
        [(schedules, "settle", "SETTLED_AT_ONCE", "1):\n        return now\n    for _ in range(0")],
        "",
    ),
    "an edit at the time when it began": (
        edited_on_an_old_clock,
        [(schedules, "_NOW", "greatest(now(), :updated_at,", "coalesce(now(), :updated_at,")],
        "",
    ),
    "a resumption at the time when it was paused": (
        resumed,
        [
            (
                schedules,
                "resume",
                "max(min(now, schedule.paused_until or now), schedule.updated_at)",
                "schedule.paused_at",
            )
        ],
        "",
    ),
    "a change that does not see that the pause has ended": (
        changed_after_its_pause,
        [(schedules, "settle", "schedule.paused_until <= now", "False")],
        "",
    ),
    "a resumption that forgets since when it is over": (
        resumed_after_its_pause,
        [(schedules, "resume", "schedule.paused_until or now", "now")],
        "",
    ),
    "due times counted from now": (
        nobody_ticked,
        [(due, "_look_at", "times.after(schedule.next_due_at)", "times.after(now)")],
        "",
    ),
    "no fence": (
        held_for_longer_than_its_lease,
        [
            (runs, "_WAIT", "and seq = :seq and state = 'running'", "and :seq > 0"),
            (runs, "_END", "and seq = :seq and state = 'running'", "and :seq > 0"),
        ],
        "",
    ),
    "a run that waits is not seen": (
        due_while_the_last_one_waits,
        [(due, "_BUSY", "'queued', 'running', 'waiting'", "'queued', 'running'")],
        "runs_exclusive_idx",
    ),
    "another key each time": (
        its_answer_was_lost,
        [(following, "_start", "str(claim.id)", "f'{claim.id} {claim.seq}'")],
        "",
    ),
    "nothing is put on the queue again": (
        redis_forgets,
        [(runs, "_AWAKE", "now() + :again", "now() + :again + interval '1 day'")],
        "",
    ),
    "one that was held starts without its jitter": (
        one_takes_the_place_of_another,
        [(runs, "_RELEASE", "greatest(now(), due_at + make_interval(secs => jitter_seconds))", "now()")],
        "",
    ),
    "the run's row before its schedule's": (
        cancelled_while_it_ends,
        [(runs, "_HOLD", "where id = (", "where false and id = (")],
        "",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_mutant_does_not_survive(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, mutations, without_index = MUTANTS[name]
    numbers = AWAITS if "number" in inspect.signature(trace).parameters else range(1)
    await played(world, trace, numbers)
    for mutation in mutations:
        mutate(monkeypatch, *mutation)
    if without_index:
        await world.sql.execute(f"drop index scheduler.{without_index}")
    with pytest.raises(AssertionError):
        await played(world, trace, numbers)


async def played(world: World, trace: Trace, numbers: Iterable[int]) -> None:
    for number in numbers:
        await world.begin(NOW)
        await trace(world, number)
        await world.end()


def mutate(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, old: str, new: str) -> None:
    """Put `new` for `old` in a statement, or in a function."""
    whole = getattr(module, name)
    source = textwrap.dedent(inspect.getsource(whole)) if callable(whole) else str(whole)
    assert source.count(old) == 1
    source = source.replace(old, new)
    if callable(whole):
        made: dict[str, Any] = {}
        exec(source, vars(module), made)  # noqa: S102 - the service's own source
        monkeypatch.setattr(module, name, made[name])
    else:
        monkeypatch.setattr(module, name, text(source))
