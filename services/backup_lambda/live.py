"""Rows of a backup into the live database: in one transaction, by ordinary statements, so that triggers run.

The rows are first read into temporary tables, while everybody goes on working. Then the tables are locked against
writers and compared with what was read, and rows are updated and inserted.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Literal

import asyncpg

from backup_lambda import catalogue, drift, landing, restores, scratch, snapshot
from backup_lambda import restore as backwards
from backup_lambda.catalogue import EVERYTHING, Connection, Table, qualified
from backup_lambda.errors import DatabaseFailed, NotRestored, RestoreRefused, RowsDiffer
from backup_lambda.landing import Landing
from backup_lambda.lease import Progress
from backup_lambda.manifest import Manifest, TableEntry, object_name
from backup_lambda.objects import folder
from backup_lambda.restores import Restored, Transaction
from backup_lambda.schemas import RestoreIn, TableRestored, TableWanted
from backup_lambda.store import S3Store
from backup_lambda.stored import StoredRows

ENDS_WITHIN_SECONDS = 8  # a transaction whose worker is gone; then its connection is ended
LOOK_AGAIN_SECONDS = 0.2
MOST_CHANGES_BYTES = 1_000_000  # that are shown, of all tables
SYSTEM = "select system_identifier::text from pg_control_system()"
END_IT = """
select pg_terminate_backend(pid, 5000) from pg_stat_activity
where usename = current_user and backend_xid = ($1::text::xid8)::xid
"""
PARENTS = """
select distinct conrelid::regclass::text as child, confrelid::regclass::text as parent from pg_constraint
where contype = 'f' and not condeferrable and conrelid <> confrelid
  and conrelid = any ($1::text[]::regclass[]) and confrelid = any ($1::text[]::regclass[])
"""
CHILDREN = """
select distinct n.nspname as schema, c.relname as relation
from pg_constraint join pg_class c on c.oid = conrelid join pg_namespace n on n.oid = c.relnamespace
where contype = 'f' and confrelid = $1::text::regclass order by schema, relation
"""
NAMES = "select name::regclass::text from unnest($1::text[]) with ordinality as t (name, n) order by n"
BeforeCommit = Callable[[Restored, Transaction], Awaitable[None]]


@dataclass
class _Target:
    """A table that is restored, and what becomes of it."""

    wanted: TableWanted
    entry: TableEntry
    rows: StoredRows
    landing: Landing
    told: TableRestored


async def restore(
    store: S3Store,
    manifest: Manifest,
    url: str,
    wanted: RestoreIn,
    progress: Progress,
    *,
    before_commit: BeforeCommit | None = None,
) -> Restored:
    """What became of the rows; nothing of it, where `dry_run` is set. `before_commit` is the last thing before the end.

    Raises TableNotFound, RestoreRefused, DatabaseFailed, BlockDamaged, StoredDiffers and AwsError. After
    `before_commit` each may mean that it was committed all the same.
    """
    progress.stage, progress.passes = "checking", 1
    chosen = restores.chosen(manifest, wanted)
    async with _connected(url) as connection:
        await connection.execute("begin isolation level read committed, read write")
        targets = await _targets(connection, store, manifest, chosen, skip_damaged=wanted.skip_damaged)
        progress.total_rows = sum(target.told.rows for target in targets)
        progress.stage = "restoring"
        for target in targets:
            await _fetch(connection, target, progress)
        await _write(connection, targets, wanted.on_conflict)
        await _name_children(connection, manifest, targets)
        restored = _restored(targets)
        if wanted.dry_run:
            await connection.execute("rollback")
            return restored
        for target in targets:
            await target.landing.move_sequences(connection, target.told)
        if before_commit:
            await before_commit(restored, await _transaction(connection))
        await connection.execute("commit")
    return restored


async def committed(url: str, transaction: Transaction) -> bool:
    """Whether it was. One that has not ended after a while is ended. Raises DatabaseFailed when that is not known."""
    async with _connected(url) as connection:
        if await connection.fetchval(SYSTEM) != transaction.system_identifier:
            raise DatabaseFailed("the live database is not the one that rows were restored into")
        time = asyncio.get_running_loop().time
        began, ended = time(), False
        while True:
            try:
                status = await connection.fetchval("select pg_xact_status($1::text::xid8)", transaction.xid)
            except asyncpg.InvalidParameterValueError:  # it is yet to come: PostgreSQL crashed, and forgot ours
                return False
            if status in ("committed", "aborted"):
                return bool(status == "committed")
            if status is None:
                raise DatabaseFailed(f"PostgreSQL does not remember the transaction {transaction.xid}")
            if time() - began > ENDS_WITHIN_SECONDS:
                if ended:
                    raise DatabaseFailed(f"the transaction {transaction.xid} does not end")
                await connection.execute(END_IT.replace("$1", f"'{int(transaction.xid)}'"))
                ended = True
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _transaction(connection: Connection) -> Transaction:
    xid = await connection.fetchval("select pg_current_xact_id()::text")
    # On its disk, before anybody relies on it: PostgreSQL that crashed would give it to another transaction. A message
    # within the transaction (true) would not be flushed.
    await connection.execute("select pg_logical_emit_message(false, 'holdfast', '', true)")
    return Transaction(xid=xid, system_identifier=await connection.fetchval(SYSTEM))


async def _targets(
    connection: Connection,
    store: S3Store,
    manifest: Manifest,
    chosen: Sequence[tuple[TableWanted, TableEntry]],
    *,
    skip_damaged: bool,
) -> list[_Target]:
    """The tables as they are, and stay until the end of the transaction. Nothing was touched when this raises."""
    names = [backwards.identity(entry) for _, entry in chosen]
    schemas = sorted({schema for schema, _ in names})
    there = await connection.fetch("select nspname from pg_namespace where nspname = any ($1::text[])", schemas)
    found = await _tables(connection, [each["nspname"] for each in there])
    if known := [found[entry.object].source for _, entry in chosen if entry.object in found]:
        await connection.execute(f"lock table {', '.join(known)} in access share mode")
        found = await _tables(connection, [each["nspname"] for each in there])
    etags = await store.etags(folder(manifest.id))
    targets, refused = [], []
    for number, (wanted, entry) in enumerate(chosen, 1):
        try:
            live = found.get(entry.object)
            mapped = drift.of(entry, live)
            assert live is not None  # or it would have been refused
            await _ask_for_policies(connection, live)
        except RestoreRefused as error:
            refused.append(error.detail)
            continue
        rows = StoredRows(store, manifest, entry, etags, skip_damaged=skip_damaged)
        asked = entry.rows if wanted.keys is None else len(wanted.keys)
        told = TableRestored(name=entry.name, rows=asked, drift=mapped.remarks)
        landed = await landing.of(connection, number, entry, live, mapped.columns)
        targets.append(_Target(wanted, entry, rows, landed, told))
    if refused:
        raise RestoreRefused("; ".join(refused))
    return await _parents_first(connection, targets)


async def _tables(connection: Connection, schemas: Sequence[str]) -> dict[str, Table]:
    """By the name of the object that a backup has of each."""
    tables, _ = await catalogue.relations(connection, schemas, EVERYTHING)
    return {f"data/{object_name(table.schema, table.relation)}.json.gz": table for table in tables}


async def _ask_for_policies(connection: Connection, live: Table) -> None:
    """A policy that hides rows would have them be taken for missing ones."""
    name = qualified(live.schema, live.relation)
    if await connection.fetchval("select row_security_active($1::text::regclass)", name):
        role = await connection.fetchval("select current_user")
        raise RestoreRefused(
            f"{live.name} has row-level security, which holds for the role {role}, too: a superuser may"
            f" `alter role {role} bypassrls`, or restore the whole backup and take the rows from there"
        )


async def _parents_first(connection: Connection, targets: list[_Target]) -> list[_Target]:
    """In the order that foreign keys want; those that can be deferred are."""
    names = [qualified(*backwards.identity(target.entry)) for target in targets]
    by_name = {found[0]: target for found, target in zip(await connection.fetch(NAMES, names), targets, strict=True)}
    order = TopologicalSorter[str](dict.fromkeys(by_name, ()))
    for found in await connection.fetch(PARENTS, names):
        order.add(found["child"], found["parent"])
    with suppress(CycleError):
        return [by_name[name] for name in order.static_order()]
    return targets


async def _fetch(connection: Connection, target: _Target, progress: Progress) -> None:
    """The rows into the temporary table."""
    await connection.execute(target.landing.make)
    rows, keys = target.rows, target.wanted.keys
    async with aclosing(rows.all() if keys is None else rows.with_keys(keys)) as given:
        await backwards.load(
            connection,
            target.entry,
            given,
            progress.restored,
            target=target.landing.name,
            columns=target.landing.columns,
        )
    target.told.damaged, target.told.missing = rows.damaged, rows.missing
    count = await connection.fetchval(target.landing.count)
    if count != rows.rows:
        raise DatabaseFailed(f"{target.entry.name}: {rows.rows:,} rows were read, and {count:,} arrived")
    await connection.execute(target.landing.analyse)


async def _write(connection: Connection, targets: Sequence[_Target], on_conflict: str) -> None:
    """All tables are compared before any is written to. Raises RowsDiffer."""
    sources = ", ".join(sorted(target.landing.source for target in targets))
    await connection.execute(f"lock table {sources} in share row exclusive mode")
    for target in targets:
        await target.landing.compare(connection, target.told)
    differing = [target.told for target in targets if target.told.left]
    if differing and on_conflict == "fail":
        named = ", ".join(f"{each.left:,} of {each.name}" for each in differing)
        raise RowsDiffer(
            f"rows are there with other values: {named}. Nothing was restored. Look at them, and say in `on_conflict`"
            " whether to `skip` or to `overwrite` them",
            _told(targets),
        )
    await connection.execute("set constraints all deferred")
    for target in targets:
        await target.landing.write(connection, target.told, overwrite=on_conflict == "overwrite")
    await connection.execute("set constraints all immediate")
    for target in targets:
        await target.landing.look_again(connection, target.told)


async def _name_children(connection: Connection, manifest: Manifest, targets: Sequence[_Target]) -> None:
    """Tables whose rows may have gone with those that came back, and that nobody asked for."""
    asked = {target.entry.object for target in targets}
    others = {entry.object: entry.name for entry in manifest.tables if entry.object not in asked}
    for target in targets:
        if not target.told.added:
            continue
        table = target.landing.table
        for child in await connection.fetch(CHILDREN, qualified(table.schema, table.relation)):
            if name := others.get(f"data/{object_name(child['schema'], child['relation'])}.json.gz"):
                target.told.drift.append(f"{name} refers to it: its rows were not restored")


def _told(targets: Sequence[_Target]) -> list[TableRestored]:
    """By name, with as many changes as an answer has room for."""
    tables, room = sorted((target.told for target in targets), key=lambda told: told.name), MOST_CHANGES_BYTES
    for each in tables:
        for shown, change in enumerate(each.changes):
            room -= len(change.model_dump_json())
            if room < 0:
                del each.changes[shown:]
                break
    return tables


def _restored(targets: Sequence[_Target]) -> Restored:
    tables = _told(targets)
    damaged = ", ".join(each.name for each in tables if each.damaged)
    altered = ", ".join(each.name for each in tables if each.altered)
    reasons = [f"some rows of {damaged} are damaged in the backup, and were left out"] if damaged else []
    if altered:
        reasons.append(f"some rows of {altered} are not as in the backup, though they were written: `drift` says why")
    reason = f"NOT complete: {'; '.join(reasons)}" if reasons else None
    return Restored(tables=tables, rows=restores.counted(tables), reason=reason)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    """Raises DatabaseFailed and RestoreRefused for whatever PostgreSQL says, without a value of a row."""
    connection = await snapshot.connect(url, application_name="holdfast restore")
    try:
        with _failures_named():
            yield connection
    finally:
        connection.terminate()


@contextmanager
def _failures_named() -> Iterator[None]:
    try:
        yield
    except NotRestored as error:
        if isinstance(error.__cause__, asyncpg.PostgresError):
            raise RestoreRefused(f"{_in_words(error.__cause__)} ({error})") from error
        raise DatabaseFailed(f"the connection to the live database was lost, at {error}") from error
    except asyncpg.PostgresError as error:
        raise RestoreRefused(_in_words(error)) from error
    except scratch.LOST as error:
        raise DatabaseFailed(f"the connection to the live database was lost ({type(error).__name__})") from error


_VIOLATED: dict[type[asyncpg.PostgresError], str] = {
    asyncpg.UniqueViolationError: "another row has a value that must be unique",
    asyncpg.ForeignKeyViolationError: "a row refers to one that is not there, or is referred to",
    asyncpg.CheckViolationError: "a row breaks a check",
    asyncpg.NotNullViolationError: "a row has no value where one must be",
    asyncpg.ExclusionViolationError: "another row has a value that excludes it",
}


def _in_words(error: asyncpg.PostgresError) -> str:
    """Tables, columns and constraints are named, and no value."""
    state, within = error.sqlstate or "", _said(error, "context") or ""
    if "RAISE" in within:  # whoever wrote it chose state, table and words
        return f"PostgreSQL: a function raised an error ({state})"
    table = ".".join(name for name in (_said(error, "schema_name"), _said(error, "table_name")) if name)
    if state[:2] == "23" and table:
        what = _VIOLATED.get(type(error), type(error).__name__)
        which = _said(error, "constraint_name") or _said(error, "column_name")
        return f"{what}: {which} of {table}. Nothing was restored"
    if state == "55P03":
        return "somebody else holds a lock on these tables or rows: ask again when that has ended"
    if state == "40P01":
        return "it and another transaction waited for each other: ask again"
    hint = ""
    if state[:2] == "22":
        hint = ": a value of the backup is none of its column's type, as that is now"
    elif state == "42501" and "temporary" in snapshot.message_of(error):
        hint = "; the role of restores needs TEMPORARY on the database"
    elif state in scratch.UNKNOWN_OBJECTS and "function" in within:
        hint = ": a trigger's function names it without its schema; set search_path on that function"
    # What a function says may be made of a row.
    said = f"{type(error).__name__} ({state}) in a function" if within else snapshot.message_of(error)
    return f"PostgreSQL: {said}{hint}"


def _said(
    error: asyncpg.PostgresError,
    what: Literal["schema_name", "table_name", "constraint_name", "column_name", "context"],
) -> str:
    return str(getattr(error, what, None) or "")
