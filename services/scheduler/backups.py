"""The backup API, called over HTTP and signed with this process's AWS credentials (Signature Version 4).

Every call raises what `answers` tells apart: Unavailable and Refused.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, TypeVar

import botocore.session
import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from scheduler import answers
from scheduler.answers import CONNECT_SECONDS, Unavailable, plain
from scheduler.settings import SettingsError

WHO = "The backup API"
MAX_ANSWER_BYTES = 8 * 1024 * 1024  # a hundred backups have some 200 KiB
_SIGNED_HEADERS = ("host", "content-type", "idempotency-key")  # what else there is may be changed on the way


def _of_this_age(moment: datetime) -> datetime:
    if not 2000 <= moment.year < 2200:
        raise ValueError("no backup is of then")
    return moment


# What is kept of an answer fits into a row, and into a mail.
Count = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Moment = Annotated[AwareDatetime, AfterValidator(_of_this_age)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
Text = Annotated[str, AfterValidator(plain)]


class Proof(BaseModel):
    """A proof that has ended. `unfinished` says nothing about the backup."""

    number: Count
    verdict: str  # proven, broken or unfinished
    ended_at: Moment
    reason: Text | None = None


class Progress(BaseModel):
    stage: Text
    rows: Count = 0
    bytes: Count = 0
    percent: Count = 0
    rows_per_second: Rate | None = None
    bytes_per_second: Rate | None = None
    seconds_left: Count | None = None


class Backup(BaseModel):
    """What a run needs to know of a backup; the rest of the answer is ignored."""

    id: Name
    state: Text
    created_at: Moment
    reason: Text | None = None
    label: Text | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    progress: Progress | None = None  # of the backup, or of a proof of it, while it is being made
    proof: Proof | None = None  # the newest one whose verdict counts
    unfinished_proof: Proof | None = None  # a newer one
    rows: Count = 0
    bytes: Count = 0
    unheard: Text | None = None  # says so when nobody had subscribed
    announced: bool = False  # the function has told the people who subscribed how it ended

    @property
    def proofs(self) -> list[Proof]:
        return [each for each in (self.proof, self.unfinished_proof) if each]


class Page(BaseModel):
    """Up to 100 backups, newest first; the next page has those `before` the cursor."""

    items: list[Backup]
    next_cursor: Name | None = None


class Plan(BaseModel):
    """What retention would do now."""

    digest: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,200}$")]
    keep: Count
    expire: Count
    clean: Count


class Applied(BaseModel):
    """What was done of a plan; what is `left`, with the reason of each. Not `complete`: the time ended first."""

    complete: bool
    expired: list[str]
    cleaned: list[str]
    left: dict[Name, Text] = {}


class _Asked(BaseModel):
    number: Annotated[Count, Field(ge=1)]


Answer = TypeVar("Answer", bound=BaseModel)
_OBJECT = TypeAdapter(dict[str, Any])


class Backups:
    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    async def start(self, label: str | None, key: str, tables: Sequence[str] | None = None) -> Backup:
        """Ask for a backup. The same `key` gives the same backup, however often it is asked."""
        body = {"label": label} | ({"tables": tables} if tables else {})
        return await self.ask(Backup, "POST", "backups", json=body, headers={"Idempotency-Key": key})

    async def show(self, backup_id: str) -> Backup:
        return _same(backup_id, await self.ask(Backup, "GET", f"backups/{backup_id}"))

    async def page(self, before: str | None = None) -> Page:
        """The newest, or those that are older than this one."""
        return await self.ask(Page, "GET", f"backups/before/{before}" if before else "backups")

    async def cancel(self, backup_id: str) -> Backup:
        """Ask that it be given up, which is done soon. Refused with 409 when it has ended."""
        return _same(backup_id, await self.ask(Backup, "POST", f"backups/{backup_id}/cancel"))

    async def prove(self, backup_id: str) -> int:
        """Ask for another proof; its number. Refused with 409 while one is being made, and with 410 without data."""
        return (await self.ask(_Asked, "POST", f"backups/{backup_id}/proofs", json={})).number

    async def plan(self) -> Plan:
        return await self.ask(Plan, "GET", "retention")

    async def apply(self, digest: str) -> Applied:
        """Do what the plan of this digest says. Refused with 409 when the plan is another one by now."""
        return await self.ask(Applied, "POST", "retention", json={"digest": digest})

    async def ask(self, expected: type[Answer], method: str, path: str, **parts: Any) -> Answer:
        """What a method of the API answers: `expected`, of what is told in JSON, or of `{}` where it tells nothing."""
        # What is compressed could be of any size.
        headers = {"Accept-Encoding": "identity"} | parts.pop("headers", {}) | answers.traced()
        try:
            async with (
                asyncio.timeout(answers.ANSWER_SECONDS),
                self._http.stream(method, f"{self._url}/{path}", headers=headers, **parts) as response,
            ):
                body = await _read(response)
        except (httpx.RequestError, TimeoutError) as error:
            raise Unavailable(f"{WHO} does not answer ({type(error).__name__}).") from error
        if not response.is_success:
            raise answers.failure(WHO, response, _detail(body), _parts(body))
        try:
            return expected.model_validate_json(body or b"{}")
        except ValidationError as error:
            raise Unavailable(f"{WHO} answered {response.status_code} without what was asked for.") from error


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
            raise Unavailable(f"There are no AWS credentials just now ({type(error).__name__}).") from error
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
    timeout = httpx.Timeout(answers.ANSWER_SECONDS, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(auth=SigV4(credentials, region), timeout=timeout, trust_env=False) as http:
        yield Backups(http, url)


async def _read(response: httpx.Response) -> bytes:
    """Up to MAX_ANSWER_BYTES: nothing can be made of the beginning of a longer one."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            break
    return bytes(body[:MAX_ANSWER_BYTES])


def _same(backup_id: str, backup: Backup) -> Backup:
    if backup.id != backup_id:
        raise Unavailable(f"{WHO} answered with backup {backup.id}, and was asked for {backup_id}.")
    return backup


def _parts(body: bytes) -> dict[str, str]:
    """By the field of what was sent: what is wrong with it."""
    try:
        said = _OBJECT.validate_json(body).get("errors") or []
        return {each["pointer"].removeprefix("#/").split("/")[0]: plain(each["detail"]) for each in said}
    except (ValidationError, AttributeError, KeyError, TypeError):
        return {}


def _detail(body: bytes) -> str:
    """What a problem, or a message of API Gateway itself, says."""
    try:
        said = _OBJECT.validate_json(body)
    except ValidationError:
        return ""
    return plain(str(next((said[key] for key in ("detail", "title", "message", "Message") if key in said), "")))
