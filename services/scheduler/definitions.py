"""What a schedule is told to do: its definition, as people write it and as its revisions keep it."""

import json
import re
import unicodedata
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from scheduler.timing import Timing

MAX_BODY_BYTES = 16 * 1024
_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d", re.ASCII)
_NOT_ZONES = {"Factory", "localtime", "posixrules", "leapseconds", "tzdata.zi"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones() - _NOT_ZONES)


def _zone(name: str) -> str:
    if name not in _zones():
        raise PydanticCustomError("unknown_zone", "This is no zone of the IANA database; one is `Europe/Ljubljana`")
    return name


def _cron(text: str) -> str:
    """In the form that it is kept in: five fields with a space between them."""
    fields = text.split()
    if len(fields) != 5:
        raise PydanticCustomError(
            "cron", f"Give five fields ({', '.join(_FIELDS)}), as in `30 2 * * MON-FRI`; there are {len(fields)}"
        )
    try:
        CronSim(text, datetime(2026, 1, 1))  # noqa: DTZ001 - any time will do
    except CronSimError as error:
        raise PydanticCustomError("cron", f"{error}: there is no such time, or it is written otherwise") from None
    return " ".join(fields)


def _plain(text: str) -> str:
    """Control characters would let a name forge lines of the mail that it is shown in."""
    if any(unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"} for c in text):
        raise PydanticCustomError("control_character", "Use one line without control characters")
    return text


def _small(body: JsonValue) -> JsonValue:
    try:
        sent = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(sent.encode())
    except ValueError:  # 1e999, or half of a pair of surrogates
        raise PydanticCustomError("body", "Give numbers that are finite, and text that is Unicode") from None
    if "\\u0000" in sent.replace("\\\\", ""):
        raise PydanticCustomError("body", "NUL characters cannot be kept")
    if size > MAX_BODY_BYTES:
        raise PydanticCustomError("body_too_large", f"The body may have {MAX_BODY_BYTES} bytes")
    return body


def _text_of_a_moment(value: object) -> object:
    """RFC 3339, and not a number of seconds, which nobody means."""
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC3339.match(value)):
        return value
    raise PydanticCustomError("moment", "Give a time with its offset, as `2026-11-22T02:00:00Z`")


def _utc(moment: datetime) -> datetime:
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        utc = datetime.max.replace(tzinfo=UTC)
    if not 1970 <= utc.year < 2200:
        raise PydanticCustomError("moment", "The time is too far away: give one from 1970 to 2199")
    return utc


def _within(moment: datetime) -> datetime:
    """Nothing was due before, and nothing is after."""
    first, last = datetime(1970, 1, 2, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC)
    return min(max(moment, first), last).astimezone(UTC)


Moment = Annotated[AwareDatetime, BeforeValidator(_text_of_a_moment), AfterValidator(_utc)]
SpanEnd = Annotated[AwareDatetime, BeforeValidator(_text_of_a_moment), AfterValidator(_within)]
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
# As the backup API has them.
TableName = Annotated[str, Field(min_length=1, max_length=127, pattern=r"^[^\x00]*$")]


class BackupTarget(_Part):
    """A backup of everything, or of these tables (`schema.table`). Its label is the schedule's name unless it says."""

    kind: Literal["backup"]
    label: Line | None = None
    tables: Annotated[list[TableName], Field(min_length=1, max_length=200)] | None = None


class ProofTarget(_Part):
    """A proof of the backup that was proven longest ago."""

    kind: Literal["proof"]


class RetentionTarget(_Part):
    """What retention plans is applied."""

    kind: Literal["retention"]


class HttpTarget(_Part):
    """A request to an URL that the installation allows. `Idempotency-Key` is the run's id; 2xx is success."""

    kind: Literal["http"]
    url: Annotated[str, Field(max_length=2000)]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    body: Annotated[
        JsonValue, AfterValidator(_small), Field(description=f"Sent as JSON; {MAX_BODY_BYTES} bytes at most.")
    ] = None


Target = Annotated[BackupTarget | ProofTarget | RetentionTarget | HttpTarget, Field(discriminator="kind")]


class CatchUp(_Part):
    """What becomes of due times at which no worker was there. Those that do not run are `missed`.

    `latest` runs the last of them, `all` the last `max_runs`, each unless it is older than `window_seconds`. A due time
    of which the scheduler hears within a minute is not late.
    """

    policy: Literal["none", "latest", "all"] = "latest"
    window_seconds: Annotated[int, Field(ge=60, le=31 * 86400)] = 86400
    max_runs: Annotated[int, Field(ge=1, le=100, description="For `all`.")] = 10


class Retry(_Part):
    """Of requests that got no answer to use: how often, and how long between them, doubling. The time limit ends it."""

    max_attempts: Annotated[int | None, Field(ge=1, le=1000)] = None
    min_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 1.0
    max_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 60.0

    @field_validator("max_seconds")
    @classmethod
    def _in_order(cls, seconds: float, others: ValidationInfo) -> float:
        if seconds < others.data.get("min_seconds", 0):
            raise PydanticCustomError("retry_order", "max_seconds may not be less than min_seconds")
        return seconds


class ScheduleIn(_Part):
    """A schedule. It is due by `cron`, `every_seconds` or `at`: give one of them."""

    name: Line
    target: Target
    cron: Annotated[
        Annotated[str, Field(max_length=200), AfterValidator(_cron)] | None,
        Field(description="Minute, hour, day of the month, month, day of the week, on the zone's clocks."),
    ] = None
    every_seconds: Annotated[
        int | None, Field(ge=60, le=366 * 86400, description="Counted from `start_at`, or from when it was said.")
    ] = None
    at: Annotated[Moment | None, Field(description="Once.", validate_default=True)] = None
    timezone: Annotated[str, Field(max_length=64), AfterValidator(_zone)] = "UTC"
    start_at: Moment | None = None
    end_at: Annotated[Moment | None, Field(description="It is not due then, nor later.")] = None
    overlap: Annotated[
        Literal["skip", "allow", "cancel_previous"],
        Field(description="When it is due and its run before has not ended."),
    ] = "skip"
    catch_up: CatchUp = CatchUp()
    jitter_seconds: Annotated[
        int, Field(ge=0, le=3600, description="Each run starts up to so much later than it is due.")
    ] = 0
    time_limit_seconds: Annotated[int, Field(ge=60, le=86400, description="Then a run has failed.")] = 21600
    too_long_seconds: Annotated[
        int | None, Field(ge=10, le=86400, description="Then an alarm is raised; after half the time limit by itself.")
    ] = None
    retry: Retry = Retry()
    overdue_grace_seconds: Annotated[
        int, Field(ge=30, le=86400, description="An alarm is raised when a run has not been taken on by then.")
    ] = 300
    alarm_after_skips: Annotated[int, Field(ge=1, le=1000, description="In a row.")] = 3

    @field_validator("at")
    @classmethod
    def _one_of_three(cls, at: datetime | None, others: ValidationInfo) -> datetime | None:
        given = [name for name in ("cron", "every_seconds") if others.data.get(name, "wrong") is not None]
        if at is not None:
            given.append("at")
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise PydanticCustomError("when", f"Give one of cron, every_seconds and at; there is {found}")
        return at

    @field_validator("end_at")
    @classmethod
    def _after_its_start(cls, end_at: datetime | None, others: ValidationInfo) -> datetime | None:
        if end_at and (start_at := others.data.get("start_at")) and end_at <= start_at:
            raise PydanticCustomError("end_before_start", "end_at must be later than start_at")
        return end_at

    @field_validator("catch_up")
    @classmethod
    def _no_history_of_now(cls, catch_up: CatchUp, others: ValidationInfo) -> CatchUp:
        if catch_up.policy == "all" and isinstance(others.data.get("target"), BackupTarget):
            why = "A backup of now, ten times, makes no history: the policy may be none or latest"
            raise PydanticCustomError("catch_up", why)
        return catch_up

    @field_validator("jitter_seconds")
    @classmethod
    def _within_its_interval(cls, seconds: int, others: ValidationInfo) -> int:
        if seconds >= (others.data.get("every_seconds") or seconds + 1):
            raise PydanticCustomError("jitter", "jitter_seconds must be less than every_seconds")
        return seconds

    @field_validator("too_long_seconds")
    @classmethod
    def _within_the_limit(cls, seconds: int | None, others: ValidationInfo) -> int | None:
        if seconds and seconds > others.data.get("time_limit_seconds", seconds):
            raise PydanticCustomError("too_long", "too_long_seconds may not be more than time_limit_seconds")
        return seconds

    @classmethod
    def example(cls) -> dict[str, Any]:
        return {
            "name": "nightly",
            "cron": "30 2 * * *",
            "timezone": "Europe/Ljubljana",
            "target": {"kind": "backup", "label": "nightly"},
        }

    def timing(self, anchor_at: datetime) -> Timing:
        return Timing(
            self.cron,
            self.every_seconds,
            self.at,
            self.timezone,
            self.start_at or anchor_at,
            self.start_at,
            self.end_at,
        )


class ScheduleEdit(BaseModel):
    """What is to change of a schedule, as a JSON merge patch (RFC 7396): null takes away, what is absent stays."""

    model_config = ConfigDict(extra="forbid")

    name: Any = None
    cron: Any = None
    every_seconds: Any = None
    at: Any = None
    timezone: Any = None
    start_at: Any = None
    end_at: Any = None
    overlap: Any = None
    catch_up: Any = None
    jitter_seconds: Any = None
    time_limit_seconds: Any = None
    too_long_seconds: Any = None
    retry: Any = None
    overdue_grace_seconds: Any = None
    alarm_after_skips: Any = None
    target: Any = None

    def on(self, definition: ScheduleIn) -> ScheduleIn:
        """Raises ValidationError."""
        patch = self.model_dump(exclude_unset=True)
        return ScheduleIn.model_validate(_merged(definition.model_dump(mode="json", exclude_none=True), patch))


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    kept = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = _merged(kept.get(name), value)
    return kept
