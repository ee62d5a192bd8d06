"""How many requests a token may make: so many a minute, in a window that slides. And as many wrong ones an address.

What was counted in the minute before weighs as much as of that minute still lies in the last sixty seconds. All
processes count together when there is Redis, and each for itself when there is none, or when it does not answer.
The headers are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

import asyncio
import hashlib
import logging
import time
from collections import ChainMap
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from math import ceil
from typing import Any, NamedTuple

from limits.aio.storage import RedisStorage
from redis.asyncio import ConnectionPool
from starlette.types import ASGIApp, Receive, Scope, Send

from notes_api.errors import TooManyRequests
from notes_api.exchange import Exchange

WINDOW_SECONDS = 60
REDIS_SECONDS = 0.25  # nobody waits longer for it
REDIS_AGAIN_SECONDS = 5.0  # after it failed
PREFIX = "/v1"
_WRONG = "wrong "

log = logging.getLogger(__name__)


class Counted(NamedTuple):
    remaining: int
    reset_seconds: int  # until this window ends
    wait_seconds: int  # 0 when the request is within the limit


class Limits:
    """Counts requests by key. What is kept ends with the window after; a key that comes no more is forgotten."""

    def __init__(self, per_window: int, redis_url: str = "", now: Callable[[], float] = time.time) -> None:
        """`now` is one that all processes share, to a fraction of a second."""
        self.per_window = per_window
        self._now = now
        self._window = 0
        self._counts: dict[str, int] = {}
        self._counts_before: dict[str, int] = {}
        self._connections = _connections(redis_url) if redis_url else None
        self._shared = _shared(redis_url, self._connections) if self._connections else None
        self._shared_again_at = 0.0
        self._shared_failed = False

    async def close(self) -> None:
        if self._connections is not None:
            await self._connections.disconnect()

    async def count(self, key: str) -> Counted:
        """Never fails, and never waits longer than twice REDIS_SECONDS. What is refused here is not counted."""
        window, elapsed = divmod(self._now(), WINDOW_SECONDS)
        self._turn(int(window))
        counts, counts_before = self._counts, self._counts_before  # of this window, even if it turns meanwhile
        if self._shared is not None and key not in counts:
            shared = await self._ask(lambda storage: storage.get(f"{key}/{int(window) - 1}"))
            counts_before[key] = max(counts_before.get(key, 0), shared or 0)
        before = min(counts_before.get(key, 0), self.per_window)
        carried = before * (1 - elapsed / WINDOW_SECONDS)
        count = counts.get(key, 0)
        if fits := carried + count + 1 <= self.per_window:
            shared = await self._ask(lambda storage: storage.incr(f"{key}/{int(window)}", 2 * WINDOW_SECONDS))
            here = counts.get(key, 0)  # others of this key were counted while Redis was asked
            count = counts[key] = here + 1 if shared is None else max(here, shared)
            fits = carried + count <= self.per_window
        wait = 0 if fits else self._wait_seconds(before, count, elapsed)
        return Counted(max(0, int(self.per_window - carried - count)), ceil(WINDOW_SECONDS - elapsed), wait)

    def distrusts(self, token: str, address: str) -> bool:
        """Whether it is not looked at: so many wrong ones came from there, and it was not seen to be right lately."""
        if address not in self._counts and address not in self._counts_before:
            return False
        window, elapsed = divmod(self._now(), WINDOW_SECONDS)
        self._turn(int(window))
        lately = ChainMap(self._counts, self._counts_before)
        carried = min(self._counts_before.get(address, 0), self.per_window) * (1 - elapsed / WINDOW_SECONDS)
        full = carried + self._counts.get(address, 0) + 1 > self.per_window
        return full and (token not in lately or _WRONG + token in lately)

    async def count_wrong(self, token: str, address: str) -> None:
        """A request whose token turned out to be wrong. Who makes tokens up has a new one for each."""
        self._counts[_WRONG + token] = 1
        await self.count(address)

    def _turn(self, window: int) -> None:
        if window != self._window:
            follows = window == self._window + 1
            self._counts_before = self._counts if follows else {}
            self._counts, self._window = {}, window

    def _wait_seconds(self, before: int, count: int, elapsed: float) -> int:
        """Until one more would fit, if nobody else counts: in this window, or in the next one."""
        free = self.per_window - 1 - count
        if free >= 0:  # then it is what is carried that is too much
            return max(1, ceil(WINDOW_SECONDS * (1 - free / before) - elapsed))
        full = min(count, self.per_window)
        return max(1, ceil(WINDOW_SECONDS - elapsed + WINDOW_SECONDS * (1 - (self.per_window - 1) / full)))

    async def _ask(self, what: Callable[[RedisStorage], Awaitable[int]]) -> int | None:
        """None when Redis does not answer; then it is left alone for a while. An outage is logged once."""
        if self._shared is None or self._now() < self._shared_again_at:
            return None
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                answer = await what(self._shared)
        except Exception as error:  # noqa: BLE001  # whatever it is, a request does not fail of it
            self._shared_again_at = self._now() + REDIS_AGAIN_SECONDS
            if not self._shared_failed:
                log.warning("Redis does not answer: each process counts requests for itself: %s", type(error).__name__)
            self._shared_failed = True
            return None
        if self._shared_failed:
            log.warning("Redis answers again: all processes count requests together")
        self._shared_failed = False
        return answer


def _connections(url: str) -> ConnectionPool:
    """To be closed by us: the library does not. They connect when they are first used."""
    return ConnectionPool.from_url(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)


def _shared(url: str, connections: ConnectionPool) -> RedisStorage:
    options: Any = {"connection_pool": connections}  # which its types do not know
    return RedisStorage(f"async+{url}", implementation="redispy", key_prefix="notes_api", **options)


class RateLimit:
    """Counts requests under /v1 by token, or by address where there is none, and has the answer say what is left."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self._policy = f'"default";q={limits.per_window};w={WINDOW_SECONDS}'.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TooManyRequests, to the edge."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self.app(scope, receive, send)
            return
        address, token = f"address {(scope.get('client') or ('',))[0]}", _token(scope)
        who = address if token is None or self.limits.distrusts(token, address) else token
        counted = await self.limits.count(who)
        exchange: Exchange = scope["state"]["exchange"]
        exchange.answer_headers += [
            (b"ratelimit-policy", self._policy),
            (b"ratelimit", b'"default";r=%d;t=%d' % (counted.remaining, counted.reset_seconds)),
        ]
        if counted.wait_seconds:
            raise TooManyRequests(
                f"A token may make {self.limits.per_window} requests a minute. Try again in {counted.wait_seconds} s.",
                {"Retry-After": str(counted.wait_seconds)},
            )
        await self.app(scope, receive, send)
        if exchange.status == HTTPStatus.UNAUTHORIZED and who == token:
            await self.limits.count_wrong(token, address)


def _token(scope: Scope) -> str | None:
    """Its hash, however the client writes what is around the token."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and (token := token.strip()):
                return hashlib.sha256(token).hexdigest()
            break
    return None
