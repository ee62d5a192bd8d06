"""The doors of the service: HTTP and the command line."""

import os
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import httpx
from fastapi import FastAPI

from notes_api import db, tokens
from notes_api.app import create_app
from notes_api.settings import Settings

SERVICES = Path(__file__).parents[2] / "services"


def run(module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m notes_api.{module}`, in a process of its own that sees these variables and no others of ours."""
    return subprocess.run(
        [sys.executable, "-m", f"notes_api.{module}", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SERVICES), **env},
        timeout=60,
    )


@asynccontextmanager
async def serving(database_url: str, **more: str) -> AsyncIterator[FastAPI]:
    env = {"HOLDFAST_DATABASE_URL": database_url, "HOLDFAST_SIGNING_KEY": "k" * 32} | more
    app = create_app(Settings.from_env(env))
    async with app.router.lifespan_context(app):
        yield app


def client(app: FastAPI, token: str = "") -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://notes.test", headers=headers)


async def large_notes(app: FastAPI, count: int) -> None:
    """Of 1 MB, of the one who has a token."""
    async with db.connected(app.state.pool) as connection:
        await connection.execute(
            "insert into notes.notes (owner, title, content, tags)"
            " select owner, n, repeat('x', 1000000), '{}' from notes.tokens, generate_series(1, $1) as n",
            count,
        )


@contextmanager
def within(max_bytes: int) -> Iterator[None]:
    """What is done takes no more memory than this at any moment."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= max_bytes
    finally:
        tracemalloc.stop()


async def new_token(app: FastAPI, *scopes: str, owner: UUID | None = None) -> str:
    """A token, of a new owner where none is given."""
    async with db.connected(app.state.pool) as connection:
        return await tokens.create(connection, owner or uuid4(), "test", scopes, expires_at=None)
