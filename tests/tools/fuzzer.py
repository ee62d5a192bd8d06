"""What the fuzzer is told, as code: lines of JSON are text, a key is new each time, and only we make cursors."""

import uuid
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    (case.query or {}).pop("cursor", None)
