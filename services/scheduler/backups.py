"""The backup API, called over HTTP and signed with this process's AWS credentials (Signature Version 4).

BackupsError
├── BackupsUnavailable   asking again may help
└── BackupsRefused       it will not

Nothing here retries: a run does, by its own clock.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

import botocore.session
import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from scheduler.settings import SettingsError

ANSWER_SECONDS = 28.0  # API Gateway gives up after 29
CONNECT_SECONDS = 5.0
MAX_RETRY_AFTER_SECONDS = 600.0
MAX_REASON_CHARACTERS = 500
_ASK_AGAIN = {408, 425, 429}  # and all from 500
_SIGNED_HEADERS = ("host", "content-type", "idempotency-key")


class BackupsError(Exception):
    """The text is for people: it ends up as the reason of a run."""


class BackupsUnavailable(BackupsError):
    """There was no answer, or one that says: not now."""

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class BackupsRefused(BackupsError):
    """The answer will be the same next time."""


class Proof(BaseModel):
    """A proof that has ended; what it found is in the backup's state."""

    ended_at: AwareDatetime


class Backup(BaseModel):
    """What a run needs to know of a backup; the rest of the answer is ignored."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    state: str
    reason: str | None = None
    ended_at: AwareDatetime | None = None
    proof: Proof | None = None
    unheard: str | None = None  # says so when nobody had subscribed
    announced: bool = False  # the function has told the people who subscribed how it ended


class Backups:
    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._collection = f"{url}/backups"

    async def start(self, label: str | None, key: str) -> Backup:
        """Ask for a backup. The same `key` gives the same backup, however often it is asked. Raises BackupsError."""
        return await self._ask("POST", self._collection, json={"label": label}, headers={"Idempotency-Key": key})

    async def show(self, backup_id: str) -> Backup:
        """Raises BackupsError."""
        return await self._ask("GET", f"{self._collection}/{backup_id}")

    async def _ask(self, method: str, url: str, **parts: Any) -> Backup:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                response = await self._http.request(method, url, **parts)
        except (httpx.RequestError, TimeoutError) as error:
            raise BackupsUnavailable(f"The backup API does not answer ({type(error).__name__}).") from error
        if not response.is_success:
            raise _failure(response)
        try:
            return Backup.model_validate_json(response.content)
        except ValidationError as error:
            raise BackupsUnavailable(f"The backup API answered {response.status_code} without a backup.") from error


class SigV4(httpx.Auth):
    """Signs with botocore's signer and credentials, which may be temporary and are renewed by botocore.

    A query string would be signed as we encode it and checked as the gateway does: this client sends none.
    """

    def __init__(self, credentials: Any, region: str) -> None:
        self._credentials = credentials
        self._region = region

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        try:
            # Renewing them may ask a server, and botocore waits for it.
            frozen = await asyncio.to_thread(self._credentials.get_frozen_credentials)
        except BotoCoreError as error:
            raise BackupsUnavailable(f"There are no AWS credentials just now ({type(error).__name__}).") from error
        headers = {name: request.headers[name] for name in _SIGNED_HEADERS if name in request.headers}
        signed = AWSRequest(request.method, str(request.url), headers=headers, data=request.content)
        SigV4Auth(frozen, "execute-api", self._region).add_auth(signed)
        request.headers.update(signed.headers.items())
        yield request


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Backups]:
    """A client of the API at `url` (the gateway, up to and with its stage), with botocore's default credentials.

    Raises SettingsError when there are no credentials or there is no region.
    """
    session = botocore.session.get_session()
    credentials, region = session.get_credentials(), session.get_config_variable("region")
    if credentials is None or not region:
        raise SettingsError("AWS credentials or AWS_DEFAULT_REGION are not set")
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(auth=SigV4(credentials, region), timeout=timeout, trust_env=False) as http:
        yield Backups(http, url)


def _failure(response: httpx.Response) -> BackupsError:
    said = f"{response.status_code} {response.reason_phrase}".strip()
    if detail := _detail(response):
        said = f"{said}: {detail}"
    if response.status_code in _ASK_AGAIN or response.is_server_error:
        return BackupsUnavailable(f"The backup API answered {said}", _retry_after_seconds(response))
    return BackupsRefused(f"The backup API refused: {said}")


def _detail(response: httpx.Response) -> str:
    """What a problem, or a message of API Gateway itself, says."""
    try:
        body = response.json()
    except (ValueError, RecursionError):  # no JSON, or lists in lists in lists
        return ""
    if not isinstance(body, dict):
        return ""
    said = next((body[key] for key in ("detail", "title", "message", "Message") if key in body), "")
    return plain(str(said))


def plain(text: str) -> str:
    """Somebody else's words, fit for a table, a log and a mail: of a sensible length, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_REASON_CHARACTERS]).strip()


def _retry_after_seconds(response: httpx.Response) -> float | None:
    """RFC 9110, section 10.2.3: seconds, or a date."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return min(float(value), MAX_RETRY_AFTER_SECONDS)
    try:
        seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a zone
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
