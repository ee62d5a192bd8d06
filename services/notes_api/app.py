"""The composition root: `uvicorn notes_api.app:create_app --factory`."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from notes_api import chores, contract, db, health, logs, metrics, migrate, problems, relay
from notes_api.access import Authentication
from notes_api.console.attachments import UPLOAD
from notes_api.console.site import Site
from notes_api.cursors import Signer
from notes_api.edge import BodyLimit, Edge, HeadLimit
from notes_api.exported import Exports
from notes_api.limits import Limits, RateLimit
from notes_api.metrics import Metrics
from notes_api.routes import attachments, batch, changes, lists, notes, revisions, search, text, tokens, transfer
from notes_api.settings import Settings
from notes_api.storage import storage
from notes_api.stream import watch
from notes_api.traces import Traces

MAX_BODY_BYTES = 2 * 1024 * 1024
FORM_BYTES = 16 * 1024  # around a file


class NotesApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return contract.document(super().openapi())


def create_app(settings: Settings | None = None) -> FastAPI:
    """Without settings the process is ours: those of the environment, and logs to standard output.

    Nothing is connected before the first request.
    """
    if settings is None:
        logs.to_stdout()
        settings = Settings.from_env(os.environ)
    traces = Traces(settings.otlp_endpoint) if settings.otlp_endpoint else None
    limits = Limits(settings.requests_per_minute, settings.redis_url.get_secret_value())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            opened.push_async_callback(limits.close)
            if traces:
                await opened.enter_async_context(traces.kept())
            app.state.pool = await opened.enter_async_context(db.pool(settings, traces.statement if traces else None))
            app.state.authentication = Authentication(app.state.pool)
            app.state.storage = await opened.enter_async_context(storage(settings))
            app.state.watch = await opened.enter_async_context(watch(app.state.pool))
            due = partial(chores.do, app.state.pool, settings, app.state.storage)
            await opened.enter_async_context(chores.running("chores", due, chores.EVERY_SECONDS))
            if topic := await opened.enter_async_context(relay.topic(settings)):
                send = partial(relay.relay, app.state.pool, topic)
                await opened.enter_async_context(chores.running("relay", send, relay.EVERY_SECONDS))
            yield

    app = NotesApi(
        **contract.ABOUT,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would name a host that the client may not reach
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # see `traces`
    )
    app.state.settings = settings
    app.state.signer = Signer(settings.signing_key)
    app.state.revisions = migrate.revisions()
    app.state.metrics = Metrics()
    app.state.exports = Exports()
    for each in (notes, lists, search, revisions, text, tokens, attachments, changes, batch, transfer):
        app.include_router(each.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    Site(app)
    problems.handle(app)
    uploads = {UPLOAD: settings.attachment_bytes + FORM_BYTES}
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES, unlimited={transfer.IMPORT}, larger=uploads)
    app.add_middleware(HeadLimit)
    app.add_middleware(RateLimit, limits=limits)
    app.add_middleware(Edge, metrics=app.state.metrics, traces=traces)  # the last added is the outermost
    return app
