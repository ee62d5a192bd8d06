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

LAYOUT = "holdfast 1"  # in the file `version`; another number means another arrangement of files
ROOTS_PRIVATE_DIRECTORIES = Path("/var/lib/holdfast")
PRIVATE = ("postgres", "nginx")  # what a server that is not root must be able to reach
RESET = "`make reset` removes it with all its notes and backups; or move it away to keep them"
LATER_SECRETS = frozenset({"notes_signing_key"})  # folders of former releases get them when they are opened
ELSEWHERE = "choose another folder with HOLDFAST_HOME"


class HomeError(Exception):
    """The folder cannot be used as it is; the message is one line that says why, and what to do."""


@dataclass(frozen=True)
class Home:
    """An existing folder of the right layout, and ours."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "Home":
        """Make the folder if there is none, or an empty one. What is not whole, or not ours, is left as it is."""
        with _named_errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(path)
            if not any(path.iterdir()):
                # `version` comes last: a folder without it is half-written.
                write_private(path / "secrets.json", json.dumps(_new_secrets(), indent=2))
                write_private(path / "version", LAYOUT)
            if not _is_ours(path):
                raise HomeError(f"{path} holds other things than ours: {ELSEWHERE}")
            version = (path / "version").read_text().strip() if (path / "version").exists() else "none"
        if version != LAYOUT:
            raise HomeError(f"{path} has layout {version!r}, and this version needs {LAYOUT!r}: {RESET}")
        home = cls(path)
        made = _new_secrets()
        if missing := made.keys() - home.secrets.keys():
            if missing - LATER_SECRETS:
                raise HomeError(f"{path / 'secrets.json'} is damaged: {RESET}")
            home.write_private("secrets.json", json.dumps(made | dict(home.secrets), indent=2))
        return home

    @property
    def secrets(self) -> Mapping[str, str]:
        """Passwords and keys that were made with the folder, and the LATER_SECRETS."""
        return self.read_json("secrets.json")

    def folder(self, name: str) -> Path:
        (folder := self.path / name).mkdir(mode=0o700, exist_ok=True)
        return folder

    def private(self, name: str) -> Path:
        """A folder for a server that is not root: as root a link to one outside, which `nobody` owns and can reach."""
        link = self.path / name
        if os.geteuid() != 0:
            return self.folder(name)
        if not link.is_symlink():
            ROOTS_PRIVATE_DIRECTORIES.mkdir(mode=0o755, parents=True, exist_ok=True)
            outside = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=ROOTS_PRIVATE_DIRECTORIES))
            (outside / "belongs-to").write_text(f"{self.path}\n")
            who = pwd.getpwnam(UNPRIVILEGED_USER)
            os.chown(outside, who.pw_uid, who.pw_gid)
            link.symlink_to(outside)
        if not link.exists():
            raise HomeError(f"{link} links to {link.readlink()}, which is gone, and its data with it: {RESET}")
        return link.resolve()

    def read_json(self, name: str) -> dict[str, str]:
        """What `write_private` put there; empty when there is nothing of the kind."""
        try:
            content = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_private(self, name: str, content: str) -> None:
        """Readable by the owner only, and whole or not at all."""
        write_private(self.path / name, content)


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock beside the folder, with our process id in it. Raises HomeError when another stack has it."""
    with _named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock_file(path).open("a+")
    with file:
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
    """Remove the folder, and the private directories that it links to. Raises HomeError for one that is not ours."""
    with _named_errors(path):
        if path.exists():
            _check_owner(path)
            if not _is_ours(path):
                raise HomeError(f"{path} holds other things than ours, and was left alone: remove it by hand")
            for link in (path / name for name in PRIVATE):
                if link.is_symlink() and link.resolve().parent == ROOTS_PRIVATE_DIRECTORIES:
                    shutil.rmtree(link.resolve(), ignore_errors=True)
            shutil.rmtree(path.resolve())
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


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HomeError(f"{path} cannot be used ({error.strerror}): {ELSEWHERE}") from error


def _check_owner(path: Path) -> None:
    if (owner := path.stat().st_uid) != os.geteuid():
        raise HomeError(f"{path} belongs to the user with id {owner}: run as that one, or {ELSEWHERE}")


def _is_ours(path: Path) -> bool:
    """By what no other folder has: our version, or, where that is not yet or no longer there, our secrets."""
    try:
        if (path / "version").read_text().startswith("holdfast "):
            return True
    except OSError:
        pass
    return "aws_root_secret_key" in Home(path).read_json("secrets.json")


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _new_secrets() -> dict[str, str]:
    """Letters, digits, - and _ only: they stand in URLs and in configuration files as they are."""
    return {
        **{role: secrets.token_urlsafe(24) for role in ("postgres", *ROLES)},
        "valkey": secrets.token_urlsafe(24),
        "aws_root_access_key": f"AKIA{secrets.token_hex(8).upper()}",
        "aws_root_secret_key": secrets.token_urlsafe(30),
        "notes_signing_key": secrets.token_urlsafe(48),
    }
