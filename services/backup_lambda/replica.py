"""A backup restored into a database of our own, and compared with it."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pydantic import BaseModel

from backup_lambda import blocks, comparison, restore, scratch, snapshot
from backup_lambda.blocks import Block
from backup_lambda.catalogue import Connection, Selection, Table, qualified
from backup_lambda.comparison import BlockComparison
from backup_lambda.errors import BackupFailed, DatabaseFailed, NotRestored, ProofUnfinished, StoredDiffers
from backup_lambda.lease import Progress
from backup_lambda.manifest import Manifest, TableEntry, object_name
from backup_lambda.scratch import Scratch
from backup_lambda.snapshot import Snapshot
from backup_lambda.store import S3Store

NAMED = 3  # differences, in a reason
SHOWN = 300  # characters of a definition
What: TypeAlias = Literal[
    "signature", "object", "index", "block", "restore", "rows", "bytes", "row_hash", "catalogue", "sequence"
]


class Difference(BaseModel):
    """One thing that did not come back as the manifest says. `where` names the table, block, column or object."""

    what: What
    where: str
    expected: str
    found: str


@dataclass
class Replica:
    """A backup that is restored into a database, step by step, and compared with it. `differences` were found."""

    store: S3Store
    folder: str
    manifest: Manifest
    progress: Progress
    differences: list[Difference] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    _there: dict[str, str] = field(default_factory=dict)  # the ETags of the backup's objects
    _indexes: dict[str, list[Block]] = field(default_factory=dict)

    async def take(self, step: Coroutine[None, None, None]) -> None:
        try:
            await step
        except NotRestored as error:
            self._refused(error)
        except DatabaseFailed as error:
            raise ProofUnfinished(f"the proof server: {error}") from error
        except BackupFailed as error:  # the scratch database has not the tables to make the same backup of
            self._same("catalogue", "tables", "those of the manifest", error)

    async def restore(self, database: Scratch) -> None:
        self.progress.stage = "restoring"
        if not self.manifest.tables:
            self._same("rows", "manifest.json", "tables", "none")
        self._there = await self.store.etags(self.folder)
        async with AsyncExitStack() as leaving:
            connections = list[Connection]()
            for _ in range(restore.CONNECTIONS):
                connections.append(await database.connect())
                leaving.callback(connections[-1].terminate)
            await restore.apply(connections[0], self.manifest.schema_sql.before_rows)
            for entry in self.manifest.tables:
                await self._restore_table(connections, entry)
            if not self.differences:
                await self._after_rows(connections[0])
                await restore.set_sequences(connections[0], self.manifest.sequences)

    async def _after_rows(self, connection: Connection) -> None:
        await restore.apply(connection, self.manifest.schema_sql.after_rows)

    async def _restore_table(self, connections: Sequence[Connection], entry: TableEntry) -> None:
        try:
            await self._load(connections, entry)
        except StoredDiffers as error:
            self._same("block", entry.name, "what was written", error)
        except NotRestored as error:
            if restore.names_objects(entry) and getattr(error.__cause__, "sqlstate", "") in scratch.UNKNOWN_OBJECTS:
                raise ProofUnfinished(
                    f"{error}: a value of a column of type regclass or the like names an object that is made after the"
                    " rows, or is not in this backup"
                ) from error
            self._refused(error)

    async def _load(self, connections: Sequence[Connection], entry: TableEntry) -> None:
        """Raises StoredDiffers and NotRestored."""
        before = len(self.differences)
        self._same("object", entry.index, True, self.folder + entry.index in self._there)
        self._same("object", entry.object, entry.etag, self._there.get(self.folder + entry.object, "nothing"))
        if len(self.differences) > before:
            return
        body = (await self.store.get(self.folder + entry.index)).body
        if (sha256 := hashlib.sha256(body).hexdigest()) != entry.index_sha256:
            self._same("index", entry.name, entry.index_sha256, sha256)
            return  # whoever wrote it may have made it to be too large when it is unpacked
        index = self._indexes[entry.object] = blocks.unpack_index(body)
        self._same("index", f"{entry.name}, rows", entry.rows, sum(block.rows for block in index))
        self._same("index", f"{entry.name}, size", entry.stored_bytes, sum(block.length for block in index))
        async with aclosing(restore.stored_blocks(self.store, self.folder, entry, index)) as stored:
            await restore.load(connections[0], entry, stored, self.progress.restored, *connections[1:])

    async def compare_catalogue(self, database: Scratch) -> None:
        self.progress.stage = "comparing"
        async with self._opened(database) as found:
            tables = _by_object(found)
            for entry in self.manifest.tables:
                table = tables[entry.object]
                self._compare(
                    "catalogue", entry.name, comparison.facts(entry.catalogue), comparison.facts(table.catalogue)
                )
                self._same("catalogue", f"{entry.name}, key", entry.primary_key, list(table.primary_key))
            sequences = [{each["name"]: each for each in those} for those in (self.manifest.sequences, found.sequences)]
            self._compare("sequence", "", *sequences)
            for part in ("before_rows", "after_rows"):
                statements = [Counter(getattr(sql, part)) for sql in (self.manifest.schema_sql, found.schema_sql)]
                self._compare("catalogue", part, *statements)
            self._same("catalogue", "schema_revision", self.manifest.schema_revision, found.schema_revision)

    async def compare_rows(self, database: Scratch) -> None:
        connection = await database.connect()
        try:
            # Their policies were compared. Now their owner is to read all their rows.
            await restore.apply(connection, self._unforced())
        finally:
            connection.terminate()
        async with self._opened(database) as found:
            tables = _by_object(found)
            for entry in self.manifest.tables:
                await self._compare_table(found, tables[entry.object], entry)

    def _unforced(self) -> Iterator[str]:
        for entry in self.manifest.tables:
            if entry.catalogue["row_security_forced"]:
                name = qualified(*restore.identity(entry))
                yield f"alter table only {name} no force row level security"

    async def _compare_table(self, found: Snapshot, table: Table, entry: TableEntry) -> None:
        counted = await found.count(table)
        self._same("rows", entry.name, entry.rows, counted.rows)
        ways = [comparison.ways(each) for each in (entry.catalogue, counted.table.catalogue)]
        self._compare("bytes", entry.name, *ways)
        self._same("row_hash", entry.name, entry.row_hash, await found.row_hash(counted.table))
        rows = BlockComparison(self._indexes[entry.object], self.progress.compared)
        self._same("rows", f"{entry.name}, copied", entry.rows, await found.copy(counted.table, rows.feed))
        await rows.close()
        self._same("bytes", f"{entry.name}, size", entry.bytes, rows.bytes)
        if rows.differing:
            self._same("bytes", f"{entry.name}, {rows.differing}", "what is stored", "other rows")
        self.rows += rows.rows
        self.bytes += rows.bytes

    @asynccontextmanager
    async def _opened(self, database: Scratch) -> AsyncIterator[Snapshot]:
        """The scratch database as the backup's own was read: the same code, the same tables."""
        asked = None if self.manifest.request.tables is None else [entry.name for entry in self.manifest.tables]
        async with snapshot.opened(database.url, [*self.manifest.schema_revision], Selection(asked=asked)) as found:
            expected = {entry.object for entry in self.manifest.tables}
            if wrong := expected ^ _by_object(found).keys():
                raise BackupFailed(f"{', '.join(sorted(wrong))} on one side only")
            yield found

    def _same(self, what: What, where: str, expected: object, found: object) -> None:
        if expected != found:
            one, other = str(expected)[:SHOWN], str(found)[:SHOWN]
            self.differences.append(Difference(what=what, where=where, expected=one, found=other))

    def _compare(self, what: What, where: str, expected: Mapping[str, object], found: Mapping[str, object]) -> None:
        for name, one, other in comparison.differing(expected, found):
            self._same(what, f"{where}, {name[:SHOWN]}" if where else name, one, other)

    def _refused(self, error: NotRestored) -> None:
        self._same("restore", str(error), "to be restored", scratch.fault_of(error))


def in_words(differences: Sequence[Difference], found: int) -> str:
    """The first ones of so many."""
    shown = differences[:NAMED]
    named = [f"{each.what} of {each.where}: expected {each.expected}, found {each.found}" for each in shown]
    more = found - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def _by_object(found: Snapshot) -> dict[str, Table]:
    return {f"data/{object_name(table.schema, table.relation)}.json.gz": table for table in found.tables}
