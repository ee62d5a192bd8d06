"""A dead man's switch: an outside URL, called once a minute after a tick, which tells somebody when nobody calls.

The only alarm that comes when all of this is down.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import httpx
from pydantic import SecretStr

EVERY_SECONDS = 60.0
ANSWER_SECONDS = 5.0

log = logging.getLogger(__name__)


class Switch:
    def __init__(self, http: httpx.AsyncClient, url: str | None) -> None:
        self._http = http
        self._url = url
        self._next = 0.0

    async def ping(self) -> None:
        """Once a minute at most. That it fails is logged, without the URL, which is a secret."""
        if self._url is None or monotonic() < self._next:
            return
        self._next = monotonic() + EVERY_SECONDS
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                (await self._http.get(self._url)).raise_for_status()
        except httpx.HTTPStatusError as error:
            log.warning("the dead man's switch answered %d", error.response.status_code)
        except (httpx.HTTPError, TimeoutError) as error:
            log.warning("the dead man's switch does not answer: %s", type(error).__name__)


@asynccontextmanager
async def connect(url: SecretStr | None) -> AsyncIterator[Switch]:
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as http:
        yield Switch(http, url.get_secret_value() if url else None)
