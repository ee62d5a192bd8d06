"""A PostgreSQL server of the tests' own, to be killed, starved and started again."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from deploy.local.postgres import ROLES, UNPRIVILEGED_USER, Postgres
from deploy.local.process import Process, Program
from tests.servers import free_port, private_directory

START_SECONDS = 60


class Own:
    """Nobody else uses it: whatever a test does to it ends with `start`."""

    def __init__(self, server: Postgres, process: Process) -> None:
        self.server, self.process = server, process

    def url(self, role: str, database: str) -> str:
        return self.server.url(role, database)

    def start(self) -> None:
        """Where it does not run."""
        if self.process.exit_code is None:
            return
        self._begin(self.server.program())

    def kill(self) -> None:
        """All its processes at once, as a power cut does. The postmaster's children have left its group."""
        for pid in [self.process.pid, *self._children()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.kill()

    def kill_the_postmaster(self) -> None:
        """Its children notice, each when it next waits for something."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def start_with_small_files(self, max_bytes: int) -> None:
        """Where it does not run. No file of it can grow beyond that, which needs no right; sh counts by 512 bytes."""
        program = self.server.program()
        limited = ["/bin/sh", "-c", f'ulimit -f {max_bytes // 512} && exec "$@"', "sh", *program.command]
        self._begin(replace(program, command=limited))

    def _begin(self, program: Program) -> None:
        self.process = Process(program, self.server.home)
        self.process.wait_until_it_answers(START_SECONDS)

    def _children(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]


@contextmanager
def own_server() -> Iterator[Own]:
    with private_directory(owner=UNPRIVILEGED_USER) as home:
        passwords = {role: f"password-of-{role}" for role in ("postgres", *ROLES)}
        server = Postgres(home, free_port(), passwords, durable=False)
        server.prepare()
        own = Own(server, Process(server.program(), home))
        try:
            own.process.wait_until_it_answers(START_SECONDS)
            server.create_database("holdfast")
            server.make_roles("holdfast")
            yield own
        finally:
            own.process.stop()
