"""What the fuzzer is told, as code: what a document has no words for."""

import re
import uuid
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    query, headers = case.query or {}, case.headers or {}
    if query.get("wait") in range(2, 26):
        query["wait"] = 1  # for a change that does not come
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    query.pop("cursor", None)  # only the service makes them
    # The coverage phase takes a wrong value of an optional header for a right one, when it has tried the wrong ones.
    for each in case.operation.definition.raw.get("parameters", ()):
        pattern = each["schema"].get("pattern") if each["in"] == "header" else None
        if pattern and not re.search(pattern, headers.get(each["name"], "")):
            headers.pop(each["name"], None)
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = str(uuid.uuid4())  # new for each change
    if "If-None-Match" in headers and "If-Match" in headers and case.operation.method.upper() == "PUT":
        headers.pop("If-Match")  # one or the other
