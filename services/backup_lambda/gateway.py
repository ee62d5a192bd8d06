"""The backup API as the command line reaches it: through the gateway, or in this process, on the bucket itself.

ApiError
├── ApiAway      there was no answer, or one that says: not now
├── ApiRefused   the answer will be the same next time
│   └── ApiMisused   the request itself is wrong
└── NeedsApi     the bucket alone cannot do it

Nothing here asks twice: a command that waits does.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Never

import botocore.session
import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from pydantic import ValidationError

from backup_lambda import aws, signing
from backup_lambda.app import create_app
from backup_lambda.errors import AwsRefused, BackupsError, BackupUnreadable, ObjectChanged, SignatureInvalid
from backup_lambda.notices import Topic
from backup_lambda.retention import Policy
from backup_lambda.schemas import Problem
from backup_lambda.settings import SettingsError
from backup_lambda.store import S3Store, Stored
from backup_lambda.tasks import Question, Started

ANSWER_SECONDS = 30.0  # API Gateway gives up after 29
CONNECT_SECONDS = 5.0
IN_PROCESS = "http://bucket"  # names nothing: requests to it never leave the process
_ASK_AGAIN = {408, 425, 429}  # and all from 500
_MISUSED = {400, 422}
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_MAYBE_BEGUN = "It may have been begun all the same: look with `list` or `show` before you ask again."
_SIGNED_HEADERS = ("host", "content-type", "prefer")


class ApiError(BackupsError):
    """The text is for people."""


class ApiAway(ApiError):
    """There was no answer, or one that says: not now."""


class ApiRefused(ApiError):
    """The answer will be the same next time."""


class ApiMisused(ApiRefused):
    """The request itself is wrong."""


class NeedsApi(ApiError):
    """The bucket alone cannot do it: only the functions behind the API can."""


class Api:
    """Answers are bytes: what is stored must not pass through a parser, which would round its numbers.

    `store` is the bucket where it is reached directly, in which case nothing can be started.
    """

    def __init__(self, http: httpx.AsyncClient, store: S3Store | None = None) -> None:
        self._http = http
        self.store = store

    def needed_for(self, what: str) -> None:
        """Raises NeedsApi where there is a bucket only."""
        if self.store:
            raise NeedsApi(f"{what} needs the API (--api): on a bucket alone, nothing can be started.")

    async def get(self, path: str) -> bytes:
        """Raises ApiError."""
        return await self._ask("GET", path)

    async def post(self, path: str, body: dict[str, Any] | None = None, *, key: str | None = None) -> bytes:
        """With an Idempotency-Key, however often it arrives, it is done once. Raises ApiError."""
        headers = {"Idempotency-Key": key} if key else None
        return await self._ask("POST", path, json=body or {}, headers=headers)

    async def delete(self, path: str) -> bytes:
        """Raises ApiError."""
        return await self._ask("DELETE", path)

    async def _ask(self, method: str, path: str, **parts: Any) -> bytes:
        try:
            response = await self._http.request(method, path, **parts)
        except httpx.RequestError as error:
            said = f"The backup API at {self._http.base_url} does not answer ({type(error).__name__})."
            if method == "GET":
                said += " What only reads works without it: --bucket NAME --key FINGERPRINT."
            elif not isinstance(error, _NEVER_SENT):
                said += f" {_MAYBE_BEGUN}"
            raise ApiAway(said) from error
        except httpx.InvalidURL as error:
            raise ApiMisused(str(error)) from error
        if response.is_success:
            return response.content
        failure = _failure(response)
        if method != "GET" and isinstance(failure, ApiAway) and response.status_code >= 500:
            raise ApiAway(f"{failure}\n{_MAYBE_BEGUN}")
        raise failure


def _failure(response: httpx.Response) -> ApiError:
    status = response.status_code
    away = status >= 500 or status in _ASK_AGAIN
    try:
        problem = Problem.model_validate_json(response.content)
        away = away and problem.type != f"/problems/{BackupUnreadable.type}"
        said = problem.detail
        if problem.title != said:
            said = f"{problem.title.removesuffix('.')}: {said}" if said else problem.title
        for each in problem.errors or ():
            said += f"\n  {each.pointer or each.parameter or ''} {each.detail}"
    except ValidationError:  # the gateway itself answers otherwise
        said = f"the API answered {status}"
        if status == 403:
            said += ": these AWS credentials may not do that, or were not understood"
    if away:
        return ApiAway(said)
    return ApiMisused(said) if status in _MISUSED else ApiRefused(said)


class SigV4(httpx.Auth):
    """Signs with botocore's signer and credentials, which may be temporary and are renewed by botocore."""

    def __init__(self, credentials: Any, region: str) -> None:
        self._credentials = credentials
        self._region = region

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        try:
            # Renewing them may ask a server, and botocore waits for it.
            frozen = await asyncio.to_thread(self._credentials.get_frozen_credentials)
        except BotoCoreError as error:
            raise ApiAway(f"There are no AWS credentials just now: {error}") from error
        headers = {name: request.headers[name] for name in _SIGNED_HEADERS if name in request.headers}
        signed = AWSRequest(request.method, str(request.url), headers=headers, data=request.content)
        SigV4Auth(frozen, "execute-api", self._region).add_auth(signed)
        request.headers.update(signed.headers.items())
        yield request


@asynccontextmanager
async def at(url: str, region: str | None) -> AsyncIterator[Api]:
    """The API at `url` (the gateway, up to and with its stage), with botocore's default credentials.

    Raises SettingsError.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError("--api is the URL of the gateway, up to and with its stage")
    try:
        session = botocore.session.get_session()
        region = region or session.get_config_variable("region")
        credentials = await asyncio.to_thread(session.get_credentials)
    except BotoCoreError as error:
        raise SettingsError(f"the AWS credentials cannot be read: {error}") from error
    if credentials is None:
        raise SettingsError("there are no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret")
    if not region:
        raise SettingsError("no AWS region is set: set AWS_REGION")
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(auth=SigV4(credentials, region), timeout=timeout, base_url=url) as http:
        yield Api(http)


@asynccontextmanager
async def within(bucket: str, trusted_keys: Collection[str], policy: Policy) -> AsyncIterator[Api]:
    """The API in this process, on a bucket. What is not signed by a key with one of these fingerprints is not read."""
    async with aws.clients("s3") as (s3,):
        store = SignedStore(s3, bucket, trusted_keys)
        app = create_app(store, Topic(None, ""), _nobody, ask=_nobody_answers, policy=policy)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=IN_PROCESS) as http:
            yield Api(http, store)


class SignedStore(S3Store):
    """A bucket of which manifests and proofs are read only if somebody who is trusted signed them."""

    def __init__(self, s3: Any, bucket: str, trusted_keys: Collection[str]) -> None:
        super().__init__(s3, bucket)
        self._trusted_keys = trusted_keys

    async def get(self, key: str) -> Stored:
        """Raises BackupUnreadable unless it is signed, where it should be."""
        found = await super().get(key)
        folder, _, name = key.rpartition("/")
        if name == "manifest.json":
            await self._check(key, found.body, signing.MANIFEST)
        elif folder.endswith("/proof") and name.endswith(".json"):
            await self._check(key, found.body, signing.PROOF)
        return found

    async def _check(self, key: str, body: bytes, heading: bytes) -> None:
        try:
            sig = await super().get(key.removesuffix("json") + "sig")
            signing.check(body, sig.body, self._trusted_keys, heading)
        except SignatureInvalid as error:
            raise BackupUnreadable(f"{key} is not to be trusted: {error}") from error
        except (ObjectChanged, AwsRefused) as error:  # a missing object is 403 to who may not list
            raise BackupUnreadable(f"{key} is not to be trusted: its signature is missing") from error


async def _nobody(task: Started) -> Never:
    raise NeedsApi(f"a {task.task} can be started by the API only")


async def _nobody_answers(question: Question) -> Never:
    raise NeedsApi(f"a {question.task} can be asked of the API only")
