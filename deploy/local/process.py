"""Programs of the one-machine stack: started, waited for, watched, stopped.

Every program runs in a session of its own: Ctrl-C at the terminal reaches only the stack, which stops them in order,
and what a program leaves behind (the emulator's functions, say) ends with its process group.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

KEEP_LOG_BYTES = 10 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ProgramError(Exception):
    """A program did not start, did not answer in time, or ended by itself."""


@dataclass(frozen=True)
class Program:
    """What to run. `answers` tells whether it is ready; it must not raise while the program is still starting."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(repr=False)  # it may hold passwords
    cwd: Path
    answers: Callable[[], bool]
    user: str | None = None  # only root may name another user
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 15.0


class Process:
    """A running program, its output appended to `{logs}/{name}.log`."""

    def __init__(self, program: Program, logs: Path) -> None:
        self.program = program
        self.log = logs / f"{program.name}.log"
        if self.log.exists() and self.log.stat().st_size > KEEP_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        who = pwd.getpwnam(program.user) if program.user else None
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            try:
                self._popen = subprocess.Popen(
                    program.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=program.cwd,
                    env=dict(program.env),
                    start_new_session=True,
                    preexec_fn=_end_with_parent(program.stop_signal),  # noqa: PLW1509  # one system call, no lock
                    user=who.pw_uid if who else None,
                    group=who.pw_gid if who else None,
                    extra_groups=[] if who else None,
                )
            except OSError as error:
                raise ProgramError(f"{program.name} could not be started: {error}") from error

    @property
    def pid(self) -> int:
        """Of the process and of its group."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -N when signal N ended it."""
        return self._popen.poll()

    def wait_until_it_answers(self, seconds: float) -> None:
        """Raises ProgramError, with the end of the log, when it ends first or takes longer."""
        deadline = time.monotonic() + seconds
        while not self.program.answers():
            self.check()
            if time.monotonic() > deadline:
                raise ProgramError(f"{self.program.name} does not answer after {seconds:.0f} s\n{self.log_tail()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raises ProgramError, with the end of the log, when the program has ended."""
        if (code := self.exit_code) is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise ProgramError(f"{self.program.name} {how}\n{self.log_tail()}")

    def stop(self) -> None:
        """Ask it to stop, insist after `stop_seconds`, then end what is left of its group."""
        if self.exit_code is None:
            self._popen.send_signal(self.program.stop_signal)
            try:
                self._popen.wait(self.program.stop_seconds)
            except subprocess.TimeoutExpired:
                self._signal_group(signal.SIGKILL)
                self._popen.wait()
        self._signal_group(signal.SIGKILL)

    def kill(self) -> None:
        """End the whole group at once, as a power cut would."""
        self._signal_group(signal.SIGKILL)
        self._popen.wait()

    def log_tail(self, lines: int = 12) -> str:
        """The last lines that this start of the program has written, indented, with the log's path."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - 16_384))
            last = file.read().decode(errors="replace").splitlines()[-lines:]
        return "\n".join([*(f"    {line}" for line in last), f"    ({self.log})"])

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return


def http_ok(url: str, token: str = "") -> bool:
    """Whether a GET, with a bearer token where one is given, is answered with 200 within a second."""
    try:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=1)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK


def _end_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Linux sends `number` to the child when the stack dies without stopping it (kill -9, out of memory)."""

    def in_the_child() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number))

    return in_the_child
