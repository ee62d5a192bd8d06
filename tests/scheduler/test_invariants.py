"""What always holds of the schedules, whatever workers, the API, PostgreSQL, Redis and the gateway do.

A Hypothesis state machine on real servers, and directed traces, each of which a mutant of the service does not survive.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.scheduler import world as worlds
from tests.scheduler.gateway import problem
from tests.scheduler.interrupted import Fault
from tests.scheduler.world import WORKERS, World
from tests.servers import Cluster

EXAMPLES = int(os.environ.get("EXAMPLES", "25"))
MINUTE = timedelta(minutes=1)
# Shortly before clocks change: by an hour, and by half an hour.
BEGINNINGS = [
    datetime(2026, 3, 29, 0, 20, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 20, tzinfo=UTC),
    datetime(2026, 4, 4, 14, 20, tzinfo=UTC),
    datetime(2026, 10, 3, 14, 50, tzinfo=UTC),
]
ZONES = ["UTC", "Europe/Ljubljana", "Australia/Lord_Howe"]
CRONS = ["*/2 * * * *", "*/15 * * * *", "30 2 * * *", "15,45 1-3 * * *", "0 * * * *"]
TIMES = st.one_of(
    st.fixed_dictionaries(
        {"cron": st.sampled_from(CRONS), "timezone": st.sampled_from(ZONES), "every_seconds": st.none()}
    ),
    st.fixed_dictionaries({"cron": st.none(), "every_seconds": st.sampled_from([60, 90, 700])}),
)
RESTS = st.fixed_dictionaries(
    {
        "target": st.just({"kind": "retention"}),
        "catch_up": st.sampled_from([{"policy": "none"}, {"policy": "latest"}, {"policy": "all", "max_runs": 4}]),
        "overlap": st.sampled_from(["skip", "allow", "cancel_previous"]),
        "jitter_seconds": st.sampled_from([0, 20]),
        "time_limit_seconds": st.sampled_from([60, 600]),
    }
) | st.fixed_dictionaries(
    {
        "target": st.just({"kind": "backup"}),
        "catch_up": st.sampled_from([{"policy": "none"}, {"policy": "latest"}]),
        "overlap": st.sampled_from(["skip", "allow", "cancel_previous"]),
        "jitter_seconds": st.sampled_from([0, 20]),
        "time_limit_seconds": st.sampled_from([60, 600]),
    }
)
FAULTS = st.none() | st.builds(
    Fault, st.sampled_from(["dies", "pauses", "loses_redis", "loses_postgres"]), st.integers(1, 30)
)
ANSWERS = {
    "is busy": lambda: problem(409, "Another one is being made."),
    "is asked too often": lambda: problem(429, "Later.", **{"Retry-After": "5"}),
    "is broken": lambda: problem(500, "Broken."),
}
MOODS = st.sampled_from(["answers", "answers", *ANSWERS, "loses the answer"])
WORKER, WHICH = st.sampled_from(WORKERS), st.integers(0, 9)
WORK: list[Callable[..., Coroutine[Any, Any, Any]]] = [World.tick, World.dispatch, World.look]


class Do:
    """The world, and the loop that it lives in."""

    def __init__(self, runner: asyncio.Runner, world: World) -> None:
        self.runner, self.world = runner, world

    def __call__(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(120):
                return await work

        return self.runner.run(bounded())


@pytest.fixture(scope="module")
def do(cluster: Cluster, template: str, redis_url: str) -> Iterator[Do]:
    with cluster.database(template) as name, asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield Do(runner, runner.run(worlds.create(stack, cluster, name, redis_url)))
        runner.run(stack.aclose())


def test_invariants(do: Do) -> None:
    class Machine(RuleBasedStateMachine):
        """Its rules are what may happen next."""

        def __init__(self) -> None:
            super().__init__()
            self.schedules: list[Any] = []

        def schedule(self, which: int) -> Any:
            return self.schedules[which % len(self.schedules)]

        @initialize(now=st.sampled_from(BEGINNINGS), times=TIMES, rest=RESTS)
        def begin(self, now: datetime, times: dict[str, Any], rest: dict[str, Any]) -> None:
            do(do.world.begin(now))
            self.add(times, rest)

        @precondition(lambda self: len(self.schedules) < 4)
        @rule(times=TIMES, rest=RESTS)
        def add(self, times: dict[str, Any], rest: dict[str, Any]) -> None:
            made = do(do.world.add(name=f"schedule {len(self.schedules)}", **times, **rest))
            self.schedules += [made] if made else []

        @precondition(lambda self: len(self.schedules) < 4)
        @rule(minutes=st.integers(1, 20), rest=RESTS)
        def add_once(self, minutes: int, rest: dict[str, Any]) -> None:
            self.add({"at": (do.world.now + minutes * MINUTE).isoformat()}, rest)

        @rule(which=WHICH, times=TIMES, rest=RESTS, fault=FAULTS)
        def edit(self, which: int, times: dict[str, Any], rest: dict[str, Any], fault: Fault | None) -> None:
            do(do.world.edit(self.schedule(which), fault, **{"at": None, **times, **rest}))

        @rule(which=WHICH, minutes=st.none() | st.integers(1, 30), fault=FAULTS)
        def pause(self, which: int, minutes: int | None, fault: Fault | None) -> None:
            until = do.world.now + minutes * MINUTE if minutes else None
            do(do.world.pause(self.schedule(which), until, fault))

        @rule(which=WHICH, wish=st.sampled_from([World.resume, World.resume, World.delete]), fault=FAULTS)
        def resume_or_delete(self, which: int, wish: Callable[..., Any], fault: Fault | None) -> None:
            do(wish(do.world, self.schedule(which), fault))

        @rule(which=WHICH, key=st.none() | st.integers(0, 2), fault=FAULTS)
        def trigger(self, which: int, key: int | None, fault: Fault | None) -> None:
            schedule = self.schedule(which)
            do(do.world.trigger(schedule, None if key is None else f"{schedule} {key}", fault))

        @rule(which=WHICH, hours=st.integers(1, 3), fault=FAULTS)
        def backfill(self, which: int, hours: int, fault: Fault | None) -> None:
            do(do.world.backfill(self.schedule(which), hours, fault))

        @rule(which=WHICH, fault=FAULTS)
        def cancel(self, which: int, fault: Fault | None) -> None:
            do(do.world.cancel(which, fault))

        @rule(name=WORKER, work=st.sampled_from(WORK), fault=FAULTS)
        def work(self, name: str, work: Callable[..., Coroutine[Any, Any, Any]], fault: Fault | None) -> None:
            do(work(do.world, name, fault))

        @rule(name=WORKER, which=WHICH, mood=MOODS, fault=FAULTS, again=st.booleans())
        def deliver(self, name: str, which: int, mood: str, fault: Fault | None, again: bool) -> None:
            gateway = do.world.gateway
            gateway.instead.extend([ANSWERS[mood]()] if mood in ANSWERS else [])
            gateway.loses_answers = mood == "loses the answer"
            do(do.world.deliver(name, which, fault, again))
            gateway.instead.clear()

        @rule(state=st.sampled_from(["running", "stored", "failed"]))
        def backups_are(self, state: str) -> None:
            do.world.gateway.outcome = {"state": state, "reason": "so it is"}

        @rule(name=WORKER, faults=st.lists(FAULTS, min_size=1, max_size=12))
        def minutes_pass(self, name: str, faults: list[Fault | None]) -> None:
            for fault in faults:
                do(do.world.move(MINUTE))
                do(do.world.tick(name, fault))
                do(do.world.dispatch(name, fault))
                do(do.world.deliver(name, fault=fault))

        @rule(seconds=st.sampled_from([5, 20, 61, 61, 130, 200, 1800, 7200]))
        def time_passes(self, seconds: int) -> None:
            do(do.world.move(timedelta(seconds=seconds)))

        @rule(seconds=st.sampled_from([1, 30, 90, 700]))
        def a_clock_is_set_back(self, seconds: int) -> None:
            do(do.world.move(-timedelta(seconds=seconds)))

        @rule()
        def redis_forgets(self) -> None:
            do(do.world.redis_forgets())

        @invariant()
        def holds(self) -> None:
            if do.world.begun:
                do(do.world.check())

        def teardown(self) -> None:
            if do.world.begun:
                do(do.world.end())

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            derandomize="EXAMPLES" not in os.environ,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
