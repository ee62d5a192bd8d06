"""The composition root of the API: `python -m scheduler.serve`."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from scheduler import backups, contract, db, health, logs, metrics, migrate, outside, problems
from scheduler.console.site import Site
from scheduler.edge import BodyLimit, Edge
from scheduler.metrics import ApiMetrics
from scheduler.routes import runs, schedules
from scheduler.settings import Settings
from scheduler.traces import Traces

MAX_BODY_BYTES = 64 * 1024


class SchedulerApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return contract.document(super().openapi())


def create_app(settings: Settings | None = None) -> FastAPI:
    """Without settings the process is ours: those of the environment, and logs to standard output.

    Nothing is connected before the first request.
    """
    if settings is None:
        logs.to_stdout()
        settings = Settings.from_env(os.environ)
    traces = Traces(settings.otlp_endpoint)
    engine = db.create_engine(settings, application_name="scheduler.api")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            opened.push_async_callback(engine.dispose)
            await opened.enter_async_context(traces.kept())
            if settings.backups_url:
                app.state.backups = await opened.enter_async_context(backups.connect(settings.backups_url))
            yield

    app = SchedulerApi(
        **contract.ABOUT,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would name a host that the client may not reach
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # see `traces`
    )
    app.state.metrics = ApiMetrics()
    app.state.engine = engine
    app.state.backups = None
    app.state.outside = outside.connect(settings.http_targets)
    app.state.revisions = migrate.revisions()
    app.include_router(schedules.router)
    app.include_router(runs.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    Site(app)
    problems.handle(app)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(Edge, metrics=app.state.metrics, traces=traces)  # the last added is the outermost
    return app
