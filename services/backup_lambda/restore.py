"""A backup backwards: its SQL, its rows and its sequences, into an empty database.

JSON is read by PostgreSQL alone: a number may have more digits than a float, and a document be too deep for Python.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
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


async def apply(connection: Connection, statements: Iterable[str]) -> None:
    """Raises NotRestored, which names the statement."""
    for statement in statements:
        try:
            await connection.execute(statement)
        except FAILURES as error:
            raise NotRestored(statement.partition("\n")[0][:200]) from error


async def load(
    connection: Connection, entry: TableEntry, stored: AsyncIterator[tuple[Block, bytes]], report: Callable[[int], None]
) -> None:
    """The rows of a table, block by block: while one is inserted, the next is read. Raises NotRestored.

    `report` is called with the rows of each block.
    """
    statement = insertion(entry)
    inserting: asyncio.Task[Any] | None = None
    number = 0
    try:
        async for block, rows in stored:
            if inserting:
                await inserting
            if block.rows:
                inserting = asyncio.create_task(connection.execute(statement, memoryview(rows)[:-1]))
                report(block.rows)
            number += 1
        if inserting:
            await inserting
    except FAILURES as error:
        raise NotRestored(f"{entry.name}, block {number}") from error
    finally:
        if inserting and not inserting.done():
            inserting.cancel()
            await asyncio.gather(inserting, return_exceptions=True)


def insertion(entry: TableEntry) -> str:
    """The statement that inserts the rows whose JSON, a line each, it is given.

    What was written as text is read by its type from that text. Generated columns make themselves.
    """
    columns = [column for column in entry.catalogue["columns"] if not column["generated"]]
    names = ", ".join(quoted(column["name"]) for column in columns)
    types = ", ".join(f"{quoted(each['name'])} {_read_as(each)}" for each in columns)
    values = ", ".join(
        f"r.{quoted(each['name'])}" + (f"::{each['type']}" if each["written_as"] == "text" else "") for each in columns
    )
    target = qualified(*identity(entry))
    lines = r"string_to_table(convert_from($1::bytea, 'UTF8'), e'\n') as line"
    if not columns:
        return f"insert into {target} select from {lines}"
    return (
        f"insert into {target} ({names}) overriding system value"  # noqa: S608  # all names are quoted
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
    store: S3Store, folder: str, entry: TableEntry, index: Sequence[Block]
) -> AsyncGenerator[tuple[Block, bytes], None]:
    """The blocks of a table and their rows, each checked against the index, and all against the table's digest.

    Raises StoredDiffers and AwsError.
    """
    digest = hashlib.sha256()
    stored = store.stream(folder + entry.object, entry.etag)
    async with aclosing(blocks.read(index, stored, entry.primary_key)) as found:
        async for block, rows in found:
            await asyncio.to_thread(digest.update, rows)
            yield block, rows
    if digest.hexdigest() != entry.sha256:
        raise StoredDiffers("its rows do not give the digest that the manifest has")
