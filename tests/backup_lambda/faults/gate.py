"""A gate in front of AWS: real requests pass through it, and a test decides what becomes of them and of the answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

import httpx

_CONNECTION = {"connection", "content-length", "keep-alive", "transfer-encoding"}  # of one connection, not of a message


@dataclass(frozen=True)
class Call:
    """A request, named as botocore names its operation. `name` is of its object, below the backup."""

    operation: str
    key: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def name(self) -> str:
        return self.key.split("/", 2)[-1]


@dataclass(frozen=True)
class Answer:
    """`promised` is the length that its head tells, where that is not the body's."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    promised: int | None = None


Forward = Callable[[Call], Awaitable[Answer]]
# What happens to a call: its answer, or None when the connection is cut without one.
Fault = Callable[[Call, Forward], Awaitable[Answer | None]]


async def no_fault(call: Call, forward: Forward) -> Answer | None:
    return await forward(call)


@dataclass
class Gate:
    """`fault` is asked about every call."""

    url: str
    fault: Fault = no_fault
    calls: list[Call] = field(default_factory=list)

    def break_(self, operation: str, name: str, fault: Fault, *, times: int | None = None, after: int = 0) -> "Broken":
        """Have `fault` happen to the calls of this operation whose object's name begins so: so many, after some."""
        broken = Broken(operation, name, fault, self.fault, after, times)
        self.fault = broken
        return broken

    def mend(self) -> None:
        self.fault, self.calls = no_fault, []


@dataclass
class Broken:
    """One thing that is broken. `happened` is set the first time."""

    operation: str
    name: str
    fault: Fault
    otherwise: Fault
    after: int
    times: int | None
    count: int = 0
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, call: Call, forward: Forward) -> Answer | None:
        if call.operation != self.operation or not call.name.startswith(self.name):
            return await self.otherwise(call, forward)
        self.count += 1
        if self.count <= self.after or (self.times is not None and self.count > self.after + self.times):
            return await self.otherwise(call, forward)
        self.happened.set()
        return await self.fault(call, forward)


@asynccontextmanager
async def gate_to(upstream: str) -> AsyncIterator[Gate]:
    there = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None, max_keepalive_connections=16))
    connections: set[asyncio.Task[None]] = set()

    async def forward(call: Call) -> Answer:
        request = httpx.Request(call.method, upstream + call.target, headers=dict(call.headers), content=call.body)
        answer = await there.handle_async_request(request)
        body = b"".join([piece async for piece in answer.aiter_raw()])
        length = answer.headers.get("content-length")
        await answer.aclose()
        return Answer(answer.status_code, dict(answer.headers), body, int(length) if length else None)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while call := await _call(reader, writer):
                gate.calls.append(call)
                answer = await gate.fault(call, forward)
                if answer is None:
                    break
                writer.write(_bytes(answer))
                await writer.drain()
                if call.method != "HEAD" and answer.promised not in (None, len(answer.body)):
                    break
        except (OSError, asyncio.IncompleteReadError, httpx.TransportError):
            pass
        finally:
            # Cut, so that nobody waits; what was written to a client that reads has left by then.
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    async with there, await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        gate = Gate(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            yield gate
        finally:
            server.close()
            for connection in list(connections):
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)


async def _call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.pop("expect", None):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    operation, key = _named(method, target, headers, body)
    return Call(operation, key, method, target, headers, body)


def _named(method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    address = urlsplit(target)
    query = parse_qs(address.query, keep_blank_values=True)
    _, _, key = unquote(address.path).lstrip("/").partition("/")
    if "x-www-form-urlencoded" in headers.get("content-type", ""):
        return parse_qs(body.decode())["Action"][0], ""
    if target_action := headers.get("x-amz-target", "").rpartition(".")[2]:
        return target_action, ""
    if method == "GET" and "list-type" in query:
        return "ListObjectsV2", query.get("prefix", [""])[0]
    if "uploads" in query:
        return "CreateMultipartUpload", key
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}[method], key
    return {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject"}.get(method, method), key


def _bytes(answer: Answer) -> bytes:
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in _CONNECTION}
    headers["content-length"] = str(len(answer.body) if answer.promised is None else answer.promised)
    lines = [f"HTTP/1.1 {answer.status} {'OK' if answer.status < 300 else 'Not OK'}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body
