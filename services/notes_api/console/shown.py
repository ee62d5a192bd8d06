"""How values are written on pages. The script of the page turns times into the reader's zone."""

from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def moment(at: datetime | str | None, form: str = "time") -> Markup:
    """`form` is `time`, `date` or `ago`. Without script it is UTC."""
    if at is None:
        return Markup('<span class="text-secondary">never</span>')
    utc = (datetime.fromisoformat(at) if isinstance(at, str) else at).astimezone(UTC)
    text = utc.strftime("%Y-%m-%d" if form == "date" else "%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}" data-form="{}" title="{} UTC">{}{}</time>').format(
        utc.isoformat(), form, utc.strftime("%Y-%m-%d %H:%M:%S"), text, "" if form == "date" else " UTC"
    )


def size(size_bytes: float | None) -> str:
    if size_bytes is None:
        return "-"
    value, unit = float(size_bytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {_UNITS[unit]}"


def amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def lasting(seconds: float | None) -> str:
    """The two largest units, as `3 h 12 min`."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    parts = []
    rest = round(seconds)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


FILTERS: dict[str, Any] = {"moment": moment, "size": size, "amount": amount, "lasting": lasting}
