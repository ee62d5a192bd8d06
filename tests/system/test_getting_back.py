"""What was lost comes back, through signatures and policies: a row, a table, everything; and what retention keeps."""

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import asyncpg
import httpx
import pytest

from deploy.local.home import Home
from deploy.local.postgres import Server
from tests.system.stack import UNDER_WAY, Stack, eventually


def made(stack: Stack, *tables: str) -> str:
    """The id of a proven backup."""
    wanted = {"tables": list(tables)} if tables else {}
    with stack.backups() as backups:
        backup = backups.post("backups", json=wanted, headers={"Prefer": "wait=25"}).json()
    ended = eventually(lambda: b if (b := stack.backup(backup["id"]))["state"] not in UNDER_WAY else None)
    assert ended["state"] == "proven", ended
    return str(ended["id"])


def restored(backups: httpx.Client, backup_id: str, **wanted: Any) -> dict[str, Any]:
    """The restore, when it has ended."""
    asked = backups.post(f"backups/{backup_id}/restores", json=wanted)
    assert asked.status_code == 202, asked.text
    followed = urljoin(str(asked.request.url), asked.headers["Location"])

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = backups.get(followed).json()
        return found if found["state"] in ("completed", "failed") else None

    return eventually(ended)


def of_note(stack: Stack, note: dict[str, Any], statement: str) -> None:
    stack.execute(f"{statement} where id = '{note['id']}'")


def test_a_note_that_was_deleted_for_good_is_found_and_had_back(stack: Stack) -> None:
    stack.subscribe("gus@example.org", events=["restore.completed"])
    with stack.notes() as notes, stack.backups() as backups:
        note = notes.post("/v1/notes", json={"title": "lost", "content": 'a\n"b"'}).json()
        at = f"/v1/notes/{note['id']}"
        first = made(stack)
        of_note(stack, note, "update notes.notes set title = 'found'")
        found = notes.get(at).json()
        second = made(stack)
        of_note(stack, note, "delete from notes.notes")
        assert notes.get(at).status_code == 404

        history = backups.get(f"rows/notes/{note['id']}/history")
        assert history.status_code == 200, history.text
        states = [(each["backup_id"], (each["row"] or {}).get("title")) for each in history.json()["items"]]
        # Backups from before it was written, of other tests, are a state of their own.
        assert states[:2] == [(second, "found"), (first, "lost")]
        assert [title for _, title in states[2:]] in ([], [None])
        row = backups.get(f"backups/{first}/tables/notes.notes/rows/{note['id']}").json()
        assert row["row"]["content"] == 'a\n"b"'

        tables = [{"table": "notes", "keys": [[note["id"]]]}]
        tried = restored(backups, second, tables=tables, dry_run=True)
        assert (tried["state"], tried["tables"][0]["added"]) == ("completed", 1), tried
        assert notes.get(at).status_code == 404, "it was taken back"
        done = restored(backups, second, tables=tables)
        assert (done["state"], done["tables"][0]["added"]) == ("completed", 1), done
        assert notes.get(at).json() == found, "with its revision, and so its ETag"
        again = restored(backups, second, tables=tables)
        assert (again["state"], again["tables"][0]["same"]) == ("completed", 1), again

        now = backups.get(f"backups/{second}/diff/now")
        assert now.status_code == 200, now.text
        different = {each["name"]: each["changes"] for each in now.json()["tables"]}
        assert note["id"] not in [change["key"][0] for change in different.get("notes.notes", [])]
        refused = backups.get("backups/20261122T020000Z-3f9a2c1b/diff/now")
        assert (refused.status_code, refused.json()["type"]) == (404, "/problems/backup-not-found"), (
            "as the worker said"
        )
    assert stack.mail_about(done["id"], to="gus@example.org")


def test_everything_is_restored_into_a_new_database_that_services_can_run_on(stack: Stack) -> None:
    """Once roles.sql was run on it: a backup keeps no owners and no grants."""
    with stack.notes() as notes, stack.backups() as backups:
        note = notes.post("/v1/notes", json={"title": "everything"}).json()
        done = restored(backups, made(stack), database="as_it_was")
        assert (done["state"], done["database"]) == ("completed", "as_it_was"), done
        assert done["tokens_revoked"] > 0
        taken = restored(backups, made(stack), database="as_it_was")
        assert taken["state"] == "failed"
    url = urlsplit(stack.env["DATABASE_URL"])
    server = Server("127.0.0.1", url.port or 0, "postgres", Home(stack.home).secrets)
    server.make_roles("as_it_was")

    async def as_the_service() -> tuple[str, int]:
        connection = await asyncpg.connect(server.url("notes_app", "as_it_was"))
        try:
            await connection.execute("insert into notes.notes (owner, title, content, tags) "
                                     "select owner, 'new', '', '{}' from notes.notes limit 1")  # fmt: skip
            title = await connection.fetchval("select title from notes.notes where id = $1", note["id"])
            valid = "select count(*) from notes.tokens where expires_at is null or expires_at > now()"
            return title, await connection.fetchval(valid)
        finally:
            await connection.close()

    assert asyncio.run(as_the_service()) == ("everything", 0)
    stack.execute("drop database as_it_was with (force)")


@pytest.fixture
def table(stack: Stack) -> Iterator[str]:
    stack.execute("create table notes.kept (id int primary key); insert into notes.kept select generate_series(1, 9)")
    stack.execute("grant select on notes.kept to notes_backup")
    yield "notes.kept"
    stack.execute("drop table notes.kept")


def test_retention_removes_what_its_plan_says_and_nothing_else(stack: Stack, table: str) -> None:
    """Of these tables alone: seven are kept, and this is the eighth."""
    ids = [made(stack, table) for _ in range(8)]
    with stack.backups() as backups, stack.bucket() as bucket:
        shown = backups.get("retention")
        assert shown.status_code == 200, shown.text
        plan = shown.json()
        actions = {each["backup_id"]: each["action"] for each in plan["items"]}
        assert [actions[each] for each in ids] == ["expire", *["keep"] * 7]
        stale = backups.post("retention", json={"digest": "0" * 64})
        assert (stale.status_code, stale.json()["type"]) == (409, "/problems/stale-plan")
        applied = backups.post("retention", json={"digest": plan["digest"]})
        assert applied.status_code == 200, applied.text
        assert (ids[0] in applied.json()["expired"], applied.json()["complete"]) == (True, True), applied.text
        assert backups.post("retention", json={"digest": plan["digest"]}).status_code == 409

        folder = f"backups/{ids[0]}"
        there = {name: bucket.get(f"{folder}/{name}").status_code for name in (
            "manifest.json", "manifest.sig", "proof/1.json", "expired.json", "expired.sig",
            "data/notes.kept.json.gz", "index/notes.kept.json.gz")}  # fmt: skip
        assert list(there.values()) == [200] * 5 + [404] * 2, there
        assert stack.backup(ids[0])["state"] == "expired"
        assert backups.get(f"{folder}/tables/{table}/rows/1").status_code == 410
        assert [stack.backup(each)["state"] for each in ids[1:]] == ["proven"] * 7


def test_somebody_tries_whether_mails_arrive_and_subscribes_no_more(stack: Stack) -> None:
    stack.subscribe("hal@example.org", events=["backup.failed"])
    with stack.backups() as backups:
        mine = eventually(lambda: [each for each in backups.get("subscriptions").json()["items"]
                                   if each["email"] == "hal@example.org" and each["id"]])[0]  # fmt: skip
        before = len(stack.mails())
        sent = backups.post("subscriptions/test")
        assert (sent.status_code, sent.json()["confirmed"] >= 1) == (202, True)
        eventually(lambda: [mail for mail in stack.mails()[before:] if mail["To"] == "hal@example.org"])
        assert backups.delete(f"subscriptions/{mine['id']}").status_code == 204
        assert backups.delete(f"subscriptions/{mine['id']}").status_code == 404
        left = [each["email"] for each in backups.get("subscriptions").json()["items"]]
        assert "hal@example.org" not in left


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "backups/20261122T020000Z-3f9a2c1b/restores"),
        ("GET", "backups/20261122T020000Z-3f9a2c1b/tables/notes/rows/1"),
        ("GET", "backups/20261122T020000Z-3f9a2c1b/diff/now"),
        ("GET", "restores/20261122T020000Z-3f9a2c1b"),
        ("GET", "rows/notes/1/history"),
        ("GET", "subscriptions"),
    ],
)
def test_the_scheduler_may_none_of_it(stack: Stack, method: str, path: str) -> None:
    with stack.backups(*stack.keys_of("holdfast-scheduler")) as backups:
        answer = backups.request(method, path, json={})
        assert (answer.status_code, "not authorized" in answer.text) == (403, True)
