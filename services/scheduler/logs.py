"""Logs: a JSON object a line on standard output, with the ids of what is being done: a request, or a step of a run.

What a client wrote is in none, nor is a token. So an exception is told by its class and where it was raised, and its
text is left out where that quotes values.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime

import asyncpg
import pydantic
from asyncpg.exceptions import DataError as UnsendableValue
from fastapi.exceptions import ValidationException
from sqlalchemy.exc import DBAPIError

IDS: ContextVar[dict[str, str] | None] = ContextVar("ids", default=None)

# Their texts quote values: of a row, of an argument, of a body.
_QUOTING = (asyncpg.DataError, UnsendableValue, pydantic.ValidationError, ValidationException, UnicodeError)
_CHATTY = ("httpx", "httpcore", "botocore", "aiobotocore", "aioboto3")
_JSON = json.JSONEncoder(ensure_ascii=False, default=str)


def to_stdout() -> None:
    """For a process that is ours. uvicorn writes here too, but for its access log, which would be a second one."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(IDS.get() or {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            line["exception"] = "\n".join(_told(record.exc_info[1]))
        return _JSON.encode(line)


def _told(error: BaseException) -> Iterator[str]:
    """From the first that was raised to the last, each with its frames."""
    if earlier := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        yield from _told(earlier)
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _told(each)
    yield from (line.rstrip("\n") for line in traceback.format_tb(error.__traceback__))
    name = type(error).__qualname__
    if isinstance(error, _QUOTING):
        yield name
    elif isinstance(error, asyncpg.PostgresError):
        yield f"{name}: {error.sqlstate} {error.args[0] if error.args else ''}"  # without DETAIL, which quotes rows
    elif isinstance(error, DBAPIError):
        yield f"{name}: {getattr(error.orig, 'sqlstate', '')}"
    else:
        yield f"{name}: {error}"
