"""When a backup is suspect; `before` and `now` are rows by table."""

from datetime import UTC, datetime
from typing import Any

import pytest

from backup_lambda import suspect
from backup_lambda.manifest import Manifest, Request, SchemaSql, TableEntry

BACKUP = "20261122T020000Z-3f9a2c1b"
AT = datetime(2026, 11, 22, 2, tzinfo=UTC)


def entries(rows: dict[str, int]) -> list[TableEntry]:
    same: dict[str, Any] = {"catalogue": {}, "primary_key": [], "bytes": 0, "stored_bytes": 0, "row_hash": "0"}
    kept = dict.fromkeys(("sha256", "object", "index", "index_sha256", "etag"), "")
    return [TableEntry(name=name, rows=count, **same, **kept) for name, count in rows.items()]


def proven(rows: dict[str, int], asked: list[str] | None = None) -> Manifest:
    return Manifest(
        id=BACKUP,
        created_at=AT,
        request=Request(id=BACKUP, created_at=AT, label=None, requested_by=None, tables=asked),
        started_at=AT,
        ended_at=AT,
        duration_seconds=0,
        database={},
        snapshot={},
        schema_revision={},
        schema_sql=SchemaSql(before_rows=[], after_rows=[]),
        sequences=[],
        tables=entries(rows),
        not_backed_up=[],
        previous=None,
    )


SINCE = f"since {BACKUP}, the last proven backup: "


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        ({"n.a": 1000}, {"n.a": 500}, None),
        ({"n.a": 1000}, {"n.a": 499}, f"{SINCE}n.a has 499 rows, and had 1,000"),
        ({"n.a": 100, "n.b": 5}, {"n.a": 0, "n.b": 5}, f"{SINCE}n.a has 0 rows, and had 100"),
        ({"n.a": 99, "n.b": 5}, {"n.a": 0, "n.b": 5}, None),
        ({"n.a": 100, "n.b": 5}, {"n.b": 5}, f"{SINCE}n.a is gone, and had 100 rows"),
        ({"n.a": 99, "n.b": 5}, {"n.b": 5}, None),
        ({"n.a": 100}, {"n.a": 100, "n.b": 0}, None),
        ({"n.a": 100}, {"n.a": 0}, "no table has a row"),
        ({}, {"n.a": 0}, "no table has a row"),
        (None, {"n.a": 0}, "no table has a row"),
        (None, {"n.a": 1}, None),
    ],
)
def test_a_fall_is_measured_against_the_last_proven_backup(
    before: dict[str, int] | None, now: dict[str, int], reason: str | None
) -> None:
    last = None if before is None else proven(before)
    assert suspect.why(entries(now), [], asked=None, proven=last, fall_percent=50) == reason


def test_how_far_it_may_fall_is_a_setting() -> None:
    for percent, rows in [(1, 99), (20, 80), (99, 1), (100, 0)]:
        last = proven({"n.a": 100, "n.b": 1})
        allowed, fallen = entries({"n.a": rows, "n.b": 1}), entries({"n.a": rows - 1, "n.b": 1})
        assert suspect.why(allowed, [], asked=None, proven=last, fall_percent=percent) is None
        assert rows == 0 or suspect.why(fallen, [], asked=None, proven=last, fall_percent=percent)


def test_a_table_that_nobody_asked_for_is_not_missed() -> None:
    rest = entries({"n.b": 5})
    before = {"n.a": 100, "n.b": 5}
    assert suspect.why(rest, [], asked=["n.b"], proven=proven(before), fall_percent=50) is None
    assert suspect.why(rest, [], asked=None, proven=proven(before, ["n.a", "n.b"]), fall_percent=50) is None
    assert suspect.why(rest, ["n.a"], asked=None, proven=proven(before), fall_percent=50) is None, (
        "the manifest says why"
    )
    fallen = suspect.why(entries({"n.a": 10}), [], asked=["n.a"], proven=proven(before), fall_percent=50)
    assert fallen == f"{SINCE}n.a has 10 rows, and had 100"


def test_many_tables_are_counted() -> None:
    last = proven({f"n.{name}": 100 for name in "abcdefg"})
    reason = suspect.why(entries({"n.z": 1}), [], asked=None, proven=last, fall_percent=50)
    assert str(reason).endswith("n.e is gone, and had 100 rows (and 2 more)")
