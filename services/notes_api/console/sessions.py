"""Sessions of people. A cookie holds a secret, the database its hash; a session does what its token may, and no more.

It ends with its token, when nobody has used it for IDLE, and after LONGEST whatever is done.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from notes_api.db import Connection
from notes_api.tokens import Caller

IDLE_SECONDS = 30 * 60
LONGEST = "12 hours"
MAX_REFUSALS = 10  # of one address
REFUSED_WITHIN = "15 minutes"
MAX_SUBJECT_CHARACTERS = 500

_HOLDS = f"""
s.used_at > now() - interval '{IDLE_SECONDS} seconds' and s.created_at > now() - interval '{LONGEST}'
and (t.expires_at is null or t.expires_at > now())
"""
_FIND = f"""
select t.id, t.owner, t.scopes, t.name, s.told, s.used_at < now() - interval '1 minute' as to_renew
from notes.sessions as s join notes.tokens as t on t.id = s.token_id
where s.secret_hash = $1 and {_HOLDS}
"""  # noqa: S608  # constants
_RENEW = "update notes.sessions set used_at = now() where secret_hash = $1"
_BEGIN = "insert into notes.sessions (secret_hash, token_id) values ($1, $2)"
_FORGET = f"""
delete from notes.sessions as s using notes.tokens as t where t.id = s.token_id and not ({_HOLDS})
"""  # noqa: S608  # constants
_END = "delete from notes.sessions where secret_hash = $1"
_TELL = "update notes.sessions set told = $2 where secret_hash = $1"
_RECORD = """
insert into notes.audit (owner, token_id, who, client, action, subject) values ($1, $2, $3, $4, $5, $6)
"""
_REFUSALS = f"""
select count(*) from notes.audit
where client = $1 and action = 'sign-in refused' and at > now() - interval '{REFUSED_WITHIN}'
"""  # noqa: S608  # constants
_AUDIT = """
select id, at, who, client, action, subject from notes.audit
where owner = $1 and ($2::bigint is null or id < $2) order by id desc limit $3
"""


@dataclass(frozen=True)
class Session:
    """Of somebody who has signed in. `told` is what the next page says of what was done."""

    secret: str
    caller: Caller
    name: str  # of the token
    told: Mapping[str, str] | None
    to_renew: bool

    def may(self, scope: str) -> bool:
        return scope in self.caller.scopes


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def proof_of_form(secret: str) -> str:
    """What a form of ours holds and one of another site cannot: it follows from the cookie, which is not shown."""
    return hmac.new(secret.encode(), b"form", hashlib.sha256).hexdigest()


async def find(connection: Connection, secret: str) -> Session | None:
    row = await connection.fetchrow(_FIND, _hash(secret))
    if row is None:
        return None
    caller = Caller(row["id"], row["owner"], row["scopes"])
    return Session(secret, caller, row["name"], row["told"], row["to_renew"])


async def begin(connection: Connection, token_id: UUID) -> str:
    """Its secret. Those that have ended are forgotten."""
    secret = new_secret()
    await connection.execute(_FORGET)
    await connection.execute(_BEGIN, _hash(secret), token_id)
    return secret


async def renew(connection: Connection, session: Session) -> None:
    await connection.execute(_RENEW, _hash(session.secret))


async def end(connection: Connection, session: Session) -> None:
    await connection.execute(_END, _hash(session.secret))


async def tell(connection: Connection, session: Session, told: Mapping[str, str] | None) -> None:
    """On the next page, once."""
    await connection.execute(_TELL, _hash(session.secret), told)


async def record(connection: Connection, session: Session, client: str, action: str, subject: str = "") -> None:
    """What a person did, in the transaction that does it."""
    caller = session.caller
    told = _plain(subject)
    await connection.execute(_RECORD, caller.owner, caller.token_id, session.name, client, action, told)


async def record_refusal(connection: Connection, client: str, why: str) -> None:
    """Of somebody who is not known."""
    await connection.execute(_RECORD, None, None, "", client, "sign-in refused", why)


async def too_many_refusals(connection: Connection, client: str) -> bool:
    refused: int = await connection.fetchval(_REFUSALS, client)
    return refused >= MAX_REFUSALS


async def audit(connection: Connection, owner: UUID, before: int | None, limit: int) -> list[Mapping[str, object]]:
    """What people did with the owner's notes and tokens by the console, the latest first, before an entry."""
    return [dict(row) for row in await connection.fetch(_AUDIT, owner, before, limit)]


def _plain(text: str) -> str:
    """What somebody typed, fit for a list."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_SUBJECT_CHARACTERS])


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
