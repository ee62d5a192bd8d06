"""The form of a schedule: what people type, and the definition that it comes to."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData

from scheduler.console.parts import Wrong, sentence
from scheduler.definitions import ScheduleIn

_UNITS = {"minutes": 60, "hours": 3600, "days": 86400}
_NUMBERS = ("jitter_seconds", "time_limit_seconds", "too_long_seconds", "overdue_grace_seconds", "alarm_after_skips")
_CATCH_UP = ("policy", "window_seconds", "max_runs")
_RETRY = ("max_attempts", "min_seconds", "max_seconds")
_SAID = {
    "string_too_short": "It may not be empty.",
    "int_parsing": "Give a whole number.",
    "float_parsing": "Give a number.",
}
NEW = {
    "when": "cron",
    "cron": "0 2 * * *",
    "timezone": "UTC",
    "every": "1",
    "unit": "hours",
    "kind": "backup",
    "method": "POST",
    "overlap": "skip",
    "policy": "latest",
    "window_seconds": 86400,
    "max_runs": 10,
    "jitter_seconds": 0,
    "time_limit_seconds": 21600,
    "overdue_grace_seconds": 300,
    "alarm_after_skips": 3,
    "min_seconds": 1.0,
    "max_seconds": 60.0,
}


class FormError(Exception):
    def __init__(self, wrong: Wrong) -> None:
        super().__init__(str(wrong))
        self.wrong = wrong


def read(form: FormData, **more: str) -> ScheduleIn:
    """`more` is for fields that are empty. Raises FormError, by field."""
    given = more | {name: text for name, value in form.items() if (text := str(value).strip())}
    try:
        return ScheduleIn.model_validate(_definition(given))
    except ValidationError as error:
        raise FormError(_by_field(error.errors(), given)) from None


def unfitting(error: RequestValidationError, form: FormData) -> FormError:
    """What the API refuses of a definition that is right in itself, as an URL that may not be called."""
    given = {name: str(value) for name, value in form.items()}
    return FormError(_by_field([{**each, "loc": each["loc"][1:]} for each in error.errors()], given))


def written(definition: ScheduleIn) -> dict[str, Any]:
    """The values of the form for it."""
    values: dict[str, Any] = {**NEW, **definition.model_dump(include={"name", "timezone", "overlap", *_NUMBERS})}
    values |= definition.catch_up.model_dump() | definition.retry.model_dump()
    target = definition.target.model_dump()
    values |= {"kind": target.pop("kind"), **target, "tables": ", ".join(target.get("tables") or ())}
    if target.get("body") is not None:
        values["body"] = json.dumps(target["body"], ensure_ascii=False, indent=2)
    zone = ZoneInfo(definition.timezone)
    for name in ("at", "start_at", "end_at"):
        if moment := getattr(definition, name):
            values[name] = moment.astimezone(zone).strftime("%Y-%m-%dT%H:%M:%S")
    if definition.every_seconds:
        seconds = definition.every_seconds
        unit = next((unit for unit in ("days", "hours", "minutes") if seconds % _UNITS[unit] == 0), "seconds")
        values |= {"when": "every", "every": seconds // _UNITS.get(unit, 1), "unit": unit}
    elif definition.at:
        values["when"] = "at"
    else:
        values["cron"] = definition.cron
    return values


def _definition(given: Mapping[str, str]) -> dict[str, Any]:
    def some(*names: str) -> dict[str, str]:
        return {name: given[name] for name in names if given.get(name)}

    found: dict[str, Any] = {"name": given.get("name", ""), **some("timezone", "overlap", *_NUMBERS)}
    match given.get("when"):
        case "cron":
            found["cron"] = given.get("cron", "")
        case "every":
            found["every_seconds"] = _seconds(given)
        case "at":
            found["at"] = _moment("at", given)
    found |= {name: _moment(name, given) for name in ("start_at", "end_at") if given.get(name)}
    found |= {"catch_up": some(*_CATCH_UP), "retry": some(*_RETRY), "target": _target(given)}
    return found


def _target(given: Mapping[str, str]) -> dict[str, Any]:
    target: dict[str, Any] = {"kind": given.get("kind", "")}
    if target["kind"] == "backup":
        tables = [each.strip() for each in given.get("tables", "").split(",") if each.strip()]
        target |= {"label": given.get("label") or None, "tables": tables or None}
    elif target["kind"] == "http":
        target |= {"url": given.get("url", ""), "method": given.get("method", "POST")}
        if body := given.get("body"):
            try:
                target["body"] = json.loads(body)
            except ValueError as error:
                raise FormError({"body": f"This is no JSON: {error}."}) from None
    return target


def _seconds(given: Mapping[str, str]) -> int:
    every = given.get("every", "")
    if not (every.isascii() and every.isdecimal() and len(every) < 10):
        raise FormError({"every": "Give a whole number."})
    return int(every) * _UNITS.get(given.get("unit", ""), 1)


def _moment(name: str, given: Mapping[str, str]) -> datetime:
    """On the clocks of the schedule's zone, as the field says."""
    try:
        return datetime.fromisoformat(given.get(name, "")).replace(tzinfo=ZoneInfo(given.get("timezone") or "UTC"))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise FormError({name: "Give a date and a time of day, and a zone that there is."}) from None


def _by_field(errors: Any, given: Mapping[str, str]) -> Wrong:
    found: dict[str, str] = {}
    for error in errors:
        names = [str(part) for part in error["loc"] if not isinstance(part, int)]
        name = names[-1] if names else ""
        if name == "every_seconds" or (name == "at" and given.get("when") != "at"):
            name = "every" if given.get("when") == "every" else "cron"
        if name in {"backup", "http", "target", "proof", "retention"}:
            name = "kind"
        said = _SAID.get(error["type"]) or sentence(error["msg"])
        found.setdefault({"catch_up": "policy", "retry": "max_seconds"}.get(name, name), said)
    return found
