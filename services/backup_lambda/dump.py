"""Makes the objects of a backup, all but the manifest, and reads them back."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backup_lambda import blocks
from backup_lambda.blocks import BlockWriter
from backup_lambda.errors import CountsDiffer, StoredDiffers
from backup_lambda.lease import Progress
from backup_lambda.manifest import TableEntry, object_name
from backup_lambda.snapshot import Counted, Snapshot
from backup_lambda.store import S3Store


class Copied(NamedTuple):
    """A table in the store, and how many rows PostgreSQL said it has: by count(*) and by COPY."""

    entry: TableEntry
    counted: int
    copied: int


@dataclass(frozen=True)
class Dump:
    """The objects of one backup in the making. Its methods raise BackupFailed and AwsError."""

    store: S3Store
    folder: str
    progress: Progress

    async def copy(self, source: Snapshot) -> list[Copied]:
        # What a dead worker left is replaced only as long as it stays as it is: should that worker wake up, one of
        # the two fails, and none mixes its objects with the other's.
        left = await self.store.etags(self.folder)
        self.progress.stage = "counting"
        counted = list[Counted]()
        for table in source.tables:
            counted.append(await source.count(table))
            self.progress.total_rows += counted[-1].rows
        self.progress.stage = "copying"
        return [await self._copy_table(source, each, left) for each in counted]

    async def read_back(self, copied: Sequence[Copied]) -> None:
        """A backup is stored only if all counts of its rows agree, and every block has the bytes that were written."""
        self.progress.stage = "checking"
        for table in copied:
            try:
                await self._read_table_back(table)
            except StoredDiffers as error:
                raise StoredDiffers(f"{table.entry.name}: {error}") from error

    async def _copy_table(self, source: Snapshot, counted: Counted, left: Mapping[str, str]) -> Copied:
        table = counted.table
        name = object_name(table.schema, table.relation)
        data, index = f"data/{name}.json.gz", f"index/{name}.json.gz"
        async with self.store.upload(self.folder + data, left.get(self.folder + data)) as upload:
            with BlockWriter(upload, table.primary_key, self.progress.copied) as writer:
                copied = await source.copy(table, writer.feed)
                await writer.close()
            hashing = asyncio.create_task(source.row_hash(table))  # while the store puts the parts together
            try:
                etag, row_hash = await upload.finish(), await hashing
            finally:
                hashing.cancel()
        index_body = writer.index.close()
        await self.store.put(self.folder + index, index_body, left.get(self.folder + index), keep=True)
        entry = TableEntry(
            name=table.name,
            catalogue=table.catalogue,
            primary_key=list(table.primary_key),
            rows=writer.rows,
            bytes=writer.bytes,
            stored_bytes=upload.bytes,
            sha256=writer.sha256,
            row_hash=row_hash,
            object=data,
            index=index,
            index_sha256=hashlib.sha256(index_body).hexdigest(),
            etag=etag,
        )
        return Copied(entry, counted.rows, copied)

    async def _read_table_back(self, table: Copied) -> None:
        entry = table.entry
        index_body = (await self.store.get(self.folder + entry.index)).body
        if hashlib.sha256(index_body).hexdigest() != entry.index_sha256:
            raise StoredDiffers("the index that was read back is not the one that was written")
        index = blocks.unpack_index(index_body)
        stored = self.store.stream(self.folder + entry.object, entry.etag)
        counts = {
            "counted": table.counted,
            "copied": table.copied,
            "streamed": entry.rows,
            "in the index": sum(block.rows for block in index),
            "read back": await blocks.check(index, stored, self.progress.checked),
        }
        if len(set(counts.values())) > 1:
            raise CountsDiffer(f"{entry.name}: rows {', '.join(f'{what} {n:,}' for what, n in counts.items())}")
