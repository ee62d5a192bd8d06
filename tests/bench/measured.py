"""What is measured in a process of its own, so that its memory is its own: `python -m tests.bench.measured NAME`.

It prints how long the work took, from connecting to the end (the engine's: from its first row on), the most memory that
the process ever had, and what else is measured of it. The interpreter's start is not counted: Lambda starts a process
once. Nor are the backups that something is found in.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from pydantic import Field

from backup_lambda import diff as differences
from backup_lambda import rows, snapshot, whole
from backup_lambda.blocks import BlockWriter
from backup_lambda.lease import Progress
from backup_lambda.manifest import Manifest
from backup_lambda.restores import Restored
from backup_lambda.worker import Worker
from tests.backup_lambda.world import World, a_long_time, a_world, utc_now, worker_for

Measures = dict[str, float]
CHANGED_ROWS = 100
OTHERS_CHANGED = 20  # between two backups of a history
SCATTERED = """
select id from (select id, row_number() over (order by id) - 1 as number, count(*) over () as rows from notes.notes) n
where number * $1 / rows <> (number - 1) * $1 / rows or number = 0 order by id
"""
CHANGE = "update notes.notes set title = title || '!', revision = revision + 1, updated_at = now() where id = any ($1)"
REMOVE = "delete from notes.notes where id = any ($1)"
ADD = """
insert into notes.notes (id, owner, title, content, tags)
select overlay(id::text placing left(md5(random()::text), 12) from 25)::uuid, owner, title, content, tags
from notes.notes where id = any ($1)
"""


class Discarded:
    """An upload that goes nowhere."""

    def __init__(self) -> None:
        self.bytes = 0

    async def write(self, piece: bytes) -> None:
        self.bytes += len(piece)


async def engine(url: str) -> Measures:
    async with snapshot.opened(url, ["notes"]) as source:
        table = next(each for each in source.tables if each.name == "notes.notes")
        begun = time.perf_counter()
        upload: Any = Discarded()
        with BlockWriter(upload, table.primary_key, lambda rows, size: None) as writer:
            copied = await source.copy(table, writer.feed)
            await writer.close()
        assert copied == writer.rows
        return since(begun)


async def naive(url: str) -> Measures:
    begun = time.perf_counter()
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("select * from notes.notes")
    body = json.dumps([dict(row) for row in rows], default=str).encode()
    measures = since(begun)
    assert body.startswith(b"[{")
    await connection.close()
    return measures


async def dump(url: str) -> Measures:
    async with some_backups(url) as backups:
        begun = time.perf_counter()
        await backups.back_up()
        return since(begun)


async def dump_and_proof(url: str) -> Measures:
    async with some_backups(url, os.environ["BENCH_PROOF_URL"]) as backups:
        begun = time.perf_counter()
        await backups.back_up("proven")
        return since(begun)


async def restore(url: str) -> Measures:
    """Into a new database: as long as it takes until all is there, and until that is compared, too."""
    proof_url, name = os.environ["BENCH_PROOF_URL"], "restored_by_holdfast"
    async with some_backups(url) as backups:
        manifest = await backups.manifest(await backups.back_up())
        now, begun = utc_now(), time.perf_counter()
        progress = Stages(owner="bench", started_at=now, updated_at=now, lease_until=now)
        restored = await whole.into_new(
            backups.world.store,
            manifest,
            url=proof_url,
            room_bytes=None,
            restore_id=manifest.id,
            name=name,
            skip_damaged=False,
            progress=progress,
            before_it_is_kept=nothing_more,
        )
        measures = {"seconds": progress.began["comparing"] - begun, "compared_seconds": time.perf_counter() - begun}
        assert restored.rows == sum(table.rows for table in manifest.tables)
    server = await asyncpg.connect(proof_url)
    await server.execute(f"drop database {name}")
    await server.close()
    return measures


async def nothing_more(restored: Restored) -> None:
    pass


class Stages(Progress):
    """Notes when each stage began."""

    began: dict[str, float] = Field(default_factory=dict)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "stage":
            self.began.setdefault(value, time.perf_counter())


async def one_row(url: str) -> Measures:
    async with some_backups(url) as backups:
        backup_id = await backups.back_up()
        key = str((await backups.scattered(3))[1])
        reads = Reads(backups.world.s3)
        begun = time.perf_counter()
        found = json.loads(await rows.row(backups.world.store, backup_id, "notes.notes", key, utc_now))
        measures = since(begun)
        assert found["row"]["id"] == key
        return measures | {"requests": len(reads.of_rows), "range_bytes": sum(each.bytes for each in reads.ranged)}


async def history(url: str) -> Measures:
    """Of a note that is another one in every fifth backup; other notes change in each, so that no two are equal."""
    async with some_backups(url) as backups:
        note, *others = await backups.scattered(OTHERS_CHANGED + 1)
        states = 0
        for number in range(int(os.environ["BENCH_BACKUPS"])):
            changed = [note, *others] if number % 5 == 0 else others
            states += note in changed
            await backups.execute(CHANGE, changed)
            await backups.back_up()
        begun = time.perf_counter()
        found = json.loads(await rows.history(backups.world.store, "notes.notes", str(note), utc_now))
        measures = since(begun)
        assert len(found["items"]) == states
        return measures


async def diff(url: str) -> Measures:
    """Of rows all over the table; for each that is added or removed three are changed."""
    async with some_backups(url) as backups:
        before = await backups.back_up()
        ids = await backups.scattered(CHANGED_ROWS)
        for number, statement in enumerate((ADD, REMOVE, CHANGE, CHANGE, CHANGE)):
            await backups.execute(statement, ids[number::5])
        after = await backups.back_up()
        reads = Reads(backups.world.s3)
        begun = time.perf_counter()
        page = await differences.page(backups.world.store, before, after, None, utc_now)
        changed = page.added + page.removed + page.changed
        while page.next:
            page = await differences.page(backups.world.store, before, after, page.next.rpartition("/")[2], utc_now)
            changed += page.added + page.removed + page.changed
        measures = since(begun)
        assert changed >= len(ids)  # and what triggers wrote of each
        stored = [await backups.manifest(each) for each in (before, after)]
        stored_bytes = sum(table.stored_bytes for manifest in stored for table in manifest.tables)
        return measures | {"share": sum(each.bytes for each in reads.of_rows) / stored_bytes}


@dataclass
class Backups:
    """Backups of a database, made one after the other, while its notes change."""

    world: World
    worker: Worker

    async def back_up(self, wanted: str = "stored") -> str:
        backup_id = await self.world.wish()
        outcome = await self.worker.back_up(backup_id, a_long_time)
        names = await self.world.store.etags(f"backups/{backup_id}/")
        assert outcome == wanted, f"{outcome}: {[await self.world.read(key) for key in names if 'failure' in key]}"
        return backup_id

    async def manifest(self, backup_id: str) -> Manifest:
        return Manifest.model_validate(await self.world.read_json(f"backups/{backup_id}/manifest.json"))

    async def scattered(self, count: int) -> list[Any]:
        """The ids of so many notes, from the first on, all over the table."""
        connection = await asyncpg.connect(os.environ["BENCH_OWNER_URL"])
        found = await connection.fetch(SCATTERED, count)
        await connection.close()
        return [each["id"] for each in found]

    async def execute(self, statement: str, ids: list[Any]) -> None:
        connection = await asyncpg.connect(os.environ["BENCH_OWNER_URL"])
        await connection.execute(statement, ids)
        await connection.close()


@asynccontextmanager
async def some_backups(url: str, proof_url: str = "") -> AsyncIterator[Backups]:
    """Nothing of it is left."""
    async with a_world() as world:
        yield Backups(world, worker_for(world, url, proof_url, schemas=("notes",)))
        for key in await world.store.etags(""):
            await world.s3.delete_object(Bucket=world.bucket, Key=key)


@dataclass
class Read:
    path: str
    ranged: bool
    bytes: int = 0


@dataclass
class Reads:
    """The objects that a client reads from now on, and how many bytes are sent for each."""

    s3: Any
    _all: list[Read] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.s3.meta.events.register("before-call.s3.GetObject", self._asked)
        self.s3.meta.events.register("after-call.s3.GetObject", self._answered)

    @property
    def of_rows(self) -> list[Read]:
        """Of data and indexes."""
        return [each for each in self._all if "/data/" in each.path or "/index/" in each.path]

    @property
    def ranged(self) -> list[Read]:
        return [each for each in self._all if each.ranged]

    def _asked(self, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["read"] = Read(params["url_path"], "Range" in params["headers"])
        self._all.append(context["read"])

    def _answered(self, parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["read"].bytes = parsed["ContentLength"]


MEASURED: dict[str, Callable[[str], Coroutine[Any, Any, Measures]]] = {
    each.__name__: each for each in (engine, naive, dump, dump_and_proof, restore, one_row, history, diff)
}


def since(begun: float) -> Measures:
    return {"seconds": time.perf_counter() - begun}


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    measures = asyncio.run(MEASURED[sys.argv[1]](os.environ["BENCH_URL"]))
    sys.stdout.write(json.dumps(measures | {"peak_bytes": peak_bytes()}) + "\n")
