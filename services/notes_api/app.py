"""The composition root: `uvicorn notes_api.app:create_app --factory`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from notes_api import db, health, migrate, problems, routes
from notes_api.edge import BodyLimit, RequestId
from notes_api.settings import Settings

MAX_BODY_BYTES = 2 * 1024 * 1024


class NotesApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return problems.document(super().openapi())


def create_app(settings: Settings | None = None) -> FastAPI:
    """Without settings, those of the environment. Nothing is connected before the first request."""
    engine = db.create_engine(settings or Settings.from_env(os.environ))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = NotesApi(
        title="Holdfast notes",
        version="1",
        description="Notes whose backups are proven. Every error is `application/problem+json`.",
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would name a host that the client may not reach
        redoc_url=None,
    )
    app.state.engine = engine
    app.state.revisions = migrate.revisions()
    app.include_router(routes.router)
    app.include_router(health.router)
    problems.handle(app)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(RequestId)  # the last added is the outermost
    return app
