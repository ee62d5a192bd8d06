"""Bearer tokens: made once, shown once, kept as a hash.

    python -m notes_api.tokens create --name NAME --scope notes:read [--scope notes:write] [--owner UUID] \
        [--expires-days N]
    python -m notes_api.tokens list [--owner UUID]
    python -m notes_api.tokens revoke ID

`create` prints the token alone on standard output, `list` a JSON object a line. HOLDFAST_DATABASE_URL is that of the
role `notes_app`.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from notes_api import db
from notes_api.db import Connection, Row
from notes_api.errors import DatabaseUnavailable, InvalidRequest, TokenNotFound
from notes_api.settings import DatabaseSettings

PREFIX = "hf_"  # so that scanners of leaked secrets know one
FORM = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
READ = "notes:read"
WRITE = "notes:write"
ATTACH = "attachments:write"
ADMIN = "tokens:admin"
SCOPES = (READ, WRITE, ATTACH, ADMIN)

MAX_DAYS = 3650

_SHOWN = "id, name, scopes, created_at, expires_at, last_used_at"
_CREATE = f"""
insert into notes.tokens (owner, name, token_hash, scopes, expires_at) values ($1, $2, $3, $4, $5) returning {_SHOWN}
"""  # noqa: S608  # a constant
_PAGE = f"""
select {_SHOWN} from notes.tokens where owner = $1 and ($2::uuid is null or id < $2) order by id desc limit $3
"""  # noqa: S608  # a constant
_ALL = f"select owner, {_SHOWN} from notes.tokens where $1::uuid is null or owner = $1 order by id"  # noqa: S608
_REVOKE = "delete from notes.tokens where id = $1 and ($2::uuid is null or owner = $2)"
_FIND = """
select token_hash, id, owner, scopes, last_used_at is null or last_used_at < now() - interval '1 minute' as to_touch
from notes.tokens where token_hash = any ($1) and (expires_at is null or expires_at > now())
"""
_HOLDS = "select exists (select from notes.tokens where id = $1 and (expires_at is null or expires_at > now()))"
# At most once a minute, and never waiting for another request that does the same.
_TOUCH = """
update notes.tokens set last_used_at = now()
where id = (
    select id from notes.tokens
    where id = $1 and (last_used_at is null or last_used_at < now() - interval '1 minute')
    for no key update skip locked
)
"""


@dataclass(frozen=True)
class Caller:
    """Whose notes a token reaches, and what it may do with them."""

    token_id: UUID
    owner: UUID
    scopes: Sequence[str]


async def create(
    connection: Connection, owner: UUID, name: str, scopes: Sequence[str], *, expires_at: datetime | None
) -> str:
    """The new token, which nobody can read again."""
    token = PREFIX + secrets.token_urlsafe(32)
    await issue(connection, owner, name, scopes, expires_at=expires_at, token=token)
    return token


async def issue(
    connection: Connection, owner: UUID, name: str, scopes: Sequence[str], *, expires_at: datetime | None, token: str
) -> Row:
    """`token` is what nobody can guess. Raises InvalidRequest when it would have expired, or after MAX_DAYS."""
    now = datetime.now(UTC)
    if expires_at is not None and not now < expires_at <= now + timedelta(days=MAX_DAYS):
        raise InvalidRequest(f"A token expires in the future, within {MAX_DAYS} days.")
    row = await connection.fetchrow(_CREATE, owner, name, _hash(token), list(scopes), expires_at)
    assert row is not None
    return row


async def page(connection: Connection, owner: UUID, after: UUID | None, limit: int) -> Sequence[Row]:
    """Up to `limit` tokens of `owner`, the newest first, strictly after `after`. Those that have expired, too."""
    return await connection.fetch(_PAGE, owner, after, limit)


async def revoke(connection: Connection, token_id: UUID, owner: UUID | None) -> None:
    """It is refused from the next request on. `owner` None: whoever's it is. Raises TokenNotFound."""
    if await connection.execute(_REVOKE, token_id, owner) == "DELETE 0":
        raise TokenNotFound


async def callers(connection: Connection, given: Collection[str]) -> dict[str, Caller]:
    """By token, those that hold, noting that they were used."""
    by_hash = {_hash(token): token for token in given}
    found = await connection.fetch(_FIND, list(by_hash))
    for row in found:
        if row["to_touch"]:
            await connection.execute(_TOUCH, row["id"])
    return {by_hash[row["token_hash"]]: Caller(row["id"], row["owner"], row["scopes"]) for row in found}


async def holds(connection: Connection, token_id: UUID) -> bool:
    """Whether it is still good."""
    found: bool = await connection.fetchval(_HOLDS, token_id)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Ends with exit code 1 and one line when the settings or the database are not right."""
    wanted = _parse(arguments)
    logging.getLogger("notes_api").addHandler(logging.NullHandler())  # the one line says it
    settings = DatabaseSettings.from_env(os.environ)
    try:
        asyncio.run(_do(settings, wanted))
    except TokenNotFound:
        sys.exit("there is no such token")
    except DatabaseUnavailable as error:
        sys.exit(f"{wanted.failed}: {error.__cause__}")
    except asyncpg.PostgresError as error:
        sys.exit(f"{wanted.failed}: {error}")


async def _do(settings: DatabaseSettings, wanted: argparse.Namespace) -> None:
    async with db.pool(settings) as pool, db.connected(pool) as connection:
        await wanted.do(connection, wanted)


async def _create(connection: Connection, wanted: argparse.Namespace) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=wanted.expires_days) if wanted.expires_days else None
    token = await create(connection, wanted.owner, wanted.name, wanted.scopes, expires_at=expires_at)
    sys.stderr.write(f"token {wanted.name!r} of owner {wanted.owner} with {' '.join(wanted.scopes)}, shown only now:\n")
    sys.stdout.write(f"{token}\n")


async def _list(connection: Connection, wanted: argparse.Namespace) -> None:
    for row in await connection.fetch(_ALL, wanted.owner):
        sys.stdout.write(json.dumps(dict(row), default=str) + "\n")


async def _revoke(connection: Connection, wanted: argparse.Namespace) -> None:
    await revoke(connection, wanted.id, owner=None)
    sys.stderr.write(f"token {wanted.id} is revoked\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m notes_api.tokens", description="Bearer tokens of the notes API.")
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create", help="make a token and print it")
    create.set_defaults(do=_create, failed="no token was made")
    create.add_argument("--name", required=True, type=_name, help="what it is for")
    create.add_argument("--owner", type=UUID, default=uuid4(), help="whose notes it reaches; a new owner without it")
    create.add_argument("--scope", dest="scopes", action="append", required=True, choices=SCOPES)
    create.add_argument(
        "--expires-days", type=int, choices=range(1, MAX_DAYS + 1), metavar=f"1..{MAX_DAYS}", help="never without it"
    )
    listed = commands.add_parser("list", help="print all tokens, but not what they are")
    listed.set_defaults(do=_list, failed="no token was listed")
    listed.add_argument("--owner", type=UUID, help="only this owner's")
    revoke = commands.add_parser("revoke", help="have a token refused from now on")
    revoke.set_defaults(do=_revoke, failed="no token was revoked")
    revoke.add_argument("id", type=UUID, help="as `list` has it")
    return parser.parse_args(arguments)


def _name(text: str) -> str:
    if not 1 <= len(text) <= 200:
        raise argparse.ArgumentTypeError("must have 1 to 200 characters")
    return text


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


if __name__ == "__main__":
    main()
