"""What makes a backup suspect: it is what the database held, but that may not be what anybody wanted to keep."""

from collections.abc import Sequence

from backup_lambda.manifest import Manifest, Request, TableEntry

FEW_ROWS = 100  # a table that had fewer may shrink as it likes
NAMED = 5


def comparable(before: Request, asked: Sequence[str] | None) -> bool:
    """Whether a backup of `asked` can be measured against that one: it must have been to hold as much at least."""
    return before.tables is None or (asked is not None and set(asked) <= set(before.tables))


def why(
    tables: Sequence[TableEntry],
    left_out: Sequence[str],
    *,
    asked: Sequence[str] | None,
    proven: Manifest | None,
    fall_percent: int,
) -> str | None:
    """The reason in words, if there is one.

    `left_out` names what is not backed up, for reasons that the manifest tells. `proven` is the last backup that was
    proven; a table that it has is not missed here unless both are of all tables.
    """
    if not any(table.rows for table in tables):
        return "no table has a row"
    if proven is None:
        return None
    now = {table.name: table.rows for table in tables}
    fallen = []
    for before in proven.tables:
        if before.rows < FEW_ROWS:
            continue
        if before.name in now:
            if now[before.name] * 100 < before.rows * (100 - fall_percent):
                fallen.append(f"{before.name} has {now[before.name]:,} rows, and had {before.rows:,}")
        elif asked is None and proven.request.tables is None and before.name not in left_out:
            fallen.append(f"{before.name} is gone, and had {before.rows:,} rows")
    if not fallen:
        return None
    more = f" (and {len(fallen) - NAMED} more)" if len(fallen) > NAMED else ""
    return f"since {proven.id}, the last proven backup: {'; '.join(fallen[:NAMED])}{more}"
