"""Notices as SNS delivers them, and their words."""

import json
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_lambda import notices
from backup_lambda.schemas import Backup, TableOut
from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_long_time, worker_for


def a_backup(**changes: object) -> Backup:
    at = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
    values = {
        "id": "20261122T020000Z-3f9a2c1b",
        "state": "failed",
        "label": None,
        "created_at": at,
        "ended_at": at,
        "reason": "PostgreSQL: gone",
        "requested_by": None,
    }
    return Backup.model_validate(values | changes)


async def test_a_stored_backup_is_announced(worker: Worker, world: World, owner: Connection) -> None:
    await owner.execute("create table notes.notes as select i as id from generate_series(1, 1234) i")
    backup_id = await world.wish("nightly")
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    [notice] = await world.notices()
    assert notice["Subject"] == "Holdfast: backup stored, 1,234 rows"
    assert {name: value["Value"] for name, value in notice["MessageAttributes"].items()} == {
        "type": "backup.stored",
        "severity": "info",
    }
    event = json.loads(notice["Message"])
    backup, text = event["data"].pop("backup"), event["data"].pop("text")
    assert event == {
        "specversion": "1.0",
        "id": f"{backup_id}.backup.stored",
        "source": "holdfast/backups",
        "type": "backup.stored",
        "subject": backup_id,
        "time": backup["ended_at"],
        "datacontenttype": "application/json",
        "data": {},
    }
    assert (backup["id"], backup["state"], backup["rows"]) == (backup_id, "stored", 1234)
    for words in (backup_id, "is stored", "nightly", "1,234 in 1 tables", "notes.notes: 1,234 rows", "kB uncompressed"):
        assert words in text


async def test_a_failed_backup_is_announced(world: World) -> None:
    backup_id = await world.wish()
    assert await worker_for(world, "nonsense").back_up(backup_id, a_long_time) == "failed"
    [notice] = await world.notices()
    assert notice["Subject"].startswith("Holdfast: backup FAILED: the database secret cannot be used (ValueError): ")
    assert notice["MessageAttributes"]["severity"]["Value"] == "error"
    event = json.loads(notice["Message"])
    assert (event["type"], event["data"]["backup"]["state"]) == ("backup.failed", "failed")
    assert event["data"]["backup"]["announced"]
    assert "What to do next" in event["data"]["text"]


@given(st.text())
def test_a_subject_is_what_sns_takes(reason: str) -> None:
    subject = notices.subject_of(a_backup(reason=reason))
    assert subject.isascii()
    assert len(subject) < 100
    assert not any(unicodedata.category(character) == "Cc" for character in subject)


async def test_a_notice_of_very_many_tables_fits(world: World) -> None:
    table = TableOut(name="notes." + "n" * 60, rows=1, bytes=1, stored_bytes=1, sha256="0" * 64)
    await notices.publish(world.topic, a_backup(state="stored", reason=None, tables=[table] * 3000))
    [notice] = await world.notices()
    event = json.loads(notice["Message"])
    assert event["data"]["backup"]["tables"] == []
    assert "in 3000 tables" in event["data"]["text"]


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (921_400_000, "921.4 MB"),
        (5e12, "5.0 TB"),
        (5e15, "5,000.0 TB"),
    ],
)
def test_sizes_are_for_people(count: float, said: str) -> None:
    assert notices.size(count) == said
