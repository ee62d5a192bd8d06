"""A wire to PostgreSQL that can be cut, stalled and altered at chosen bytes.

Marks are looked for in what one read gives: they are short, and chosen so that they come within it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

Wire = Callable[[int, bytes], Awaitable[bytes]]


class Cut(Exception):
    """The connection ends here, when this much has passed."""

    def __init__(self, data: bytes) -> None:
        self.data = data


async def same(passed: int, data: bytes) -> bytes:
    return data


@asynccontextmanager
async def wired(url: str, change: Wire = same, *, sent: Wire = same) -> AsyncIterator[str]:
    """A URL that reaches the server through a wire: `change` gets how many bytes passed before, and what comes.

    They are counted anew for every connection. `sent` is the same for what the client sends.
    """
    server = urlsplit(url)
    connections: set[asyncio.Task[None]] = set()

    async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter, change: Wire) -> None:
        passed = 0
        try:
            while data := await source.read(65536):
                to.write(await change(passed, data))
                await to.drain()
                passed += len(data)
        except Cut as cut:
            to.write(cut.data)
            with suppress(ConnectionError):
                await to.drain()
        except ConnectionError:
            return

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side ends, or the test does."""
        ends = [writer]
        tasks: list[asyncio.Task[None]] = []
        try:
            there_reader, there_writer = await asyncio.open_connection(server.hostname, server.port)
            ends.append(there_writer)
            directions = [carry(reader, there_writer, sent), carry(there_reader, writer, change)]
            tasks += [asyncio.create_task(each) for each in directions]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *(aborted(end) for end in ends), return_exceptions=True)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(connect(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as wire:
        port = wire.sockets[0].getsockname()[1]
        try:
            yield url.replace(f":{server.port}/", f":{port}/") + "?sslmode=disable"
        finally:
            wire.close()
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)


def at(mark: bytes, *happens: Callable[[], object]) -> Wire:
    """Before the first bytes with `mark` pass, all that `happens` happens."""
    done = False

    async def change(passed: int, data: bytes) -> bytes:
        nonlocal done
        if not done and mark in data:
            done = True
            for each in happens:
                if isinstance(waiting := each(), Awaitable):
                    await waiting
        return data

    return change


def cut_at(mark: bytes, passing: int) -> Wire:
    """The connection ends when `passing` bytes of what begins with `mark` have passed."""

    async def change(passed: int, data: bytes) -> bytes:
        if (start := data.find(mark)) >= 0:
            raise Cut(data[: start + passing])
        return data

    return change


def altered(old: bytes, new: bytes) -> Wire:
    async def change(passed: int, data: bytes) -> bytes:
        return data.replace(old, new)

    return change


def both(first: Wire, second: Wire) -> Wire:
    async def change(passed: int, data: bytes) -> bytes:
        return await second(passed, await first(passed, data))

    return change


def one_after_the_other(changes: Iterable[Wire]) -> Wire:
    """Each until it has cut the connection."""
    left = deque(changes)

    async def change(passed: int, data: bytes) -> bytes:
        if not left:
            return data
        try:
            return await left[0](passed, data)
        except Cut:
            left.popleft()
            raise

    return change


def message_of(data: bytes, mark: bytes) -> tuple[int, int]:
    """Where the CopyData message is whose text begins with `mark`: a row."""
    start = data.index(mark) - 5
    return start, start + 1 + int.from_bytes(data[start + 1 : start + 5], "big")


def lost(mark: bytes) -> Wire:
    """The row that begins with `mark` does not arrive."""

    async def change(passed: int, data: bytes) -> bytes:
        if mark not in data:
            return data
        start, end = message_of(data, mark)
        assert end <= len(data)
        return data[:start] + data[end:]

    return change


def doubled(mark: bytes) -> Wire:
    """The row that begins with `mark` arrives twice."""

    async def change(passed: int, data: bytes) -> bytes:
        if mark not in data:
            return data
        start, end = message_of(data, mark)
        assert end <= len(data)
        return data[:end] + data[start:]

    return change


async def aborted(writer: asyncio.StreamWriter) -> None:
    """Closed now: one that only closes would first send what nobody reads."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
