"""Sessions of people. A cookie holds a secret, the database its hash; a session does what its token may, and no more.

It ends with its token, when nobody has used it for IDLE, and after LONGEST whatever is done.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from scheduler.models import Audit

IDLE_SECONDS = 30 * 60
LONGEST = "12 hours"
MAX_REFUSALS = 10  # of one address
REFUSED_WITHIN = "15 minutes"
MAX_SUBJECT_CHARACTERS = 500

_HOLDS = f"""
s.used_at > now() - interval '{IDLE_SECONDS} seconds' and s.created_at > now() - interval '{LONGEST}'
and (t.expires_at is null or t.expires_at > now())
"""
_FIND = text(f"""
    select t.id as token_id, t.scopes, t.name, s.told, s.used_at < now() - interval '1 minute' as to_renew
    from scheduler.sessions as s join scheduler.tokens as t on t.id = s.token_id
    where s.secret_hash = :secret_hash and {_HOLDS}
""")  # noqa: S608 - constants
_RENEW = text("update scheduler.sessions set used_at = now() where secret_hash = :secret_hash")
_BEGIN = text("insert into scheduler.sessions (secret_hash, token_id) values (:secret_hash, :token_id)")
_FORGET = text(f"""
    delete from scheduler.sessions as s using scheduler.tokens as t where t.id = s.token_id and not ({_HOLDS})
""")  # noqa: S608 - constants
_END = text("delete from scheduler.sessions where secret_hash = :secret_hash")
_TELL = text("update scheduler.sessions set told = cast(:told as jsonb) where secret_hash = :secret_hash")
_REFUSALS = text(f"""
    select count(*) from scheduler.audit
    where client = :client and action = 'sign-in refused' and at > now() - interval '{REFUSED_WITHIN}'
""")  # noqa: S608 - constants


@dataclass(frozen=True)
class Session:
    """Of somebody who has signed in. `told` is what the next page says of what was done."""

    secret: str
    token_id: UUID
    name: str  # of the token
    scopes: Sequence[str]
    told: Mapping[str, str] | None
    to_renew: bool

    def may(self, scope: str) -> bool:
        return scope in self.scopes


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def proof_of_form(secret: str) -> str:
    """What a form of ours holds and one of another site cannot: it follows from the cookie, which is not shown."""
    return hmac.new(secret.encode(), b"form", hashlib.sha256).hexdigest()


async def find(database: AsyncSession, secret: str) -> Session | None:
    row = (await database.execute(_FIND, {"secret_hash": _hash(secret)})).one_or_none()
    return Session(secret, row.token_id, row.name, row.scopes, row.told, row.to_renew) if row else None


async def begin(database: AsyncSession, token_id: UUID) -> str:
    """Its secret. Those that have ended are forgotten."""
    secret = new_secret()
    await database.execute(_FORGET)
    await database.execute(_BEGIN, {"secret_hash": _hash(secret), "token_id": token_id})
    return secret


async def renew(database: AsyncSession, session: Session) -> None:
    await database.execute(_RENEW, {"secret_hash": _hash(session.secret)})


async def end(database: AsyncSession, session: Session) -> None:
    await database.execute(_END, {"secret_hash": _hash(session.secret)})


async def tell(database: AsyncSession, session: Session, told: Mapping[str, str] | None) -> None:
    """On the next page, once."""
    values = {"secret_hash": _hash(session.secret), "told": json.dumps(told) if told else None}
    await database.execute(_TELL, values)


def record(database: AsyncSession, session: Session, client: str, action: str, subject: str = "") -> None:
    """What a person did, in the transaction that does it."""
    values: dict[str, Any] = {"token_id": session.token_id, "who": session.name, "client": client}
    database.add(Audit(**values, action=action, subject=_plain(subject)))


def record_refusal(database: AsyncSession, client: str, why: str) -> None:
    """Of somebody who is not known."""
    database.add(Audit(who="", client=client, action="sign-in refused", subject=why))


async def too_many_refusals(database: AsyncSession, client: str) -> bool:
    refused: int = (await database.execute(_REFUSALS, {"client": client})).scalar_one()
    return refused >= MAX_REFUSALS


async def audit(database: AsyncSession, before: int | None, limit: int) -> list[Audit]:
    """What people did by the console, the latest first, before an entry."""
    query = select(Audit).order_by(Audit.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Audit.id < before)
    return list(await database.scalars(query))


def _plain(text: str) -> str:
    """What somebody typed, fit for a list."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_SUBJECT_CHARACTERS])


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
