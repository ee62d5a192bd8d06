"""A database that a backup is restored into: made for that, and dropped whatever happens, unless it is kept."""

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from backup_lambda import snapshot
from backup_lambda.catalogue import Connection, quoted
from backup_lambda.errors import DatabaseFailed, NotRestored, ProofUnfinished, RestoreRefused
from backup_lambda.manifest import Manifest

DROP_SECONDS = 15  # within what the worker keeps for its end
LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
# Nobody else reads it, and it is gone before a crash could matter; whoever keeps it waits for the disk.
SESSION = {"application_name": "holdfast proof", "synchronous_commit": "off", "maintenance_work_mem": "256MB"}

# Named `holdfast_proof_{backup}_{time}_{any}`, or `holdfast_new_{restore}_{time}_{any}`. A proof of this backup that
# died left them, or an attempt at this restore; or any that died more than a day ago: nothing takes so long.
LEFTOVERS = r"""
select datname from pg_database
where datdba = current_user::regrole and (starts_with(datname, $1) or (
    datname ~ '^holdfast_(proof|new)_\d{8}t\d{6}z_[0-9a-f]+_\d{8}t\d{6}z_[0-9a-f]+$'
    and to_timestamp(substring(datname from '_(\d{8}t\d{6})z_[0-9a-f]+$'), 'YYYYMMDD"t"HH24MISS')
        < now() - interval '1 day'
    and not exists (select from pg_stat_activity a where a.datname = pg_database.datname)))
"""
OURS_ENDED = """
select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1 and usename = current_user
"""
TAKEN = r"""
select coalesce(sum(pg_database_size(oid)), 0)::bigint from pg_database
where datname ~ '^holdfast_(proof|new)_' and datdba = current_user::regrole
"""
# Of the classes of errors, those that come from what is restored. Others are the server's: it is full, or going down.
OF_THE_BACKUP = {"0L", "0P", "20", "21", "22", "23", "2B", "2F", "38", "39", "3F", "42", "44", "54", "P0"}
UNKNOWN_OBJECTS = {"3F000", "42704", "42883", "42P01"}
LACKING = re.compile(r"(role|language|collation|access method|tablespace) ")


@dataclass(frozen=True)
class Scratch:
    """A database of our own. `url` holds a password."""

    url: str = field(repr=False)
    server: str  # the version of PostgreSQL
    name: str = ""

    async def connect(self) -> Connection:
        with failures_named():
            return await snapshot.connect(self.url, **SESSION)


@asynccontextmanager
async def database(
    url: str, manifest: Manifest, room_bytes: int | None, restore_id: str | None = None
) -> AsyncIterator[Scratch]:
    """An empty one, as the backup's own was. `url` is of a role that may create databases. Raises ProofUnfinished.

    Without the id of a restore it is for a proof.
    """
    prefix = _prefix("new", restore_id) if restore_id else _prefix("proof", manifest.id)
    with failures_named():
        server = await snapshot.connect(url, **SESSION)
        try:
            version = await version_of(server, manifest)
            await _drop_leftovers(server, prefix)
            await _ask_for_room(server, manifest, room_bytes)
            made_at = await server.fetchval("""select to_char(now() at time zone 'UTC', 'YYYYMMDD"t"HH24MISS"z"')""")
        finally:
            server.terminate()
    name = f"{prefix}{made_at}_{secrets.token_hex(2)}"
    try:
        await _to_its_end(_create(url, name, manifest))  # else it might be made after it was dropped
        yield Scratch(urlunsplit(urlsplit(url)._replace(path=f"/{quote(name)}")), version, name)
    finally:
        await _to_its_end(_leave(url, name))


async def keep(url: str, database: Scratch, name: str, comment: str) -> None:
    """Give it this name, all at once, and for good. Raises RestoreRefused when there is one of this name."""
    with failures_named():
        server = await snapshot.connect(url, **SESSION | {"synchronous_commit": "on"})
        try:
            await server.execute(f"comment on database {quoted(database.name)} is {_literal(comment)}")
            async with asyncio.timeout(DROP_SECONDS):
                while True:
                    await server.execute(OURS_ENDED, database.name)
                    with suppress(asyncpg.ObjectInUseError):  # PostgreSQL waited 5 s for it already
                        await server.execute(f"alter database {quoted(database.name)} rename to {quoted(name)}")
                        return
        except asyncpg.DuplicateDatabaseError as error:
            raise RestoreRefused(there_is_one(name)) from error
        finally:
            server.terminate()


async def comment_of(url: str, name: str, restore_id: str) -> str | None:
    """That of the database with this name, empty where it has none; None where there is no such database.

    What another attempt at this restore left is dropped first, so that it cannot get the name afterwards.
    """
    with failures_named():
        server = await snapshot.connect(url, **SESSION)
        try:
            await _drop_leftovers(server, _prefix("new", restore_id))
            found: str | None = await server.fetchval(
                "select coalesce(shobj_description(oid, 'pg_database'), '') from pg_database where datname = $1", name
            )
        finally:
            server.terminate()
    return found


def there_is_one(name: str) -> str:
    return f"there is a database {name} on the proof server: choose another name, or drop it"


def _prefix(purpose: str, whose: str) -> str:
    return f"holdfast_{purpose}_{whose.lower().replace('-', '_')}_"


async def _drop_leftovers(server: Connection, prefix: str) -> None:
    for found in await server.fetch(LEFTOVERS, prefix):
        await _drop(server, found["datname"])


async def version_of(server: Connection, manifest: Manifest) -> str:
    """That of the server, which must be as new as the backup's. Raises ProofUnfinished."""
    version = str(await server.fetchval("show server_version"))
    theirs = str(manifest.database["server_version"])
    if version.partition(".")[0] != theirs.partition(".")[0]:
        raise ProofUnfinished(f"the proof server is PostgreSQL {version}, and the backup of {theirs}: use the same")
    return version


async def _ask_for_room(server: Connection, manifest: Manifest, room_bytes: int | None) -> None:
    """PostgreSQL tells nobody how much of a disk is free."""
    if room_bytes is None:
        return
    needed = 2 * sum(table.bytes for table in manifest.tables)
    taken = await server.fetchval(TAKEN)
    if taken + needed > room_bytes:
        raise ProofUnfinished(
            f"a scratch database may need {needed:,} bytes, others take {taken:,}, and HOLDFAST_PROOF_ROOM_BYTES allows"
            f" {room_bytes:,}"
        )


async def _create(url: str, name: str, manifest: Manifest) -> None:
    source = manifest.database
    provider = str(source["locale_provider"])
    settings = {
        "encoding": source["encoding"],
        "locale_provider": provider,
        "lc_collate": source["collate"],
        "lc_ctype": source["ctype"],
        f"{provider}_locale": source["locale"],
        "icu_rules": source["icu_rules"],
    }
    with failures_named("the proof server cannot make a database like the one that was backed up"):
        server = await snapshot.connect(url, **SESSION)
        try:
            given = " ".join([f"{key} {_literal(str(value))}" for key, value in settings.items() if value is not None])
            await server.execute(f"create database {quoted(name)} template template0 {given}")
            await server.execute(f"revoke all on database {quoted(name)} from public")
        finally:
            server.terminate()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Whoever is cancelled meanwhile, also more than once, is cancelled when the work has ended, or after 15 s."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        ended = asyncio.gather(working, return_exceptions=True)
        until = asyncio.get_running_loop().time() + DROP_SECONDS
        while not ended.done() and (left := until - asyncio.get_running_loop().time()) > 0:
            with suppress(asyncio.CancelledError):
                await asyncio.wait([ended], timeout=left)
        ended.cancel()
        raise


async def _leave(url: str, name: str) -> None:
    try:
        async with asyncio.timeout(DROP_SECONDS):
            server = await snapshot.connect(url, **SESSION)
            try:
                await _drop(server, name)
            finally:
                server.terminate()
    except (DatabaseFailed, asyncpg.PostgresError, *LOST) as error:
        # What the proof found stands all the same, and the next one of this backup drops it.
        logging.getLogger(__name__).warning("%s could not be dropped: %s", name, type(error).__name__)


async def _drop(server: Connection, name: str) -> None:
    """WITH (FORCE) may not end an autovacuum worker, which is another role's; PostgreSQL itself does, without it."""
    async with asyncio.timeout(DROP_SECONDS):
        while True:
            await server.execute(OURS_ENDED, name)
            try:
                await server.execute(f"drop database if exists {quoted(name)}")
                return
            except asyncpg.ObjectInUseError:  # PostgreSQL waited 5 s for it already
                continue


@contextmanager
def failures_named(what: str = "the proof server") -> Iterator[None]:
    """Raises ProofUnfinished for whatever PostgreSQL does."""
    try:
        yield
    except DatabaseFailed as error:
        raise ProofUnfinished(f"{what}: {error}") from error
    except LOST as error:
        raise ProofUnfinished(f"{what}: the connection was lost ({type(error).__name__})") from error
    except asyncpg.PostgresError as error:
        raise ProofUnfinished(f"{what}: {snapshot.message_of(error)}{_advice(error)}") from error


def fault_of(error: NotRestored) -> str:
    """What is wrong with the backup. Raises ProofUnfinished where it is the server that lacks something."""
    cause = error.__cause__
    if isinstance(cause, asyncpg.PostgresError) and _blames_the_backup(cause, str(error)):
        unknown = cause.sqlstate in UNKNOWN_OBJECTS and "function" in (getattr(cause, "context", None) or "")
        hint = ": a function names it without its schema; set search_path on that function" if unknown else ""
        return snapshot.message_of(cause) + hint
    with failures_named(f"the proof server, at {error}"):
        raise cause or error


def _blames_the_backup(error: asyncpg.PostgresError, where: str) -> bool:
    state = error.sqlstate or ""
    if state == "42501" or where.startswith(("create extension", "create collation")):
        return False
    if state == "42704" and (where.startswith("create policy") or LACKING.match(snapshot.message_of(error))):
        return False
    return state[:2] in OF_THE_BACKUP


def _advice(error: asyncpg.PostgresError) -> str:
    state = error.sqlstate or ""
    if state == "53100":
        return "; its disk is full: give it room, or set HOLDFAST_PROOF_ROOM_BYTES"
    if state == "42501":
        if "create database" in snapshot.message_of(error):
            return "; its role needs createdb"
        return "; only a superuser may do that: a proof server that holds nothing else may have one for its role"
    if state in ("0A000", "42704", "58P01"):
        return "; install or create that on the proof server"
    return ""
