"""A whole backup in a database of its own: restored, compared, and its access tokens made invalid."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import asyncpg

from backup_lambda import restore, scratch, snapshot
from backup_lambda.catalogue import Connection, Table, qualified
from backup_lambda.errors import NotRestored, RestoreRefused
from backup_lambda.lease import Progress
from backup_lambda.manifest import Manifest, TableEntry
from backup_lambda.objects import folder
from backup_lambda.replica import Difference, Replica, in_words
from backup_lambda.restores import Restored, is_of_tokens
from backup_lambda.schemas import TableRestored
from backup_lambda.scratch import Scratch
from backup_lambda.snapshot import Snapshot
from backup_lambda.store import S3Store
from backup_lambda.stored import StoredRows

PASSES = 2  # rows are restored, and compared
UNVALIDATED = " NOT VALID"
TRIGGERS = """
select quote_ident(tgname) as name, tgenabled::text as mode from pg_trigger
where tgrelid = $1::text::regclass and not tgisinternal
"""
MODES = {"O": "enable", "R": "enable replica", "A": "enable always", "D": "disable"}
REVOKED = "update {table} set expires_at = now() where expires_at is null or expires_at > now()"
VALID = "select count(*) from {table} where expires_at is null or expires_at > now()"
FOREIGN = """
select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where nspname !~ '^pg_' and nspname <> 'information_schema'),
    pg_encoding_to_char(encoding) from pg_database where datname = current_database()
"""


async def into_new(
    store: S3Store,
    manifest: Manifest,
    *,
    url: str,
    room_bytes: int | None,
    restore_id: str,
    name: str,
    skip_damaged: bool,
    progress: Progress,
    before_it_is_kept: Callable[[Restored], Awaitable[None]],
) -> Restored:
    """In a new database of this name, which is there when all is done and compared, and else not at all.

    `url` is of a role that may create databases. Raises RestoreRefused, ProofUnfinished and AwsError.
    """
    if await scratch.comment_of(url, name, restore_id) is not None:
        raise RestoreRefused(scratch.there_is_one(name))
    async with scratch.database(url, manifest, room_bytes, restore_id) as database:
        restored = await _filled(store, manifest, database, progress, skip_damaged=skip_damaged)
        await before_it_is_kept(restored)
        await scratch.keep(url, database, name, comment(manifest.id, restore_id))
    return restored


def comment(backup_id: str, restore_id: str) -> str:
    """Of a database that was restored."""
    return f"holdfast: backup {backup_id}, restored by {restore_id}"


async def into_empty(
    store: S3Store, manifest: Manifest, url: str, progress: Progress, *, skip_damaged: bool = False
) -> Restored:
    """In a database that is there, and empty. It is not empty any more when this raises.

    Raises RestoreRefused, ProofUnfinished and AwsError.
    """
    with scratch.failures_named("the database"):
        connection = await snapshot.connect(url)
        try:
            version = await scratch.version_of(connection, manifest)
            [(taken, encoding)] = await connection.fetch(FOREIGN)
        finally:
            connection.terminate()
    if taken:
        raise RestoreRefused("The database is not empty: a whole backup goes into an empty one.")
    if encoding != manifest.database["encoding"]:
        raise RestoreRefused(
            f"The database has the encoding {encoding}, and the backup {manifest.database['encoding']}."
        )
    return await _filled(store, manifest, Scratch(url, version), progress, skip_damaged=skip_damaged)


async def _filled(
    store: S3Store, manifest: Manifest, database: Scratch, progress: Progress, *, skip_damaged: bool
) -> Restored:
    progress.total_rows, progress.passes = sum(table.rows for table in manifest.tables), PASSES
    copy = _Copy(store, folder(manifest.id), manifest, progress, skip_damaged=skip_damaged)
    for step in (copy.restore, copy.compare_catalogue, copy.compare_rows):
        await copy.take(step(database))
        if copy.differences:
            raise RestoreRefused(
                f"what came back is not what was backed up: {in_words(copy.differences, len(copy.differences))}"
            )
    return copy.restored(await copy.close(database))


@dataclass
class _Copy(Replica):
    """A replica that stays."""

    skip_damaged: bool = False
    _stored: dict[str, StoredRows] = field(default_factory=dict)
    _not_valid: set[str] = field(default_factory=set)  # foreign keys to rows that were left out

    async def _load(self, connections: Sequence[Connection], entry: TableEntry) -> None:
        stored = StoredRows(self.store, self.manifest, entry, self._there, skip_damaged=self.skip_damaged)
        self._stored[entry.object] = stored
        async with aclosing(stored.all()) as rows:
            await restore.load(connections[0], entry, rows, self.progress.restored, *connections[1:])
        self._indexes[entry.object] = stored.index

    async def _after_rows(self, connection: Connection) -> None:
        for statement in self.manifest.schema_sql.after_rows:
            try:
                await restore.apply(connection, [statement])
            except NotRestored as error:
                if not (self._damaged and isinstance(error.__cause__, asyncpg.ForeignKeyViolationError)):
                    raise
                await restore.apply(connection, [f"{statement.removesuffix(';')}{UNVALIDATED};"])
                self._not_valid.add(str(error.__cause__.constraint_name))

    async def compare_catalogue(self, database: Scratch) -> None:
        await super().compare_catalogue(database)
        if self._not_valid:
            self.differences = [each for each in self.differences if not _of_one_of(each, self._not_valid)]

    async def _compare_table(self, found: Snapshot, table: Table, entry: TableEntry) -> None:
        stored = self._stored[entry.object]
        if not stored.damaged:
            await super()._compare_table(found, table, entry)
            return
        counted = await found.count(table)
        self._same("rows", entry.name, stored.rows, counted.rows)
        self.rows += counted.rows
        self.progress.compared(counted.rows)

    async def close(self, database: Scratch) -> int:
        """Make its access tokens invalid; how many those were. Then its owner sees of its rows what policies say."""
        revoked = 0
        connection = await database.connect()
        try:
            with scratch.failures_named():
                for entry in self.manifest.tables:
                    name = qualified(*restore.identity(entry))
                    if is_of_tokens(entry):
                        revoked += await _revoke(connection, name)
                    if entry.catalogue["row_security_forced"]:
                        await connection.execute(f"alter table only {name} force row level security")
        finally:
            connection.terminate()
        return revoked

    def restored(self, tokens_revoked: int) -> Restored:
        tables = [
            TableRestored(name=entry.name, rows=entry.rows, added=stored.rows, damaged=stored.damaged)
            for entry in self.manifest.tables
            for stored in [self._stored[entry.object]]
        ]
        reason = None
        if self._damaged:
            lost = sum(each.rows - each.added for each in tables)
            named = ", ".join(each.name for each in tables if each.damaged)
            reason = f"NOT complete: {lost:,} rows of {named} are damaged in the backup, and were left out"
            if self._not_valid:
                reason += f"; rows refer to them by {', '.join(sorted(self._not_valid))}, which is NOT VALID now"
        return Restored(tables=tables, rows=self.rows, tokens_revoked=tokens_revoked, reason=reason)

    @property
    def _damaged(self) -> bool:
        return any(each.damaged for each in self._stored.values())


async def _revoke(connection: Connection, table: str) -> int:
    """How many tokens. A trigger that came with the backup must not keep one valid. Raises RestoreRefused."""
    triggers = await connection.fetch(TRIGGERS, table)
    await connection.execute(f"alter table {table} disable trigger user")
    revoked = int((await connection.execute(REVOKED.format(table=table))).split()[-1])
    for each in triggers:
        await connection.execute(f"alter table {table} {MODES[each['mode']]} trigger {each['name']}")
    if valid := await connection.fetchval(VALID.format(table=table)):
        raise RestoreRefused(f"{valid} access tokens of {table} could not be made invalid")
    return revoked


def _of_one_of(difference: Difference, foreign_keys: set[str]) -> bool:
    """That could not be made valid: each of its two forms may be told as a difference of its own."""
    told = f"{difference.where} {difference.expected} {difference.found}"
    return "FOREIGN KEY" in told and any(name in told for name in foreign_keys)
