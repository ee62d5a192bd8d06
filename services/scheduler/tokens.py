"""Bearer tokens: made once, shown once, kept as a hash.

    python -m scheduler.tokens create --name NAME --scope runs:read [--scope schedules:write ...] [--expires-days N]

prints the token alone on standard output. HOLDFAST_DATABASE_URL is that of the role `scheduler_app`.
"""

import argparse
import asyncio
import hashlib
import os
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
from sqlalchemy import func, or_, select, text
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


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Ends with exit code 1 and one line when the settings or the database are not right."""
    wanted = _parse(arguments)
    settings = Settings.from_env(os.environ)
    try:
        token = asyncio.run(_create(settings, wanted))
    except (OSError, asyncpg.PostgresError, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        sys.exit(f"no token was made: {cause}")
    sys.stderr.write(f"token {wanted.name!r} with {' '.join(wanted.scopes)}, shown only now:\n")
    sys.stdout.write(f"{token}\n")


async def _create(settings: Settings, wanted: argparse.Namespace) -> str:
    expires_at = datetime.now(UTC) + timedelta(days=wanted.expires_days) if wanted.expires_days else None
    engine = db.create_engine(settings, application_name="scheduler.tokens")
    try:
        async with AsyncSession(engine) as session, session.begin():
            return await create(session, wanted.name, wanted.scopes, expires_at)
    finally:
        await engine.dispose()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scheduler.tokens", description="Bearer tokens of the scheduler.")
    create = parser.add_subparsers(required=True).add_parser("create", help="make a token and print it")
    create.add_argument("--name", required=True, type=_name, help="what it is for")
    create.add_argument("--scope", dest="scopes", action="append", required=True, choices=SCOPES)
    create.add_argument("--expires-days", type=int, choices=range(1, 3651), metavar="1..3650", help="never without it")
    return parser.parse_args(arguments)


def _name(text: str) -> str:
    if not 1 <= len(text) <= 200:
        raise argparse.ArgumentTypeError("must have 1 to 200 characters")
    return text


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


if __name__ == "__main__":
    main()
