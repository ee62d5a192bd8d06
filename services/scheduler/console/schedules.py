"""Schedules: listed with when they are due, made, changed, paused, run, made up for, and accounted for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import available_timezones

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from scheduler import alarms, backfills, due, ledger, preview, schedules
from scheduler.console import schedule_form
from scheduler.console.parts import Pages, allowed, wrong_fields
from scheduler.console.schedule_form import FormError
from scheduler.definitions import ScheduleIn
from scheduler.errors import BackfillRefused, NameTaken, NeverDue, VersionMismatch
from scheduler.models import Schedule
from scheduler.routes.parts import fitting, fitting_in_place, to_come
from scheduler.schemas import BackfillPlanIn, LedgerOut, PauseIn, ScheduleOut
from scheduler.timing import Timing
from scheduler.tokens import SCHEDULES_READ, SCHEDULES_WRITE

AT_ONCE = 20
SHOWN = 5  # due times
_ZONES = sorted(name for name in available_timezones() if "/" in name or name == "UTC")
_SPANS = {"1": "the last day", "7": "the last week", "31": "the last month"}


class SchedulePages(Pages):
    menu_label = "Schedules"
    path = "/schedules"

    @route("")
    async def index(self, request: Request) -> Response:
        async with self.reading(request, SCHEDULES_READ) as database:
            found, more = await schedules.page(database, _after(request), AT_ONCE)
        now = datetime.now(UTC)
        shown = [(schedule, ScheduleOut.of(schedule), _coming(schedule, now)) for schedule in found]
        more_at = f"?after={more}" if more else ""
        first = "?" if request.query_params.get("after") else ""
        return await self.page(request, "schedules.html", schedules=shown, next=more_at, first=first)

    @route("/new")
    async def new(self, request: Request) -> Response:
        allowed(request, SCHEDULES_WRITE)
        return await self._form(request, schedule_form.NEW)

    @route("/new", methods=["POST"])
    async def create(self, request: Request) -> Response:
        allowed(request, SCHEDULES_WRITE)
        form: FormData = request.state.form
        try:
            wanted = await self._fitting(request, form)
            told = f"{wanted.name} is there. It says below when it is due."
            async with self.doing(request, SCHEDULES_WRITE, "added a schedule", wanted.name, told=told) as database:
                made = await schedules.create(database, wanted, request.state.session.name)
        except FormError as error:
            return await self._form(request, form, wrong=error.wrong, status=422)
        except NameTaken as error:
            return await self._form(request, form, wrong={"name": error.detail}, status=409)
        return self.to(request, f"/schedules/{made.id}")

    @route("/preview", methods=["POST"])
    async def preview(self, request: Request) -> Response:
        """A part of a page: when it would be due, and what an edit takes away and adds."""
        allowed(request, SCHEDULES_READ)
        form: FormData = request.state.form
        now = datetime.now(UTC)
        context: dict[str, Any] = {"zone": "UTC"}
        try:
            wanted = schedule_form.read(form, name="unnamed")
            context |= {"zone": wanted.timezone} | await self._previewed(request, wanted, str(form.get("of", "")), now)
        except FormError as error:
            context["said"] = " ".join(error.wrong.values())
        except NeverDue as error:
            context["said"] = error.detail
        assert self.templates
        return self.templates.TemplateResponse(request, "due.html", context)

    @route("/{schedule_id:uuid}")
    async def show(self, request: Request) -> Response:
        return await self._show(request)

    async def _show(self, request: Request, status: int = 200, **more: Any) -> Response:
        now = datetime.now(UTC)
        span = request.query_params.get("days", "7")
        days = int(span) if span in _SPANS else 7
        async with self.reading(request, SCHEDULES_READ) as database:
            schedule = await schedules.get(database, request.path_params["schedule_id"])
            revisions, _ = await schedules.revisions(database, schedule.id, None, 10)
            account = await _accounted(database, schedule, now - timedelta(days=days), now)
            opened, _ = await alarms.page(database, None, 10, is_open=True, schedule_id=schedule.id)
        times = due.timing(schedule)
        return await self.page(
            request,
            "schedule.html",
            status,
            schedule=ScheduleOut.of(schedule),
            coming=_coming(schedule, now),
            changes=_changes(times, now),
            revisions=revisions,
            ledger=account,
            alarms=opened,
            spans=_SPANS,
            days=str(days),
            **more,
        )

    @route("/{schedule_id:uuid}/edit")
    async def edit(self, request: Request) -> Response:
        async with self.reading(request, SCHEDULES_WRITE) as database:
            schedule = await schedules.get(database, request.path_params["schedule_id"])
        values = schedule_form.written(schedules.definition(schedule)) | {"revision": schedule.revision}
        return await self._form(request, values, of=schedule)

    @route("/{schedule_id:uuid}/edit", methods=["POST"])
    async def save(self, request: Request) -> Response:
        form: FormData = request.state.form
        schedule_id: UUID = request.path_params["schedule_id"]
        async with self.reading(request, SCHEDULES_WRITE) as database:
            there = await schedules.get(database, schedule_id)
        try:
            wanted = await self._fitting(request, form, there)
            told = "It is changed. What was due until now stays as it was."
            async with self.doing(request, SCHEDULES_WRITE, "changed a schedule", wanted.name, told=told) as database:
                locked = await schedules.locked(database, schedule_id, _revision(form))
                await schedules.edit(database, locked, wanted, request.state.session.name)
        except FormError as error:
            return await self._form(request, form, of=there, wrong=error.wrong, status=422)
        except NameTaken as error:
            return await self._form(request, form, of=there, wrong={"name": error.detail}, status=409)
        except VersionMismatch:
            kept = {**form, "revision": there.revision}
            said = "Somebody has changed this schedule since you opened it: see it as it is now, beside what you wrote."
            return await self._form(request, kept, of=there, wrong={"": said}, status=412, theirs=ScheduleOut.of(there))
        return self.to(request, f"/schedules/{schedule_id}")

    @route("/{schedule_id:uuid}/pause", methods=["POST"])
    async def pause(self, request: Request) -> Response:
        allowed(request, SCHEDULES_WRITE)
        form: FormData = request.state.form
        try:
            wanted = to_come(PauseIn.model_validate(_pause(form)))
        except (ValidationError, RequestValidationError) as error:
            wrong = wrong_fields(error) if isinstance(error, ValidationError) else {"until": "It lies in the past."}
            return await self._show(request, 422, wrong=wrong)
        async with self._changing(request, "paused a schedule", "It is paused: nothing is due until it goes on.") as it:
            database, schedule = it
            await schedules.pause(database, schedule, wanted.note, wanted.until, request.state.session.name)
        return self.to(request, f"/schedules/{schedule.id}")

    @route("/{schedule_id:uuid}/resume", methods=["POST"])
    async def resume(self, request: Request) -> Response:
        async with self._changing(request, "resumed a schedule", "It goes on.") as (database, schedule):
            await schedules.resume(database, schedule, request.state.session.name)
        return self.to(request, f"/schedules/{schedule.id}")

    @route("/{schedule_id:uuid}/run", methods=["POST"])
    async def run(self, request: Request) -> Response:
        async with self._changing(request, "ran a schedule", "It runs now. This page shows how far it is.") as it:
            database, schedule = it
            run = await schedules.trigger(database, schedule, None)
        return self.to(request, f"/runs/{run.id}")

    @route("/{schedule_id:uuid}/delete", methods=["POST"])
    async def delete(self, request: Request) -> Response:
        async with self._changing(request, "deleted a schedule", "It is deleted. Its runs are still there.") as it:
            await schedules.delete(*it, request.state.session.name)
        return self.to(request, "/schedules")

    @route("/{schedule_id:uuid}/backfill", methods=["POST"])
    async def backfill(self, request: Request) -> Response:
        """First how many runs it would have; with that `count`, they are made."""
        allowed(request, SCHEDULES_WRITE)
        form: FormData = request.state.form
        try:
            wanted = BackfillPlanIn.model_validate({name: _utc(form, name) for name in ("from", "to")} | _which(form))
        except ValidationError as error:
            return await self._show(request, 422, wrong=wrong_fields(error))
        count = str(form.get("count", ""))
        until = min(wanted.to, datetime.now(UTC))
        try:
            if not count.isdecimal():
                async with self.reading(request, SCHEDULES_WRITE) as database:
                    schedule = await schedules.get(database, request.path_params["schedule_id"])
                    found = await backfills.plan(database, schedule, wanted.from_, until, wanted.which)
                return await self._show(request, plan=found, planned=wanted)
            told = f"{count} runs are made up for, one after the other."
            async with self._changing(request, "backfilled a schedule", told) as (database, schedule):
                found = await backfills.plan(database, schedule, wanted.from_, until, wanted.which)
                await backfills.start(database, schedule, found, int(count))
        except BackfillRefused as error:
            return await self._show(request, 409, wrong={"from": error.detail})
        return self.to(request, f"/runs?schedule_id={schedule.id}&trigger=backfill")

    @asynccontextmanager
    async def _changing(self, request: Request, action: str, told: str) -> AsyncIterator[tuple[AsyncSession, Schedule]]:
        """A change of a schedule, which is locked."""
        schedule_id = request.path_params["schedule_id"]
        async with self.reading(request, SCHEDULES_WRITE) as database:
            name = (await schedules.get(database, schedule_id)).name
        async with self.doing(request, SCHEDULES_WRITE, action, name, told=told) as database:
            yield database, await schedules.locked(database, schedule_id)

    async def _fitting(self, request: Request, form: FormData, of: Schedule | None = None) -> ScheduleIn:
        """As the API takes it. Raises FormError."""
        wanted = schedule_form.read(form)
        try:
            return await (fitting_in_place(request, wanted, of) if of else fitting(request, wanted))
        except RequestValidationError as error:
            raise schedule_form.unfitting(error, form) from None

    async def _previewed(self, request: Request, wanted: ScheduleIn, of: str, now: datetime) -> dict[str, Any]:
        if not of:
            times = wanted.timing(now)
            return {"coming": preview.upcoming(times, now, SHOWN), "changes": preview.clock_changes(times, now)}
        async with self.reading(request, SCHEDULES_READ) as database:
            schedule = await schedules.get(database, _id(of))
        times = wanted.timing(schedules.anchor(schedule, wanted, now))
        gone, come = preview.difference(due.timing(schedule), times, now, 10)
        return {
            "coming": preview.upcoming(times, now, SHOWN),
            "changes": preview.clock_changes(times, now),
            "gone": gone[:SHOWN],
            "come": come[:SHOWN],
        }

    async def _form(
        self, request: Request, values: Any, *, of: Schedule | None = None, status: int = 200, **more: Any
    ) -> Response:
        return await self.page(request, "schedule_form.html", status, values=values, of=of, zones=_ZONES, **more)


async def _accounted(database: AsyncSession, schedule: Schedule, after: datetime, until: datetime) -> LedgerOut | None:
    """None when it cannot be computed: its zone has gone."""
    try:
        return LedgerOut.of(schedule, await ledger.account(database, schedule, after, until))
    except NeverDue:
        return None


def _coming(schedule: Schedule, now: datetime) -> list[preview.DueTime]:
    """What it would be due at if it were not paused, too."""
    try:
        return preview.upcoming(due.timing(schedule), now, SHOWN)
    except NeverDue:
        return []


def _changes(times: Timing, now: datetime) -> list[str]:
    try:
        return preview.clock_changes(times, now)
    except NeverDue as error:
        return [error.detail]


def _id(text: str) -> UUID:
    """Raises HTTPException 404."""
    try:
        return UUID(text)
    except ValueError:
        raise HTTPException(404, "There is no such schedule.") from None


def _after(request: Request) -> UUID | None:
    try:
        return UUID(given) if (given := request.query_params.get("after", "")) else None
    except ValueError:
        raise HTTPException(404, "There is no such page.") from None


def _revision(form: FormData) -> int:
    """That was read. A form of ours has one."""
    given = str(form.get("revision", ""))
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 10 else 0


def _pause(form: FormData) -> dict[str, Any]:
    until = _utc(form, "until")
    return {"note": str(form.get("note", "")).strip() or None, **({"until": until} if until else {})}


def _which(form: FormData) -> dict[str, str]:
    return {"which": str(form.get("which", "missing"))}


def _utc(form: FormData, name: str) -> str:
    """A field of date and time, in UTC. What is no such thing is refused by whoever reads it."""
    given = str(form.get(name, "")).strip()
    return f"{given}Z" if given and not given.endswith("Z") else given
