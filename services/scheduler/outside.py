"""Requests to URLs that this installation allows, and to no address that is not public.

A name is looked up here, its addresses are checked, and the connection is made to one that was: who answers for the
name later cannot lead elsewhere. TLS still proves the name. There is nothing between us and the connection that would
follow a redirect, keep a cookie, or take a proxy or credentials from the environment.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import unquote

import httpx

from scheduler import answers
from scheduler.answers import CONNECT_SECONDS, Refused, Unavailable, traced
from scheduler.runs import Claim, Ended, Waiting
from scheduler.settings import SettingsError

LOOK_UP_SECONDS = 2.0
MAX_ANSWER_BYTES = 64 * 1024  # read, so that who answers is not cut short, and not looked at
_UNICAST = IPv6Network("2000::/3")  # all that is public; the rest of it leads to IPv4, or nowhere
# Of documentation (RFC 9637), and relays of 6to4 (RFC 7526): not every Python knows that they are not public.
_NOT_PUBLIC = IPv6Network("3fff::/20"), IPv4Network("192.88.99.0/24")
_PORTS = {"http": 80, "https": 443}
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def connect(allowed: Sequence[str]) -> "Outside":
    """Raises SettingsError."""
    try:
        return Outside(allowed)
    except ValueError as error:
        raise SettingsError(f"HOLDFAST_HTTP_TARGETS: {error}") from None


class Outside:
    """`allowed` are the beginnings of URLs: the same scheme, host and port, and the same first segments of the path.

    It keeps no connection open. Raises ValueError when one of them is none.
    """

    def __init__(
        self,
        allowed: Sequence[str],
        transport: httpx.AsyncBaseTransport | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        self._allowed = [_parsed(each) for each in allowed]
        if wrong := [str(each) for each in self._allowed if each.query]:
            raise ValueError(f"{wrong[0]} has a query")
        # A connection that is kept could be found by its address, for another name.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._transport = transport or httpx.AsyncHTTPTransport(trust_env=False, limits=limits)
        self._resolve = resolve

    def check(self, url: str) -> httpx.URL:
        """Raises ValueError, which says what is allowed."""
        parsed = _parsed(url)
        if not any(_is_under(parsed, each) for each in self._allowed):
            these = ", ".join(map(str, self._allowed)) or "none"
            raise ValueError(f"the URL is not among those that are allowed here, which begin with: {these}")
        return parsed

    async def fitting(self, url: str) -> None:
        """Raises ValueError and Refused when a call of it would be refused, as far as that is known now."""
        checked = self.check(url)
        with suppress(Unavailable, TimeoutError):  # a name that cannot be looked up may be by then
            async with asyncio.timeout(LOOK_UP_SECONDS):
                await self._addresses(checked)

    async def call(self, method: str, url: str, body: Any, key: str) -> int:
        """The status of an answer that is a success. Raises Unavailable and Refused."""
        try:
            checked = self.check(url)
        except ValueError as error:
            raise Refused(f"It was not asked: {error}.") from error
        until = asyncio.get_running_loop().time() + answers.ANSWER_SECONDS
        try:
            async with asyncio.timeout_at(until):
                response = await self._send(method, checked, body, key)
        except (httpx.RequestError, TimeoutError) as error:
            raise Unavailable(f"{checked.host} does not answer ({type(error).__name__}).") from error
        async with aclosing(response):
            with suppress(httpx.RequestError, TimeoutError):  # it is the status that counts
                async with asyncio.timeout_at(until):
                    await _read(response)
        if not response.is_success:
            raise answers.failure(checked.host, response)
        return response.status_code

    async def _send(self, method: str, url: httpx.URL, body: Any, key: str) -> httpx.Response:
        """To the first of its addresses that takes it."""
        headers = {"Host": url.netloc.decode(), "Idempotency-Key": key, "User-Agent": "holdfast-scheduler"}
        extensions = {"timeout": {"connect": CONNECT_SECONDS}, "sni_hostname": url.raw_host.decode()}
        *others, last = await self._addresses(url)
        for address in (*others, last):
            to = url.copy_with(host=address)
            content: dict[str, Any] = {} if body is None else {"json": body}
            request = httpx.Request(method, to, headers=headers | traced(), extensions=extensions, **content)
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if address == last:
                    raise
        raise AssertionError  # there is a last one

    async def _addresses(self, url: httpx.URL) -> Sequence[str]:
        host = url.raw_host.decode()
        with suppress(ValueError):
            return [str(ip_address(host))]  # then it is allowed as such
        try:
            found = await self._resolve(host, url.port or _PORTS[url.scheme])
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"The address of {host} cannot be found out.") from error
        if not found or not all(map(_is_public, found)):
            raise Refused(f"{host} has an address that is not public.")
        return found


async def step(outside: Outside, claim: Claim) -> Waiting | Ended:
    if claim.cancelling:
        asked = f" It was asked before, without an answer to use; attempts: {claim.attempts}." if claim.attempts else ""
        return Ended("cancelled", None, f"It was cancelled.{asked}")
    if claim.overdue:
        why = f"There was no answer to use until the run's deadline; attempts: {claim.attempts}."
        return Ended("failed", None, why, announce=True)
    target = claim.target
    status = await outside.call(target.get("method", "POST"), target["url"], target.get("body"), str(claim.id))
    return Ended("succeeded", None, f"The answer was {status}.", accepted=True)


def _parsed(url: str) -> httpx.URL:
    """Raises ValueError."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"the URL cannot be understood: {error}") from None
    if parsed.scheme not in _PORTS or not parsed.host:
        raise ValueError("the URL must be of the form https://host/path, or http")
    if "@" in url.partition("?")[0].split("/", 3)[2]:
        raise ValueError("the URL may hold no user name and no password")
    if "#" in url or "\\" in url:
        raise ValueError("the URL may hold no fragment and no backslash")
    if any(segment.partition(";")[0] in {".", ".."} for segment in _decoded(url.partition("?")[0]).split("/")):
        raise ValueError("the URL's path may not hold `.` and `..`, in whatever encoding")
    return parsed


def _decoded(text: str) -> str:
    """Who is asked, or what stands before it, may decode it more than once."""
    while (decoded := unquote(text)) != text:
        text = decoded
    return text.replace("\\", "/")


def _is_under(url: httpx.URL, allowed: httpx.URL) -> bool:
    ours, theirs = ((each.scheme, each.raw_host, each.port) for each in (url, allowed))
    first = allowed.raw_path.rstrip(b"/").split(b"/")
    return ours == theirs and url.raw_path.partition(b"?")[0].split(b"/")[: len(first)] == first


def _is_public(address: str) -> bool:
    ip = ip_address(address.partition("%")[0])
    if any(ip in network for network in _NOT_PUBLIC):
        return False
    if isinstance(ip, IPv4Address):
        return ip.is_global and not ip.is_multicast
    return ip in _UNICAST and ip.is_global and ip.sixtofour is None


async def _read(response: httpx.Response) -> None:
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            return
