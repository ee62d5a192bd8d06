"""The two Lambda functions of this package: `api` answers API Gateway, `worker` makes backups.

One event loop lives as long as the process, and what is opened is opened once on it: Lambda freezes the process
between invocations and thaws it, and ends it without a word.
"""

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from functools import cache
from typing import Annotated, Any, Literal

from mangum import Mangum
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from backup_lambda import aws
from backup_lambda.app import create_app, utc_now
from backup_lambda.notices import Topic
from backup_lambda.settings import ApiSettings, WorkerSettings
from backup_lambda.store import S3Store
from backup_lambda.worker import Worker

logging.getLogger("backup_lambda").setLevel(logging.INFO)
_loop = asyncio.new_event_loop()
asyncio.set_event_loop(_loop)  # Mangum takes this one
_opened = AsyncExitStack()


class UnknownEvent(Exception):
    """The function was invoked with something that it was not made for."""


class Task(BaseModel):
    """What the API hands to the worker."""

    model_config = ConfigDict(extra="forbid", strict=True)

    task: Literal["backup"]
    backup_id: Annotated[str, StringConstraints(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$")]


def api(event: dict[str, Any], context: Any) -> dict[str, Any]:
    if "requestContext" not in event or "httpMethod" not in event:
        raise UnknownEvent("this is no request of API Gateway's")
    return _api()(event, context)


def worker(event: dict[str, Any], context: Any) -> dict[str, str]:
    try:
        task = Task.model_validate(event)
    except ValidationError as error:
        raise UnknownEvent(f"this is no task for the worker: {error.error_count()} errors") from None
    back_up = _worker().back_up(task.backup_id, lambda: context.get_remaining_time_in_millis() / 1000)
    outcome = _loop.run_until_complete(back_up)
    return {"backup_id": task.backup_id, "outcome": outcome}


@cache
def _api() -> Mangum:
    settings = ApiSettings.from_env(os.environ)
    s3, sns, functions = _open("s3", "sns", "lambda")

    async def start_worker(backup_id: str) -> None:
        payload = Task(task="backup", backup_id=backup_id).model_dump_json()
        with aws.errors_named():
            await functions.invoke(FunctionName=settings.worker_function, InvocationType="Event", Payload=payload)

    app = create_app(S3Store(s3, settings.bucket), Topic(sns, settings.topic_arn), start_worker)
    return Mangum(
        app,
        lifespan="off",  # with a lifespan it would start and stop the app at every request
        # What is no text leaves in base64, and the gateway passes that on as it is.
        text_mime_types=["application/json", "application/problem+json"],
    )


@cache
def _worker() -> Worker:
    settings = WorkerSettings.from_env(os.environ)
    s3, sns, secrets = _open("s3", "sns", "secretsmanager")

    async def database_url() -> str:
        with aws.errors_named():
            secret = await secrets.get_secret_value(SecretId=settings.database_secret)
        return str(secret["SecretString"])

    return Worker(S3Store(s3, settings.bucket), Topic(sns, settings.topic_arn), database_url, settings.schemas, utc_now)


def _open(*services: str) -> list[Any]:
    return _loop.run_until_complete(_opened.enter_async_context(aws.clients(*services)))
