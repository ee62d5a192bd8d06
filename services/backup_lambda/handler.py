"""The Lambda functions of this package: `api`, `worker` and `keeper`.

The first answers API Gateway, the second makes, proves and restores backups, the third deletes what is not kept. One
event loop lives as long as the process, and what is opened is opened once on it: Lambda freezes the process between
invocations and thaws it, and ends it without a word.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import cache
from typing import Any

from mangum import Mangum
from pydantic import ValidationError

from backup_lambda import aws, diff, traces
from backup_lambda.app import create_app, utc_now
from backup_lambda.errors import DatabaseFailed
from backup_lambda.fargate import Fargate
from backup_lambda.functions import Functions, answered
from backup_lambda.keeper import create_keeper
from backup_lambda.notices import Topic
from backup_lambda.settings import ApiSettings, KeeperSettings, WorkerSettings
from backup_lambda.store import S3Store
from backup_lambda.tasks import WORKERS_TASKS, DiffTask, RestoreTask, RetentionTask, Started, Task, TrialTask
from backup_lambda.worker import Worker, create_worker

logging.getLogger("backup_lambda").setLevel(logging.INFO)
traces.in_logs()
_loop = asyncio.new_event_loop()
asyncio.set_event_loop(_loop)  # Mangum takes this one
_opened = AsyncExitStack()


class UnknownEvent(Exception):
    """The function was invoked with something that it was not made for."""


def api(event: dict[str, Any], context: Any) -> dict[str, Any]:
    if "requestContext" not in event or "httpMethod" not in event:
        raise UnknownEvent("this is no request of API Gateway's")
    return _api()(event, context)


def worker(event: dict[str, Any], context: Any) -> dict[str, Any]:
    try:
        task = WORKERS_TASKS.validate_python(event)
    except ValidationError as error:
        raise UnknownEvent(f"this is no task for the worker: {error.error_count()} errors") from None
    traces.TRACE_ID.set(task.trace_id)
    settings, clients = _for_worker()
    worker = create_worker(settings, utc_now, **clients)
    longer = Fargate(_ecs(), settings.task, settings.task_from_bytes) if settings.task else None
    return _loop.run_until_complete(_done(worker, longer, task, _seconds_left(context)))


async def _done(
    worker: Worker, longer: Fargate | None, task: Started | DiffTask, seconds_left: Callable[[], float]
) -> dict[str, Any]:
    if longer and isinstance(task, Task | RestoreTask):
        with suppress(DatabaseFailed):  # which the task itself says where people see it
            if await longer.is_for(worker.means):
                await longer.begin(task)
                return {"outcome": "handed on"}
    match task:
        case DiffTask():
            return await answered(diff.page_with_now(worker.means, task.backup_id, task.cursor))
        case TrialTask():
            await worker.send_trial(task)
            return {"outcome": "sent"}
        case RestoreTask():
            return {"restore_id": task.restore_id, "outcome": await worker.restore(task, seconds_left)}
        case _ if task.task == "backup":
            outcome = await worker.back_up(task.backup_id, seconds_left)
        case _:
            outcome = await worker.do(task, seconds_left)
    return {"backup_id": task.backup_id, "outcome": outcome}


def keeper(event: dict[str, Any], context: Any) -> dict[str, Any]:
    try:
        task = RetentionTask.model_validate(event)
    except ValidationError as error:
        raise UnknownEvent(f"this is no task for the keeper: {error.error_count()} errors") from None
    traces.TRACE_ID.set(task.trace_id)
    settings, clients = _for_keeper()
    keeper = create_keeper(settings, utc_now, **clients)
    return _loop.run_until_complete(answered(keeper.apply(task, _seconds_left(context))))


def _seconds_left(context: Any) -> Callable[[], float]:
    return lambda: float(context.get_remaining_time_in_millis()) / 1000


@cache
def _api() -> Mangum:
    settings = ApiSettings.from_env(os.environ)
    s3, sns, starting, asking = _open("s3", "sns", "lambda", aws.ASKING)
    invoke = Functions(starting, asking, settings.worker_function, settings.keeper_function)
    app = create_app(
        S3Store(s3, settings.bucket),
        Topic(sns, settings.topic_arn),
        invoke.start,
        ask=invoke.ask,
        policy=settings.retention,
    )
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


@cache
def _ecs() -> Any:
    (ecs,) = _open("ecs")
    return ecs


@cache
def _for_keeper() -> tuple[KeeperSettings, dict[str, Any]]:
    settings = KeeperSettings.from_env(os.environ)
    s3, secrets, kms = _open("s3", "secretsmanager", "kms")
    return settings, {"s3": s3, "secrets": secrets, "kms": kms}


def _open(*services: str) -> list[Any]:
    return _loop.run_until_complete(_opened.enter_async_context(aws.clients(*services)))
