"""What is stored of a backup, read from the bucket by links that the backup API gives, and compared with its digests.

Every call raises what `answers` tells apart: Unavailable and Refused.
"""

import asyncio
import hashlib
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
from pydantic import BaseModel, ValidationError

from scheduler import catalogue
from scheduler.answers import ANSWER_SECONDS, CONNECT_SECONDS, Refused, Unavailable, failure
from scheduler.backups import Backups, Count
from scheduler.catalogue import Backup, Link, Table

MAX_INDEX_BYTES = 16 * 1024 * 1024  # unpacked; a line of 200 bytes tells of 128 KiB, so this is of 10 GiB
MAX_BLOCK_BYTES = 8 * 1024 * 1024
VERIFIED_BYTES = 64 * 1024 * 1024  # of a backup, as it is stored, that somebody may wait for


class Block(BaseModel):
    """Where whole rows are in a table's data, and the digest of them."""

    offset: Count
    length: Count
    rows: Count
    sha256: str


class Rows(NamedTuple):
    """The rows of a block, each as it is stored, which have the digest that the index says."""

    number: int
    blocks: int
    before: int  # rows in the blocks before
    rows: list[dict[str, Any]]


class Verified(NamedTuple):
    """A table whose rows were all read; `wrong` says what differs from its manifest."""

    name: str
    rows: int
    bytes: int
    wrong: str


async def rows(link: Link, number: int) -> Rows:
    """Those of a block of a table. Raises Refused when they are not what was stored, too."""
    async with _client() as http:
        index = _unpacked(await _got(http, link.index_url), MAX_INDEX_BYTES)
        try:
            blocks = [Block.model_validate_json(line) for line in index.splitlines()]
        except ValidationError:
            raise Refused("The index of the table cannot be read: it is not what was stored.") from None
        if not blocks:
            return Rows(0, 0, 0, [])
        if number >= len(blocks):
            raise Refused(f"The table has {len(blocks)} blocks of rows, from 0 on.", 404)
        block = blocks[number]
        last = block.offset + block.length - 1
        content = _unpacked(await _got(http, link.url, {"Range": f"bytes={block.offset}-{last}"}), MAX_BLOCK_BYTES)
    if hashlib.sha256(content).hexdigest() != block.sha256:
        raise Refused("These rows are not those that were stored: their digest is another one. Do not restore them.")
    before = sum(each.rows for each in blocks[:number])
    # Every digit of numbers stays: they are texts here.
    found = [json.loads(line, parse_int=str, parse_float=str) for line in content.splitlines()]
    return Rows(number, len(blocks), before, found)


async def verify(api: Backups, backup: Backup) -> list[Verified]:
    """Every row of every table is read back and compared with what the manifest says. Refused for a large backup."""
    if backup.stored_bytes > VERIFIED_BYTES:
        raise Refused(
            "The backup is too large to be read while you wait. Prove it again, which reads all of it, or use the"
            " command: python -m backup_lambda verify --read-data."
        )
    try:
        async with asyncio.timeout(ANSWER_SECONDS), _client() as http:
            return [
                await _verified(http, table, await catalogue.link(api, backup.id, table.name))
                for table in backup.tables
            ]
    except TimeoutError as error:
        raise Unavailable("Reading it took too long. Prove it again, which reads all of it.") from error


async def _verified(http: httpx.AsyncClient, table: Table, link: Link) -> Verified:
    digest, count, size = hashlib.sha256(), 0, 0
    try:
        async for part in _stream(http, link.url):
            digest.update(part)
            count += part.count(b"\n")
            size += len(part)
    except (zlib.error, Refused) as error:
        return Verified(table.name, count, size, f"It cannot be read: {error}")
    if (count, size, digest.hexdigest()) == (table.rows, table.bytes, table.sha256):
        return Verified(table.name, count, size, "")
    return Verified(table.name, count, size, f"The manifest has {table.rows} rows of {table.bytes} bytes, or others.")


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    headers = {"Accept-Encoding": "identity"}
    async with httpx.AsyncClient(timeout=timeout, trust_env=False, headers=headers) as http:
        try:
            yield http
        except httpx.RequestError as error:
            raise Unavailable(f"The bucket does not answer ({type(error).__name__}).") from error


async def _got(http: httpx.AsyncClient, url: str, headers: dict[str, str] | None = None) -> bytes:
    response = await http.get(url, headers=headers)
    if not response.is_success:
        raise failure("The bucket", response)
    return response.content


async def _stream(http: httpx.AsyncClient, url: str) -> AsyncIterator[bytes]:
    """Unpacked; of one gzip member after the other."""
    async with http.stream("GET", url) as response:
        if not response.is_success:
            raise failure("The bucket", response)
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        async for chunk in response.aiter_raw():
            rest = chunk
            while rest:
                yield member.decompress(rest)
                rest = member.unused_data
                if member.eof:
                    member = zlib.decompressobj(16 + zlib.MAX_WBITS)


def _unpacked(packed: bytes, most: int) -> bytes:
    """Of one or more gzip members, up to `most` bytes."""
    found, rest = b"", packed
    try:
        while rest:
            member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            found += member.decompress(rest, most + 1 - len(found))
            if len(found) > most:
                raise Refused(f"It is too large to be shown: over {most} bytes. Download the table instead.")
            if not member.eof:
                raise zlib.error("it ends early")
            rest = member.unused_data
    except zlib.error as error:
        raise Refused(f"What is stored cannot be unpacked: {error}.") from None
    return found
