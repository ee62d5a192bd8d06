"""Requests to URLs that the installation allows: which these are, where they really go, what their answers mean."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from scheduler import answers
from scheduler.answers import Refused, Unavailable
from scheduler.outside import MAX_ANSWER_BYTES, Outside
from scheduler.steps import Reach
from tests.scheduler.gateway import Call, listening
from tests.scheduler.one_run import Make, OneRun

ALLOWED = ["https://hooks.example/notes", "http://10.1.2.3:8080", "https://[fd00::1]/x/"]
PUBLIC = "93.184.215.14"


@dataclass
class Receiver:
    """Somebody who is called, at `url`."""

    url: str = ""
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    instead: deque[Response] = field(default_factory=deque)  # the next answers, in place of 204
    open: asyncio.Event = field(default_factory=asyncio.Event)  # while it is not set, nobody gets an answer

    async def answer(self, request: Request) -> Response:
        self.calls.append(await Call.of(request))
        await self.open.wait()
        return self.instead.popleft() if self.instead else Response(status_code=204)

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])


class ToThisMachine(httpx.AsyncBaseTransport):
    """In place of the address that was asked, which it writes down."""

    def __init__(self, port: int, dead: Sequence[str] = (), **options: Any) -> None:
        self.port, self.dead = port, dead
        self.asked: list[str] = []
        self.real = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=0), **options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.host)
        if request.url.host in self.dead:
            raise httpx.ConnectError("dead")
        request.url = request.url.copy_with(host="127.0.0.1", port=self.port)
        return await self.real.handle_async_request(request)


class Addresses:
    """A resolver, whose next answers are these."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = deque(answers), list[tuple[str, int]]()

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.popleft()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    receiver.open.set()
    async with listening(receiver.app) as (host, receiver.port):
        receiver.url = f"http://{host}:{receiver.port}"
        yield receiver
        receiver.open.set()


@pytest.fixture
def outside(receiver: Receiver) -> Outside:
    """To whom the receiver is allowed by its address."""
    return Outside([receiver.url])


@pytest.fixture
async def hook(make: Make, receiver: Receiver, outside: Outside, reach: Reach) -> OneRun:
    target = {"kind": "http", "url": f"{receiver.url}/rebuild?all=1", "method": "PUT", "body": {"index": "notes"}}
    return replace(await make(target=target, retry={"max_attempts": 3}), reach=replace(reach, outside=outside))


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/notes",
        "https://hooks.example/notes/",
        "https://hooks.example/notes/changed?a=../b",
        "https://HOOKS.example:443/notes?x",
        "http://10.1.2.3:8080/anything",
        "https://[fd00::1]/x",
    ],
)
def test_what_lies_under_an_allowed_prefix_is_allowed(url: str) -> None:
    Outside(ALLOWED).check(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://hooks.example/notesx", "is not among those that are allowed here, which begin with: https://hooks"),
        ("https://hooks.example/", "not among"),
        ("https://hooks.example.evil/notes", "not among"),
        ("https://hooks.example./notes", "not among"),
        ("https://evil.hooks.example/notes", "not among"),
        ("http://hooks.example/notes", "not among"),
        ("https://hooks.example:8443/notes", "not among"),
        ("https://hooks.example:99999/notes", "not among"),
        ("http://10.1.2.3/", "not among"),
        ("http://167838211:8080/", "not among"),
        ("http://[::ffff:10.1.2.3]:8080/", "not among"),
        ("http://127.0.0.1/", "not among"),
        ("https://hooks.example/notes/../admin", "may not hold `.` and `..`"),
        ("https://hooks.example/notes/./x", "may not hold `.` and `..`"),
        ("https://hooks.example/notes/%2e%2E/admin", "may not hold `.` and `..`"),
        ("https://hooks.example/notes/%252e%252e/admin", "may not hold `.` and `..`"),
        ("https://hooks.example/notes/..%2fadmin", "may not hold `.` and `..`"),
        ("https://hooks.example/notes/..%5cadmin", "may not hold `.` and `..`"),
        ("https://hooks.example/notes/..;x/admin", "may not hold `.` and `..`"),
        ("https://hooks.example/notes\\..\\admin", "no backslash"),
        ("https://hooks.example\\@evil.example/notes", "no user name"),
        ("https://u:p@hooks.example/notes", "no user name"),
        ("https://@hooks.example/notes", "no user name"),
        ("https://hooks.example/notes#x", "no fragment"),
        ("https://hooks.example/notes#", "no fragment"),
        ("ftp://hooks.example/notes", "of the form https://host/path"),
        ("//hooks.example/notes", "of the form"),
        ("https:/hooks.example/notes", "of the form"),
        ("https:///notes", "of the form"),
        ("file:///etc/passwd", "of the form"),
        ("", "of the form"),
        ("https://hooks.example/notes\n", "cannot be understood"),
        ("https://[fd00::1/x", "cannot be understood"),
        ("https://hooks.example/notes?\ud800", "surrogates"),
    ],
)
def test_anything_else_is_refused_and_it_is_said_why(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("?", r"\?")) as told:
        Outside(ALLOWED).check(url)
    assert said in str(told.value)


def test_where_nothing_is_allowed_that_is_said() -> None:
    with pytest.raises(ValueError, match="which begin with: none"):
        Outside([]).check("https://hooks.example/")


@pytest.mark.parametrize("prefix", ["hooks.example", "https://u@hooks.example", "https://hooks.example/?x", "ftp://x"])
def test_a_prefix_must_be_one(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"URL|query"):
        Outside([prefix])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",  # noqa: S104
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1",
        "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::1", "2001:db8::1", "3fff::1", "192.88.99.1",
    ],
)  # fmt: skip
async def test_a_name_that_leads_to_an_address_that_is_not_public_is_not_called(
    receiver: Receiver, address: str
) -> None:
    for found in ([address], [PUBLIC, address]):
        transport = ToThisMachine(receiver.port)
        outside = Outside(["http://hooks.example"], transport, Addresses(found))
        with pytest.raises(Refused, match=r"hooks\.example has an address that is not public"):
            await outside.call("GET", "http://hooks.example/", None, "key")
        assert transport.asked == []


async def test_a_name_of_this_machine_is_not_called(receiver: Receiver) -> None:
    """By the real resolver."""
    outside = Outside([f"http://localhost:{receiver.port}"])
    with pytest.raises(Refused, match="not public"):
        await outside.call("GET", f"http://localhost:{receiver.port}/", None, "key")
    assert receiver.calls == []


async def test_the_connection_is_to_the_address_that_was_checked(receiver: Receiver) -> None:
    """Though the name leads elsewhere when it is looked up again."""
    transport, addresses = ToThisMachine(receiver.port), Addresses([PUBLIC], ["127.0.0.1"])
    outside = Outside(["http://hooks.example:81/notes"], transport, addresses)
    assert await outside.call("GET", "http://hooks.example:81/notes", None, "key") == 204
    assert (transport.asked, addresses.asked) == ([PUBLIC], [("hooks.example", 81)])
    assert receiver.calls[0].headers["host"] == "hooks.example:81"


async def test_the_next_address_is_tried_when_one_cannot_be_reached(receiver: Receiver) -> None:
    transport = ToThisMachine(receiver.port, dead=["2606:2800::1"])
    outside = Outside(["http://hooks.example"], transport, Addresses(["2606:2800::1", PUBLIC]))
    await outside.call("GET", "http://hooks.example", None, "key")
    assert transport.asked == ["2606:2800::1", PUBLIC]
    transport.dead = [PUBLIC]
    with pytest.raises(Unavailable, match=r"hooks\.example does not answer \(ConnectError\)"):
        await Outside(["http://hooks.example"], transport, Addresses([PUBLIC])).call(
            "GET", "http://hooks.example", None, "key"
        )


async def test_a_name_that_cannot_be_looked_up_may_be_one_day() -> None:
    async def nowhere(host: str, port: int) -> Sequence[str]:
        raise OSError

    with pytest.raises(Unavailable, match=r"The address of hooks\.example cannot be found out"):
        await Outside(["http://hooks.example"], None, nowhere).call("GET", "http://hooks.example", None, "key")


def certificate(name: str, folder: Path) -> dict[str, Path]:
    """Of a server of this name, who vouches for itself; for uvicorn."""
    key, names = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(names, names, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = {"ssl_certfile": folder / f"{name}.pem", "ssl_keyfile": folder / f"{name}.key"}
    files["ssl_certfile"].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    unencrypted = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    files["ssl_keyfile"].write_bytes(private)
    return files


async def test_tls_proves_the_name_and_not_the_address(receiver: Receiver, tmp_path: Path) -> None:
    files = certificate("hooks.example", tmp_path)
    trusting = ssl.create_default_context(cafile=str(files["ssl_certfile"]))
    async with listening(receiver.app, **files) as (_, port):
        for name, trust in (("hooks.example", True), ("other.example", False)):
            transport = ToThisMachine(port, verify=trusting)
            outside = Outside([f"https://{name}"], transport, Addresses([PUBLIC]))
            if trust:
                assert await outside.call("GET", f"https://{name}", None, "key") == 204
            else:
                with pytest.raises(Unavailable, match="ConnectError"):
                    await outside.call("GET", f"https://{name}", None, "key")
    assert len(receiver.calls) == 1


async def test_a_redirect_is_not_followed(outside: Outside, receiver: Receiver) -> None:
    receiver.instead.append(Response(status_code=302, headers={"Location": f"{receiver.url}/elsewhere"}))
    with pytest.raises(Refused, match=r"127\.0\.0\.1 refused: 302 Found\."):
        await outside.call("GET", receiver.url, None, "key")
    assert len(receiver.calls) == 1


async def test_nothing_comes_from_the_environment_or_from_another_call(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login eve password secret\n")
    for name, value in {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    outside = Outside([receiver.url])
    receiver.instead.append(Response(status_code=200, headers={"Set-Cookie": "a=b"}))
    for _ in range(2):
        await outside.call("POST", receiver.url, None, "key")
    names = {"host", "idempotency-key", "user-agent", "content-length"}
    assert [call.headers.keys() for call in receiver.calls] == [names] * 2


async def test_of_a_long_answer_only_the_beginning_is_read(outside: Outside, receiver: Receiver) -> None:
    sent = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += MAX_ANSWER_BYTES
            yield b"x" * MAX_ANSWER_BYTES

    receiver.instead.append(StreamingResponse(long()))
    assert await outside.call("GET", receiver.url, None, "key") == 200
    assert sent < 300 * MAX_ANSWER_BYTES  # what fits into buffers on the way


async def test_who_never_answers_is_given_up(
    outside: Outside, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 0.3)
    receiver.open.clear()
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1 does not answer \(TimeoutError\)"):
        await outside.call("GET", receiver.url, None, "key")


async def test_an_answer_whose_body_never_ends_is_one(
    outside: Outside, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stalls() -> AsyncIterator[bytes]:
        yield b"x"
        await forever.wait()

    forever = asyncio.Event()
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 0.5)
    receiver.instead.append(StreamingResponse(stalls(), 201))
    assert await outside.call("GET", receiver.url, None, "key") == 201
    forever.set()


async def test_a_run_calls_its_url_once(hook: OneRun, receiver: Receiver) -> None:
    receiver.instead.append(Response("a secret of theirs", 202))
    run = await hook.take(1)
    assert (run["state"], run["reason"], run["accepted_at"] is not None) == ("succeeded", "The answer was 202.", True)
    (call,) = receiver.calls
    assert (call.method, call.path, call.body) == ("PUT", "/rebuild", {"index": "notes"})
    assert call.headers["idempotency-key"] == str(hook.id)
    assert call.headers["content-type"] == "application/json"
    assert call.headers["traceparent"].startswith(f"00-{hook.id.hex}-")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_who_cannot_just_now_is_asked_again_as_often_as_the_schedule_says(
    hook: OneRun, receiver: Receiver, status: int
) -> None:
    receiver.instead += [Response("a secret", status, {"Retry-After": "120"}) for _ in range(3)]
    run = await hook.take(1)
    assert (run["state"], run["attempts"]) == ("waiting", 1)
    assert timedelta(seconds=115) < run["wakes_in"] <= timedelta(seconds=120)
    await hook.take(2)
    run = await hook.take(3)
    assert (run["state"], run["announce_at"] is not None) == ("failed", True)
    assert run["reason"].endswith("It was asked 3 times, and is not asked again.")
    assert "secret" not in run["reason"]
    assert {call.headers["idempotency-key"] for call in receiver.calls} == {str(hook.id)}


@pytest.mark.parametrize("status", [301, 400, 401, 404, 410, 422])
async def test_any_other_answer_fails_the_run_at_once(hook: OneRun, receiver: Receiver, status: int) -> None:
    receiver.instead.append(Response("a secret", status))
    run = await hook.take(1)
    assert (run["state"], run["announce_at"] is not None) == ("failed", True)
    assert f"127.0.0.1 refused: {status} " in run["reason"]
    assert "secret" not in run["reason"]


async def test_an_url_that_is_not_allowed_any_more_fails_the_run_aloud(hook: OneRun, reach: Reach) -> None:
    run = await replace(hook, reach=reach).take(1)
    assert (run["state"], run["announce_at"] is not None) == ("failed", True)
    assert run["reason"].startswith("It was not asked: the URL is not among those that are allowed here")


async def test_a_run_is_cancelled_between_two_attempts(hook: OneRun, receiver: Receiver) -> None:
    receiver.instead.append(Response(status_code=503))
    await hook.take(1)
    await hook.be_cancelled()
    run = await hook.take(2)
    assert (run["state"], run["announce_at"], len(receiver.calls)) == ("cancelled", None, 1)
    assert run["reason"] == "It was cancelled. It was asked before, without an answer to use; attempts: 1."


async def test_nobody_is_asked_after_the_deadline(hook: OneRun, receiver: Receiver) -> None:
    receiver.instead.append(Response(status_code=503))
    await hook.take(1)
    await hook.be_overdue()
    run = await hook.take(2)
    assert (run["state"], len(receiver.calls)) == ("failed", 1)
    assert run["reason"] == "There was no answer to use until the run's deadline; attempts: 1."
