"""A whole stack, driven from outside as a person does it: by its command, its addresses, its folder."""

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as modern
from pathlib import Path
from typing import Any, TypeVar, cast

import asyncpg
import httpx
import psutil
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from deploy.local import home as homes

ROOT = Path(__file__).parents[2]
LOCAL_PYTHON = ROOT / ".venv" / "local" / "bin" / "python"
DAILY_BACKUP = "00000000-0000-7000-8000-000000000001"
PORTS = 8  # of a stack, in a row
UNDER_WAY = ("queued", "running")  # a backup in any other state has ended
T = TypeVar("T")


@dataclass
class Stack:
    """`up` starts it, `down` stops it as Ctrl-C does; `env` is what `.local/env` tells a person."""

    home: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    root: Path = ROOT  # the checkout that it is started from

    def begin(self, *within: str) -> subprocess.Popen[str]:
        """`make up`, without waiting for it; `within` another command, where one is given."""
        self.process = subprocess.Popen(
            [*within, str(LOCAL_PYTHON), "-m", "deploy.local", "up"],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return self.process

    def up(self, *within: str) -> None:
        output = self.begin(*within).stdout
        assert output
        said = []
        for line in output:
            said.append(line)
            if line == "ready\n":
                return
        pytest.fail(f"the stack did not start:\n{''.join(said)}")

    def down(self) -> int:
        """Its exit code. Whatever it said since it was ready is thrown away."""
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=120)
        return self.process.returncode

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "AWS_"))}
        return clean | {"HOLDFAST_HOME": str(self.home), "HOLDFAST_PORT": str(self.port)} | self.settings

    @property
    def env(self) -> dict[str, str]:
        lines = (self.home / "env").read_text().splitlines()
        return {name: shlex.split(value)[0] for name, value in (line.split("=", 1) for line in lines)}

    def notes(self) -> httpx.Client:
        return httpx.Client(base_url=self.env["NOTES_URL"], headers=bearer(self.env["NOTES_TOKEN"]))

    def scheduler(self) -> httpx.Client:
        return httpx.Client(base_url=self.env["SCHEDULER_URL"], headers=bearer(self.env["SCHEDULER_TOKEN"]))

    def backups(self, access_key: str = "", secret_key: str = "") -> httpx.Client:
        """The gateway, signed by ops unless other keys are given. Paths are below the stage: `backups`."""
        env = self.env
        keys = Credentials(access_key or env["AWS_ACCESS_KEY_ID"], secret_key or env["AWS_SECRET_ACCESS_KEY"])
        signature = Signature(keys, "execute-api", env["AWS_REGION"])
        return httpx.Client(base_url=env["BACKUPS_URL"] + "/", auth=signature, timeout=30)

    def bucket(self, access_key: str = "", secret_key: str = "") -> httpx.Client:
        """As ops see it, who may only read, unless other keys are given."""
        env = self.env
        keys = Credentials(access_key or env["AWS_ACCESS_KEY_ID"], secret_key or env["AWS_SECRET_ACCESS_KEY"])
        url = f"{env['AWS_ENDPOINT_URL']}/{env['BACKUP_BUCKET']}/"
        return httpx.Client(base_url=url, auth=Signature(keys, "s3", env["AWS_REGION"]))

    def root_keys(self) -> tuple[str, str]:
        """Of who may do anything in the account, which nobody works with."""
        secrets = json.loads((self.home / "secrets.json").read_text())
        return secrets["aws_root_access_key"], secrets["aws_root_secret_key"]

    def keys_of(self, user: str) -> tuple[str, str]:
        keys = json.loads((self.home / f"{user}.json").read_text())
        return keys["access_key"], keys["secret_key"]

    def backup(self, backup_id: str) -> dict[str, Any]:
        with self.backups() as backups:
            answer = backups.get(f"backups/{backup_id}")
            assert answer.status_code == 200, answer.text
            return cast("dict[str, Any]", answer.json())

    def mails(self) -> list[EmailMessage]:
        """In order of arrival."""
        files = sorted(Path(self.env["MAIL_DIR"]).glob("*.eml"))
        return [message_from_bytes(file.read_bytes(), policy=modern) for file in files]

    def trigger(self) -> str:
        """Run the daily backup now; the run's id."""
        with self.scheduler() as scheduler:
            answer = scheduler.post(f"/v1/schedules/{DAILY_BACKUP}/trigger")
            assert answer.status_code == 201, answer.text
            return str(answer.json()["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        with self.scheduler() as scheduler:
            answer = scheduler.get(f"/v1/runs/{run_id}")
            assert answer.status_code == 200, answer.text
            return cast("dict[str, Any]", answer.json())

    def ended(self, run_id: str) -> dict[str, Any]:
        return eventually(lambda: run if (run := self.run(run_id))["state"] in ("succeeded", "failed") else None)

    @contextmanager
    def locked(self, table: str) -> Iterator[Callable[[], bool]]:
        """As a migration does it: nobody reads the table meanwhile. Gives whether somebody waits for it."""
        waiting = "select exists (select from pg_locks where not granted and relation = $1::text::regclass)"
        with self.holding(f"lock table {table} in access exclusive mode") as ask:
            yield lambda: bool(ask(waiting, table))

    @contextmanager
    def holding(self, statement: str) -> Iterator[Callable[..., Any]]:
        """A transaction that did this, and stays open. Gives what asks for a value in it."""
        with asyncio.Runner() as runner:
            connection = runner.run(asyncpg.connect(self.env["DATABASE_URL"]))
            runner.run(connection.execute(f"begin; {statement}"))
            try:
                yield lambda query, *arguments: runner.run(connection.fetchval(query, *arguments))
            finally:
                connection.terminate()  # the server may be gone
                runner.run(asyncio.sleep(0))

    def execute(self, statements: str) -> None:
        """As the superuser."""

        async def execute() -> None:
            connection = await asyncpg.connect(self.env["DATABASE_URL"])
            await connection.execute(statements)
            await connection.close()

        asyncio.run(execute())

    def mail_about(self, backup_id: str, to: str = "") -> EmailMessage:
        """The first one that speaks of it."""
        return eventually(lambda: [m for m in self.mails() if backup_id in m.get_content() and to in ("", m["To"])])[0]

    def subscribe(self, email: str, **more: Any) -> None:
        """And wait for the confirmation by mail."""
        with self.backups() as backups:
            answer = backups.post("subscriptions", json={"email": email, **more})
            assert answer.status_code == 201, answer.text
        eventually(lambda: [mail for mail in self.mails() if mail["To"] == email])

    def processes(self) -> list[psutil.Process]:
        """Everything that the stack has started, their children too."""
        assert self.process
        return psutil.Process(self.process.pid).children(recursive=True)


class Signature(httpx.Auth):
    """Signature version 4 by botocore's own signer."""

    requires_request_body = True

    def __init__(self, keys: Credentials, service: str, region: str) -> None:
        self._signer = SigV4Auth(keys, service, region)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        signed = AWSRequest(request.method, str(request.url), data=request.content)
        self._signer.add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        yield request


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def eventually(attempt: Callable[[], T | None], seconds: float = 180) -> T:
    """What `attempt` gives, once it gives something; the assertion fails when that takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := attempt()):
        assert time.monotonic() < deadline, f"nothing came of {attempt} within {seconds} s"
        time.sleep(0.1)
    return found


def new_stack_in(folder: Path, leaving: ExitStack) -> Stack:
    """On free ports, stopped and removed when it is left."""
    folder.mkdir(exist_ok=True)
    stack = Stack(folder / "home", _free_ports())
    leaving.callback(homes.remove, stack.home)
    leaving.callback(lambda: stack.process and stack.down())
    return stack


def _free_ports() -> int:
    """The first of PORTS in a row that nobody listens on."""
    for first in range(20_000, 30_000, PORTS):
        try:
            for port in range(first, first + PORTS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise OSError("no free ports")
