"""The composition root of the API: `uvicorn scheduler.app:create_app --factory`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from scheduler import contract, db, health, migrate, outside, problems
from scheduler.edge import BodyLimit, RequestId
from scheduler.routes import runs, schedules
from scheduler.settings import Settings

MAX_BODY_BYTES = 64 * 1024


class SchedulerApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return contract.document(super().openapi())


def create_app(settings: Settings | None = None) -> FastAPI:
    """Without settings, those of the environment. Nothing is connected before the first request."""
    settings = settings or Settings.from_env(os.environ)
    engine = db.create_engine(settings, application_name="scheduler.api")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = SchedulerApi(
        **contract.ABOUT,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would name a host that the client may not reach
        redoc_url=None,
    )
    app.state.engine = engine
    app.state.outside = outside.connect(settings.http_targets)
    app.state.revisions = migrate.revisions()
    app.include_router(schedules.router)
    app.include_router(runs.router)
    app.include_router(health.router)
    problems.handle(app)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(RequestId)
    return app
