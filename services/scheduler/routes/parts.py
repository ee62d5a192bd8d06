"""What routes have in common: how bodies are read, what headers say, and the errors that any may answer."""

import json
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

from fastapi import Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from scheduler import schedules
from scheduler.answers import Refused
from scheduler.definitions import HttpTarget, ScheduleEdit, ScheduleIn
from scheduler.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    InvalidRequest,
    MalformedRequest,
    NeverDue,
    NotAuthenticated,
    PreconditionMissing,
    SchedulerError,
    ScopeMissing,
    TokenRefused,
    UnsupportedMediaType,
    VersionMismatch,
)
from scheduler.models import Schedule
from scheduler.outside import Outside
from scheduler.schemas import PauseIn
from scheduler.timing import Timing

ALWAYS = (
    MalformedRequest,
    NotAuthenticated,
    TokenRefused,
    ScopeMissing,
    InvalidRequest,
    SchedulerError,
    DatabaseUnavailable,
)
WITH_BODY = (*ALWAYS, BodyTooLarge, UnsupportedMediaType)
MERGE_PATCH = "application/merge-patch+json"
_ETAG = re.compile(r'"([1-9][0-9]{0,9})"', re.ASCII)

IfMatch = Annotated[
    str | None, Header(description="The ETag of the schedule that is changed.", examples=['"3"'], max_length=1000)
]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$",
        description="Of your making, new for each run that you want. Sent again, it gives the same run.",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]


def header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


ETAG = {"ETag": header("Names this version of the schedule; a run that was made does not change it.")}
LOCATION = {"Location": header("The path of what was made.")}


class Route(APIRoute):
    """Takes only JSON that means one thing: no name twice in an object, no NaN, and not nested without an end."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        media_type = MERGE_PATCH if self.methods == {"PATCH"} else "application/json"

        async def strictly(request: Request) -> Response:
            if not self.body_field:
                return await handle(request)
            given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            strict = _StrictRequest(request.scope, request.receive)
            if given != media_type and (given or await strict.body()):
                raise UnsupportedMediaType(f"Send `Content-Type: {media_type}`.")
            return await handle(strict)

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return json.loads((await self.body()).decode(), object_pairs_hook=_unique, parse_constant=_no_number)
        except RecursionError:  # how deep is too deep for the parser depends on the machine
            raise HTTPException(400, "The body is nested too deeply.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise HTTPException(400, "An object of the body has a name twice.")
    return found


def _no_number(name: str) -> NoReturn:
    raise HTTPException(400, f"JSON has no {name}.")


def revision(if_match: str | None) -> int | None:
    """That it names; None for any. Raises PreconditionMissing and VersionMismatch, for what no schedule ever had."""
    if if_match is None:
        raise PreconditionMissing
    if if_match.strip() == "*":
        return None
    if not (found := _ETAG.fullmatch(if_match.strip())):
        raise VersionMismatch(None)
    return int(found[1])


def optional_revision(if_match: str | None) -> int | None:
    return None if if_match is None else revision(if_match)


def etag(schedule: Schedule) -> dict[str, str]:
    return {"ETag": f'"{schedule.revision}"'}


async def fitting(request: Request, wanted: ScheduleIn) -> ScheduleIn:
    """As it can be kept: it calls what it may, and is due some time. Raises RequestValidationError."""
    await _may_be_called(request, wanted)
    now = datetime.now(UTC)
    return _due_some_time(wanted, wanted.timing(now), now)


async def fitting_edit(request: Request, change: ScheduleEdit, schedule: Schedule) -> ScheduleIn:
    return await fitting_in_place(request, edited(change, schedules.definition(schedule)), schedule)


async def fitting_in_place(request: Request, wanted: ScheduleIn, schedule: Schedule) -> ScheduleIn:
    """The same of a schedule that is edited, which need not be due any more if that is as it was before."""
    before, now = schedules.definition(schedule), datetime.now(UTC)
    await _may_be_called(request, wanted)
    times = wanted.timing(schedules.anchor(schedule, wanted, now))
    return wanted if times == before.timing(schedule.anchor_at) else _due_some_time(wanted, times, now)


async def _may_be_called(request: Request, wanted: ScheduleIn) -> None:
    if isinstance(wanted.target, HttpTarget):
        outside: Outside = request.app.state.outside
        try:
            await outside.fitting(wanted.target.url)
        except (ValueError, Refused) as error:
            raise _invalid(wanted, "url_refused", str(error), "target", "url") from None


def _due_some_time(wanted: ScheduleIn, times: Timing, now: datetime) -> ScheduleIn:
    with suppress(NeverDue):
        if times.next(now):
            return wanted
    where = "cron" if wanted.cron else "at" if wanted.at else "end_at"
    why = "It lies in the past" if where == "at" else "It would never be due: there is no such time to come"
    raise _invalid(wanted, "never_due", why, where)


def to_come(wanted: PauseIn) -> PauseIn:
    """Raises RequestValidationError when it is over already."""
    if wanted.until and wanted.until <= datetime.now(UTC):
        wrong = {"type": "past", "loc": ("body", "until"), "msg": "It lies in the past", "input": None}
        raise RequestValidationError([wrong], body=wanted.model_dump())
    return wanted


def edited(change: ScheduleEdit, of: ScheduleIn) -> ScheduleIn:
    """Raises RequestValidationError."""
    try:
        return change.on(of)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        found = [{**each, "loc": ("body", *each["loc"])} for each in wrong]
        raise RequestValidationError(found, body=of.model_dump() | change.model_dump(exclude_unset=True)) from None


def _invalid(wanted: ScheduleIn, kind: str, said: str, *path: str) -> RequestValidationError:
    wrong = {"type": kind, "loc": ("body", *path), "msg": said.rstrip("."), "input": None}
    return RequestValidationError([wrong], body=wanted.model_dump())
