"""Real servers for tests: PostgreSQL, the Redis protocol and the emulator of AWS, on free ports of this machine."""

import os
import pwd
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.postgres import ROLES, UNPRIVILEGED_USER, Postgres
from deploy.local.process import Process, Program

EMULATOR_PYTHON = Path(__file__).parents[1] / ".venv" / "emulator" / "bin" / "python"


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server with the roles of deploy/postgres/roles.sql, whose schemas are in database `holdfast`."""

    server: Postgres

    def url(self, role: str, database: str) -> str:
        """`role` is one of deploy/postgres/roles.sql, or `postgres`, the superuser."""
        return self.server.url(role, database)

    @contextmanager
    def database(self, template: str = "holdfast", name: str = "") -> Iterator[str]:
        """A database cloned from `template`, dropped afterwards whoever is still connected; its name."""
        name = name or f"test_{secrets.token_hex(6)}"
        # A clone gets the template's schemas and tables, but not its rights on the database itself.
        readers = ", ".join(role for role in ROLES if role != "notes_proof")
        self.server.psql(
            "postgres",
            [f'create database "{name}" template "{template}"', f'grant connect on database "{name}" to {readers}'],
        )
        try:
            yield name
        finally:
            self.server.psql("postgres", [f"drop database {name} with (force)"])


@dataclass(frozen=True)
class Aws:
    """The emulator of AWS: signatures and policies are enforced, and these keys are the account's root."""

    endpoint_url: str
    region: str
    access_key: str
    secret_key: str

    @property
    def variables(self) -> dict[str, str]:
        """What botocore reads of the environment, and nothing of this machine's own."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }


@contextmanager
def postgres(port: int = 0, home: Path | None = None, durable: bool = False) -> Iterator[Postgres]:
    """A server with the roles, whose schemas are in database `holdfast`; on `home` where one is given."""
    with ExitStack() as leaving:
        home = home or leaving.enter_context(private_directory(owner=UNPRIVILEGED_USER))
        passwords = {role: f"password-of-{role}" for role in ("postgres", *ROLES)}
        server = Postgres(home, port or free_port(), passwords, durable)
        server.prepare()
        leaving.enter_context(running(server.program(), home))
        if not server.has_database("holdfast"):
            server.create_database("holdfast")
            server.make_roles("holdfast")
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(program: Program, logs: Path) -> Iterator[Process]:
    process = Process(program, logs)
    try:
        process.wait_until_it_answers(60)
        yield process
    finally:
        process.stop()


@contextmanager
def private_directory(owner: str = "") -> Iterator[Path]:
    """Removed afterwards. As root it is given to `owner`."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    try:
        if owner and os.geteuid() == 0:
            who = pwd.getpwnam(owner)
            os.chown(directory, who.pw_uid, who.pw_gid)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
