"""Requests over a few connections that are kept alive, each sent when the one before is answered.

It shares the machine with what it measures, so it does as little as can be: no parser, only `find`.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

CONNECTIONS = 16
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)

Sent = Callable[[int, bytes], bytes]  # the request of a connection, by its number and the head of the answer before


class Loaded(NamedTuple):
    requests: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class Client(asyncio.Protocol):
    def __init__(self, number: int, make: Sent, until: float, done: asyncio.Future[int]) -> None:
        self.number, self.make, self.until, self.done = number, make, until, done
        self.buffer = b""
        self.needed = 0  # bytes of this answer, once they are known
        self.answered = 0
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.make(self.number, b""))

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        if not self.needed:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head = self.buffer[: end + 4]
            length = _LENGTH.search(self.head)
            if self.head[9:10] != b"2" or length is None:
                self._end(RuntimeError(self.buffer[:2000].decode(errors="replace")))
                return
            self.needed = end + 4 + int(length[1])
        if len(self.buffer) < self.needed:
            return
        self.buffer, self.needed = b"", 0
        self.answered += 1
        following = self.make(self.number, self.head)  # also of the last answer: the next round goes on from it
        if time.perf_counter() < self.until:
            self.transport.write(following)
        else:
            self._end(None)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError("the server has closed a connection"))

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(self.answered)
        self.transport.close()


async def load(base_url: str, make: Sent, seconds: float, connections: int = CONNECTIONS) -> Loaded:
    """Raises RuntimeError with the first answer that is not a success."""
    loop, address = asyncio.get_running_loop(), urlsplit(base_url)
    assert address.hostname
    assert address.port
    begun = time.perf_counter()
    ends: list[asyncio.Future[int]] = [loop.create_future() for _ in range(connections)]
    for number, done in enumerate(ends):

        def client(number: int = number, done: asyncio.Future[int] = done) -> Client:
            return Client(number, make, begun + seconds, done)

        await loop.create_connection(client, address.hostname, address.port)
    answered = await asyncio.gather(*ends)
    return Loaded(sum(answered), time.perf_counter() - begun)


def request(method: str, target: str, body: bytes = b"", /, **headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: notes.test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
