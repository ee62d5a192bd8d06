"""The API, put together from what it works on."""

from datetime import UTC, datetime

from fastapi import FastAPI

from backup_lambda import __version__, problems
from backup_lambda.backups import StartWorker
from backup_lambda.lease import Clock
from backup_lambda.notices import Topic
from backup_lambda.routes import router
from backup_lambda.store import S3Store


def utc_now() -> datetime:
    return datetime.now(UTC)


def create_app(store: S3Store, topic: Topic, start_worker: StartWorker, now: Clock = utc_now) -> FastAPI:
    """`start_worker` has a task done, and does not wait for it."""
    app = FastAPI(title="Holdfast backups", version=__version__, openapi_url=None, redirect_slashes=False)
    app.state.store, app.state.topic, app.state.start_worker, app.state.now = store, topic, start_worker, now
    problems.add_to(app)
    app.include_router(router)
    return app
