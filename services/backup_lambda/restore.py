"""A backup backwards: its SQL, its rows and its sequences, into an empty database.

JSON is read by PostgreSQL alone: a number may have more digits than a float, and a document be too deep for Python.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from backup_lambda import blocks
from backup_lambda.blocks import Block
from backup_lambda.catalogue import Connection, qualified, quoted
from backup_lambda.errors import NotRestored, StoredDiffers
from backup_lambda.manifest import TableEntry
from backup_lambda.snapshot import FAILURES
from backup_lambda.store import S3Store

CONNECTIONS = 2  # that fill a database of our own: PostgreSQL reads JSON longer than anything else in a restore takes


async def apply(connection: Connection, statements: Iterable[str]) -> None:
    """Raises NotRestored, which names the statement."""
    for statement in statements:
        try:
            await connection.execute(statement)
        except FAILURES as error:
            raise NotRestored(statement.partition("\n")[0][:200]) from error


async def load(
    connection: Connection,
    entry: TableEntry,
    stored: AsyncIterator[tuple[Block, bytes]],
    report: Callable[[int], None],
    *others: Connection,
    target: str | None = None,
    columns: Collection[str] | None = None,
) -> None:
    """The rows of a table: while some are inserted, the next are read. Raises NotRestored.

    `others` are connections to the same database, which insert in turn with the first one, each in transactions of its
    own. `report` is called with the rows of each statement. For `target` and `columns` see `insertion`.
    """
    statement = insertion(entry, target, columns)
    free = deque([connection, *others])
    inserting = deque[tuple[Connection, asyncio.Task[None]]]()
    try:
        async with aclosing(_gathered(stored)) as gathered:
            async for where, count, rows in gathered:
                if not free:
                    used, inserted = inserting.popleft()
                    await inserted
                    free.append(used)
                taken = free.popleft()
                insert = _insert(taken, statement, rows, f"{entry.name}, {where}")
                inserting.append((taken, asyncio.create_task(insert)))
                report(count)
        for _, inserted in inserting:
            await inserted
    finally:
        for _, inserted in inserting:
            inserted.cancel()
        await asyncio.gather(*(inserted for _, inserted in inserting), return_exceptions=True)


async def _gathered(stored: AsyncIterator[tuple[Block, bytes]]) -> AsyncGenerator[tuple[str, int, bytes]]:
    """What one statement inserts: which blocks in words, and their rows; a block alone where it is larger."""
    gathered, first, number, count, size = list[bytes](), 1, 0, 0, 0
    async for block, rows in stored:
        if gathered and size + len(rows) > blocks.RUN_BYTES:
            yield _blocks(first, number), count, b"".join(gathered)
            gathered, first, count, size = [], number + 1, 0, 0
        gathered.append(rows)
        number, count, size = number + 1, count + block.rows, size + len(rows)
    if count:
        yield _blocks(first, number), count, b"".join(gathered)


def _blocks(first: int, last: int) -> str:
    return f"block {first}" if first == last else f"blocks {first} to {last}"


async def _insert(connection: Connection, statement: str, rows: bytes, where: str) -> None:
    try:
        await connection.execute(statement, memoryview(rows)[:-1])
    except FAILURES as error:
        raise NotRestored(where) from error


def insertion(entry: TableEntry, target: str | None = None, columns: Collection[str] | None = None) -> str:
    """The statement that inserts the rows whose JSON, a line each, it is given.

    What was written as text is read by its type from that text. Generated columns make themselves. `target` is another
    table to insert into, as SQL names it, and `columns` are those to fill; the others get their defaults.
    """
    filled = [
        column
        for column in entry.catalogue["columns"]
        if not column["generated"] and (columns is None or column["name"] in columns)
    ]
    names = ", ".join(quoted(column["name"]) for column in filled)
    types = ", ".join(f"{quoted(each['name'])} {_read_as(each)}" for each in filled)
    values = ", ".join(
        f"r.{quoted(each['name'])}" + (f"::{each['type']}" if each["written_as"] == "text" else "") for each in filled
    )
    table = target or qualified(*identity(entry))
    lines = r"string_to_table(convert_from($1::bytea, 'UTF8'), e'\n') as line"
    if not filled:
        return f"insert into {table} select from {lines}"
    return (
        f"insert into {table} ({names}) overriding system value"  # noqa: S608  # all names are quoted
        f" select {values} from {lines} cross join lateral json_to_record(line::json) as r ({types})"
    )


def _read_as(column: dict[str, Any]) -> str:
    return "text" if column["written_as"] == "text" else str(column["type"])


def names_objects(entry: TableEntry) -> bool:
    """Whether a value may be the name of an object, as those of regclass are."""
    return any(column["type"].startswith("reg") for column in entry.catalogue["columns"])


def identity(entry: TableEntry) -> tuple[str, str]:
    """Schema and name of a table: its `name` does not tell them apart where they have dots in them."""
    schema, relation = PurePosixPath(entry.object).name.removesuffix(".json.gz").split(".")
    return unquote(schema), unquote(relation)


async def set_sequences(connection: Connection, sequences: Sequence[dict[str, Any]]) -> None:
    """Raises NotRestored."""
    for each in sequences:
        name = qualified(each["schema"], each["relation"])
        try:
            await connection.execute(
                "select setval($1::text::regclass, $2, $3)", name, each["last_value"], each["is_called"]
            )
        except FAILURES as error:
            raise NotRestored(f"sequence {each['name']}") from error


async def stored_blocks(
    store: S3Store,
    folder: str,
    entry: TableEntry,
    index: Sequence[Block],
    damaged: Callable[[Block, StoredDiffers], None] | None = None,
) -> AsyncGenerator[tuple[Block, bytes], None]:
    """The blocks of a table and their rows, each checked against the index, and all against the table's digest.

    Raises StoredDiffers and AwsError. With `damaged`, that is called for a block that is not what was stored, and the
    others are given; the digest is not asked for then.
    """
    digest, whole = hashlib.sha256(), True
    stored = store.stream(folder + entry.object, entry.etag)
    async with aclosing(blocks.read_runs(index, stored, entry.primary_key)) as runs:
        async for run in runs:
            good = [(block, rows) for block, rows in run if isinstance(rows, bytes)]
            for block, error in run:
                if isinstance(error, StoredDiffers):
                    if damaged is None:
                        raise error
                    damaged(block, error)
                    whole = False
            await asyncio.to_thread(_update, digest, [rows for _, rows in good])
            for block, rows in good:
                yield block, rows
    if whole and digest.hexdigest() != entry.sha256:
        raise StoredDiffers("its rows do not give the digest that the manifest has")


def _update(digest: "hashlib._Hash", rows: Iterable[bytes]) -> None:
    for each in rows:
        digest.update(each)
