"""The folder that holds all that the one-machine stack keeps: `.local/`."""

import fcntl
import json
import os
import pwd
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.postgres import ROLES, UNPRIVILEGED_USER

LAYOUT = "1"  # written into `version`; another number means another arrangement of files
ROOTS_PRIVATE_DIRECTORIES = Path("/var/lib/holdfast")
RESET = "`make reset` removes it with all its notes and backups; or move it away to keep them"


class HomeError(Exception):
    """The folder cannot be used as it is; the message is one line that says why, and what to do."""


@dataclass(frozen=True)
class Home:
    """An existing folder of the right layout."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "Home":
        """Make the folder if there is none. One that is not whole, or of another version, is left as it is."""
        if not path.exists():
            _make(path)
        home = cls(path)
        version = home._read("version").strip()
        if version != LAYOUT:
            raise HomeError(f"{path} has layout {version or 'unknown'!r} and this version needs {LAYOUT!r}: {RESET}")
        if not set(home.secrets) >= set(_new_secrets()):
            raise HomeError(f"{path / 'secrets.json'} lacks passwords: {RESET}")
        return home

    @property
    def secrets(self) -> Mapping[str, str]:
        """Passwords and keys that were made with the folder."""
        try:
            content: dict[str, str] = json.loads(self._read("secrets.json"))
        except ValueError as error:
            raise HomeError(f"{self.path / 'secrets.json'} is damaged: {RESET}") from error
        return content

    def folder(self, name: str) -> Path:
        (folder := self.path / name).mkdir(mode=0o700, exist_ok=True)
        return folder

    def postgres(self) -> Path:
        """PostgreSQL's private directory: as root a link to one outside, which `nobody` owns and can reach."""
        link = self.path / "postgres"
        if os.geteuid() != 0:
            return self.folder("postgres")
        if not link.is_symlink():
            ROOTS_PRIVATE_DIRECTORIES.mkdir(mode=0o755, parents=True, exist_ok=True)
            private = tempfile.mkdtemp(prefix="postgres-", dir=ROOTS_PRIVATE_DIRECTORIES)
            who = pwd.getpwnam(UNPRIVILEGED_USER)
            os.chown(private, who.pw_uid, who.pw_gid)
            link.symlink_to(private)
        return link.resolve()

    def read_json(self, name: str) -> dict[str, str]:
        """What `write_private` put there; empty when there is nothing, or nothing whole."""
        try:
            content: dict[str, str] = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return content

    def write_private(self, name: str, content: str) -> None:
        """Readable by the owner only, and whole or not at all."""
        write_private(self.path / name, content)

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text()
        except OSError as error:
            raise HomeError(f"{self.path} is not a whole folder of ours ({name}: {error.strerror}): {RESET}") from error


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock beside the folder, with our process id in it. Raises HomeError when another stack has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(path).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise HomeError(f"Holdfast runs already in {path} (process {file.read()}): `make down` stops it") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def running(path: Path) -> int | None:
    """The process id of the stack that runs on this folder."""
    try:
        with _lock_file(path).open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return int(file.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def remove(path: Path) -> None:
    """Remove the folder, and the private directory that it links to. Raises HomeError for a folder not ours."""
    link = path / "postgres"
    if link.is_symlink() and link.resolve().parent == ROOTS_PRIVATE_DIRECTORIES:
        shutil.rmtree(link.resolve(), ignore_errors=True)
    if path.exists():
        if not any((path / name).exists() for name in ("version", "secrets.json", "logs", "env")):
            raise HomeError(f"{path} holds nothing of ours, so it was left alone: remove it by hand if you mean to")
        shutil.rmtree(path)
    _lock_file(path).unlink(missing_ok=True)


def write_private(path: Path, content: str) -> None:
    """Readable by the owner only, and whole or not at all, whatever is pulled when."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _make(path: Path) -> None:
    """Under another name first, so that a folder of the right name is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=path.parent))
    write_private(unfinished / "secrets.json", json.dumps(_new_secrets(), indent=2))
    write_private(unfinished / "version", LAYOUT)
    unfinished.rename(path)


def _new_secrets() -> dict[str, str]:
    """Letters, digits, - and _ only: they stand in URLs and in configuration files as they are."""
    return {
        **{role: secrets.token_urlsafe(24) for role in ("postgres", *ROLES)},
        "valkey": secrets.token_urlsafe(24),
        "aws_root_access_key": f"AKIA{secrets.token_hex(8).upper()}",
        "aws_root_secret_key": secrets.token_urlsafe(30),
    }
