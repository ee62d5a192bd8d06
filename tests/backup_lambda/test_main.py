"""`python -m backup_lambda` as a process: its arguments, its exit codes, and the signals that end it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from backup_lambda import aws, signing
from backup_lambda.cli import main
from tests.backup_lambda.test_handler import SERVICES
from tests.backup_lambda.world import SIGNER, Connection, World, until
from tests.servers import Cluster

ROWS = "create table notes.notes as select i as id from generate_series(1, 10) i"

WELL_FORMED = {
    "HOLDFAST_BUCKET": "backups",
    "HOLDFAST_TOPIC_ARN": "arn:aws:sns:us-east-1:1:backups",
    "HOLDFAST_DATABASE": "arn:aws:secretsmanager:us-east-1:1:secret:url",
    "HOLDFAST_PROOF_DATABASE": "arn:aws:secretsmanager:us-east-1:1:secret:url",
    "HOLDFAST_SIGNING_KEY": "arn:aws:kms:us-east-1:1:key/1",
}


class Ended(NamedTuple):
    """A process."""

    code: int
    out: str
    said: str


async def begun(environment: Mapping[str, str], *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "backup_lambda", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment, "PYTHONPATH": str(SERVICES)},
    )


async def ended(process: asyncio.subprocess.Process) -> Ended:
    out, said = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), said.decode())


async def command(environment: Mapping[str, str], *arguments: str) -> Ended:
    return await ended(await begun(environment, *arguments))


@pytest.fixture
async def environment(aws_environment: dict[str, str], world: World, cluster: Cluster, database: str) -> dict[str, str]:
    """The settings of the worker function."""
    pem = SIGNER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    texts = {
        "HOLDFAST_DATABASE": cluster.url("notes_backup", database),
        "HOLDFAST_PROOF_DATABASE": cluster.url("notes_proof", "postgres"),
        "HOLDFAST_SIGNING_KEY": pem,
    }
    settings = {"HOLDFAST_BUCKET": world.bucket, "HOLDFAST_TOPIC_ARN": world.topic.arn}
    async with aws.clients("secretsmanager") as (secrets,):
        for name, text in texts.items():
            made = await secrets.create_secret(Name=f"{world.bucket}-{name}", SecretString=text)
            settings[name] = made["ARN"]
    return aws_environment | settings


async def the_backup(world: World) -> str:
    [backup_id] = {key.split("/")[1] for key in await world.keys("backups/")}
    return backup_id


async def test_a_backup_is_made_and_proven(environment: dict[str, str], world: World, owner: Connection) -> None:
    await owner.execute(f"{ROWS}; create table notes.other (id int)")
    done = await command(environment, "run", "--label", "by hand", "--table", "notes.notes")
    backup_id = await the_backup(world)
    assert (done.code, done.out) == (0, ""), done.said
    assert f"{backup_id}: asked for\n" in done.said
    assert done.said.endswith(f"{backup_id}: backup proven\n")
    manifest = await world.read_json(f"backups/{backup_id}/manifest.json")
    assert [table["name"] for table in manifest["tables"]] == ["notes.notes"]
    assert manifest["request"]["label"] == "by hand"
    assert manifest["request"]["requested_by"] == "python -m backup_lambda run"
    [notice] = await world.notices()
    assert notice["MessageAttributes"]["type"]["Value"] == "backup.proven"

    checked = await command(environment, "verify", "--read-data")
    assert (checked.code, checked.out) == (0, "")
    await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{backup_id}/manifest.sig")
    key = signing.fingerprint(await SIGNER.public_key())
    only_aws = {name: text for name, text in environment.items() if not name.startswith("HOLDFAST_")}
    checked = await command(only_aws, "verify", "--bucket", world.bucket, "--key", key)
    assert (checked.code, checked.out) == (1, f"{backup_id} manifest.sig: is missing\n")
    assert checked.said == "1 backups, 3 objects: 1 findings\n"


@pytest.mark.parametrize(
    ("prove", "sql", "end"),
    [
        ("on_demand", ROWS, (0, "backup stored")),
        ("always", "create table notes.notes (id int)", (1, "backup suspect")),
        ("always", "drop schema scheduler", (1, "backup failed")),
    ],
)
async def test_the_exit_code_says_whether_all_is_well(
    environment: dict[str, str], owner: Connection, prove: str, sql: str, end: tuple[int, str]
) -> None:
    await owner.execute(sql)
    done = await command(environment | {"HOLDFAST_PROVE": prove}, "run")
    assert (done.code, done.said.splitlines()[-1].partition(": ")[2]) == end


async def test_a_backup_that_cannot_be_proven_is_not_well(
    environment: dict[str, str], world: World, owner: Connection
) -> None:
    await owner.execute(ROWS)
    async with aws.clients("secretsmanager") as (secrets,):
        secret = environment["HOLDFAST_PROOF_DATABASE"]
        await secrets.put_secret_value(SecretId=secret, SecretString="postgresql://u:hunter2@127.0.0.1:1/x")
    done = await command(environment, "run")
    assert (done.code, done.said.splitlines()[-1]) == (1, f"{await the_backup(world)}: backup stored")
    assert "hunter2" not in done.said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Usage: "),
        (["prune"], "No such command 'prune'"),
        (["run", "--backup-id", "x"], "No such option '--backup-id'"),
        (["verify", "--key", "abc"], "not 64 hexadecimal digits"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, WELL_FORMED) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["verify", "--key", "a" * 64], "complete", "--bucket and --key go together"),
        (["run", "--label", ""], "complete", "--label: "),
        (["run", "--table", "notes."], "complete", "--tables: "),
        (["run"], "empty", "HOLDFAST_BUCKET: Field required"),
        (["verify"], "empty", "HOLDFAST_BUCKET: Field required"),
    ],
)
def test_wrong_settings_are_told(
    arguments: list[str], environment: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, WELL_FORMED if environment == "complete" else {}) == 2
    assert said in capsys.readouterr().err


async def test_aws_that_refuses_is_told_in_a_line(aws_environment: dict[str, str]) -> None:
    done = await command(aws_environment | WELL_FORMED, "run")
    assert (done.code, done.said) == (1, "PutObject was answered NoSuchBucket\n")


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(
    environment: dict[str, str], world: World, owner: Connection, which: signal.Signals
) -> None:
    await owner.execute(ROWS)
    async with owner.transaction():
        await owner.execute("lock table notes.notes in access exclusive mode")
        process = await begun(environment, "run")

        async def waiting() -> bool:
            query = "select exists (select from pg_locks where not granted and relation = 'notes.notes'::regclass)"
            return bool(await owner.fetchval(query))

        await until(waiting)
        process.send_signal(which)
        done = await ended(process)
    backup_id = await the_backup(world)
    assert (done.code, done.said.splitlines()[-1]) == (1, f"{backup_id}: backup failed")
    failure = await world.read_json(f"backups/{backup_id}/failure.json")
    assert (failure["outcome"], failure["reason"]) == ("failed", "the process was told to end")
    [notice] = await world.notices()
    assert json.loads(notice["Message"])["subject"] == backup_id
    assert await world.open_uploads() == []


async def test_progress_is_told_while_it_runs(environment: dict[str, str], world: World, owner: Connection) -> None:
    await owner.execute(ROWS)
    async with owner.transaction():
        await owner.execute("lock table notes.notes in access exclusive mode")
        process = await begun(environment, "run")
        assert process.stderr

        async with asyncio.timeout(60):
            asked = (await process.stderr.readline()).decode()
            told = (await process.stderr.readline()).decode()
    backup_id = asked.partition(":")[0]
    assert told.startswith(f"{backup_id}: ")
    assert told.endswith(", 0 rows, 0 %\n")
    assert (await ended(process)).code == 0


async def test_a_killed_run_is_told_by_the_next(environment: dict[str, str], world: World, owner: Connection) -> None:
    await owner.execute(ROWS)
    async with owner.transaction():
        await owner.execute("lock table notes.notes in access exclusive mode")
        process = await begun(environment, "run")

        async def taken() -> bool:
            return any(key.endswith("progress.json") for key in await world.keys())

        await until(taken)
        os.kill(process.pid, signal.SIGKILL)
        await ended(process)
    killed = await the_backup(world)
    await world.lose(killed)
    assert (await command(environment, "run")).code == 0
    events = [json.loads(notice["Message"]) for notice in await world.notices()]
    assert {each["subject"]: each["type"] for each in events}[killed] == "backup.failed"
