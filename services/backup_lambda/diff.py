"""What differs between two backups, or a backup and the database now, a page at a time."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from backup_lambda import backups, differing, snapshot, tables
from backup_lambda.catalogue import Selection, Table
from backup_lambda.differing import Now
from backup_lambda.errors import NotComparable
from backup_lambda.lease import Clock
from backup_lambda.making import Means
from backup_lambda.manifest import Manifest, TableEntry, object_name
from backup_lambda.pages import TOO_LARGE, Alone, Cursor, Page
from backup_lambda.present import Enough
from backup_lambda.schemas import Diff
from backup_lambda.snapshot import Snapshot
from backup_lambda.store import S3Store
from backup_lambda.tables import StoredTable

NOW = "now"
COPY_SECONDS = 8  # to read the database, before a page's time to find what differs is over


async def page(store: S3Store, before: str, after: str, cursor: str | None, now: Clock) -> Diff:
    """Of two backups. Raises BackupNotFound, BackupExpired, NotYet, InvalidRequest and AwsError."""
    old, new = await asyncio.gather(tables.manifest_of(store, before), tables.manifest_of(store, after))
    told = Page(Diff(before=before, after=after, tables=[]))
    olds, news = _by_stem(old.tables), _by_stem(new.tables)
    asked = _asked(old, new.request.tables)
    for stem, start in told.walk(sorted(olds | news if before != after else ()), cursor):
        was, became = olds.get(stem), news.get(stem)
        if was and became:
            await differing.two_stored(told, StoredTable.of(store, old, was), StoredTable.of(store, new, became), start)
        elif was and asked(was.name):
            told.alone(was, _reason(new.not_backed_up, was.name, after), removed=True)
        elif became and asked(became.name):
            told.alone(became, _reason(old.not_backed_up, became.name, before), removed=False)
    return told.summed()


async def page_with_now(means: Means, before: str, cursor: str | None) -> Diff:
    """Of a backup and the database that it was made of. Raises BackupFailed and NotComparable besides.

    Of a table that changes meanwhile, pages are of several moments.
    """
    old = await tables.manifest_of(means.store, before)
    told = Page(Diff(before=before, after=NOW, tables=[]), copies_until=COPY_SECONDS)
    selection = Selection(means.include_tables, means.exclude_tables)
    with suppress(Enough):
        async with snapshot.opened(await means.database_url(), means.schemas, selection) as source:
            await _all_with_now(told, means.store, old, source, cursor)
    return told.summed()


async def _all_with_now(told: Page, store: S3Store, old: Manifest, source: Snapshot, cursor: str | None) -> None:
    """Raises Enough when the connection must not be used any more, and NotComparable."""
    olds, asked = _by_stem(old.tables), _asked(old, None)
    tables_now = {object_name(table.schema, table.relation): table for table in source.tables}
    present = {stem: table for stem, table in tables_now.items() if stem in olds or asked(table.name)}
    stems = sorted(olds | present)
    for stem, start in told.walk(stems, cursor):
        was, table = olds.get(stem), present.get(stem)
        if table is None:
            if was:
                told.alone(was, _reason(source.not_backed_up, was.name, NOW), removed=True)
            continue
        at = start
        try:
            at, now = await _counted(told, source, differing.written_as(table, was), start)
            if was:
                await differing.stored_and_present(told, StoredTable.of(store, old, was), now, at)
            else:
                entry = Alone(table.name, now.rows)
                told.alone(entry, _reason(old.not_backed_up, table.name, old.id), removed=False)
        except (TimeoutError, Enough) as error:
            behind = next((each for each in stems if each > stem), None)
            if told.begun or at is not start:  # the next page has more time for it
                told.go_on(at)
            elif cursor is None and behind is None:
                raise NotComparable(f"{table.name} is {TOO_LARGE}.") from error
            else:
                told.too_large(table.name, was.rows if was else None, at.rows)
                if behind:
                    told.go_on(Cursor(table=behind))
            raise Enough from error
    if told.copies_until < 0:
        raise Enough


async def _counted(told: Page, source: Snapshot, table: Table, start: Cursor) -> tuple[Cursor, Now]:
    """The table with the columns as text that need it, once for all its pages. Raises TimeoutError."""
    if start.rows is not None:
        return start, Now(source, table.with_text(dict.fromkeys(start.as_text, True)), start.rows)
    async with asyncio.timeout_at(told.copies_until):
        counted = await source.count(table)
    as_text = [column["name"] for column in counted.table.catalogue["columns"] if column["written_as"] == "text"]
    at = start.model_copy(update={"rows": counted.rows, "as_text": as_text})
    return at, Now(source, counted.table, counted.rows)


def _by_stem(entries: Sequence[TableEntry]) -> dict[str, TableEntry]:
    return {backups.stem_of(entry): entry for entry in entries}


def _asked(old: Manifest, others: Sequence[str] | None) -> Callable[[str], bool]:
    """Whether both sides were to have a table."""
    mine = old.request.tables
    return lambda name: (mine is None or name in mine) and (others is None or name in others)


def _reason(left_out: Sequence[Mapping[str, str]], name: str, where: str) -> str | None:
    return next((f"{where} does not have it: {each['reason']}" for each in left_out if each["name"] == name), None)
