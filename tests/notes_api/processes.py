"""The service as it is run: in a process of its own, on a free port."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.notes_api.doors import SERVICES
from tests.servers import free_port

START_SECONDS = 30
# When all is closed, uvicorn raises the signal that it was sent once more; the first process of a container has 0.
ENDED = (0, -signal.SIGTERM)


class Served:
    """Ended by its id, with SIGTERM or SIGKILL."""

    def __init__(self, log: Path, port: int, env: dict[str, str]) -> None:
        self.log, self.port = log, port
        self.url = f"http://127.0.0.1:{port}"
        command = ["notes_api.serve", "--port", str(port), "--drain-seconds", "10"]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SERVICES), "HOLDFAST_SIGNING_KEY": "k" * 32, **env},
            )

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/livez").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"not up after {START_SECONDS} s: {self.log.read_text()}")

    def client(self, token: str = "") -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """The exit code: minus the signal's number where it had no chance to end by itself."""
        self.process.send_signal(how)
        return self.process.wait(20)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def served(log: Path, database_url: str, port: int = 0, **more: str) -> Iterator[Served]:
    process = Served(log, port or free_port(), {"HOLDFAST_DATABASE_URL": database_url} | more)
    try:
        process.wait_until_up()
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
