"""The worker as it is run: a process that gets signals."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.scheduler.chain import Chain, until

if TYPE_CHECKING:
    from tests.scheduler.conftest import Command


class WorkerProcess:
    def __init__(self, env: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            command = [sys.executable, "-m", "scheduler.worker"]
            self.popen = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self._log.read_text()

    async def ended(self, seconds: float = 30) -> int:
        """Its exit code."""

        async def look() -> bool:
            return self.popen.poll() is not None

        await until(look, seconds)
        return self.popen.returncode


Start = Callable[[], WorkerProcess]


@pytest.fixture
def start(chain: Chain, aws_env: dict[str, str], process_env: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def start() -> WorkerProcess:
        started.append(WorkerProcess(process_env | chain.env | aws_env, tmp_path / f"worker-{len(started)}.log"))
        return started[-1]

    yield start
    for worker in started:
        worker.popen.kill()
        worker.popen.wait()


async def test_sigterm_lets_the_step_in_hand_end_and_takes_no_other(chain: Chain, start: Start) -> None:
    async def draining() -> bool:
        return "it stops, with so many steps in hand: 1" in worker.said

    chain.gateway.open.clear()
    worker = start()
    await chain.trigger()
    await chain.called()
    worker.popen.send_signal(signal.SIGTERM)
    await until(draining)
    await chain.trigger()
    assert worker.popen.poll() is None, "it waits for the gateway"
    chain.gateway.open.set()
    assert await worker.ended() == 0, worker.said
    assert "Traceback" not in worker.said
    first, second = await chain.sql.fetch("select state, seq, lease_until from scheduler.runs order by id")
    assert (first["state"], first["seq"], first["lease_until"]) == ("waiting", 2, None)
    assert second["state"] == "queued"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_idle_worker_at_once(
    chain: Chain, start: Start, run: "Command", number: signal.Signals
) -> None:
    async def ticks() -> bool:
        return run("worker", "--check", **chain.env).returncode == 0

    worker = start()
    await until(ticks)
    worker.popen.send_signal(number)
    assert await worker.ended(seconds=5) == 0, worker.said


async def test_another_worker_ends_the_run_of_one_that_was_killed(chain: Chain, start: Start) -> None:
    async def ended() -> Any:
        return await chain.sql.fetchrow("select state, seq from scheduler.runs where ended_at is not null")

    chain.gateway.open.clear()
    killed = start()
    await chain.trigger()
    await chain.called()
    killed.popen.kill()
    assert await killed.ended() == -signal.SIGKILL
    assert await chain.sql.fetchval("select state from scheduler.runs") == "running"

    chain.gateway.open.set()
    await chain.sql.execute("update scheduler.runs set lease_until = now()")  # a minute later
    start()
    run = await until(ended)
    assert run["state"] == "succeeded"
    assert run["seq"] > 1
    assert (len(set(chain.gateway.keys)), len(chain.gateway.backups)) == (1, 1)


async def test_it_starts_before_everything_that_it_needs(chain: Chain, start: Start) -> None:
    async def says_so() -> bool:
        return all(f"{loop} waits" in worker.said for loop in ("tick", "dispatch", "work"))

    chain.env["HOLDFAST_DATABASE_URL"] = "postgresql://scheduler_app:s3cret@127.0.0.1:9/holdfast"
    chain.env["HOLDFAST_REDIS_URL"] = "redis://:s3cret@127.0.0.1:9/0"
    worker = start()
    await until(says_so)
    worker.popen.terminate()
    assert await worker.ended() == 0
    assert "s3cret" not in worker.said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"HOLDFAST_TOPIC_ARN": "backups"}, "HOLDFAST_TOPIC_ARN"),
        ({"HOLDFAST_PORT": "8080"}, "unknown setting HOLDFAST_PORT"),
        ({"HOLDFAST_HTTP_TARGETS": "ftp://files.example.com/"}, "HOLDFAST_HTTP_TARGETS"),
        ({"AWS_DEFAULT_REGION": ""}, "AWS_DEFAULT_REGION"),
    ],
)
def test_wrong_settings_are_said_in_one_line(
    run: "Command", worker_env: dict[str, str], aws_env: dict[str, str], change: dict[str, str], said: str
) -> None:
    done = run("worker", **(worker_env | aws_env | change))
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_check_says_why_not(run: "Command", worker_env: dict[str, str]) -> None:
    done = run("worker", "--check", **worker_env)
    assert (done.returncode, done.stderr) == (1, "no worker on this host has ticked lately\n")
    away = run("worker", "--check", **worker_env | {"HOLDFAST_REDIS_URL": "redis://:s3cret@127.0.0.1:9/0"})
    assert away.returncode == 1
    assert away.stderr.startswith("Redis: ")
    assert "s3cret" not in away.stderr
