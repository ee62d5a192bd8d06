"""Migrations of schema `scheduler`, run by its owner.

    python -m scheduler.migrate [--down-to REVISION]

brings the schema to this release's head, or down to a revision (`base` for nothing). Running it again, or two at
once, does no harm. HOLDFAST_DATABASE_URL is that of the role `scheduler_owner`.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from scheduler import db
from scheduler.models import SCHEMA
from scheduler.settings import Settings


def revisions() -> list[str]:
    """Those that this release knows, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Ends with exit code 1 and one line when the settings or the database are not right."""
    parser = argparse.ArgumentParser(prog="python -m scheduler.migrate", description="Migrate schema scheduler.")
    parser.add_argument("--down-to", metavar="REVISION", help="undo what came after it")
    down_to = parser.parse_args(arguments).down_to
    settings = Settings.from_env(os.environ)
    try:
        before, after = asyncio.run(_migrate(settings, down_to))
    except (OSError, asyncpg.PostgresError, DBAPIError, CommandError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        sys.exit(f"schema {SCHEMA} was not migrated: {cause}")
    done = f"is at {after} already" if before == after else f"migrated from {before} to {after}"
    sys.stdout.write(f"schema {SCHEMA} {done}\n")


async def _migrate(settings: Settings, down_to: str | None) -> tuple[str, str]:
    """The revisions before and after."""
    engine = db.create_engine(settings, application_name="scheduler.migrate", statement_seconds=0)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("select pg_advisory_lock(hashtext('scheduler.migrate'))"))
            # All requests to a table wait behind the migration that waits for its lock: rather give up.
            await connection.execute(text("select set_config('lock_timeout', '10s', false)"))
            await connection.commit()
            return await connection.run_sync(_run, down_to)
    finally:
        await engine.dispose()  # which lets go of the lock


def _run(connection: Connection, down_to: str | None) -> tuple[str, str]:
    before = _current(connection)
    if down_to:
        command.downgrade(_config(connection), down_to)
    elif before == "base" or before in revisions():  # else a newer release was here, and this one is a roll-back
        command.upgrade(_config(connection), "head")
    return before, _current(connection)


def _current(connection: Connection) -> str:
    context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
    current = context.get_current_revision() or "base"
    connection.rollback()  # alembic wants to begin the transaction itself
    return current


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config


if __name__ == "__main__":
    main()
