"""What comes back: a note, a table or all of a backup. First a dry run shows what it would do; then it is confirmed."""

from typing import Any

from sqlalchemy import text
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette_admin import route

from scheduler import catalogue
from scheduler.answers import AnswerError, Refused
from scheduler.console.backups import BackupParts, read_key
from scheduler.console.parts import Wrong, allowed
from scheduler.models import Trial
from scheduler.tokens import BACKUPS_READ, BACKUPS_WRITE

_FORGET = text("delete from scheduler.trials where created_at < now() - interval '1 day'")
_SAID = {
    True: ("tried a restore", "This is a dry run: nothing is changed yet."),
    False: ("restored into a new database", "It is being restored."),
}
_FIELDS = {"tables": "table", "database": "database", "because": "because", "": ""}


class RestorePages(BackupParts):
    add_to_menu = False
    path = "/restores"

    @route("")
    async def index(self, request: Request) -> Response:
        """The form, filled in as a link says: `backup`, `table`, `key`."""
        allowed(request, BACKUPS_WRITE)
        query = request.query_params
        if not query.get("backup"):
            raise HTTPException(404, "Choose a backup first.")
        values = {"what": "rows" if query.get("key") else "tables", "on_conflict": "overwrite", **query}
        return await self._form(request, values)

    @route("/new", methods=["POST"])
    async def ask(self, request: Request) -> Response:
        """A dry run, for rows and tables of the live database; a new database needs none, since nothing is there."""
        allowed(request, BACKUPS_WRITE)
        form: FormData = request.state.form
        backup_id = str(form.get("backup", ""))
        try:
            wanted = _wanted(form)
        except ValueError as error:
            return await self._form(request, form, wrong={"key": str(error)}, status=422)
        dry = bool(wanted["dry_run"])
        action, told = _SAID[dry]
        try:
            async with self.asking(request, action, f"{backup_id} {form.get('table', '')}", told=told) as api:
                made = await catalogue.restore(api, backup_id, wanted)
        except Refused as error:
            wrong = {_FIELDS.get(name, ""): said for name, said in error.parts.items()} or {"": str(error)}
            return await self._form(request, form, wrong=wrong, status=error.status or 422)
        except AnswerError as error:
            return await self.refused(request, error)
        if dry:
            async with self.reading(request, BACKUPS_WRITE) as database:
                await database.execute(_FORGET)
                database.add(Trial(restore_id=made.id, backup_id=backup_id, wanted=wanted | {"dry_run": False}))
        return self.to(request, f"/restores/{made.id}")

    @route("/{restore_id}")
    async def show(self, request: Request) -> Response:
        return await self._show(request)

    async def _show(self, request: Request, status: int = 200, wrong: Wrong | None = None) -> Response:
        restore_id = request.path_params["restore_id"]
        async with self.reading(request, BACKUPS_READ) as database:
            trial = await database.get(Trial, restore_id)
        try:
            found = await catalogue.restored(self.api, restore_id)
        except AnswerError as error:
            return await self.refused(request, error)
        to_confirm = trial is not None and found.state == "completed"
        phrase = f"restore {found.backup_id}"
        context = {"restore": found, "to_confirm": to_confirm, "phrase": phrase, "wrong": wrong or {}}
        return await self.page(request, "restore.html", status, **context)

    @route("/{restore_id}/confirm", methods=["POST"])
    async def confirm(self, request: Request) -> Response:
        """What the dry run did, for good, when its words are typed. Once: the trial is taken."""
        restore_id = request.path_params["restore_id"]
        async with self.reading(request, BACKUPS_WRITE) as database:
            trial = await database.get(Trial, restore_id, with_for_update=True)
            if trial is None:
                raise HTTPException(409, "This dry run was confirmed already, is too old, or not of this console.")
            if str(request.state.form.get("confirmed", "")).strip() == f"restore {trial.backup_id}":
                await database.delete(trial)
            else:
                return await self._show(request, 422, {"confirmed": f"Type: restore {trial.backup_id}"})
        try:
            subject = f"{trial.backup_id} {' '.join(each['table'] for each in trial.wanted['tables'])}"
            async with self.asking(request, "restored", subject, told="It is being restored, for good.") as api:
                made = await catalogue.restore(api, trial.backup_id, trial.wanted)
        except AnswerError as error:
            return await self.refused(request, error)
        return self.to(request, f"/restores/{made.id}")

    async def _form(self, request: Request, values: Any, *, status: int = 200, wrong: Wrong | None = None) -> Response:
        try:
            backup = await catalogue.show(self.api, str(values.get("backup", "")))
        except AnswerError as error:
            return await self.refused(request, error)
        return await self.page(request, "restore_form.html", status, values=values, backup=backup, wrong=wrong or {})


def _wanted(form: FormData) -> dict[str, Any]:
    """Raises ValueError."""
    because = str(form.get("because", "")).strip() or None
    if form.get("what") == "database":
        return {"database": str(form.get("database", "")).strip(), "because": because, "dry_run": False}
    table: dict[str, Any] = {"table": str(form.get("table", "")).strip()}
    if form.get("what") == "rows":
        lines = [line.strip() for line in str(form.get("key", "")).splitlines() if line.strip()]
        if not lines:
            raise ValueError("Give a key a line: of a note, its id.")
        table["keys"] = [list(read_key(line)) for line in lines]
    return {
        "tables": [table],
        "on_conflict": str(form.get("on_conflict", "fail")),
        "because": because,
        "dry_run": True,
    }
