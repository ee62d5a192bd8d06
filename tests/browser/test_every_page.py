"""Each page: nobody is kept out, nothing is asked for elsewhere, and it fits, by day and night, wide and narrow."""

from itertools import product

import pytest
from playwright.sync_api import Browser

from tests.browser.visitor import SHOOTING, Visitor
from tests.system.stack import DAILY_BACKUP, Stack


@pytest.fixture(scope="module")
def pages(stack: Stack) -> dict[str, list[tuple[str, str]]]:
    """By console, names and paths of all its pages, with something on each."""
    with stack.notes() as notes:
        made = notes.post("/v1/notes", json={"title": "Bread", "content": "# List\n\n- rye\n", "tags": ["food"]})
        note, etag = made.json()["id"], made.headers["ETag"]
        assert notes.patch(
            f"/v1/notes/{note}",
            json={"content": "# List\n\n- rye\n- spelt\n", "pinned": True},
            headers={"If-Match": etag, "Content-Type": "application/merge-patch+json"},
        ).is_success
        gone = notes.post("/v1/notes", json={"title": "Gone"})
        assert notes.delete(f"/v1/notes/{gone.json()['id']}", headers={"If-Match": gone.headers["ETag"]}).is_success
    run = stack.ended(stack.trigger())
    backup = run["backup_id"]
    with stack.backups() as backups:
        wanted = {"tables": [{"table": "notes.notes", "keys": [[note]]}], "dry_run": True, "on_conflict": "overwrite"}
        restore = backups.post(f"backups/{backup}/restores", json=wanted).json()["id"]
    return {
        "/admin": [
            ("notes", "/"),
            ("notes-found", "/?q=rye"),
            ("notes-archived", "/?shelf=archived"),
            ("trash", "/?shelf=trash"),
            ("note", f"/notes/{note}"),
            ("note-new", "/notes/new"),
            ("note-edit", f"/notes/{note}/edit"),
            ("note-history", f"/notes/{note}/history"),
            ("note-diff", f"/notes/{note}/history/1"),
            ("tags", "/tags"),
            ("changes", "/changes"),
            ("tokens", "/tokens"),
            ("audit", "/audit"),
        ],
        "/ops": [
            ("overview", "/"),
            ("schedules", "/schedules"),
            ("schedule", f"/schedules/{DAILY_BACKUP}"),
            ("schedule-new", "/schedules/new"),
            ("schedule-edit", f"/schedules/{DAILY_BACKUP}/edit"),
            ("runs", "/runs"),
            ("run", f"/runs/{run['id']}"),
            ("backups", "/backups"),
            ("backup", f"/backups/{backup}"),
            ("rows", f"/backups/{backup}/tables/notes.notes"),
            ("diff", f"/backups/{backup}/diff"),
            ("row", f"/rows?key={note}"),
            ("restore-form", f"/restores?backup={backup}&table=notes.notes&key={note}"),
            ("restore", f"/restores/{restore}"),
            ("retention", "/retention"),
            ("mail", "/subscriptions"),
            ("ops-audit", "/audit"),
        ],
    }


# All four where somebody wants to look at them.
LOOKS = list(product(("light", "dark"), ("wide", "narrow"))) if SHOOTING else [("light", "wide"), ("dark", "narrow")]


@pytest.mark.parametrize(("color", "size"), LOOKS)
@pytest.mark.parametrize("console", ["/admin", "/ops"])
def test_every_page_is_for_everybody(
    browser: Browser,
    stack: Stack,
    pages: dict[str, list[tuple[str, str]]],
    axe: str,
    console: str,
    color: str,
    size: str,
) -> None:
    with Visitor.arriving(browser, stack, color, size) as visitor:  # type: ignore[arg-type]
        wrong = _look_at(visitor, axe, f"{console}/login", f"{console[1:]}-login-{color}-{size}")
        visitor.sign_in(console)
        visitor.expected = {404}
        refused = [(f"{console[1:]}-refused", "/nothing")]
        wrong += [
            said
            for name, path in [*pages[console], *refused]
            for said in _look_at(visitor, axe, console + path, f"{name}-{color}-{size}")
        ]
    assert not wrong, "\n".join(wrong)


def test_the_first_page_is_for_everybody(visitor: Visitor, axe: str) -> None:
    assert _look_at(visitor, axe, "/", "start") == []


def _look_at(visitor: Visitor, axe: str, path: str, name: str) -> list[str]:
    visitor.goes_to(path)
    visitor.shoots(name)
    return visitor.obstacles(axe)
