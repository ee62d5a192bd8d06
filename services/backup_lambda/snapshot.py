"""One snapshot of PostgreSQL, from which all tables are read."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg

from backup_lambda import catalogue
from backup_lambda.catalogue import Table
from backup_lambda.errors import BackupFailed, DatabaseFailed

CONNECT_SECONDS = 10
CLOSE_SECONDS = 5
ATTEMPTS_TO_LOCK = 3
_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
# Several of these change how a value is written, so that a role's or a database's own default would change the bytes.
SESSION = {
    "application_name": "holdfast backup",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "search_path": "",
    "row_security": "off",  # a policy that hides rows is an error now, and would give zero rows otherwise
    "synchronize_seqscans": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    "lock_timeout": "10s",  # a migration holds its table: give up instead of standing in everybody's way behind it
}


class Counted(NamedTuple):
    """A table, with each column written as its values need it; how many rows it has, and the sum of their hashes."""

    table: Table
    rows: int
    row_hash: str


@dataclass(frozen=True)
class Snapshot:
    """What the database holds at one moment. Its methods raise DatabaseFailed."""

    connection: "asyncpg.Connection[asyncpg.Record]" = field(repr=False)
    tables: list[Table]
    not_backed_up: list[dict[str, str]]
    database: dict[str, Any]
    taken: dict[str, Any]
    schema_revision: dict[str, str | None]
    sequences: list[dict[str, Any]]

    async def count(self, table: Table) -> Counted:
        """Look at every row once before any is written."""
        with _failures_named():
            found = await self.connection.fetchrow(table.count_query)
        assert found is not None
        rows, row_hash, *lost = found.values()
        return Counted(table.with_text(dict(zip(table.lossy, lost, strict=True))), rows, row_hash)

    async def copy(self, table: Table, sink: Callable[[bytes], Coroutine[Any, Any, None]]) -> int:
        """Give the table's rows to `sink`, each a line of JSON, in pieces of any size; the rows that PostgreSQL says.

        COPY's text format would double every backslash. Its csv format leaves JSON as it is when the quote and the
        delimiter are characters that JSON always escapes.
        """
        with _failures_named():
            tag = await self.connection.copy_from_query(
                table.rows_query, output=sink, format="csv", quote="\x01", delimiter="\x02"
            )
        return int(tag.removeprefix("COPY "))


@asynccontextmanager
async def opened(url: str, schemas: Sequence[str]) -> AsyncIterator[Snapshot]:
    """Raises BackupFailed, also when a schema does not exist or there is no table."""
    connection = await _connect(url)
    try:
        with _failures_named():
            tables, others = await _begin(connection, schemas)
            if not tables:
                where = ", ".join(schemas)
                raise BackupFailed(f"no table was found in the schemas {where}: is the database migrated?")
            snapshot = await _describe(connection, schemas, tables, others)
        yield snapshot
        with suppress(*_FAILURES):
            await connection.close(timeout=CLOSE_SECONDS)  # a lost connection would stand in PostgreSQL's log
    finally:
        connection.terminate()


async def _connect(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    with _failures_named():
        try:
            address = urlsplit(url)
            if not (address.username and address.hostname):  # asyncpg would take this system's user and localhost
                raise ValueError
            return await asyncpg.connect(url, timeout=CONNECT_SECONDS, server_settings=SESSION)
        except (ValueError, FileNotFoundError) as error:  # its text may show a part of the URL, and so of the password
            raise DatabaseFailed(
                f"the database secret cannot be used ({type(error).__name__}): it is not of the form"
                " postgresql://user:password@host/database, or its TLS files are missing"
            ) from None
        except TimeoutError:
            raise DatabaseFailed(f"PostgreSQL: did not answer within {CONNECT_SECONDS} s") from None


async def _begin(
    connection: "asyncpg.Connection[asyncpg.Record]", schemas: Sequence[str]
) -> tuple[list[Table], list[dict[str, str]]]:
    """Begin the transaction with every table locked against change before the snapshot is taken.

    TRUNCATE and ALTER TABLE do not respect older snapshots: a table truncated between the snapshot and its COPY
    would look empty. So tables are found, locked, and found again inside the snapshot that the lock preceded.
    """
    for _ in range(ATTEMPTS_TO_LOCK):
        found, _ = await catalogue.relations(connection, schemas)
        await connection.execute("begin isolation level repeatable read, read only")
        if found:
            await connection.execute(f"lock table {', '.join(t.source for t in found)} in access share mode")
        tables, others = await catalogue.relations(connection, schemas)
        if tables == found:
            return tables, others
        await connection.execute("rollback")
    raise DatabaseFailed("tables kept changing while the backup began")


async def _describe(
    connection: "asyncpg.Connection[asyncpg.Record]",
    schemas: Sequence[str],
    tables: list[Table],
    others: list[dict[str, str]],
) -> Snapshot:
    database = await connection.fetchrow(catalogue.DATABASE)
    taken = await connection.fetchrow(catalogue.SNAPSHOT)
    assert database is not None
    assert taken is not None
    sequences = await connection.fetch(catalogue.SEQUENCES, schemas)
    if hidden := [each["name"] for each in sequences if not each["readable"]]:
        raise DatabaseFailed(f"PostgreSQL: permission denied for sequence {', '.join(hidden)}")
    values = [{"name": each["name"], "last_value": each["last_value"]} for each in sequences]
    if count := await connection.fetchval(catalogue.LARGE_OBJECTS):
        others = [*others, {"name": "large objects", "reason": f"{count} of them: they belong to no schema"}]
    revisions = dict.fromkeys(schemas)
    for table in tables:
        if table.relation == "alembic_version":
            revisions[table.schema] = await connection.fetchval(f"select version_num from {table.source}")  # noqa: S608  # quoted
    return Snapshot(connection, tables, others, dict(database), dict(taken), revisions, values)


@contextmanager
def _failures_named() -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise DatabaseFailed(f"PostgreSQL: {str(error) or type(error).__name__}") from error
