"""`python -m deploy.local up | down | reset`: the one-machine stack from the command line."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from deploy.cloudformation import DeployError
from deploy.local import home as homes
from deploy.local.home import Home, HomeError
from deploy.local.process import ProgramError
from deploy.local.settings import ROOT, Settings, SettingsError
from deploy.local.stack import Stack
from deploy.package import PackageError

STOP_SECONDS = 120
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, `make down`, a closed terminal
TRY = """\
ready

  consoles   {NOTES_URL}  (sign in with NOTES_TOKEN or SCHEDULER_TOKEN of {env_file})
  notes      {NOTES_URL}
  scheduler  {SCHEDULER_URL}
  backups    {BACKUPS_URL}  (signed)
  mails      {MAIL_DIR}

Try it from another terminal:

  . {env_file}
  curl -H "Authorization: Bearer $NOTES_TOKEN" -H "Content-Type: application/json" \\
    -d '{{"title": "Hello", "content": "Holdfast"}}' $NOTES_URL/v1/notes
  curl -H "Authorization: Bearer $SCHEDULER_TOKEN" $SCHEDULER_URL/v1/schedules
  curl --aws-sigv4 "aws:amz:$AWS_REGION:execute-api" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \\
    $BACKUPS_URL/backups

README.md goes on from here. Ctrl-C stops everything; `make up` finds the data again.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The one-machine stack.")
    parser.add_argument("command", choices=["up", "down", "reset"])
    command = {"up": up, "down": down, "reset": reset}[parser.parse_args().command]
    try:
        return command(Settings.from_env(os.environ))
    except (SettingsError, HomeError, ProgramError, DeployError, PackageError) as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return 1


def up(settings: Settings) -> int:
    """Run until Ctrl-C, SIGTERM, or until a part ends by itself, which is an error."""
    with homes.only_one(settings.home):
        settings.check_ports()
        stack = Stack(settings, Home.open(settings.home), _sayer())
        try:
            _raise_on_signals()
            env = stack.start()
            _print(TRY.format(**env, env_file=_short(settings.home / "env")))
            stack.watch()
        except _StopAsked:
            return 0
        finally:
            _ignore_signals()
            with suppress(OSError):  # the terminal may be gone
                _print("stopping")
            stack.stop()
            with suppress(OSError):
                _print("stopped")


def down(settings: Settings) -> int:
    """Stop the stack that runs on this folder, and wait until it has ended."""
    pid = homes.running(settings.home)
    if pid is None:
        _print("Holdfast does not run here")
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while homes.running(settings.home) == pid:
        if time.monotonic() > deadline:
            raise HomeError(f"process {pid} has not stopped after {STOP_SECONDS} s: see {settings.home / 'logs'}")
        time.sleep(0.1)
    _print("stopped")
    return 0


def reset(settings: Settings) -> int:
    """Remove the folder, with all notes and backups in it."""
    with homes.only_one(settings.home):
        homes.remove(settings.home)
    _print(f"removed {_short(settings.home)}")
    return 0


class _StopAsked(BaseException):
    """By a signal. Not an Exception, so that nothing takes it for a failure."""


def _raise_on_signals() -> None:
    def on_signal(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        raise _StopAsked

    for number in STOP_SIGNALS:
        signal.signal(number, on_signal)


def _ignore_signals() -> None:
    """Stopping takes a few seconds, and an impatient second Ctrl-C must not leave half of the parts behind."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _sayer() -> Callable[[str], None]:
    begin = time.monotonic()
    return lambda text: _print(f"[{time.monotonic() - begin:5.1f} s] {text}")


def _print(text: str) -> None:
    print(text, flush=True)


def _short(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


if __name__ == "__main__":
    raise SystemExit(main())
