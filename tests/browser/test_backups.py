"""Backups, by the console alone: scheduled, run, proven, told by mail, and given back."""

import os
import re
import subprocess

from playwright.sync_api import Browser, expect

from tests.browser.visitor import Visitor
from tests.system.stack import LOCAL_PYTHON, ROOT, Stack, eventually

PROVEN = re.compile("^proven$")


def test_a_schedule_is_made_and_run_and_watched_until_it_is_proven(visitor: Visitor, stack: Stack) -> None:
    visitor.sign_in("/ops")
    visitor.follows("Mail")
    visitor.writes(email="ada@example.com")
    visitor.presses("Add it")
    eventually(lambda: [mail for mail in stack.mails() if mail["To"] == "ada@example.com"])
    expect(visitor.page.get_by_role("cell", name=re.compile("ada@example.com"))).not_to_contain_text("not confirmed")
    visitor.follows("Schedules")
    visitor.follows("Add a schedule")
    visitor.writes(name="by hand", cron="30 2 * * SUN", timezone="Europe/Ljubljana")
    preview = visitor.page.locator("#preview")
    expect(preview).to_contain_text("02:30 Europe/Ljubljana")
    expect(preview).to_contain_text("clocks in Europe/Ljubljana go forward by 1 hour")
    visitor.presses("Add it")
    visitor.heading("by hand")
    visitor.presses("Run now")
    visitor.sees("It runs now.")
    expect(visitor.page.locator("#state").get_by_text(PROVEN)).to_be_visible(timeout=120_000)
    expect(visitor.page.locator("#events")).to_contain_text("succeeded")
    backup_id = visitor.page.locator("#state a").inner_text().removeprefix("Backup ")
    assert "proven" in stack.mail_about(backup_id, to="ada@example.com").get_content()
    visitor.goes_to("/ops/")
    expect(visitor.page.get_by_role("heading", name="You are safe")).to_be_visible(timeout=60_000)


def test_a_deleted_note_comes_back_from_a_backup(visitor: Visitor, stack: Stack) -> None:
    with stack.notes() as notes:
        note = notes.post("/v1/notes", json={"title": "Precious", "content": "as it was\n"}).json()
    backup_id = stack.ended(stack.trigger())["backup_id"]
    visitor.sign_in("/admin")
    visitor.goes_to(f"/admin/notes/{note['id']}")
    visitor.presses("Delete")
    visitor.page.on("dialog", lambda dialog: dialog.accept())
    visitor.presses("Delete for good")
    visitor.sees("It is deleted for good.")
    visitor.follows("Changes")
    visitor.page.get_by_role("row", name=re.compile(note["id"])).first.get_by_role(
        "link", name="in the backups"
    ).click()
    visitor.sign_in_here("/ops")
    visitor.heading("Find a note")
    visitor.follows("Get it back as it was here")
    visitor.presses("Show what it would do")
    visitor.sees("1 rows would be added")
    with stack.notes() as notes:
        assert notes.get(f"/v1/notes/{note['id']}").status_code == 404
    visitor.expected = {422}
    visitor.writes(confirmed="restore it")
    visitor.presses("Restore")
    visitor.sees(f"Type: restore {backup_id}")
    visitor.writes(confirmed=f"restore {backup_id}")
    visitor.presses("Restore")
    visitor.sees("It is done.")
    with stack.notes() as notes:
        assert notes.get(f"/v1/notes/{note['id']}").json()["content"] == "as it was\n"
    visitor.follows("Audit")
    visitor.sees("tried a restore")


def test_what_is_stored_is_looked_into_verified_and_compared(visitor: Visitor, stack: Stack) -> None:
    with stack.notes() as notes:
        note = notes.post("/v1/notes", json={"title": "Looked into"}).json()
    backup_id = stack.ended(stack.trigger())["backup_id"]
    visitor.sign_in("/ops")
    visitor.goes_to(f"/ops/backups/{backup_id}")
    visitor.presses("Verify it")
    visitor.heading("It is what was stored")
    visitor.goes_to(f"/ops/backups/{backup_id}")
    visitor.follows("notes.notes")
    visitor.sees("Looked into")
    with stack.notes() as notes:
        assert notes.delete(f"/v1/notes/{note['id']}", headers={"If-Match": note["etag"]}).is_success
    visitor.goes_to(f"/ops/backups/{backup_id}")
    visitor.presses("Show what differs")
    visitor.sees("deleted_at changed")
    visitor.goes_to(f"/ops/backups/{backup_id}")
    visitor.presses("Prove it again")
    expect(visitor.page.get_by_role("heading", name="Proof 2: proven")).to_be_visible(timeout=120_000)


def test_a_run_that_failed_says_why(visitor: Visitor) -> None:
    visitor.sign_in("/ops")
    visitor.goes_to("/ops/schedules/new")
    visitor.writes(name="of nothing", tables="notes.nothing")
    visitor.presses("Add it")
    visitor.heading("of nothing")
    visitor.presses("Run now")
    expect(visitor.page.locator("#state .note.bad")).to_contain_text("notes.nothing")
    visitor.goes_to("/ops/")
    expect(visitor.page.locator("#failed")).to_contain_text("notes.nothing")
    expect(visitor.page.locator("#alarms")).to_contain_text("failing")


def test_wrong_input_is_said_beside_its_field(visitor: Visitor) -> None:
    visitor.sign_in("/ops")
    visitor.goes_to("/ops/schedules/new")
    visitor.expected = {422}
    visitor.writes(name="wrong", cron="every day")
    visitor.presses("Add it")
    expect(visitor.page.locator("#cron-wrong")).to_contain_text("Give five fields")
    expect(visitor.page.locator("#cron")).to_have_value("every day")


def test_a_token_without_the_scope_sees_403(visitor: Visitor, stack: Stack) -> None:
    visitor.expected = {403}
    visitor.sign_in("/ops", _token(stack, "runs:read"))
    visitor.heading("The token lacks a scope")
    visitor.sees("it lacks schedules:read")
    visitor.sign_in("/ops", _token(stack, "runs:read", "schedules:read"))
    visitor.heading(re.compile("safe|proven|looked"))
    visitor.goes_to("/ops/backups")
    visitor.heading("The token lacks a scope")


def test_a_forged_form_and_a_stolen_cookie_are_refused(browser: Browser, stack: Stack, visitor: Visitor) -> None:
    visitor.sign_in("/ops")
    cookies = visitor.context.cookies()
    assert [(each["name"], each["httpOnly"], each["sameSite"]) for each in cookies] == [
        ("holdfast_ops", True, "Strict")
    ]
    visitor.goes_to("/ops/backups")
    visitor.page.evaluate("for (const field of document.getElementsByName('proof')) field.value = 'x'.repeat(64)")
    visitor.expected = {403}
    visitor.presses("Back up now")
    visitor.heading("This form was not accepted")
    with Visitor.arriving(browser, stack) as thief:
        thief.context.add_cookies(cookies)  # type: ignore[arg-type]  # what was given can be taken
        thief.goes_to("/ops/backups")
        thief.heading("Backups")
        visitor.presses("Sign out")
        visitor.heading("Sign in")
        thief.expected = {401}
        thief.goes_to("/ops/backups")
        thief.heading("Sign in")


def _token(stack: Stack, *scopes: str) -> str:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "services")}
    env["HOLDFAST_DATABASE_URL"] = stack.env["DATABASE_URL"]
    words = [word for scope in scopes for word in ("--scope", scope)]
    command = [str(LOCAL_PYTHON.parents[2] / "scheduler/bin/python"), "-m", "scheduler.tokens", "create", "--name", "x"]
    return subprocess.run([*command, *words], check=True, capture_output=True, text=True, env=env).stdout.strip()
