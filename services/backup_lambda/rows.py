"""One row of a backup, by one index read and one ranged GET; and what it was in all backups."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from backup_lambda import backups, blocks, tables
from backup_lambda.blocks import Block
from backup_lambda.errors import (
    BackupExpired,
    BackupUnreadable,
    BlockDamaged,
    ObjectChanged,
    RowNotFound,
    RowTooLarge,
    StoredDiffers,
    TableNotFound,
)
from backup_lambda.keys import KeyOrder, text_of
from backup_lambda.lease import Clock
from backup_lambda.manifest import Manifest, TableEntry, object_name
from backup_lambda.objects import ID, ROOT, folder
from backup_lambda.schemas import qualified
from backup_lambda.store import S3Store
from backup_lambda.tables import Index, StoredTable

# A function's answer has 6 MB at most, and holds this one as a text: with escapes, and as ASCII.
ANSWER_BYTES = 5_000_000
MOST_SEARCHED_BYTES = 8 * tables.SEARCHED_BYTES  # by a history, of tables whose order is not known
BACKUPS_AT_ONCE = 16


async def row(store: S3Store, backup_id: str, table: str, key: str, now: Clock) -> bytes:
    """The JSON of a schemas.Row, with the very text that is stored.

    Raises BackupNotFound, BackupExpired, NotYet, TableNotFound, RowNotFound, RowTooLarge, BlockDamaged and AwsError.
    """
    manifest = await tables.manifest_of(store, backup_id)
    stored = StoredTable.of(store, manifest, backups.entry_of(manifest, table))
    found = await stored.find(stored.order.typed(key))
    if found is None:
        raise RowNotFound(f"{stored.entry.name} has no row with this key in the backup {backup_id}.")
    told = {"backup_id": backup_id, "table": stored.entry.name, "key": _key(found, stored.order)}
    body = _object(told, "row", found)
    if not _fits(body):
        raise RowTooLarge(f"Download the table: GET /backups/{backup_id}/tables/{backups.stem_of(stored.entry)}")
    return body


async def history(store: S3Store, table: str, key: str, now: Clock) -> bytes:
    """The JSON of a schemas.RowHistory. Raises TableNotFound, RowNotFound, RowTooLarge and AwsError.

    The index of a backup is read unless another backup has the same; its manifest, and the block that may hold the row,
    unless another backup has that block. Such an index is not compared with its manifest: proofs do that.
    """
    listing = _with_data(await store.etags(ROOT))
    index_name = f"index/{_stem(table, listing)}.json.gz"
    those = [each for each in sorted(listing, reverse=True) if index_name in listing[each]]
    newest = await _newest(store, those, index_name)
    looking, gate = _Looking(store, index_name, key, newest.order), asyncio.Semaphore(BACKUPS_AT_ONCE)

    async def look(backup_id: str) -> _State:
        async with gate:
            return await looking.at(backup_id, listing[backup_id][index_name])

    looks = [asyncio.create_task(look(each)) for each in those]
    try:
        states = [each for each in await asyncio.gather(*looks) if not each.expired]
    finally:
        for each in looks:
            each.cancel()
    if not any(each.row or each.damaged for each in states):
        raise looking.refused or RowNotFound(f"None of {len(states)} backups of {newest.entry.name} has such a row.")
    told = {"table": newest.entry.name, "key": looking.key or [key], "backups": len(states)}
    body = _object(told, "items", _items(states))
    if not _fits(body):
        raise _too_much()
    return body


class _State(NamedTuple):
    """What a backup says of the row; it may expire while it is asked."""

    backup_id: str
    row: bytes | None = None
    damaged: str | None = None
    expired: bool = False


@dataclass
class _Looking:
    """A search for a row in all backups, and what it has found by now. `order` is that in the newest of them."""

    store: S3Store
    index_name: str
    typed: str
    order: KeyOrder
    key: list[str] | None = None  # as it is stored
    refused: RowNotFound | None = None  # because no row can have such a key
    told: dict[str, bytes | None] = field(default_factory=dict)  # the row, by the ETag of an index that was seen
    seen: dict[tuple[str, KeyOrder], bytes | None] = field(default_factory=dict)  # and by the digest of a block
    locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    row_bytes: int = 0
    searched_bytes: int = 0

    async def at(self, backup_id: str, index_etag: str) -> _State:
        try:
            async with self.locks[index_etag]:
                if index_etag not in self.told:
                    self.told[index_etag] = await self._row(backup_id)
            return _State(backup_id, self.told[index_etag])
        except BackupExpired:
            return _State(backup_id, expired=True)
        except (BlockDamaged, BackupUnreadable, TableNotFound) as error:
            return _State(backup_id, damaged=error.detail)

    async def _row(self, backup_id: str) -> bytes | None:
        body, block = b"", None
        with suppress(ObjectChanged, StoredDiffers, RowNotFound):  # its manifest says what to make of that
            body = (await self.store.get(folder(backup_id) + self.index_name)).body
            block = self._likely(Index(body))
        # Whoever comes to the same block waits for its row. Where the order is unknown, they come one by one.
        async with self.locks[block.sha256 if block else backup_id if self.order.known else ""]:
            if block and (row := self.seen.get((block.sha256, self.order))):
                return row
            manifest = await tables.stored_manifest(self.store, backup_id)
            stored = StoredTable.of(self.store, manifest, _entry(manifest, self.index_name))
            return await self._row_of(stored, body)

    def _likely(self, index: Index) -> Block | None:
        """The block that has the row, if the key is what it is in the newest backup."""
        found = index.holding(self.order.typed(self.typed), self.order) if self.order.known else []
        return found[0] if found else None

    async def _row_of(self, stored: StoredTable, body: bytes) -> bytes | None:
        index = stored.index_of(body) if body else await stored.index()
        try:
            position = stored.order.typed(self.typed)
        except RowNotFound as error:
            self.refused = error
            return None
        those = stored.holding(index, position)
        if row := next(filter(None, (self.seen.get((block.sha256, stored.order)) for block in those)), None):
            return row
        left = [block for block in those if (block.sha256, stored.order) not in self.seen]
        if len(left) > 1:
            self.searched_bytes += sum(block.length for block in left)
            if self.searched_bytes > MOST_SEARCHED_BYTES:
                raise stored.too_many()
        found, row = await stored.find_in(left, position) or (None, None)
        self.seen |= {(block.sha256, stored.order): row if block == found else None for block in left}
        if row:
            self.row_bytes, self.key = self.row_bytes + len(row), _key(row, stored.order)
        if self.row_bytes > ANSWER_BYTES:
            raise _too_much()
        return row


async def _newest(store: S3Store, those: Sequence[str], index_name: str) -> StoredTable:
    """The table in the newest backup whose manifest can be read."""
    for backup_id in those:
        with suppress(BackupUnreadable, TableNotFound):
            manifest = await tables.stored_manifest(store, backup_id)
            return StoredTable.of(store, manifest, _entry(manifest, index_name))
    raise BackupUnreadable(f"None of the manifests of {len(those)} backups that have the table can be read.")


def _entry(manifest: Manifest, index_name: str) -> TableEntry:
    for entry in manifest.tables:
        if entry.index == index_name:
            return entry
    raise TableNotFound(f"the manifest of {manifest.id} does not name the table, though its index is there")


def _with_data(etags: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The ETags of the objects of backups that have their data, by name."""
    found = defaultdict[str, dict[str, str]](dict)
    for key, etag in etags.items():
        backup_id, _, name = key.removeprefix(ROOT).partition("/")
        found[backup_id][name] = etag
    return {
        each: names
        for each, names in found.items()
        if ID.fullmatch(each) and "manifest.json" in names and "expired.json" not in names
    }


def _stem(table: str, listing: Mapping[str, Mapping[str, str]]) -> str:
    """Of the objects' names, found as backups.entry_of finds a table, among those that any backup has."""
    stems = {name.removeprefix("index/").removesuffix(".json.gz") for names in listing.values() for name in names}
    with suppress(ValueError):
        wanted = qualified(table)
        dots = [number for number, character in enumerate(wanted) if character == "."]
        named = {object_name(wanted[:dot], wanted[dot + 1 :]) for dot in dots} & stems
        if len(named) == 1:
            return named.pop()
        if wanted in stems:
            return wanted
    raise TableNotFound("No backup has such a table. GET /backups/{id} names those that one has, as `schema.table`.")


def _items(states: Sequence[_State]) -> bytes:
    """One for all backups in a row that say the same."""
    items = []
    for (row, damaged, _), same in groupby(states, key=lambda each: each[1:]):
        ids = [each.backup_id for each in same]
        told = {"backup_id": ids[0], "oldest_backup_id": ids[-1], "damaged": damaged}
        items.append(_object(told, "row", row or b"null"))
    return b"[" + b",".join(items) + b"]"


def _object(told: Mapping[str, Any], name: str, json_text: bytes) -> bytes:
    """With a last member whose text is not touched: numbers keep their digits."""
    return json.dumps(told, ensure_ascii=False).encode()[:-1] + f', "{name}": '.encode() + json_text + b"}"


def _key(row: bytes, order: KeyOrder) -> list[str]:
    return [text_of(value) for value in blocks.key_of(row, order.columns) or []]


def _fits(body: bytes) -> bool:
    return len(body) * 6 <= ANSWER_BYTES or len(json.dumps(body.decode())) <= ANSWER_BYTES


def _too_much() -> RowTooLarge:
    return RowTooLarge(
        "All that it was is too much for one answer: ask single backups for it,"
        " GET /backups/{id}/tables/{table}/rows/{key}, or download their tables."
    )
