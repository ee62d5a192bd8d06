"""The database: a pool per process, a connection per request.

There is no mapper between us and PostgreSQL. What a request does is mostly one statement, which is a transaction of its
own; where it is more, the domain function says `async with connection.transaction()`. Both end before the answer
leaves, since the dependency's scope is the route's function.
"""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from fastapi import Depends, Request

from notes_api.errors import DatabaseUnavailable
from notes_api.settings import DatabaseSettings

CONNECTIONS = 10
CONNECT_SECONDS = 3
POOL_WAIT_SECONDS = 3
STATEMENT_SECONDS = 5
# Classes of SQLSTATE that say: not now. Connection, transactions that stood in each other's way, resources, a database
# that takes no connections, and operator intervention, which includes time-outs.
_NOT_NOW = ("08", "40", "53", "55", "57")

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Row: TypeAlias = Mapping[str, Any] | asyncpg.Record
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


def pool(settings: DatabaseSettings, watch: Callable[[Any], None] | None = None) -> Pool:
    """To be entered in the loop that uses it. It connects when it is first used. `watch` is told of each statement."""

    async def init(connection: Connection) -> None:
        await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        if watch:
            connection.add_query_logger(watch)

    return asyncpg.create_pool(
        # asyncpg reads the URL itself, with all that libpq knows: sslmode, several hosts, a socket.
        settings.database_url.get_secret_value(),
        min_size=0,
        max_size=CONNECTIONS,
        timeout=CONNECT_SECONDS,
        # Only for a server that has gone silent: one that lives ends the statement first.
        command_timeout=STATEMENT_SECONDS + 2,
        init=init,
        reset=_nothing_to_reset,
        server_settings={
            "application_name": "notes_api",
            "statement_timeout": f"{STATEMENT_SECONDS}s",
            "idle_in_transaction_session_timeout": "60s",
            "TimeZone": "UTC",
            # A plan kept for any owner, tag or word is a hundred times slower for some; to plan costs 0.01 ms or so.
            "plan_cache_mode": "force_custom_plan",
        },
    )


@asynccontextmanager
async def connected(pool: Pool) -> AsyncIterator[Connection]:
    """Raises DatabaseUnavailable in place of what driver and pool raise when asking again may help."""
    with unavailability():
        async with pool.acquire(timeout=POOL_WAIT_SECONDS) as connection:
            yield connection


async def _of_request(request: Request) -> AsyncIterator[Connection]:
    async with connected(request.app.state.pool) as connection:
        yield connection


# The default scope of a dependency ends after the answer was sent: a failing commit would follow a 201.
Db = Annotated[Connection, Depends(_of_request, scope="function")]


@contextmanager
def unavailability() -> Iterator[None]:
    try:
        yield
    except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
        # A connection does nothing but talk to the database: these are a refused, silent or broken one, or none free.
        log.warning("database unavailable: %s", error.__class__.__name__)
        raise DatabaseUnavailable from error
    except asyncpg.PostgresError as error:
        if not (error.sqlstate or "").startswith(_NOT_NOW):
            raise
        log.warning("database unavailable: %s %s", error.__class__.__name__, error.sqlstate)
        raise DatabaseUnavailable from error


async def _nothing_to_reset(_: Connection) -> None:
    """The pool's own way costs a round trip each time. Whoever sets something that outlives a transaction resets it."""
