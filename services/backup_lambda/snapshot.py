"""One snapshot of PostgreSQL, from which all tables are read."""

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from ssl import SSLCertVerificationError
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg

from backup_lambda import catalogue, ddl, login
from backup_lambda.catalogue import EVERYTHING, Connection, Selection, Table
from backup_lambda.errors import BackupFailed, DatabaseFailed
from backup_lambda.manifest import SchemaSql

CONNECT_SECONDS = 10
CLOSE_SECONDS = 5
ATTEMPTS_TO_LOCK = 3
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
# The classes of errors whose messages name objects or what the server lacks, and never a value.
NAMING_OBJECTS = {"08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"}
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
    """A table, with each column written as its values need it, and how many rows it has."""

    table: Table
    rows: int


@dataclass(frozen=True)
class Snapshot:
    """What the database holds at one moment. Its methods raise DatabaseFailed."""

    connection: Connection = field(repr=False)
    tables: list[Table]
    not_backed_up: list[dict[str, str]]
    database: dict[str, Any]
    taken: dict[str, Any]
    schema_revision: dict[str, str | None]
    schema_sql: SchemaSql
    sequences: list[dict[str, Any]]

    async def count(self, table: Table) -> Counted:
        """Look at every row once before any is written."""
        with _failures_named():
            [found] = await self.connection.fetch(table.count_query)
        rows, *lost = found.values()
        return Counted(table.with_text(dict(zip(table.lossy, lost, strict=True))), rows)

    async def row_hash(self, table: Table) -> str:
        """The sum of the hashes of its rows, as PostgreSQL writes a row as text."""
        with _failures_named():
            [found] = await self.connection.fetch(table.hash_query)
        return str(found[0])

    async def copy(self, table: Table, sink: Callable[[bytes], Coroutine[Any, Any, None]]) -> int:
        """Give the table's rows to `sink`, each a line of JSON, in pieces of any size; the rows that PostgreSQL says.

        COPY's text format would double every backslash. Its csv format leaves JSON as it is when the quote and the
        delimiter are characters that JSON always escapes.
        """
        with _short_memory_named(table), _failures_named():
            tag = await self.connection.copy_from_query(
                table.rows_query, output=sink, format="csv", quote="\x01", delimiter="\x02"
            )
        return int(tag.removeprefix("COPY "))


@asynccontextmanager
async def opened(url: str, schemas: Sequence[str], selection: Selection = EVERYTHING) -> AsyncIterator[Snapshot]:
    """Raises BackupFailed, also when a schema does not exist, there is no table, or not the one that was asked for."""
    connection = await connect(url)
    try:
        with _failures_named():
            tables, others = await _begin(connection, schemas, selection)
            if not tables:
                where = ", ".join(schemas)
                raise BackupFailed(f"no table was found in the schemas {where}: is the database migrated?")
            snapshot = await _describe(connection, schemas, tables, others, whole=selection.asked is None)
        yield snapshot
        with suppress(*FAILURES):
            await connection.close(timeout=CLOSE_SECONDS)  # a lost connection would stand in PostgreSQL's log
    finally:
        connection.terminate()


async def connect(url: str, **settings: str) -> Connection:
    """With SESSION, and `settings` besides. Raises DatabaseFailed."""
    with _failures_named():
        try:
            address = urlsplit(url)
            if not (address.username and address.hostname):  # asyncpg would take this system's user and localhost
                raise ValueError
            return await asyncpg.connect(
                **login.arguments(url), timeout=CONNECT_SECONDS, server_settings=SESSION | settings
            )
        except SSLCertVerificationError as error:
            raise DatabaseFailed(f"PostgreSQL: certificate verify failed: {error.verify_message}") from None
        except (ValueError, FileNotFoundError) as error:  # its text may show a part of the URL, and so of the password
            raise DatabaseFailed(
                f"the database's URL cannot be used ({type(error).__name__}): it is not of the form"
                " postgresql://user:password@host/database or postgresql+iam://user@host/database, or there are no"
                " AWS credentials for the latter, or its TLS files are missing"
            ) from None
        except asyncpg.UndefinedObjectError as error:  # SESSION has a setting that came with 17
            raise DatabaseFailed(f"PostgreSQL 17 or newer is needed: {error}") from None
        except TimeoutError:
            raise DatabaseFailed(f"PostgreSQL: did not answer within {CONNECT_SECONDS} s") from None


async def _begin(
    connection: Connection, schemas: Sequence[str], selection: Selection
) -> tuple[list[Table], list[dict[str, str]]]:
    """Begin the transaction with every table locked against change before the snapshot is taken.

    TRUNCATE and ALTER TABLE do not respect older snapshots: a table truncated between the snapshot and its COPY
    would look empty. So tables are found, locked, and found again inside the snapshot that the lock preceded.
    """
    for _ in range(ATTEMPTS_TO_LOCK):
        found, _ = await catalogue.relations(connection, schemas, selection)
        await connection.execute("begin isolation level repeatable read, read only")
        if found:
            await connection.execute(f"lock table {', '.join(t.source for t in found)} in access share mode")
        tables, others = await catalogue.relations(connection, schemas, selection)
        if tables == found:
            return tables, others
        await connection.execute("rollback")
    raise DatabaseFailed("tables kept changing while the backup began")


async def _describe(
    connection: Connection,
    schemas: Sequence[str],
    tables: list[Table],
    others: list[dict[str, str]],
    whole: bool,
) -> Snapshot:
    database = await connection.fetchrow(catalogue.DATABASE)
    taken = await connection.fetchrow(catalogue.SNAPSHOT)
    assert database is not None
    assert taken is not None
    made = await ddl.statements(connection, schemas, tables, whole)
    if made.refused and not (whole and made.tables):
        raise BackupFailed("{name} cannot be backed up: it {reason}".format(**made.refused[0]))
    others = [*others, *made.refused, *made.not_backed_up]
    sequences = await catalogue.sequences(connection, made.sequences)
    if count := await connection.fetchval(catalogue.LARGE_OBJECTS):
        others = [*others, {"name": "large objects", "reason": f"{count} of them: they belong to no schema"}]
    revisions = dict.fromkeys(schemas)
    for table in made.tables:
        if table.relation == "alembic_version":
            revisions[table.schema] = await connection.fetchval(f"select version_num from {table.source}")  # noqa: S608  # quoted
    tables = [table.without(made.not_made) for table in made.tables]
    return Snapshot(connection, tables, others, dict(database), dict(taken), revisions, made.sql, sequences)


@contextmanager
def _short_memory_named(table: Table) -> Iterator[None]:
    """Memory that ends in the middle of a row: asyncpg takes it for a lost connection."""
    try:
        yield
    except (MemoryError, DatabaseFailed) as error:
        each: BaseException | None = error
        while each is not None and not isinstance(each, MemoryError):
            each = each.__cause__ or each.__context__
        if each is None:
            raise
        raise BackupFailed(
            f"a row of {table.name} is too long for this process's memory: give the worker more"
        ) from error


@contextmanager
def _failures_named() -> Iterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        raise DatabaseFailed(f"PostgreSQL: {message_of(error)}") from error
    except FAILURES as error:
        raise DatabaseFailed(f"PostgreSQL: {str(error) or type(error).__name__}") from error


def message_of(error: asyncpg.PostgresError) -> str:
    """What PostgreSQL says, if that cannot show a row: its details may, and so may what a function raises."""
    state = error.sqlstate or ""
    if "RAISE" in (getattr(error, "context", None) or ""):
        return f"a function raised an error ({state})"
    if state[:2] == "23":
        return f"{type(error).__name__} ({state}) of {getattr(error, 'constraint_name', None) or 'a constraint'}"
    text = str(getattr(error, "message", None) or type(error).__name__)[:300]
    if state[:2] in NAMING_OBJECTS or re.match(r"could not \w+ file ", text):
        return text
    return f"{type(error).__name__} ({state})"
