"""How mails say things: numbers, times, lists, and somebody else's words."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

SHOWN = 10  # tables, differences, things that are not backed up
WORDS_CHARACTERS = 500
SUBJECT_CHARACTERS = 99


def subject(headline: str) -> str:
    """SNS wants ASCII, under 100 characters and no control characters."""
    ascii_only = "".join(c if " " <= c <= "~" else "?" for c in f"Holdfast: {headline}")
    return ascii_only if len(ascii_only) <= SUBJECT_CHARACTERS else f"{ascii_only[: SUBJECT_CHARACTERS - 3]}..."


def paragraphs(parts: Iterable[Sequence[str]]) -> str:
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def facts(those: Iterable[tuple[str, str]]) -> list[str]:
    """Those that say something."""
    return [f"{name + ':':<11}{value}" for name, value in those if value]


def numbered(*steps: str) -> list[str]:
    return list(steps) if len(steps) == 1 else [f"{number}. {step}" for number, step in enumerate(steps, 1)]


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(plain(name) for name in names[:SHOWN]) + more


def and_more(number: int) -> list[str]:
    return [f"  and {number - SHOWN} more"] if number > SHOWN else []


def plain(text: str | None) -> str:
    """Somebody else's words on one line: nothing that moves a cursor, ends a line or turns the direction of writing."""
    on_a_line = "".join(
        c if c.isprintable() else " " if c.isspace() else "?" for c in (text or "")[: WORDS_CHARACTERS + 1]
    )
    return on_a_line if len(on_a_line) <= WORDS_CHARACTERS else f"{on_a_line[: WORDS_CHARACTERS - 3]}..."


def time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def age(long: timedelta) -> str:
    for unit, length in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        if long >= 2 * length:
            return count(long // length, unit)
    return "a moment"


def rows(number: int) -> str:
    return count(number, "row")


def count(number: int, what: str) -> str:
    return f"{number:,} {what if number == 1 else what + 's'}"


def size(number: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
