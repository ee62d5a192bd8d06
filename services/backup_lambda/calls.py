"""One call of the command line: how it reaches the backups, how it waits, and what its arguments mean."""

import asyncio
import base64
import functools
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import click
from pydantic import BaseModel, ValidationError

from backup_lambda import gateway
from backup_lambda.gateway import Api, ApiAway, ApiError, ApiRefused
from backup_lambda.retention import Policy
from backup_lambda.schemas import ProgressOut
from backup_lambda.settings import SettingsError, WorkerSettings
from backup_lambda.terminal import Terminal

ALL_IS_WELL, SOMETHING_IS_WRONG, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
API_URL = ("HOLDFAST_API_URL", "BACKUPS_URL")
LOOK_AGAIN_SECONDS = 0.5
AWAY_SECONDS = 60.0  # an API that was there, and is not for so long, is not waited for
NOBODY_SECONDS = 300.0  # nor is what nobody is at work on: a function is tried again after 1 and 2 minutes
_PLAIN_KEY = re.compile(r"[A-Za-z0-9\-._~:@]+")
Model = TypeVar("Model", bound=BaseModel)
Command = Callable[..., Coroutine[Any, Any, int]]


@dataclass(frozen=True)
class Call:
    """How the backups are reached, and who is told."""

    terminal: Terminal
    environment: Mapping[str, str]
    url: str | None
    bucket: str | None
    keys: Sequence[str]
    as_json: bool

    @asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        if self.url and self.bucket:
            raise SettingsError("--api and --bucket are two ways: name one")
        self.check_keys()
        if self.bucket:
            # What went wrong is in the answer, and needs no second telling.
            with self.terminal.log("backup_lambda", logging.CRITICAL):
                async with gateway.within(self.bucket, self.keys, self._policy()) as api:
                    yield api
        elif url := self.url or next((self.environment[each] for each in API_URL if self.environment.get(each)), None):
            region = self.environment.get("AWS_REGION") or self.environment.get("AWS_DEFAULT_REGION")
            async with gateway.at(url, region) as api:
                yield api
        else:
            raise SettingsError(
                "name the API (--api URL, or HOLDFAST_API_URL), or the bucket (--bucket NAME --key SHA256)"
            )

    def check_keys(self) -> None:
        if bool(self.bucket) != bool(self.keys):
            raise SettingsError("--bucket and --key go together")

    def _policy(self) -> Policy:
        try:
            return Policy.parse(self.environment.get("HOLDFAST_RETENTION") or Policy())
        except ValueError as error:
            raise SettingsError(f"HOLDFAST_RETENTION: {error}") from None

    def worker_settings(self) -> WorkerSettings:
        settings = {name: text for name, text in self.environment.items() if name not in API_URL}
        return WorkerSettings.from_env(settings)

    def tell(self, body: bytes, show: Callable[[], None]) -> None:
        """A script gets the API's answer, a person what it means."""
        if self.as_json:
            self.terminal.answer(body)
        else:
            show()


def _fingerprints(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for each in values:
        if not re.fullmatch(r"[0-9a-f]{64}", each):
            raise click.BadParameter("not 64 hexadecimal digits")
    return values


REACHED = (
    click.option("--api", "url", metavar="URL", help="The gateway, up to and with its stage."),
    click.option("--bucket", metavar="NAME", help="Go without the API, to this bucket."),
    click.option(
        "--key",
        "keys",
        metavar="SHA256",
        multiple=True,
        callback=_fingerprints,
        help="Fingerprint of a public key that may have signed what is in the bucket; may be repeated.",
    ),
    click.option("--json", "as_json", is_flag=True, help="The API's JSON on stdout."),
)


def command(name: str) -> Callable[[Command], click.Command]:
    """Of a coroutine whose result is the exit code, with the options that all commands have."""

    def made(function: Command) -> click.Command:
        def called(*, url: str | None, bucket: str | None, keys: Sequence[str], as_json: bool, **given: Any) -> int:
            screen, environment = click.get_current_context().obj
            call = Call(screen, environment, url, bucket, keys, as_json)
            return asyncio.run(function(call, **given))

        callback: Any = functools.update_wrapper(called, function)
        for option in reversed(REACHED):
            callback = option(callback)
        return click.command(name)(callback)

    return made


def waiting(*, default: bool) -> Callable[[Command], Command]:
    return click.option(
        "--wait/--no-wait", default=default, show_default=True, help="Stay until it has ended, and say how."
    )


YES = click.option("--yes", is_flag=True, help="Do not ask.")


async def followed(
    call: Call, api: Api, path: str, kind: type[Model], ended: Callable[[Model], bool]
) -> tuple[bytes, Model]:
    """What is at `path` when it has ended. Raises ApiError."""
    subject = path.rpartition("/")[2]
    answered = worked_on = time.monotonic()
    with call.terminal.progress() as tell:
        try:
            while True:
                now = time.monotonic()
                try:
                    body = await api.get(path)
                except ApiAway:
                    if now - answered > AWAY_SECONDS:
                        raise
                else:
                    shown, answered = read(kind, body), now
                    if ended(shown):
                        return body, shown
                    if progress := getattr(shown, "progress", None):
                        tell(f"{subject}: {how_far(progress)}", progress.percent)
                        worked_on = now
                    elif now - worked_on > NOBODY_SECONDS:
                        raise ApiError(f"{subject}: nobody is at work on it, and it has not ended")
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
        except asyncio.CancelledError:
            call.terminal.say(f"it goes on without you: show {subject}")
            raise


def how_far(progress: ProgressOut) -> str:
    return f"{progress.stage}, {progress.rows:,} rows, {progress.percent} %"


def valid(kind: type[Model], **fields: Any) -> Model:
    """Raises SettingsError."""
    try:
        return kind(**fields)
    except ValidationError as error:
        wrong = [f"--{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise SettingsError("; ".join(wrong)) from None


def read(kind: type[Model], body: bytes) -> Model:
    """Raises ApiError."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise ApiError(f"the answer is not one that this release understands: {error.errors()[0]['msg']}") from error


def segment(text: str) -> str:
    return quote(text, safe="")


def key_segment(key: str) -> str:
    """As routes.read_row describes it."""
    if _PLAIN_KEY.fullmatch(key) and key not in (".", ".."):  # which would be parts of the path
        return key
    return base64.urlsafe_b64encode(json.dumps(key_values(key)).encode()).decode().rstrip("=")


def key_values(key: str) -> Sequence[Any]:
    """A JSON array, if it is one; else the one value."""
    try:
        values = json.loads(key)
    except ValueError:
        values = None
    return values if isinstance(values, list) and values else [key]


def agreed(question: str) -> None:
    """Raises ApiRefused."""
    if not click.confirm(question, err=True):
        raise ApiRefused("nothing was done")
