"""The main job through every real part: a note, a schedule, a signed call, a snapshot, a bucket, a mail."""

import gzip
import hashlib
import json
from urllib.parse import urljoin

import httpx
import pytest

from tests.system.stack import UNDER_WAY, Stack, eventually


def test_a_triggered_schedule_ends_in_a_proven_backup_and_a_mail(stack: Stack) -> None:
    stack.subscribe("bob@example.org")
    with stack.notes() as notes:
        note = notes.post(
            "/v1/notes", json={"title": 'Ünïcode \\ " \u2028', "content": "a\nb\t\\n", "tags": ["x"]}
        ).json()
    run = stack.ended(stack.trigger())
    assert run["state"] == "succeeded", run
    with stack.backups() as backups, stack.bucket() as bucket:
        backup = backups.get(f"backups/{run['backup_id']}").json()
        manifest = bucket.get(f"backups/{backup['id']}/manifest.json").json()
        stored = bucket.get(f"backups/{backup['id']}/data/notes.notes.json.gz").content
        proof = bucket.get(f"backups/{backup['id']}/proof/1.json").json()
        signature = bucket.get(f"backups/{backup['id']}/manifest.sig").json()
    assert (backup["state"], proof["verdict"], backup["announced"]) == ("proven", "proven", True)
    assert signature["key"] == stack.env["SIGNING_KEY"]
    (table,) = [table for table in manifest["tables"] if table["name"] == "notes.notes"]
    lines = gzip.decompress(stored)
    assert hashlib.sha256(lines).hexdigest() == table["sha256"]
    rows = [json.loads(line) for line in lines.splitlines()]
    assert len(rows) == table["rows"]
    (row,) = [row for row in rows if row["id"] == note["id"]]
    assert {name: row[name] for name in ("title", "content", "tags")} == {
        name: note[name] for name in ("title", "content", "tags")
    }
    mail = stack.mail_about(backup["id"], to="bob@example.org")
    assert "PROVEN" in mail["Subject"]
    assert f"{backup['rows']:,}" in mail.get_content()


def test_the_newest_backup_comes_first(stack: Stack) -> None:
    ids = [stack.ended(stack.trigger())["backup_id"] for _ in range(2)]
    with stack.backups() as backups:
        listed = [backup["id"] for backup in backups.get("backups").json()["items"]]
    assert listed.index(ids[1]) < listed.index(ids[0])
    with stack.scheduler() as scheduler:
        runs = [run["backup_id"] for run in scheduler.get("/v1/runs").json()["items"]]
    assert runs.index(ids[1]) < runs.index(ids[0])


def test_a_note_written_after_the_snapshot_is_not_in_it(stack: Stack) -> None:
    run = stack.ended(stack.trigger())
    with stack.notes() as notes:
        late = notes.post("/v1/notes", json={"title": "late"}).json()
    with stack.bucket() as bucket:
        rows = gzip.decompress(bucket.get(f"backups/{run['backup_id']}/data/notes.notes.json.gz").content)
    assert late["id"].encode() not in rows


def test_ops_start_a_backup_and_a_repeated_key_is_the_same_one(stack: Stack) -> None:
    with stack.backups() as backups:
        first = backups.post("backups", json={"label": "by hand"}, headers={"Idempotency-Key": "by-hand"})
        again = backups.post("backups", json={"label": "by hand"}, headers={"Idempotency-Key": "by-hand"})
        other = backups.post("backups", json={"label": "another"}, headers={"Idempotency-Key": "by-hand"})
        assert (first.status_code, again.json()["id"], other.status_code) == (202, first.json()["id"], 422)
        followed = urljoin(str(first.request.url), first.headers["Location"])
        ended = eventually(lambda: b if (b := backups.get(followed).json())["state"] not in UNDER_WAY else None)
    assert (ended["state"], ended["label"]) == ("proven", "by hand")


def test_a_long_note_passes_nginx(stack: Stack) -> None:
    """It keeps bodies over 64 KiB in files, which its workers must be able to write."""
    content = "Ünïcode " * 100_000
    with stack.notes() as notes:
        made = notes.post("/v1/notes", json={"title": "long", "content": content})
        assert made.status_code == 201, made.text
        assert notes.get(f"/v1/notes/{made.json()['id']}").json()["content"] == content


def test_a_file_of_notes_of_any_size_passes_nginx_both_ways(stack: Stack) -> None:
    """It is larger than the body of another request may be."""
    lines = "".join(json.dumps({"title": f"Imported {n}", "content": "tea " * 1000}) + "\n" for n in range(800))
    with stack.notes() as notes:
        answer = notes.post("/v1/notes:import", content=lines, headers={"Content-Type": "application/x-ndjson"})
        assert json.loads(answer.text.splitlines()[-1])["summary"]["created"] == 800, answer.text[-1000:]
        export = notes.get("/v1/notes:export")
        assert sum(json.loads(line)["title"].startswith("Imported ") for line in export.content.splitlines()) == 800


def test_a_change_passes_nginx_when_it_happens(stack: Stack) -> None:
    with stack.notes() as notes, notes.stream("GET", "/v1/changes/stream") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert notes.post("/v1/notes", json={"title": "Seen at once"}).status_code == 201
        assert next(line for line in stream.iter_lines() if line.startswith("event:")) == "event: note.created"


def test_an_unsigned_call_is_refused(stack: Stack) -> None:
    assert httpx.get(f"{stack.env['BACKUPS_URL']}/backups").status_code == 403
    assert httpx.post(f"{stack.env['BACKUPS_URL']}/backups", json={}).status_code == 403


@pytest.mark.parametrize("keys", [("", "wrong"), ("AKIAIOSFODNN7EXAMPLE", "")])
def test_a_wrongly_signed_call_is_refused(stack: Stack, keys: tuple[str, str]) -> None:
    with stack.backups(*keys) as backups:
        assert backups.get("backups").status_code == 403
        assert backups.post("backups", json={}).status_code == 403


def test_a_body_changed_after_signing_is_refused(stack: Stack) -> None:
    with stack.backups() as backups:
        request = backups.build_request("POST", "backups", json={"label": "signed"})
        signed = next(backups.auth.auth_flow(request))  # type: ignore[union-attr]  # the one that the stack gave it
        altered = httpx.Request("POST", request.url, headers=signed.headers, content=b'{"label":"forged"}')
        assert backups.send(altered, auth=None).status_code == 403


def test_a_subscription_chooses_its_events(stack: Stack) -> None:
    stack.subscribe("abe@example.org", events=["backup.failed"])  # mails go out in the order of addresses
    stack.subscribe("zoe@example.org", events=["backup.proven"])
    run = stack.ended(stack.trigger())
    eventually(
        lambda: [m for m in stack.mails() if m["To"] == "zoe@example.org" and run["backup_id"] in m.get_content()]
    )
    assert not [m for m in stack.mails() if m["To"] == "abe@example.org" and run["backup_id"] in m.get_content()]


def test_everything_listens_on_the_loopback_address_only(stack: Stack) -> None:
    listening = [c.laddr.ip for p in stack.processes() for c in p.net_connections() if c.status == "LISTEN"]
    assert set(listening) == {"127.0.0.1"}
    assert len(listening) >= 7
