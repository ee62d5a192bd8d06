"""The two Lambda functions of this package: `api` answers API Gateway, `worker` makes and proves backups.

One event loop lives as long as the process, and what is opened is opened once on it: Lambda freezes the process
between invocations and thaws it, and ends it without a word.
"""

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

from mangum import Mangum
from pydantic import ValidationError

from backup_lambda import aws
from backup_lambda.app import create_app, utc_now
from backup_lambda.notices import Topic
from backup_lambda.settings import ApiSettings, WorkerSettings
from backup_lambda.store import S3Store
from backup_lambda.tasks import Task
from backup_lambda.worker import create_worker

logging.getLogger("backup_lambda").setLevel(logging.INFO)
_loop = asyncio.new_event_loop()
asyncio.set_event_loop(_loop)  # Mangum takes this one
_opened = AsyncExitStack()


class UnknownEvent(Exception):
    """The function was invoked with something that it was not made for."""


def api(event: dict[str, Any], context: Any) -> dict[str, Any]:
    if "requestContext" not in event or "httpMethod" not in event:
        raise UnknownEvent("this is no request of API Gateway's")
    return _api()(event, context)


def worker(event: dict[str, Any], context: Any) -> dict[str, str]:
    try:
        task = Task.model_validate(event)
    except ValidationError as error:
        raise UnknownEvent(f"this is no task for the worker: {error.error_count()} errors") from None
    settings, clients = _for_worker()
    worker = create_worker(settings, utc_now, **clients)

    def seconds_left() -> float:
        return float(context.get_remaining_time_in_millis()) / 1000

    done = worker.back_up(task.backup_id, seconds_left) if task.task == "backup" else worker.do(task, seconds_left)
    return {"backup_id": task.backup_id, "outcome": _loop.run_until_complete(done)}


@cache
def _api() -> Mangum:
    settings = ApiSettings.from_env(os.environ)
    s3, sns, functions = _open("s3", "sns", "lambda")

    async def start_worker(task: Task) -> None:
        with aws.errors_named():
            await functions.invoke(
                FunctionName=settings.worker_function, InvocationType="Event", Payload=task.model_dump_json()
            )

    app = create_app(S3Store(s3, settings.bucket), Topic(sns, settings.topic_arn), start_worker)
    return Mangum(
        app,
        lifespan="off",  # with a lifespan it would start and stop the app at every request
        # What is no text leaves in base64, and the gateway passes that on as it is.
        text_mime_types=["application/json", "application/problem+json"],
    )


@cache
def _for_worker() -> tuple[WorkerSettings, dict[str, Any]]:
    settings = WorkerSettings.from_env(os.environ)
    s3, sns, secrets, kms = _open("s3", "sns", "secretsmanager", "kms")
    return settings, {"s3": s3, "sns": sns, "secrets": secrets, "kms": kms}


def _open(*services: str) -> list[Any]:
    return _loop.run_until_complete(_opened.enter_async_context(aws.clients(*services)))
