"""The database: a pool per process, a connection per request.

There is no mapper between us and PostgreSQL. What a request does is mostly one statement, which is a transaction of its
own; where it is more, the domain function says `async with connection.transaction()`. Both end before the answer
leaves: the route lets go of what its request holds when its function has returned. See routes/parts.py.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Annotated, Any, Self, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction
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

# Of the driver: TimeoutError is an OSError.
_LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

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
        **settings.connection,
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
        },
    )


class connected:  # noqa: N801  # `async with connected(pool) as connection`, without what a generator costs
    """Raises DatabaseUnavailable in place of what driver and pool raise when asking again may help."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        try:
            self._connection: Any = await self._pool.acquire(timeout=POOL_WAIT_SECONDS)
        except Exception as error:
            _raise_unavailable(error)
            raise
        found: Connection = self._connection
        return found

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What is done is done, even if the connection cannot be given back: the pool closes it then, or has done so.
        with suppress(*_LOST):
            if _is_over(error):  # before the pool notices, and gives it to somebody else
                self._connection.terminate()
        with suppress(*_LOST):
            await self._pool.release(self._connection)
        if error is not None:
            _raise_unavailable(error)


@asynccontextmanager
async def planned_anew(connection: Connection, settings: str = "") -> AsyncIterator[None]:
    """A transaction for what no one plan is good for: kept for any tag or word, it is a hundred times slower for some.

    Elsewhere plans are kept. To make one takes longer than to find a note.
    """
    async with connection.transaction():
        await connection.execute(f"set local plan_cache_mode = force_custom_plan; {settings}")
        yield


class Held:
    """What a request holds until its route's function has returned: a connection, and a transaction on it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connected: connected | None = None
        self._connection: Connection | None = None
        self._transaction: Transaction | None = None

    async def __aenter__(self) -> Self:
        return self

    async def connection(self) -> Connection:
        """The same one, however often it is asked for. Raises DatabaseUnavailable."""
        if self._connection is None:
            entered = connected(self._pool)
            self._connection = await entered.__aenter__()
            self._connected = entered
        return self._connection

    async def in_transaction(self) -> None:
        """From now on: it ends before the answer leaves."""
        transaction = (await self.connection()).transaction()
        await transaction.__aenter__()
        self._transaction = transaction

    async def release(self) -> None:
        """While the client is waited for, others need the connection."""
        await self.__aexit__(None, None, None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered, transaction = self._connected, self._transaction
        self._connected = self._connection = self._transaction = None
        failed = error
        try:
            if transaction is not None:
                await transaction.__aexit__(kind, error, traceback)
        except BaseException as raised:
            failed = raised
            raise
        finally:
            if entered is not None:
                await entered.__aexit__(None, failed, None)


async def of_request(request: Request) -> Any:  # a Connection, which is no type at run time, where FastAPI looks
    """A dependency that yields would cost more than its statement."""
    held: Held = request.state.held
    return await held.connection()


Db = Annotated[Connection, Depends(of_request)]


def _raise_unavailable(error: BaseException) -> None:
    """Raises DatabaseUnavailable if that is what the error says."""
    if _says_not_now(error):
        log.warning("database unavailable: %s %s", type(error).__name__, getattr(error, "sqlstate", None) or "")
        raise DatabaseUnavailable from error


def _is_over(error: BaseException | None) -> bool:
    """Whether the server has ended the session, the driver lost track of it, or nobody is left to end what it does."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(("08", "57P"))
    return isinstance(error, (*_LOST, asyncio.CancelledError))


def _says_not_now(error: BaseException) -> bool:
    """A connection does nothing but talk to the database: it is refused, silent or broken, or none is free."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_NOT_NOW)
    return isinstance(error, _LOST)


async def _nothing_to_reset(_: Connection) -> None:
    """The pool's own way costs a round trip each time. Whoever sets something that outlives a transaction resets it."""
