"""The command line as a process: against the API over HTTP, and on the bucket itself, where there is none."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvicorn

from backup_lambda import signing
from backup_lambda.app import create_app
from backup_lambda.cli import main
from backup_lambda.functions import answer_of, answered
from backup_lambda.keeper import Keeper
from backup_lambda.retention import Policy
from backup_lambda.tasks import Question, RestoreTask, RetentionTask, Started, Task, TrialTask
from backup_lambda.worker import Worker
from tests.backup_lambda.test_handler import SERVICES
from tests.backup_lambda.test_main import Ended, begun, ended
from tests.backup_lambda.world import SIGNER, Connection, World, a_long_time, until, utc_now, worker_for
from tests.servers import Cluster, free_port

ROWS = """
create table notes.notes (id uuid primary key, title text, n numeric);
insert into notes.notes values
    ('00000000-0000-7000-8000-000000000001', 'Groceries', 12345678901234567890.10),
    ('00000000-0000-7000-8000-000000000002', E'\\x1b[31mred', 1e-30);
create table notes.tags (note int, tag text, primary key (note, tag));
insert into notes.tags values (7, 'a/b'), (7, 'c')
"""
DIGITS = "12345678901234567890.10"  # more than a float has
FIRST = "00000000-0000-7000-8000-000000000001"
Run = Callable[..., Awaitable[Ended]]


@pytest.fixture
def worker(world: World, cluster: Cluster, database: str) -> Worker:
    """It restores, too."""

    async def restore_url() -> str:
        return cluster.url("postgres", database)

    urls = cluster.url("notes_backup", database), cluster.url("notes_proof", "postgres")
    return worker_for(world, *urls, restore_url=restore_url)


@pytest.fixture
async def url(world: World, worker: Worker) -> AsyncIterator[str]:
    """The API over HTTP, with what it starts done in this process; signatures are the gateway's to check."""
    doing = set[asyncio.Task[object]]()
    keeper = Keeper(world.store, SIGNER, Policy(), utc_now)

    async def do(task: Started) -> object:
        match task:
            case Task(task="backup"):
                return await worker.back_up(task.backup_id, a_long_time)
            case Task():
                return await worker.do(task, a_long_time)
            case RestoreTask():
                return await worker.restore(task, a_long_time)
            case TrialTask():
                await worker.send_trial(task)
                return None

    async def start(task: Started) -> None:
        doing.add(asyncio.create_task(do(task)))

    async def ask(question: Question) -> bytes:
        assert isinstance(question, RetentionTask)
        return answer_of(await answered(keeper.apply(question, a_long_time)))

    app = create_app(world.store, world.topic, start, ask=ask)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", lifespan="off", ws="none"))
    serving = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await until(started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving
    await asyncio.gather(*doing)


@pytest.fixture
async def directly(world: World) -> list[str]:
    return ["--bucket", world.bucket, "--key", signing.fingerprint(await SIGNER.public_key())]


@pytest.fixture
def call(aws_environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in a thread: a process takes a second to begin."""

    async def run(*arguments: str, **environment: str) -> Ended:
        code = await asyncio.to_thread(main, arguments, aws_environment | environment)
        out, said = capsys.readouterr()
        return Ended(code, out, said)

    return run


async def test_a_backup_is_made_shown_and_read(
    url: str, call: Run, directly: list[str], world: World, owner: Connection
) -> None:
    await owner.execute(ROWS)
    made = await call("create", "--wait", "--label", "by hand", "--json", HOLDFAST_API_URL=url)
    assert made.code == 0, made.said
    backup = json.loads(made.out)
    assert (backup["state"], backup["label"]) == ("proven", "by hand")

    at = ["--api", url]
    listed = await call("list", *at)
    assert (listed.code, listed.said) == (0, "")
    assert [line.split()[:2] for line in listed.out.splitlines()] == [["ID", "state"], [backup["id"], "proven"]]
    shown = await call("show", backup["id"], *at)
    assert (shown.code, "notes.notes" in shown.out) == (0, True)
    asked = await call("row", backup["id"], "notes", FIRST, *at, "--json")
    assert asked.out == asked.out.strip() + "\n"
    assert f'"n":{DIGITS}}}' in asked.out
    of_two = await call("row", backup["id"], "notes.tags", '[7, "a/b"]', *at)
    assert (of_two.code, of_two.out.split()) == (0, ["column", "value", "note", "7", "tag", '"a/b"'])
    assert (await call("row", backup["id"], "notes", FIRST[:-1] + "9", *at)).code == 1
    assert (await call("list", "--before", "never", *at)).code == 2

    row = await call("row", backup["id"], "notes", FIRST, *directly)
    assert row.out.split() == ["column", "value", "id", f'"{FIRST}"', "title", '"Groceries"', "n", DIGITS]
    history = await call("history", "notes", FIRST, *directly)
    assert (history.code, DIGITS in history.out) == (0, True)
    same = await call("diff", backup["id"], backup["id"], *directly)
    assert (same.code, same.out, same.said) == (0, "", "0 rows added, 0 removed, 0 changed\n")
    plan = await call("retention", *directly)
    assert (plan.code, backup["id"] in plan.out) == (0, True)
    listed = await call("list", "--json", *directly)
    assert json.loads(listed.out)["items"][0]["state"] == "proven"


async def test_rows_come_back_through_the_api(url: str, call: Run, owner: Connection) -> None:
    await owner.execute(ROWS)
    backup_id = json.loads((await call("create", "--wait", "--json", "--api", url)).out)["id"]
    await owner.execute("delete from notes.notes where id = $1", FIRST)
    restore = ["restore", backup_id, "--table", "notes", "--row", FIRST, "--api", url]
    trial = await call(*restore, "--dry-run")
    assert (trial.code, trial.out.split("\n")[1].split()) == (0, ["notes.notes", "1", "1", "0", "0", "0"]), trial.said
    assert trial.said.endswith(": completed (dry run)\n")
    assert await owner.fetchval("select count(*) from notes.notes") == 1
    done = await call(*restore, "--yes", "--json")
    assert (done.code, json.loads(done.out)["tables"][0]["added"]) == (0, 1), done.said
    assert await owner.fetchval("select n::text from notes.notes where id = $1", FIRST) == DIGITS
    assert (await call("show", json.loads(done.out)["id"], "--api", url)).code == 0

    await owner.execute("update notes.notes set title = 'Shopping' where id = $1", FIRST)
    refused = await call(*restore, "--yes")
    assert (refused.code, "failed" in refused.said) == (1, True)
    overwritten = await call(*restore, "--yes", "--on-conflict", "overwrite")
    assert (overwritten.code, "Shopping" in overwritten.out) == (0, True), overwritten.said
    missing = await call(*restore[:-3], FIRST[:-1] + "9", "--yes", "--api", url)
    assert (missing.code, "has no row" in missing.said) == (1, True)


async def test_a_bucket_is_restored_without_the_api(
    call: Run, directly: list[str], world: World, worker: Worker, cluster: Cluster, database: str, owner: Connection
) -> None:
    await owner.execute(ROWS)
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    objects = await world.keys()
    restore = ["restore", backup_id, *directly, "--into-env", "TARGET"]
    with cluster.database("template0") as empty:
        url = cluster.url("postgres", empty)
        done = await call(*restore, TARGET=url)
        assert (done.code, "notes.notes" in done.out) == (0, True), done.said
        assert cluster.server.psql(empty, ["select max(n) from notes.notes"]).strip() == DIGITS
        again = await call(*restore, TARGET=url)
        assert (again.code, "empty" in again.said) == (1, True)
    await owner.execute("delete from notes.notes")
    rows = await call(*restore, "--table", "notes", "--yes", TARGET=cluster.url("postgres", database))
    assert (rows.code, rows.out.split("\n")[1].split()[:3]) == (0, ["notes.notes", "2", "2"]), rows.said
    assert await owner.fetchval("select count(*) from notes.notes") == 2
    assert await world.keys() == objects
    for wrong in ({}, {"TARGET": "mysql://x"}):
        assert (await call(*restore, **wrong)).code == 2


async def test_a_person_is_asked_before_the_live_database_is_touched(
    aws_environment: dict[str, str], url: str, call: Run, owner: Connection
) -> None:
    await owner.execute(ROWS)
    backup_id = json.loads((await call("create", "--wait", "--json", "--api", url)).out)["id"]
    await owner.execute("delete from notes.notes where id <> $1", FIRST)
    for answer, code, there in (("n", 1, 1), ("y", 0, 2)):
        person, terminal = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "backup_lambda"),
            *("restore", backup_id, "--table", "notes", "--api", url),
            stdin=terminal,
            stdout=asyncio.subprocess.PIPE,
            stderr=terminal,
            env={**aws_environment, "PYTHONPATH": str(SERVICES), "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(terminal)
        seen = b""
        async with asyncio.timeout(60):
            while b"[y/N]" not in seen:
                seen += await asyncio.to_thread(os.read, person, 1 << 16)
        os.write(person, f"{answer}\n".encode())
        out, _ = await process.communicate()
        os.close(person)
        assert process.returncode == code
        assert b"Add or change 1 rows" in seen
        assert b"\x1b[31mred" not in seen + out, "what is stored is not obeyed"
        assert await owner.fetchval("select count(*) from notes.notes") == there


async def test_what_is_not_signed_by_the_key_is_not_read(
    call: Run, worker: Worker, world: World, owner: Connection
) -> None:
    await owner.execute(ROWS)
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    stranger = ["--bucket", world.bucket, "--key", "a" * 64]
    for arguments in (["row", backup_id, "notes", FIRST], ["show", backup_id]):
        refused = await call(*arguments, *stranger)
        assert (refused.code, refused.out) == (1, "")
        assert "is not to be trusted: it is signed by an unknown key" in refused.said
    listed = await call("list", *stranger)
    assert listed.out.split("\n")[1].split()[1] == "failed"


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["prove", "20260101T000000Z-00000000"],
        ["diff", "20260101T000000Z-00000000", "now"],
        ["retention", "--apply", "a" * 64],
        ["subscribe", "ada@example.org"],
        ["subscribers"],
    ],
)
async def test_a_bucket_alone_starts_nothing(
    arguments: list[str], call: Run, directly: list[str], world: World
) -> None:
    refused = await call(*arguments, *directly)
    assert (refused.code, refused.out) == (2, "")
    assert "needs the API" in refused.said
    assert await world.keys() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "name the API"),
        (["list", "--api", "ftp://x"], "the URL of the gateway"),
        (["list", "--api", "http://127.0.0.1:1", "--bucket", "b", "--key", "a" * 64], "name one"),
        (["restore", "x", "--api", "http://127.0.0.1:1"], "name either a `database`"),
        (["restore", "x", "--table", "notes", "--api", "http://127.0.0.1:1"], "nobody can be asked here"),
        (["restore", "x", "--row", "1"], "--row is of one --table"),
        (["create", "--label", "", "--api", "http://127.0.0.1:1"], "--label"),
    ],
)
async def test_wrong_use_is_told(arguments: list[str], said: str, call: Run) -> None:
    refused = await call(*arguments)
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.said


async def test_an_api_that_is_away_is_told(call: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    away = await call("list", BACKUPS_URL=f"http://127.0.0.1:{free_port()}/v1")
    assert (away.code, away.out) == (1, "")
    assert "does not answer (ConnectError)" in away.said
    assert "--bucket NAME --key FINGERPRINT" in away.said
    nothing = await call("show", "20260101T000000Z-00000000", "--api", url)
    assert (nothing.code, nothing.said) == (1, "There is no such backup: No backup has this id.\n")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    unsigned = await call("list", "--api", url, AWS_DEFAULT_REGION="")
    assert (unsigned.code, unsigned.said) == (2, "no AWS region is set: set AWS_REGION\n")


async def test_what_may_have_been_begun_is_said(call: Run) -> None:
    """By a gateway that gives up, and by one that breaks off; and each command has its own key."""
    keys, answers = list[str | None](), [b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 2\r\n\r\n{}", b""]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        found = re.search(r"idempotency-key: (\S+)", head, re.IGNORECASE)
        keys.append(found[1] if found else None)
        writer.write(answers[len(keys) % 2])
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        at = ["--api", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"]
        restore = ["restore", "20260101T000000Z-00000000", "--database", "spare"]
        for command, times in ((["create"], 2), (restore, 2), (["prove", "20260101T000000Z-00000000"], 1)):
            for _ in range(times):
                failed = await call(*command, *at)
                assert (failed.code, failed.out) == (1, "")
                assert "It may have been begun all the same: look with `list` or `show`" in failed.said
                assert "What only reads" not in failed.said
        assert "begun" not in (await call("list", *at)).said
    assert len({*keys[:4]} - {None}) == 4
    assert keys[4:] == [None, None]


async def test_a_backup_of_a_later_release_is_told_at_once(url: str, call: Run, world: World) -> None:
    backup_id = await world.wish()
    await world.write(f"backups/{backup_id}/manifest.json", {"format": 2})
    for command in (["show", backup_id], ["prove", backup_id, "--wait"]):
        shown = await call(*command, "--api", url)
        assert (shown.code, shown.out) == (1, "")
        assert shown.said.endswith("manifest.json is not one that this release reads: its format is 2\n")


def test_help_says_where_the_options_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], {}) == 0
    assert "their options come after the command" in capsys.readouterr().out


async def test_a_proof_that_finds_something_is_not_well(
    url: str, call: Run, worker: Worker, world: World, owner: Connection
) -> None:
    await owner.execute("create table notes.notes (id int primary key)")
    made = await call("create", "--wait", "--api", url)
    assert (made.code, "suspect" in made.out) == (1, True)
    [backup_id] = world.started or [made.out.split()[1]]
    assert (await call("prove", backup_id, "--wait", "--api", url)).code == 1
    accepted = await call("prove", backup_id, "--accept-suspect", "--wait", "--json", "--api", url)
    assert (accepted.code, json.loads(accepted.out)["state"]) == (0, "proven")
    await owner.execute("insert into notes.notes values (1)")
    await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{backup_id}/data/notes.notes.json.gz")
    broken = await call("prove", backup_id, "--wait", "--api", url)
    assert (broken.code, "broken" in broken.out) == (1, True)
    assert (await call("show", backup_id, "--api", url)).code == 1


async def test_retention_is_applied_by_its_digest(url: str, call: Run, owner: Connection) -> None:
    asked = await call("retention", "--apply", "--api", url)
    assert (asked.code, asked.said.splitlines()[-1]) == (
        2,
        "nobody can be asked here: name the plan's digest, or say --yes",
    )
    plan = json.loads((await call("retention", "--json", "--api", url)).out)
    done = await call("retention", "--apply", plan["digest"], "--api", url)
    assert (done.code, done.out) == (0, "0 expired, 0 cleaned up after\n"), done.said
    stale = await call("retention", "--apply", "a" * 64, "--api", url)
    assert stale.code == 1
    assert (await call("retention", "--apply", "--yes", "--api", url)).said.endswith("there is nothing to do\n")


async def test_subscriptions(url: str, call: Run) -> None:
    made = await call("subscribe", "ada@example.org", "--event", "backup.failed", "--api", url)
    assert (made.code, "ada@example.org" in made.out) == (0, True), made.said
    wrong = await call("subscribe", "nobody", "--api", url)
    assert wrong.code == 2
    listed = await call("subscribers", "--api", url)
    assert "ada@example.org" in listed.out
    assert listed.code == (1 if "Nobody gets mail" in listed.said else 0)
    gone = await call("unsubscribe", "eve@example.org", "--api", url)
    assert (gone.code, gone.said) == (1, "eve@example.org is not subscribed\n")


async def test_ctrl_c_leaves_the_backup_alone(
    aws_environment: dict[str, str], url: str, world: World, owner: Connection
) -> None:
    await owner.execute(ROWS)
    async with owner.transaction():
        await owner.execute("lock table notes.notes in access exclusive mode")
        process = await begun(aws_environment, "create", "--wait", "--api", url)
        assert process.stderr
        async with asyncio.timeout(60):
            told = (await process.stderr.readline()).decode()
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    backup_id = told.partition(":")[0]
    assert (done.code, done.out) == (130, "")
    assert done.said.strip().endswith(f"it goes on without you: show {backup_id}")


async def test_nobody_reads_the_answer(aws_environment: dict[str, str], directly: list[str], world: World) -> None:
    await world.wish()

    async def into_nothing(*arguments: str) -> tuple[int | None, bytes]:
        read, write = os.pipe()
        os.close(read)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "backup_lambda", *arguments, *directly),
            stdout=write,
            stderr=asyncio.subprocess.PIPE,
            env={**aws_environment, "PYTHONPATH": str(SERVICES)},
        )
        os.close(write)
        _, said = await process.communicate()
        return process.returncode, said

    ends = await asyncio.gather(into_nothing("list"), into_nothing("list", "--json"))
    assert set(ends) == {(1, b"")}


def test_what_is_missing_is_told_in_a_line() -> None:
    done = without(["rich"], "import runpy; runpy.run_module('backup_lambda', run_name='__main__')")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "rich is missing: the command line needs what services/backup_lambda/requirements-cli.txt pins\n"
    )


def test_the_functions_need_none_of_it() -> None:
    assert without(["click", "httpx", "rich"], "import backup_lambda.handler").returncode == 0


def without(modules: list[str], code: str) -> subprocess.CompletedProcess[str]:
    hidden = f"import sys; sys.modules.update(dict.fromkeys({modules}))"
    return subprocess.run(
        [sys.executable, "-c", f"{hidden}\n{code}"],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SERVICES), "PATH": os.environ["PATH"]},
    )
