"""The trace that a request is a part of."""

import logging
from collections.abc import Iterator

import pytest

from backup_lambda import traces

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def _in_logs() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    traces.in_logs()
    token = traces.TRACE_ID.set(TRACE)
    yield
    traces.TRACE_ID.reset(token)
    logging.setLogRecordFactory(before)


@pytest.mark.usefixtures("_in_logs")
def test_each_line_of_ours_tells_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("backup_lambda.worker").warning("%s: not %s", "a backup", "proven")
    logging.getLogger("botocore").warning("theirs")
    traces.TRACE_ID.set(None)
    logging.getLogger("backup_lambda.worker").warning("of none")
    assert caplog.messages == [f"trace {TRACE}: a backup: not proven", "theirs", "of none"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (None, None),
        ("", None),
        (TRACE, None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-00f067aa0ba902b7-01\n", None),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-00f067aa0ba902b7-01, 00-{TRACE}-00f067aa0ba902b7-01", None),
    ],
)
def test_what_is_no_traceparent_is_none(given: str | None, found: str | None) -> None:
    assert traces.trace_id(given) == found
