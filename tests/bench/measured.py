"""What is measured in a process of its own, so that its memory is its own: `python -m tests.bench.measured NAME`.

It prints how long the work took, from connecting to the end (the engine's: from its first row on), and the most memory
that the process ever had. The interpreter's start is not counted: Lambda starts a process once.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncpg

from backup_lambda import snapshot
from backup_lambda.blocks import BlockWriter
from tests.backup_lambda.world import a_long_time, a_world, worker_for


class Discarded:
    """An upload that goes nowhere."""

    def __init__(self) -> None:
        self.bytes = 0

    async def write(self, piece: bytes) -> None:
        self.bytes += len(piece)


async def engine(url: str) -> float:
    async with snapshot.opened(url, ["notes"]) as source:
        table = next(each for each in source.tables if each.name == "notes.notes")
        begun = time.perf_counter()
        upload: Any = Discarded()
        with BlockWriter(upload, table.primary_key, lambda rows, size: None) as writer:
            copied = await source.copy(table, writer.feed)
            await writer.close()
        assert copied == writer.rows
        return time.perf_counter() - begun


async def naive(url: str) -> float:
    begun = time.perf_counter()
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("select * from notes.notes")
    body = json.dumps([dict(row) for row in rows], default=str).encode()
    seconds = time.perf_counter() - begun
    assert body.startswith(b"[{")
    await connection.close()
    return seconds


async def dump(url: str) -> float:
    return await _backed_up(url, "", "stored")


async def dump_and_proof(url: str) -> float:
    return await _backed_up(url, os.environ["BENCH_PROOF_URL"], "proven")


async def _backed_up(url: str, proof_url: str, wanted: str) -> float:
    async with a_world() as world:
        worker = worker_for(world, url, proof_url, schemas=("notes",))
        backup_id = await world.wish()
        begun = time.perf_counter()
        outcome = await worker.back_up(backup_id, a_long_time)
        seconds = time.perf_counter() - begun
        names = await world.store.etags("backups/")
        assert outcome == wanted, f"{outcome}: {[await world.read(key) for key in names if 'failure' in key]}"
        for key in names:
            await world.s3.delete_object(Bucket=world.bucket, Key=key)
        return seconds


MEASURED: dict[str, Callable[[str], Coroutine[Any, Any, float]]] = {
    each.__name__: each for each in (engine, naive, dump, dump_and_proof)
}


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    took = asyncio.run(MEASURED[sys.argv[1]](os.environ["BENCH_URL"]))
    sys.stdout.write(json.dumps({"seconds": took, "peak_bytes": peak_bytes()}) + "\n")
