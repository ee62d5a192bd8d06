"""Migrations of schema `notes`, run by its owner.

    python -m notes_api.migrate [--down-to REVISION]

brings the schema to this release's head, or down to a revision (`base` for nothing). Running it again, or two at
once, does no harm. HOLDFAST_DATABASE_URL is that of the role `notes_owner`.

HOLDFAST_LANGUAGE is the language that searches are in, a text search configuration of PostgreSQL such as `german`, or
`simple` for none. Where it is another than before, all notes are written again, and wait meanwhile. Without it the
language stays what it is, which is English in a new database: whoever forgets the setting once loses nothing.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from notes_api.settings import MigrationSettings

SCHEMA = "notes"

_MISSING = """
select name from unnest(array['btree_gin', 'pg_trgm']) as name
where not exists (select from pg_extension where extname = name) order by name
"""
_LANGUAGES = "select cfgname from pg_ts_config where cfgnamespace = 'pg_catalog'::regnamespace order by cfgname"
_LANGUAGE = "select cfgname from pg_ts_config where oid = notes.search_language()"
# Nothing but the function says which language; the column that was computed by it is computed again.
_SEARCH_IN = (
    """
create or replace function notes.search_language() returns regconfig language sql immutable parallel safe
return 'pg_catalog.{}'::regconfig
""",
    """
alter table notes.notes alter column search set expression as (notes.search_document(title, tags, content))
""",
)


class NotMigrated(Exception):
    """Something is not as it has to be, and nothing was done."""


def revisions() -> list[str]:
    """Those that this release knows, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Ends with exit code 1 and one line when the settings or the database are not right."""
    parser = argparse.ArgumentParser(prog="python -m notes_api.migrate", description="Migrate schema notes.")
    parser.add_argument("--down-to", metavar="REVISION", help="undo what came after it")
    down_to = parser.parse_args(arguments).down_to
    settings = MigrationSettings.from_env(os.environ)
    try:
        before, after, languages = asyncio.run(_migrate(settings, down_to))
    except (NotMigrated, OSError, asyncpg.PostgresError, DBAPIError, CommandError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        sys.exit(f"schema {SCHEMA} was not migrated: {cause}")
    done = f"is at {after} already" if before == after else f"migrated from {before} to {after}"
    sys.stdout.write(f"schema {SCHEMA} {done}\n")
    if languages:
        sys.stdout.write(f"schema {SCHEMA} is searched in {languages[1]}, and no longer in {languages[0]}\n")


class Done(NamedTuple):
    """The revisions before and after, and the languages if they differ."""

    before: str
    after: str
    languages: tuple[str, str] | None


async def _migrate(settings: MigrationSettings, down_to: str | None) -> Done:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=partial(_connect, settings))
    try:
        async with engine.connect() as connection:
            await connection.execute(text("select pg_advisory_lock(hashtext('notes_api.migrate'))"))
            # All requests to a table wait behind the migration that waits for its lock: rather give up.
            await connection.execute(text("select set_config('lock_timeout', '10s', false)"))
            await connection.commit()
            return await connection.run_sync(_run, down_to, settings.language)
    finally:
        await engine.dispose()  # which lets go of the lock


async def _connect(settings: MigrationSettings) -> asyncpg.Connection:
    named = {"application_name": "notes_api.migrate"}
    return await asyncpg.connect(**settings.connection, timeout=3, server_settings=named)


def _run(connection: Connection, down_to: str | None, language: str) -> Done:
    before, languages = _current(connection), None
    if down_to:
        command.downgrade(_config(connection), down_to)
    elif before == "base" or before in revisions():  # else a newer release was here, and this one is a roll-back
        _require(connection, language)
        command.upgrade(_config(connection), "head")
        languages = _search_in(connection, language)
    return Done(before, _current(connection), languages)


def _require(connection: Connection, language: str) -> None:
    """Raises NotMigrated."""
    missing = connection.scalars(text(_MISSING)).all()
    known = connection.scalars(text(_LANGUAGES)).all()
    connection.rollback()
    if missing:
        raise NotMigrated(
            f"no extension {' and no '.join(missing)}: run deploy/postgres/roles.sql, again if it has run"
        )
    if language and language not in known:
        raise NotMigrated(f"no language {language}: HOLDFAST_LANGUAGE is one of {', '.join(known)}")


def _search_in(connection: Connection, language: str) -> tuple[str, str] | None:
    """`language` is a name of the catalogue, or empty. The languages before and after, if they differ."""
    with connection.begin():
        before = connection.scalar(text(_LANGUAGE))
        if language in {"", before}:
            return None
        for statement in _SEARCH_IN:
            connection.execute(text(statement.format(language)))
    return before, language


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
