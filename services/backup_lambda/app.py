"""The API, put together from what it works on."""

from datetime import UTC, datetime

from fastapi import FastAPI

from backup_lambda import __version__, problems
from backup_lambda.backups import StartWorker
from backup_lambda.lease import Clock
from backup_lambda.notices import Topic
from backup_lambda.retention import Policy
from backup_lambda.routes import Ask, router
from backup_lambda.store import S3Store
from backup_lambda.tasks import Question


def utc_now() -> datetime:
    return datetime.now(UTC)


async def nobody_answers(question: Question) -> bytes:
    """For an API that has nobody to ask."""
    raise NotImplementedError(question.task)


def create_app(
    store: S3Store,
    topic: Topic,
    start_worker: StartWorker,
    now: Clock = utc_now,
    *,
    ask: Ask = nobody_answers,
    policy: Policy = Policy(),  # noqa: B008  # it is frozen
) -> FastAPI:
    """`start_worker` has a task done, and does not wait for it; `ask` waits for the answer of a function."""
    app = FastAPI(title="Holdfast backups", version=__version__, openapi_url=None, redirect_slashes=False)
    app.state.store, app.state.topic, app.state.start_worker, app.state.now = store, topic, start_worker, now
    app.state.ask, app.state.policy = ask, policy
    problems.add_to(app)
    app.include_router(router)
    return app
