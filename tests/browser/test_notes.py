"""Notes, by the console and by the API: the same notes."""

import re

from playwright.sync_api import Browser, expect

from tests.browser.visitor import Visitor
from tests.system.stack import Stack

MERGE_PATCH = "application/merge-patch+json"


def test_a_note_that_is_added_is_there_for_the_api(visitor: Visitor, stack: Stack) -> None:
    visitor.sign_in("/admin")
    visitor.follows("Add a note")
    visitor.writes(title="Sourdough", content="# Rye\n\n- flour\n", tags="food, bread")
    expect(visitor.page.locator("#preview h1")).to_have_text("Rye")
    visitor.presses("Save")
    visitor.heading("Sourdough")
    with stack.notes() as notes:
        [found] = notes.get("/v1/search", params={"q": "Sourdough"}).json()["items"]
        note = notes.get(f"/v1/notes/{found['note']['id']}").json()
    assert (note["content"], note["tags"]) == ("# Rye\n\n- flour\n", ["food", "bread"])
    assert visitor.page.url.endswith(note["id"])


def test_a_stale_edit_is_refused_and_loses_nothing(visitor: Visitor, stack: Stack) -> None:
    with stack.notes() as notes:
        made = notes.post("/v1/notes", json={"title": "Shared", "content": "one\n"})
        path = f"/v1/notes/{made.json()['id']}"
        visitor.sign_in("/admin")
        visitor.goes_to(f"/admin/notes/{made.json()['id']}/edit")
        visitor.writes(content="one\nmine\n")
        headers = {"If-Match": made.headers["ETag"], "Content-Type": MERGE_PATCH}
        assert notes.patch(path, json={"content": "one\ntheirs\n"}, headers=headers).is_success
        visitor.expected = {412}
        visitor.presses("Save")
        visitor.sees("Somebody else has changed this note since you opened it.")
        expect(visitor.page.locator(".diff .out")).to_have_text("-theirs")
        expect(visitor.page.locator(".diff .in")).to_have_text("+mine")
        assert notes.get(path).json()["content"] == "one\ntheirs\n"
        visitor.writes(content="one\ntheirs\nmine\n")
        visitor.presses("Save")
        visitor.heading("Shared")
        assert notes.get(path).json()["content"] == "one\ntheirs\nmine\n"


def test_changes_are_seen_as_they_happen(visitor: Visitor, stack: Stack) -> None:
    visitor.sign_in("/admin")
    visitor.goes_to("/admin/changes")
    with stack.notes() as notes:
        made = notes.post("/v1/notes", json={"title": "Seen at once"}).json()
    expect(visitor.page.get_by_role("link", name=made["id"])).to_be_visible()


def test_a_file_is_attached_and_comes_back(visitor: Visitor, stack: Stack) -> None:
    with stack.notes() as notes:
        note = notes.post("/v1/notes", json={"title": "With a file"}).json()
    visitor.sign_in("/admin")
    visitor.goes_to(f"/admin/notes/{note['id']}")
    content = bytes(range(256)) * 20_000  # 5 MB, more than any other form may have
    visitor.page.get_by_label("Add a file").set_input_files(
        {"name": "picture.bin", "mimeType": "application/octet-stream", "buffer": content}
    )
    visitor.presses("Upload")
    with visitor.page.expect_download() as waiting:
        visitor.follows("picture.bin")
    assert "filename%3D%22picture.bin%22" in waiting.value.url
    assert waiting.value.path().read_bytes() == content


def test_a_token_is_shown_once_and_revoking_it_signs_out(browser: Browser, stack: Stack, visitor: Visitor) -> None:
    visitor.sign_in("/admin")
    visitor.follows("Tokens")
    visitor.writes(name="a reader")
    visitor.presses("Make it")
    token = visitor.page.locator(".token").inner_text()
    visitor.follows("I have copied it")
    assert token not in visitor.page.content()
    with Visitor.arriving(browser, stack) as reader:
        reader.sign_in("/admin", token)
        reader.heading("Notes")
        visitor.page.on("dialog", lambda dialog: dialog.accept())
        visitor.page.get_by_role("row", name="a reader").get_by_role("button", name="Revoke").click()
        visitor.sees("It is refused from now on")
        reader.expected = {401}
        reader.goes_to("/admin/")
        reader.heading("Sign in")


def test_all_can_be_done_by_keyboard(visitor: Visitor) -> None:
    visitor.sign_in("/admin")
    visitor.heading("Notes")
    visitor.page.keyboard.press("Tab")
    expect(visitor.page.get_by_role("link", name="Skip to content")).to_be_focused()
    for _ in range(40):
        visitor.page.keyboard.press("Tab")
        if visitor.page.evaluate("document.activeElement.textContent") == "Add a note":
            break
    visitor.page.keyboard.press("Enter")
    visitor.heading("Add a note")
    visitor.page.keyboard.type("By keyboard")
    visitor.page.keyboard.press("Enter")
    visitor.heading("By keyboard")


def test_times_are_of_the_readers_zone_and_say_utc(visitor: Visitor, stack: Stack) -> None:
    with stack.notes() as notes:
        note = notes.post("/v1/notes", json={"title": "In time"}).json()
    visitor.sign_in("/admin")
    visitor.goes_to(f"/admin/notes/{note['id']}")
    made = visitor.page.locator("time").first
    expect(made).to_have_attribute("title", re.compile(note["created_at"][:19].replace("T", " ") + " UTC"))
    expect(made).not_to_have_text(re.compile("UTC"))
