"""Requests that are done once however often they are sent: the header Idempotency-Key.

The key is kept for 24 hours, in the transaction of the change that it made, with the answer; of the key itself only a
hash. A request that was refused keeps nothing: sent again, it is looked at again. Of a secret in an answer, what it
was derived from is kept: who reads the table without the signing key has nothing.
After draft-ietf-httpapi-idempotency-key-header-07, which has quotes around the key; we take both.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from notes_api.access import known
from notes_api.cursors import Signer
from notes_api.db import Connection, of_request
from notes_api.errors import KeyReused, RequestInFlight

KEPT = "24 hours"
REPLAYED = "Idempotent-Replayed"
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]*[\x21\x23-\x7e][\x20-\x7e]*$",
        description="Of your making, new for each change. Sent again within 24 hours, the request is not done again,"
        " and its answer is given again, with `Idempotent-Replayed: true`.",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]

_SALT = re.compile(rb"\0([0-9a-f]+)\0")
_LOCK = "select pg_try_advisory_xact_lock($1::bigint)"
_FIND = f"""
select fingerprint, status, headers, body from notes.idempotency_keys
where owner = $1 and key_hash = $2 and created_at > now() - interval '{KEPT}'
"""  # noqa: S608  # a constant
_KEEP = """
insert into notes.idempotency_keys (owner, key_hash, fingerprint, status, headers, body)
values ($1, $2, $3, $4, $5, $6)
on conflict (owner, key_hash) do update set (fingerprint, status, headers, body, created_at)
    = (excluded.fingerprint, excluded.status, excluded.headers, excluded.body, now())
"""


class Replay(Exception):
    """The request was done before: this is its answer."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class Once:
    """What makes the answer of a route that changes something. `key` is None when the client sent none."""

    def __init__(
        self, connection: Connection, signer: Signer, owner: UUID, key: str | None, fingerprint: bytes = b""
    ) -> None:
        self._connection, self._signer, self._owner = connection, signer, owner
        self.key, self._fingerprint = key, fingerprint
        self._salts: dict[bytes, bytes] = {}

    def secret(self) -> str:
        """43 characters that nobody can guess, to be shown in the answer; a replay shows the same."""
        salt = secrets.token_hex(16)
        secret = _derived(self._signer, self._owner, salt)
        self._salts[secret.encode()] = b"\0" + salt.encode() + b"\0"  # JSON has no such character
        return secret

    async def answer(self, model: BaseModel, status: int, headers: Mapping[str, str]) -> Response:
        """Kept for the next time, when there is a key."""
        body = model.model_dump_json().encode()
        if self.key is not None:
            kept = {name.lower(): value for name, value in headers.items()}
            stored = body
            for secret, salt in self._salts.items():
                stored = stored.replace(secret, salt)
            row = (self._owner, _hash(self.key), self._fingerprint, status, kept, stored)
            await self._connection.execute(_KEEP, *row)
        return Response(body, status, dict(headers), "application/json")


async def once(request: Request, key: Key = None) -> Once:
    """Raises KeyReused, RequestInFlight, and Replay, which is not an error; and what `known` raises."""
    caller, connection = await known(request), await of_request(request)
    signer: Signer = request.app.state.signer
    if key is None:
        return Once(connection, signer, caller.owner, None)
    key = key.strip().strip('"')
    fingerprint = await _fingerprint(request)
    await request.state.held.in_transaction()
    if not await connection.fetchval(_LOCK, _number(caller.owner.bytes + _hash(key))):
        raise RequestInFlight
    if found := await connection.fetchrow(_FIND, caller.owner, _hash(key)):
        if found["fingerprint"] != fingerprint:
            raise KeyReused("The key was used for another request. Make a new one for each change.")
        headers = found["headers"] | {REPLAYED: "true"}
        body = _SALT.sub(lambda salt: _derived(signer, caller.owner, salt[1].decode()).encode(), found["body"])
        raise Replay(Response(body, found["status"], headers, "application/json"))
    return Once(connection, signer, caller.owner, key, fingerprint)


Doing = Annotated[Once, Depends(once)]


async def _fingerprint(request: Request) -> bytes:
    """Of all that says what is asked: another payload under the same key is a client's bug."""
    said = [request.method, request.url.path, request.url.query]
    said += [request.headers.get(name, "") for name in ("content-type", "if-match", "if-none-match", "prefer")]
    return hashlib.sha256("\n".join(said).encode() + b"\n\n" + await request.body()).digest()


def _derived(signer: Signer, owner: UUID, salt: str) -> str:
    return base64.urlsafe_b64encode(signer.derive(["secret", owner, salt])).decode().rstrip("=")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _number(of: bytes) -> int:
    return int.from_bytes(hashlib.sha256(of).digest()[:8], signed=True)
