"""Notices as SNS delivers them, and their words."""

import json
import unicodedata
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_lambda import backups, mail, notices, words
from backup_lambda.endings import Ending
from backup_lambda.replica import Difference
from backup_lambda.schemas import Backup, NotBackedUp, ProofOut, TableOut
from tests.backup_lambda.recorded import (
    AT,
    a_manifest,
    a_proof,
    a_proven_backup,
    a_table,
    have_failure,
    have_manifest,
    have_proof,
)
from tests.backup_lambda.world import World, utc_now

ID = "20261122T020000Z-3f9a2c1b"
SHA256 = "c0ffee" + "0" * 58
PROVEN_BEFORE = a_manifest(
    {"id": "20261120T020000Z-aaaaaaaa", "created_at": AT - timedelta(days=2), "label": None, "requested_by": None},
    tables=[a_table(rows=50_000)],
)


def a_backup(**changes: Any) -> Backup:
    values = {
        "id": ID,
        "state": "failed",
        "label": None,
        "created_at": AT,
        "ended_at": AT,
        "reason": "PostgreSQL: gone",
        "requested_by": None,
    }
    return Backup.model_validate(values | changes)


def a_stored_backup(state: str, reason: str | None = None, **changes: Any) -> Backup:
    values = {
        "state": state,
        "reason": reason,
        "label": "nightly",
        "requested_by": "arn:aws:iam::1:user/ops",
        "ended_at": AT + timedelta(minutes=3),
        "tables": [TableOut(name="notes.notes", rows=12_345, bytes=1_234_500, stored_bytes=400_000, sha256="5" * 64)],
        "rows": 12_345,
        "bytes": 1_234_500,
        "stored_bytes": 400_000,
        "manifest_sha256": SHA256,
    }
    return a_backup(**values | changes)


def an_ending(backup: Backup, **changes: Any) -> Ending:
    ending = Ending(backup, AT + timedelta(minutes=5), signed_by="ab12", newest_proven=PROVEN_BEFORE)
    return replace(ending, **changes)


def the_proof(verdict: str = "proven", number: int = 1, **changes: Any) -> ProofOut:
    return ProofOut.of(a_proof(ID, number, verdict, **changes))


ENDINGS = [
    an_ending(a_stored_backup("proven", proof=the_proof()), newest_proven=None),
    an_ending(a_stored_backup("proven", proof=the_proof(number=3)), proof=the_proof(number=3)),
    an_ending(a_stored_backup("proven", suspect="no rows", proof=the_proof())),
    an_ending(a_stored_backup("stored")),
    an_ending(a_stored_backup("stored", "not proven: the proof server is away", proof=the_proof("unfinished"))),
    an_ending(a_stored_backup("proven", proof=the_proof()), proof=the_proof("unfinished", 2)),
    an_ending(a_stored_backup("suspect", "notes.notes fell from 50,000 rows to 12,345", proof=the_proof())),
    an_ending(a_stored_backup("broken", "the proof found another block", proof=the_proof("broken"))),
    an_ending(a_stored_backup("broken", proof=the_proof("broken")), newest_proven=None),
    an_ending(a_backup()),
    an_ending(a_backup(state="cancelled", reason="somebody asked for it")),
]


async def test_a_proven_backup_is_announced(world: World) -> None:
    backup_id = await a_proven_backup(world, tables=[a_table(rows=1234)])
    await notices.publish(world.topic, notices.of_backup(await backups.ending(world.store, backup_id, None, utc_now)))
    [notice] = await world.notices()
    assert notice["Subject"] == "Holdfast: backup PROVEN, 1,234 rows"
    assert {name: value["Value"] for name, value in notice["MessageAttributes"].items()} == {
        "type": "backup.proven",
        "severity": "info",
    }
    event = json.loads(notice["Message"])
    backup, text = event["data"].pop("backup"), event["data"].pop("text")
    assert event == {
        "specversion": "1.0",
        "id": f"{backup_id}.backup.proven",
        "source": "holdfast/backups",
        "type": "backup.proven",
        "subject": backup_id,
        "time": backup["proof"]["ended_at"],
        "datacontenttype": "application/json",
        "data": {"proof_number": None, "signed_by": None, "newest_proven": None},
    }
    assert (backup["id"], backup["state"], backup["rows"], backup["announced"]) == (backup_id, "proven", 1234, True)
    assert backup["manifest_sha256"] in text


async def test_a_failed_backup_is_announced_with_what_there_is_instead(world: World) -> None:
    proven, failed = await a_proven_backup(world), await world.wish()
    await have_failure(world, failed)
    await notices.publish(world.topic, notices.of_backup(await backups.ending(world.store, failed, None, utc_now)))
    [notice] = await world.notices()
    assert notice["Subject"] == "Holdfast: backup FAILED: PostgreSQL: gone"
    assert notice["MessageAttributes"]["severity"]["Value"] == "error"
    event = json.loads(notice["Message"])
    assert (event["type"], event["data"]["newest_proven"]) == ("backup.failed", proven)
    assert f"The newest proven backup is what you have: {proven}, " in event["data"]["text"]


async def test_a_later_proof_is_an_event_of_its_own(world: World) -> None:
    backup_id = await a_proven_backup(world)
    await have_proof(world, backup_id, 2, "broken")
    await notices.publish(world.topic, notices.of_backup(await backups.ending(world.store, backup_id, 2, utc_now)))
    [notice] = await world.notices()
    event = json.loads(notice["Message"])
    assert (event["id"], event["data"]["proof_number"]) == (f"{backup_id}.proof.2.backup.broken", 2)
    assert notice["Subject"].startswith("Holdfast: backup BROKEN by proof 2: block of notes.notes, block 3")


@pytest.mark.parametrize(
    ("ending", "kind", "severity", "subject"),
    [
        (ENDINGS[0], "proven", "info", "backup PROVEN, 12,345 rows"),
        (ENDINGS[1], "proven", "info", "backup PROVEN by proof 3, 12,345 rows"),
        (ENDINGS[3], "stored", "info", "backup stored, 12,345 rows"),
        (ENDINGS[4], "stored", "warning", "backup stored, 12,345 rows, not proven: the proof server is away"),
        (ENDINGS[5], "stored", "warning", "proof 2 UNFINISHED: the proof server is away"),
        (ENDINGS[6], "suspect", "warning", "backup SUSPECT: notes.notes fell from 50,000 rows to 12,345"),
        (ENDINGS[7], "broken", "error", "backup BROKEN: the proof found another block"),
        (ENDINGS[9], "failed", "error", "backup FAILED: PostgreSQL: gone"),
        (ENDINGS[10], "cancelled", "warning", "backup CANCELLED: somebody asked for it"),
    ],
)
def test_every_end_has_its_kind_its_severity_and_its_subject(
    ending: Ending, kind: str, severity: str, subject: str
) -> None:
    assert (ending.kind, ending.severity) == (f"backup.{kind}", severity)
    assert mail.subject_of(ending) == f"Holdfast: {subject}"


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_mail_says_what_happened_to_what_and_what_to_do(ending: Ending) -> None:
    text = mail.text_of(ending)
    first = text.partition("\n")[0]
    assert ID in first
    assert first.endswith(".")
    assert "Asked for: 2026-11-22 02:00:00 UTC" in text
    assert "\nWhat to do next:\n" in text
    assert text.endswith("\n")
    assert "None" not in text
    assert max(map(len, text.splitlines())) <= 120
    if ending.backup.tables:
        assert "Rows:      12,345 in 1 table\n" in text
        assert "Size:      400.0 kB in the bucket, 1.2 MB uncompressed\n" in text
        assert f"Manifest:  SHA-256 {SHA256}\n" in text
        assert "Signed by: key ab12\n" in text
    if ending.backup.state != "proven":
        relied = ending.newest_proven and "The newest proven backup is what you have: 20261120T020000Z-aaaaaaaa, 2 days"
        assert (relied or "There is NO proven backup") in text


def test_the_mail_about_a_broken_backup() -> None:
    assert (
        mail.text_of(ENDINGS[7])
        == f"""\
The backup {ID} is BROKEN: what is stored is not what was backed up. Do not restore it.

Reason:    the proof found another block
Label:     nightly
Asked for: 2026-11-22 02:00:00 UTC by arn:aws:iam::1:user/ops
Ended:     2026-11-22 02:03:00 UTC
Proof:     number 1 on PostgreSQL 18.1, from 2026-11-22 02:03:00 UTC to 2026-11-22 02:05:00 UTC: broken
Rows:      12,345 in 1 table
Size:      400.0 kB in the bucket, 1.2 MB uncompressed
Files:     in the bucket under backups/{ID}/

What differs:
  block of notes.notes, block 3: expected f1d2, found 0000

What to do next:
1. Ask for a new backup at once: POST /backups with {{}}
2. If that one is broken too, the database, the bucket or the proof server damages data: find out which.
3. Keep the files of this one as evidence.

All other backups are untouched. Nothing relies on this one.
The newest proven backup is what you have: 20261120T020000Z-aaaaaaaa, 2 days old, 50,000 rows.

Keep this mail: it shows if backups up to this one are removed or replaced later.
Manifest:  SHA-256 {SHA256}
Signed by: key ab12
"""
    )


def test_who_gets_a_suspect_backup_is_told_the_call_that_accepts_it() -> None:
    assert f'If that was meant: POST /backups/{ID}/proofs with {{"accept_suspect": true}}' in mail.text_of(ENDINGS[6])
    assert "Accepted:  no rows\n" in mail.text_of(ENDINGS[2])


def test_the_mail_about_a_proven_backup_says_what_was_compared() -> None:
    text = mail.text_of(ENDINGS[0])
    assert "is PROVEN: it was restored, and everything came back as it was." in text
    assert "It was restored into PostgreSQL 18.1 and compared: every byte, the hash of every row,\n" in text
    assert "It is what you have, if the worst happens." in text
    assert "What to do next:\nNothing.\n" in text


def test_the_mail_about_a_proof_that_was_not_finished_takes_nothing_from_the_backup() -> None:
    text = mail.text_of(ENDINGS[5])
    assert text.startswith(f"Proof 2 of the backup {ID} was NOT FINISHED. The backup is as it was.\n")
    assert "It can be relied upon, as before." in text
    assert "not tried" not in text


def test_a_mail_lists_what_is_largest_and_what_is_left_out() -> None:
    tables = [TableOut(name=f"notes.t{n}", rows=n, bytes=n, stored_bytes=n, sha256="") for n in range(12)]
    foreign = NotBackedUp(name="notes.far", reason="a foreign table")
    text = mail.text_of(an_ending(a_stored_backup("proven", proof=the_proof(), tables=tables, not_backed_up=[foreign])))
    assert text.index("notes.t11: 11 rows, 11 bytes") < text.index("notes.t2: 2 rows") < text.index("  and 2 more\n")
    assert "Not in it: notes.far (a foreign table)\n" in text
    asked = mail.text_of(an_ending(a_stored_backup("proven", proof=the_proof(), selection=["notes.notes"])))
    assert "Tables:    notes.notes\n" in asked


def text_with(reason: str, name: str, by: str) -> str:
    """A mail into which somebody else's words go wherever any do."""
    proof = the_proof("broken", differences=[Difference(what="rows", where=name, expected=by, found=reason)], server=by)
    backup = a_stored_backup(
        "broken",
        f"x{reason}",
        requested_by=f"x{by}",
        tables=[TableOut(name=name, rows=1, bytes=1, stored_bytes=1, sha256="")],
        not_backed_up=[NotBackedUp(name=name, reason=reason)],
        selection=[f"x{name}"],
        proof=proof,
    )
    return mail.text_of(an_ending(backup, signed_by=f"x{by}"))


@given(st.text(), st.text(), st.text())
def test_nobodys_words_forge_a_line_of_a_mail(reason: str, name: str, by: str) -> None:
    text = text_with(reason, name, by)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(text.splitlines()) == len(text_with("a", "b", "c").splitlines())


@given(st.text())
def test_a_subject_is_what_sns_takes(reason: str) -> None:
    for state in ("failed", "broken", "suspect", "stored", "cancelled"):
        subject = mail.subject_of(an_ending(a_backup(state=state, reason=reason)))
        assert subject.isascii()
        assert len(subject) < 100
        assert not any(unicodedata.category(character) == "Cc" for character in subject)


def test_the_mail_counts_all_differences() -> None:
    one = Difference(what="rows", where="notes.notes", expected="1", found="2")
    text = mail.text_of(
        an_ending(a_stored_backup("broken", proof=the_proof("broken", differences=[one] * 20, differences_found=73)))
    )
    assert text.count("rows of notes.notes") == 10
    assert "  and 63 more\n" in text


async def test_a_notice_of_very_many_tables_fits(world: World) -> None:
    table = TableOut(name="notes." + "n" * 60, rows=1, bytes=1, stored_bytes=1, sha256="0" * 64)
    left_out = NotBackedUp(name="notes." + "n" * 60, reason="a foreign table: its rows are on another server")
    long = Difference(what="catalogue", where="notes.notes", expected="x" * 20_000, found="y" * 20_000)
    backup = a_stored_backup(
        "broken",
        proof=the_proof("broken", differences=[long] * 20),
        tables=[table] * 3000,
        not_backed_up=[left_out] * 3000,
        selection=["notes." + "n" * 60] * 200,
    )
    await notices.publish(world.topic, notices.of_backup(an_ending(backup)))
    [notice] = await world.notices()
    event = json.loads(notice["Message"])
    assert (event["data"]["backup"]["tables"], event["data"]["backup"]["proof"]) == ([], None)
    assert "in 3,000 tables" in event["data"]["text"]


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
    assert words.size(count) == said


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (timedelta(seconds=90), "a moment old"),
        (timedelta(minutes=119), "119 minutes old"),
        (timedelta(hours=47), "47 hours old"),
        (timedelta(days=30), "30 days old"),
        (timedelta(seconds=-5), "a moment old"),
    ],
)
def test_ages_are_for_people(age: timedelta, said: str) -> None:
    text = mail.text_of(an_ending(a_backup(), at=PROVEN_BEFORE.started_at + age))
    assert f"{PROVEN_BEFORE.id}, {said}, " in text


async def test_the_newest_proven_backup_is_not_looked_for_where_it_is_not_needed(world: World) -> None:
    backup_id = await a_proven_backup(world)
    other = await world.wish()
    await have_manifest(world, other)
    assert (await backups.ending(world.store, backup_id, None, utc_now)).newest_proven is None
    assert (await backups.ending(world.store, other, None, utc_now)).newest_proven is not None
