"""Who gets which mail."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from scheduler import catalogue
from scheduler.answers import AnswerError, Refused
from scheduler.console.backups import BackupParts, may_read
from scheduler.console.parts import Wrong, allowed
from scheduler.tokens import BACKUPS_READ, BACKUPS_WRITE

EVENTS = {
    "backup.proven": "a backup is proven",
    "backup.stored": "a backup is stored, and not proven",
    "backup.suspect": "a backup is suspect",
    "backup.broken": "the proof of a backup failed",
    "backup.failed": "a backup failed",
    "backup.cancelled": "a backup was cancelled",
    "backup.changed": "what is stored has changed",
    "restore.completed": "a restore has ended well",
    "restore.failed": "a restore failed",
    "backup.overdue": "an alarm is raised",
    "backup.recovered": "an alarm is over",
}


class SubscriptionPages(BackupParts):
    menu_label = "Mail"
    path = "/subscriptions"

    def is_accessible(self, request: Request) -> bool:
        return may_read(request)

    @route("")
    async def index(self, request: Request) -> Response:
        return await self._list(request, {})

    @route("", methods=["POST"])
    async def add(self, request: Request) -> Response:
        allowed(request, BACKUPS_WRITE)
        form = request.state.form
        email = str(form.get("email", "")).strip()
        events = [str(each) for each in form.getlist("events")]
        told = f"AWS asks {email} by mail to confirm. Until then nothing is sent there."
        try:
            async with self.asking(request, "subscribed", email, told=told) as api:
                await catalogue.subscribe(api, email, None if not events or len(events) == len(EVENTS) else events)
        except Refused as error:
            return await self._list(request, {"email": email, "events": events}, error.parts or {"": str(error)})
        except AnswerError as error:
            return await self.refused(request, error)
        return self.to(request, "/subscriptions")

    @route("/remove", methods=["POST"])
    async def remove(self, request: Request) -> Response:
        form = request.state.form
        email = str(form.get("email", ""))
        try:
            async with self.asking(request, "unsubscribed", email, told=f"{email} gets no more mail.") as api:
                await catalogue.unsubscribe(api, str(form.get("id", "")))
        except AnswerError as error:
            return await self.refused(request, error)
        return self.to(request, "/subscriptions")

    @route("/test", methods=["POST"])
    async def test(self, request: Request) -> Response:
        told = "A test is on its way to all who have confirmed. If it does not come, look into spam."
        try:
            async with self.asking(request, "sent a test", "", told=told) as api:
                await catalogue.send_test(api)
        except AnswerError as error:
            return await self.refused(request, error)
        return self.to(request, "/subscriptions")

    async def _list(self, request: Request, values: Any, wrong: Wrong | None = None) -> Response:
        allowed(request, BACKUPS_READ)
        try:
            found = await catalogue.subscriptions(self.api)
        except AnswerError as error:
            return await self.refused(request, error)
        context = {"found": found, "values": values, "events": EVENTS, "wrong": wrong or {}}
        return await self.page(request, "subscriptions.html", 422 if wrong else 200, **context)
