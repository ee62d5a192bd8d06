"""What an integrator does with a generated client; see test_notes_api_by_tools. Run by the interpreter of the tools."""

import os

from client import AuthenticatedClient
from client.api.lists import list_notes
from client.api.notes import create_note, edit_note, get_note
from client.models import NoteEdit, NoteIn, NoteList, NoteOut, Problem

api = AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["TOKEN"], raise_on_unexpected_status=True)
with api as client:
    made = []
    for number in range(5):
        note = create_note.sync(client=client, body=NoteIn(title=f"By a tool {number}", tags=["by-a-tool"]))
        assert isinstance(note, NoteOut)
        made.append(note)
    edited = edit_note.sync(made[0].id, client=client, body=NoteEdit(title="Edited"), if_match=made[0].etag)
    assert isinstance(edited, NoteOut)
    assert (edited.title, edited.tags, edited.revision) == ("Edited", ["by-a-tool"], 2)
    stale = edit_note.sync(made[0].id, client=client, body=NoteEdit(title="Lost"), if_match=made[0].etag)
    assert isinstance(stale, Problem)
    assert (stale.status, stale.current_etag, stale.changed_fields) == (412, edited.etag, ["title"])
    assert get_note.sync(made[0].id, client=client) == edited

    seen = []
    page = list_notes.sync(client=client, tag=["by-a-tool"], limit=2)
    while True:
        assert isinstance(page, NoteList)
        seen += [note.id for note in page.items]
        if not isinstance(page.next_cursor, str):
            break
        page = list_notes.sync(client=client, tag=["by-a-tool"], limit=2, cursor=page.next_cursor)
    assert seen == [note.id for note in reversed(made)]
