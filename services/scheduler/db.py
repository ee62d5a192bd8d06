"""The database: one engine per process, one transaction per request or step."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, Request
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from scheduler.errors import DatabaseUnavailable
from scheduler.settings import Settings

CONNECTIONS = 10
CONNECT_SECONDS = 3
POOL_WAIT_SECONDS = 3
STATEMENT_SECONDS = 5
# Classes of SQLSTATE that say: not now. Connection, resources, a database that takes no connections, and operator
# intervention, which includes time-outs.
_NOT_NOW = ("08", "40", "53", "55", "57")

log = logging.getLogger(__name__)


def create_engine(
    settings: Settings, application_name: str = "scheduler", statement_seconds: int = STATEMENT_SECONDS
) -> AsyncEngine:
    """An engine that connects when it is first used. Whoever makes it disposes of it.

    A `statement_seconds` of 0 is for ever.
    """

    async def connect() -> asyncpg.Connection:
        # asyncpg reads the URL itself, with all that libpq knows: sslmode, several hosts, a socket.
        return await asyncpg.connect(
            **settings.connection,
            timeout=CONNECT_SECONDS,
            # Only for a server that has gone silent: one that lives ends the statement first.
            command_timeout=statement_seconds + 2 if statement_seconds else None,
            server_settings={
                "application_name": application_name,
                "statement_timeout": f"{statement_seconds}s",
                "idle_in_transaction_session_timeout": "60s",
                "TimeZone": "UTC",
            },
        )

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        hide_parameters=True,  # token hashes and schedules' targets, and errors are logged
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """Committed at its end, rolled back on any error.

    Raises DatabaseUnavailable in place of what drivers and pools raise when asking again may help.
    """
    with _unavailability():
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            yield session


async def _of_request(request: Request) -> AsyncIterator[AsyncSession]:
    async with transaction(request.app.state.engine) as session:
        yield session


# The default scope of a dependency ends after the answer was sent: a failing commit would follow a 201.
Session = Annotated[AsyncSession, Depends(_of_request, scope="function")]


def _refuse_closed(connection: Any, *_: object) -> None:
    """At every checkout: asyncpg has seen the server's goodbye, so this costs no round trip as a ping would."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


@contextmanager
def _unavailability() -> Iterator[None]:
    try:
        yield
    except (OSError, PoolTimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # A session does nothing but talk to the database: these are a refused, silent or broken connection.
        log.warning("database unavailable: %s", error.__class__.__name__)
        raise DatabaseUnavailable from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if not (error.connection_invalidated or state.startswith(_NOT_NOW)):
            raise
        log.warning("database unavailable: %s %s", error.orig.__class__.__name__, state)
        raise DatabaseUnavailable from error
