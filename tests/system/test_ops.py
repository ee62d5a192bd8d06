"""What ops do with backups through the gateway: wait for one, prove, cancel, download, verify."""

import gzip
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.stack import LOCAL_PYTHON, ROOT, UNDER_WAY, Stack, eventually

WAIT = {"Prefer": "wait=25"}


def made(stack: Stack) -> dict[str, Any]:
    """A backup that ops asked for, proven."""
    with stack.backups() as backups:
        backup_id = backups.post("backups", json={"label": "by ops"}, headers=WAIT).json()["id"]
    backup = ended(stack, backup_id)
    assert backup["state"] == "proven", backup
    return backup


def ended(stack: Stack, backup_id: str) -> dict[str, Any]:
    return eventually(lambda: b if (b := stack.backup(backup_id))["state"] not in UNDER_WAY else None)


def test_who_waits_is_told_the_end_in_the_same_answer(stack: Stack) -> None:
    made(stack)  # so that both functions are warm
    with stack.backups() as backups:
        answer = backups.post("backups", json={"label": "by ops"}, headers=WAIT)
    assert (answer.status_code, answer.json()["state"]) == (200, "proven"), answer.text
    assert answer.headers["Preference-Applied"] == "wait=25"


def test_a_byte_that_changed_in_the_bucket_is_found_and_mailed(stack: Stack) -> None:
    stack.subscribe("eva@example.org", events=["backup.broken"])
    backup = made(stack)
    name = f"backups/{backup['id']}/data/notes.notes.json.gz"
    with stack.bucket(*stack.root_keys()) as bucket:
        stored = bytearray(bucket.get(name).content)
        stored[len(stored) // 2] ^= 1
        write(bucket, name, bytes(stored))
    assert stack.backup(backup["id"])["state"] == "proven", "nobody has looked yet"
    with stack.backups() as backups:
        asked = backups.post(f"backups/{backup['id']}/proofs", json={})
        assert (asked.status_code, asked.json()["number"]) == (202, 2)
        broken = eventually(lambda: b if (b := stack.backup(backup["id"]))["state"] == "broken" else None)
        assert "notes.notes" in json.dumps(broken["proof"]["differences"])
        link = backups.get(f"backups/{backup['id']}/tables/notes")
        assert (link.status_code, link.json()["type"]) == (409, "/problems/object-altered")
    mail = stack.mail_about(backup["id"], to="eva@example.org")
    assert "BROKEN" in mail["Subject"]
    assert "notes.notes" in mail.get_content()


def test_a_backup_that_is_being_made_is_cancelled(stack: Stack) -> None:
    with stack.locked("notes.notes") as waited_for, stack.backups() as backups:
        backup_id = backups.post("backups", json={}).json()["id"]
        eventually(waited_for)
        assert backups.post(f"backups/{backup_id}/cancel").status_code == 202
        ended = eventually(lambda: b if (b := stack.backup(backup_id))["state"] != "running" else None)
        assert ended["state"] == "cancelled", ended
        again = backups.post(f"backups/{backup_id}/cancel")
        assert (again.status_code, again.json()["type"]) == (409, "/problems/backup-ended")
    with stack.bucket() as bucket:
        assert bucket.get(f"backups/{backup_id}/manifest.json").status_code == 404


def test_a_table_is_downloaded_by_a_link_that_needs_no_keys(stack: Stack, tmp_path: Path) -> None:
    backup = made(stack)
    with stack.backups() as backups:
        link = backups.get(f"backups/{backup['id']}/tables/notes.notes").json()
    for index, url in enumerate((link["url"], link["index_url"])):
        file = tmp_path / f"{index}.gz"
        done = subprocess.run(["curl", "--silent", "--fail", "--output", file, url], check=False)
        assert done.returncode == 0
        assert gzip.decompress(file.read_bytes()) == gzip.decompress(httpx.get(url).content)
    rows = gzip.decompress((tmp_path / "0.gz").read_bytes())
    assert (hashlib.sha256(rows).hexdigest(), rows.count(b"\n")) == (link["sha256"], link["rows"])
    assert httpx.get(link["url"].replace("notes.notes", "notes.tokens")).status_code == 403, "one table, one link"


@pytest.fixture
def table(stack: Stack) -> Iterator[str]:
    """A table of 200 rows."""
    stack.execute(
        "create table notes.visits as select id from generate_series(1, 200) id;"
        "grant select on notes.visits to notes_backup"
    )
    yield "notes.visits"
    stack.execute("drop table notes.visits")


def test_a_table_that_lost_its_rows_is_suspect_until_it_is_accepted(stack: Stack, table: str) -> None:
    """Backups of that table alone, so that the others do not look changed."""
    stack.subscribe("fay@example.org", events=["backup.suspect"])
    with stack.backups() as backups:
        # Nobody makes a database, as the proof must, while its template is being changed.
        with stack.holding("comment on database template0 is 'held'"):
            first = backups.post("backups", json={"tables": [table]}).json()["id"]
            progress = eventually(lambda: p if (p := stack.backup(first)["progress"]) and p["percent"] >= 50 else None)
            assert (progress["rows"], progress["percent"]) == (200, 50), "made and read back, but not proven"
        before = ended(stack, first)
        assert (before["state"], [each["name"] for each in before["tables"]]) == ("proven", [table])
        stack.execute("delete from notes.visits where id > 50")
        second = backups.post("backups", json={"tables": [table]}).json()["id"]
        suspect = ended(stack, second)
        assert (suspect["state"], suspect["proof"]["verdict"]) == ("suspect", "proven")
        assert "notes.visits has 50 rows, and had 200" in suspect["reason"]
        assert "SUSPECT" in stack.mail_about(second, to="fay@example.org")["Subject"]
        accepted = backups.post(f"backups/{second}/proofs", json={"accept_suspect": True})
        assert (accepted.status_code, accepted.json()["number"]) == (202, 2)
        assert eventually(lambda: stack.backup(second)["state"] == "proven")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "restores"), ("GET", "tables/notes.notes"), ("GET", "../before/x")]
)
def test_the_scheduler_may_neither_restore_nor_download(stack: Stack, method: str, path: str) -> None:
    """Its signature is good, its policy says no."""
    with stack.backups(*stack.keys_of("holdfast-scheduler")) as backups:
        answer = backups.request(method, f"backups/20261122T020000Z-3f9a2c1b/{path}", json={})
        assert (answer.status_code, "not authorized" in answer.text) == (403, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "backups/20261122T020000Z-3f9a2c1b/proofs", 404),
        ("POST", "backups/20261122T020000Z-3f9a2c1b/cancel", 404),
        ("GET", "backups", 200),
        ("GET", "retention", 200),
        ("POST", "retention", 422),
    ],
)
def test_the_scheduler_may_do_what_its_targets_need(stack: Stack, method: str, path: str, status: int) -> None:
    with stack.backups(*stack.keys_of("holdfast-scheduler")) as backups:
        assert backups.request(method, path, json={}).status_code == status


def test_verify_names_what_was_altered(stack: Stack) -> None:
    """By ops' own keys: who verifies needs to read the bucket, and nothing else."""
    backup = made(stack)
    assert backup["id"] not in verify(stack)
    name = f"backups/{backup['id']}/manifest.json"
    with stack.bucket(*stack.root_keys()) as bucket:
        manifest = bucket.get(name).content
        write(bucket, name, manifest.replace(b'"by ops"', b'"by eve"'))
        assert f"{backup['id']} manifest.json" in verify(stack)
        write(bucket, name, manifest)
    assert backup["id"] not in verify(stack)


def write(bucket: httpx.Client, name: str, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    answer = bucket.put(name, content=content, headers={"X-Amz-Content-Sha256": digest})
    assert answer.status_code == 200, answer.text


def verify(stack: Stack) -> str:
    """What `make verify` finds. Make itself says 2 when a command says 1."""
    done = subprocess.run(
        ["make", "--silent", "verify"], check=False, capture_output=True, text=True, cwd=ROOT, env=stack.environment
    )
    assert done.returncode == (2 if done.stdout else 0), done.stderr
    return done.stdout


def test_a_deployed_stack_is_tried_by_one_command(stack: Stack) -> None:
    """In an account, the address is what the stack has published; here that is a name of AWS's."""
    access_key, secret_key = stack.root_keys()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env = clean | stack.env | {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    env["AWS_DEFAULT_REGION"] = env["AWS_REGION"]
    command = [str(LOCAL_PYTHON), "-m", "deploy.smoke"]
    at = ["--url", stack.env["BACKUPS_URL"]]
    done = subprocess.run([*command, *at], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is proven" in done.stdout
    done = subprocess.run([*command, "no-such"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, "ParameterNotFound" in done.stderr) == (1, True)
