"""Bearer tokens: made once, shown once, kept as a hash.

    python -m scheduler.tokens create --name NAME --scope runs:read [--scope schedules:write ...] [--expires-days N]
    python -m scheduler.tokens list
    python -m scheduler.tokens revoke ID

`create` prints the token alone on standard output, `list` a JSON object a line. Who has signed in to the console with a
token is signed out when it is revoked. HOLDFAST_DATABASE_URL is that of the role `scheduler_app`.
"""

import argparse
import asyncio
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler import db
from scheduler.errors import TokenRefused
from scheduler.models import Token
from scheduler.settings import Settings

PREFIX = "hf_"  # so that scanners of leaked secrets know one
SCHEDULES_READ = "schedules:read"
SCHEDULES_WRITE = "schedules:write"
RUNS_READ = "runs:read"
RUNS_WRITE = "runs:write"
BACKUPS_READ = "backups:read"  # what is in backups, whoever's it is
BACKUPS_WRITE = "backups:write"
SCOPES = (SCHEDULES_READ, SCHEDULES_WRITE, RUNS_READ, RUNS_WRITE, BACKUPS_READ, BACKUPS_WRITE)
_SHOWN = ("id", "name", "scopes", "created_at", "expires_at", "last_used_at")

# At most once a minute, and never waiting for another request that does the same.
_TOUCH = text("""
    update scheduler.tokens set last_used_at = now()
    where id = (
        select id from scheduler.tokens
        where id = :id and (last_used_at is null or last_used_at < now() - interval '1 minute')
        for no key update skip locked
    )
""")


async def create(session: AsyncSession, name: str, scopes: Sequence[str], expires_at: datetime | None) -> str:
    """The new token, which nobody can read again."""
    token = PREFIX + secrets.token_urlsafe(32)
    session.add(Token(name=name, token_hash=_hash(token), scopes=list(scopes), expires_at=expires_at))
    await session.flush()
    return token


async def authenticate(session: AsyncSession, token: str) -> Token:
    """Who calls, noting that they did. Raises TokenRefused."""
    unexpired = or_(Token.expires_at.is_(None), Token.expires_at > func.now())
    found = await session.scalar(select(Token).where(Token.token_hash == _hash(token), unexpired))
    if found is None:
        raise TokenRefused
    if found.last_used_at is None or found.last_used_at < datetime.now(UTC) - timedelta(minutes=1):
        await session.execute(_TOUCH, {"id": found.id})
    return found


async def revoke(session: AsyncSession, token_id: UUID) -> bool:
    """It is refused from the next request on. False when there is none."""
    gone = await session.scalar(delete(Token).where(Token.id == token_id).returning(Token.id))
    return gone is not None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Ends with exit code 1 and one line when the settings or the database are not right."""
    wanted = _parse(arguments)
    settings = Settings.from_env(os.environ)
    try:
        told = asyncio.run(_do(settings, wanted))
    except (OSError, asyncpg.PostgresError, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        sys.exit(f"{wanted.failed}: {cause}")
    if told is None:
        sys.exit("there is no such token")
    if wanted.do is _create:
        sys.stderr.write(f"token {wanted.name!r} with {' '.join(wanted.scopes)}, shown only now:\n")
    sys.stdout.write(told)


async def _do(settings: Settings, wanted: argparse.Namespace) -> str | None:
    """What is to be told, once it is done."""
    engine = db.create_engine(settings, application_name="scheduler.tokens")
    try:
        async with AsyncSession(engine) as session, session.begin():
            told: str | None = await wanted.do(session, wanted)
            return told
    finally:
        await engine.dispose()


async def _create(session: AsyncSession, wanted: argparse.Namespace) -> str:
    expires_at = datetime.now(UTC) + timedelta(days=wanted.expires_days) if wanted.expires_days else None
    return f"{await create(session, wanted.name, wanted.scopes, expires_at)}\n"


async def _list(session: AsyncSession, _: argparse.Namespace) -> str:
    found = await session.scalars(select(Token).order_by(Token.id))
    return "".join(f"{json.dumps({name: getattr(each, name) for name in _SHOWN}, default=str)}\n" for each in found)


async def _revoke(session: AsyncSession, wanted: argparse.Namespace) -> str | None:
    return "" if await revoke(session, wanted.id) else None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scheduler.tokens", description="Bearer tokens of the scheduler.")
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create", help="make a token and print it")
    create.set_defaults(do=_create, failed="no token was made")
    create.add_argument("--name", required=True, type=_name, help="what it is for")
    create.add_argument("--scope", dest="scopes", action="append", required=True, choices=SCOPES)
    create.add_argument("--expires-days", type=int, choices=range(1, 3651), metavar="1..3650", help="never without it")
    listing = commands.add_parser("list", help="print the tokens, without what they are")
    listing.set_defaults(do=_list, failed="nothing was listed")
    revoke = commands.add_parser("revoke", help="have a token refused from now on")
    revoke.add_argument("id", type=UUID, help="as `list` shows it")
    revoke.set_defaults(do=_revoke, failed="nothing was revoked")
    return parser.parse_args(arguments)


def _name(text: str) -> str:
    if not 1 <= len(text) <= 200:
        raise argparse.ArgumentTypeError("must have 1 to 200 characters")
    return text


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


if __name__ == "__main__":
    main()
