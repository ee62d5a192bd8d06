"""What another service answered to a run, and whether asking again may help.

AnswerError
├── Unavailable   asking again may help
└── Refused       it will not

Nothing here retries: a run does, by its own clock.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

ANSWER_SECONDS = 28.0  # API Gateway gives up after 29
CONNECT_SECONDS = 5.0
MAX_RETRY_AFTER_SECONDS = 600.0
MAX_REASON_CHARACTERS = 500
# Of the step that is being taken (W3C Trace Context): what is asked meanwhile carries it on.
TRACEPARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)
_ASK_AGAIN = {408, 425, 429}  # and all from 500


class AnswerError(Exception):
    """The text is for people: it ends up as the reason of a run."""


class Unavailable(AnswerError):
    """There was no answer, or one that says: not now."""

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class Refused(AnswerError):
    """The answer will be the same next time. `parts` is by field what is wrong with it, where that is told."""

    def __init__(self, reason: str, status: int | None = None, parts: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.parts = dict(parts or {})


def failure(
    who: str, response: httpx.Response, detail: str = "", parts: Mapping[str, str] | None = None
) -> AnswerError:
    """Of a response that is no success; `detail` and `parts` are what it says of itself."""
    status = response.status_code
    said = f"{status} {httpx.codes.get_reason_phrase(status)}".strip()
    said = f"{said}: {detail}" if detail else f"{said}."
    if status in _ASK_AGAIN or response.is_server_error:
        return Unavailable(f"{who} answered {said}", _retry_after_seconds(response))
    return Refused(f"{who} refused: {said}", status, parts)


def traced() -> dict[str, str]:
    """The header that carries the trace on, if there is one."""
    return {"traceparent": value} if (value := TRACEPARENT.get()) else {}


def plain(text: str) -> str:
    """Somebody else's words, fit for a table, a log and a mail: of a sensible length, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_REASON_CHARACTERS]).strip()


def _retry_after_seconds(response: httpx.Response) -> float | None:
    """RFC 9110, section 10.2.3: seconds, or a date."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return min(float(value), MAX_RETRY_AFTER_SECONDS)
    try:
        seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date, one without a zone, or of no calendar
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
