"""The command that has things back: through the API, or from a bucket straight into a database."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Never

import click

from backup_lambda import history, live, restores, views, whole
from backup_lambda.app import utc_now
from backup_lambda.calls import (
    ALL_IS_WELL,
    LOOK_AGAIN_SECONDS,
    SOMETHING_IS_WRONG,
    YES,
    Call,
    agreed,
    command,
    followed,
    how_far,
    key_values,
    read,
    segment,
    valid,
    waiting,
)
from backup_lambda.errors import BackupsError
from backup_lambda.gateway import Api, ApiRefused
from backup_lambda.guards import unless
from backup_lambda.lease import Progress
from backup_lambda.schemas import ProgressOut, Restore, RestoreIn
from backup_lambda.settings import SettingsError
from backup_lambda.store import S3Store

_AT_HAND = "at_hand"  # the database that is named by its URL
Do = Callable[[RestoreIn, bool], Awaitable[tuple[bytes, Restore]]]


@command("restore")
@click.argument("backup_id", metavar="ID")
@click.option("--database", metavar="NAME", help="Everything, into a new database, on the server that proofs run on.")
@click.option("--table", "tables", multiple=True, metavar="SCHEMA.TABLE", help="This one into the live database.")
@click.option("--row", "rows", multiple=True, metavar="KEY", help="Only this row of the --table; may be repeated.")
@click.option(
    "--into-env",
    "variable",
    metavar="VARIABLE",
    help="With --bucket: into the database whose postgresql:// URL is in this environment variable. Without a --table"
    " everything, and it must be empty.",
)
@click.option(
    "--on-conflict",
    type=click.Choice(["fail", "skip", "overwrite"]),
    default="fail",
    show_default=True,
    help="What becomes of a live row that has the same key and other values.",
)
@click.option("--dry-run", is_flag=True, help="Do it, take it back, and say what was changed.")
@click.option("--because", metavar="REASON", help="Why a backup is restored that is not proven.")
@click.option("--skip-damaged", is_flag=True, help="Leave out blocks of rows that are not what was stored.")
@YES
@waiting(default=True)
async def restore(
    call: Call,
    *,
    backup_id: str,
    database: str | None,
    tables: Sequence[str],
    rows: Sequence[str],
    variable: str | None,
    on_conflict: Literal["fail", "skip", "overwrite"],
    dry_run: bool,
    because: str | None,
    skip_damaged: bool,
    yes: bool,
    wait: bool,
) -> int:
    """Have a backup back, or some of it.

    Everything goes into a database of its own. Tables and rows go into the live one, in one transaction: what would
    change is shown first, field by field, and nothing is done before you agree.

    Exit code 1 also when rows were damaged, or are not in the backup.
    """
    if rows and len(tables) != 1:
        raise SettingsError("--row is of one --table")
    if tables and not (dry_run or yes or call.terminal.is_watched):
        raise SettingsError("nobody can be asked here: look with --dry-run, then say --yes")
    keys = {"keys": [key_values(each) for each in rows]} if rows else {}
    async with call.api() as api:
        if (variable is None) != (api.store is None):
            raise SettingsError("with --bucket say --into-env VARIABLE; with the API --database NAME, or --table")
        if variable and database:
            raise SettingsError("--into-env names the database")
        wanted = valid(
            RestoreIn,
            database=_AT_HAND if variable and not (database or tables) else database,
            tables=[{"table": each, **keys} for each in tables] or None,
            on_conflict=on_conflict,
            dry_run=dry_run,
            because=because,
            skip_damaged=skip_damaged,
        )
        do = _straight(call, api.store, backup_id, variable) if api.store and variable else _asked(call, api, backup_id)
        if tables and not (dry_run or yes):
            _, trial = await do(wanted.model_copy(update={"dry_run": True}), True)
            if not _agreed_to(call, trial):
                return ALL_IS_WELL if _well(trial) else SOMETHING_IS_WRONG
        body, done = await do(wanted, wait)
    call.tell(body, lambda: views.restore(call.terminal, done))
    return ALL_IS_WELL if _well(done) else SOMETHING_IS_WRONG


def _agreed_to(call: Call, trial: Restore) -> bool:
    """Whether there is anything to do, which somebody wants done. Raises ApiRefused."""
    views.restore(call.terminal, trial, aside=True)
    if trial.state == "failed":
        raise ApiRefused("nothing was touched")
    touched = sum(each.added + each.changed for each in trial.tables)
    if not touched:
        call.terminal.say("there is nothing to restore")
        return False
    agreed(f"Add or change {touched:,} rows of the live database?")
    return True


def _asked(call: Call, api: Api, backup_id: str) -> Do:
    async def do(wanted: RestoreIn, wait: bool) -> tuple[bytes, Restore]:
        body = await api.post(
            f"backups/{segment(backup_id)}/restores",
            wanted.model_dump(mode="json", exclude_defaults=True),
            key=str(uuid.uuid4()),  # the trial and what follows it are two restores
        )
        asked = read(Restore, body)
        if wait:
            return await followed(call, api, f"restores/{asked.id}", Restore, lambda now: now.ended)
        return body, asked

    return do


def _straight(call: Call, store: S3Store, backup_id: str, variable: str) -> Do:
    """In this process. The bucket hears nothing of it."""
    url = call.environment.get(variable, "")
    if not url.startswith(("postgresql://", "postgres://")):
        raise SettingsError(f"{variable} holds no postgresql:// URL")

    async def do(wanted: RestoreIn, wait: bool) -> tuple[bytes, Restore]:
        manifest = await restores.allowed(store, backup_id, wanted, utc_now)
        begun = utc_now()
        progress = Progress(owner="", started_at=begun, updated_at=begun, lease_until=begun)
        done = Restore(
            id=history.new_id(begun),
            backup_id=backup_id,
            state="completed",
            database=None,
            dry_run=wanted.dry_run,
            on_conflict=wanted.on_conflict,
            because=wanted.because,
            created_at=begun,
            started_at=begun,
            requested_by=None,
        )
        working = (
            live.restore(store, manifest, url, wanted, progress)
            if wanted.tables
            else whole.into_empty(store, manifest, url, progress, skip_damaged=wanted.skip_damaged)
        )
        found: dict[str, Any]
        try:
            found = dict(await unless(working, _tell(call, progress)))
        except BackupsError as error:
            found = {"state": "failed", "reason": str(error) or error.__doc__, "tables": getattr(error, "tables", [])}
            if not wanted.tables and progress.total_rows:
                call.terminal.say("the database holds what was restored by then: drop it")
        done = done.model_copy(update=found | {"ended_at": utc_now()})
        return done.model_dump_json().encode(), done

    return do


async def _tell(call: Call, progress: Progress) -> Never:
    with call.terminal.progress() as tell:
        while True:
            shown = ProgressOut.of(progress)
            tell(how_far(shown), shown.percent)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _well(done: Restore) -> bool:
    return done.state != "failed" and not any(each.damaged or each.missing for each in done.tables)
