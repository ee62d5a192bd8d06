"""Keyset cursors: a place in a list, signed together with what the list is of.

A cursor of another owner, another filter or another sort does not verify, so nothing of that stands in it.
"""

import base64
import hashlib
import hmac
import json
from typing import Any

from pydantic import SecretStr

from notes_api.errors import InvalidCursor

SIGNATURE_BYTES = 16


class Signer:
    def __init__(self, key: SecretStr) -> None:
        self._key = key.get_secret_value().encode()

    def sign(self, place: Any, of: Any) -> str:
        """`place` and `of`, what the list is of, are what JSON has."""
        written = _json(place)
        return base64.urlsafe_b64encode(self._signature(written, of) + written).decode().rstrip("=")

    def read(self, cursor: str, of: Any) -> Any:
        """The place. Raises InvalidCursor."""
        try:
            padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
            whole = base64.b64decode(padded, altchars=b"-_", validate=True)
        except ValueError:
            whole = b""
        signature, written = whole[:SIGNATURE_BYTES], whole[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(written, of)):
            raise InvalidCursor("A cursor is of one list, with its filters and sort. Begin again without a cursor.")
        return json.loads(written)

    def derive(self, of: Any) -> bytes:
        """32 bytes that nobody without the key can tell from chance, the same for the same `of`."""
        return hmac.digest(self._key, b"derived:" + _json(of), hashlib.sha256)

    def _signature(self, written: bytes, of: Any) -> bytes:
        return hmac.digest(self._key, b"cursor:" + _json([of]) + b"\n" + written, hashlib.sha256)[:SIGNATURE_BYTES]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, default=str, ensure_ascii=False).encode()
