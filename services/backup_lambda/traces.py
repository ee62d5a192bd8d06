"""The trace that a request is a part of: its id is in every line of the log that the request, or its task, leads to.

It comes as W3C Trace Context has it, from whoever asked, and goes to the worker with the task.
"""

import logging
import re
from contextvars import ContextVar
from typing import Any

TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def trace_id(traceparent: str | None) -> str | None:
    """None for what is no `traceparent`: whoever made it is not told, since the request is fine without."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def in_logs() -> None:
    """For a process that is ours. Lambda's own format of a line has no place for it but the message."""
    made_before = logging.getLogRecordFactory()

    def made(*given: Any, **more: Any) -> logging.LogRecord:
        record = made_before(*given, **more)
        if (trace := TRACE_ID.get()) and record.name.startswith("backup_lambda"):
            record.msg = f"trace {trace}: {record.msg}"
        return record

    logging.setLogRecordFactory(made)
