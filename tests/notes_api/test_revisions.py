"""/v1/notes/{id}/revisions and /diff."""

import random
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.servers import Cluster

MIB = 1024 * 1024
FIELDS = ("title", "content", "tags", "pinned", "archived", "metadata")


async def _put(somebody: httpx.AsyncClient, note: dict[str, Any], **whole: Any) -> dict[str, Any]:
    headers = {"If-Match": note["etag"]}
    return dict((await somebody.put(f"/v1/notes/{note['id']}", json=whole, headers=headers)).json())


async def _history(somebody: httpx.AsyncClient) -> list[dict[str, Any]]:
    """A note's states, each other than the one before."""
    states = [(await somebody.post("/v1/notes", json={"title": "Tea", "metadata": {"a": 1}})).json()]
    states.append(await _put(somebody, states[-1], title="Tea", content="hot\n", tags=["a"], metadata={"a": True}))
    states.append(await _put(somebody, states[-1], title="Coffee", content="hot\n", pinned=True))
    path, named = f"/v1/notes/{states[0]['id']}", {"If-Match": states[-1]["etag"]}
    states.append((await somebody.delete(path, headers=named)).json())
    states.append((await somebody.post(f"{path}:restore", headers={"If-Match": states[-1]["etag"]})).json())
    return states


async def _listed(somebody: httpx.AsyncClient, note: dict[str, Any], limit: int = 200) -> list[dict[str, Any]]:
    """All pages."""
    found, cursor = [], None
    while True:
        query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        page = (await somebody.get(f"/v1/notes/{note['id']}/revisions", params=query)).json()
        found += page["items"]
        assert len(page["items"]) <= limit
        assert page["has_more"] == (page["next_cursor"] is not None)
        if (cursor := page["next_cursor"]) is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 5, 200])
async def test_every_state_is_listed_the_latest_first(ada: httpx.AsyncClient, limit: int) -> None:
    states = await _history(ada)
    items = await _listed(ada, states[0], limit)

    assert [item["etag"] for item in items] == [state["etag"] for state in reversed(states)]
    assert [item["revision"] for item in items] == [5, 4, 3, 2, 1]
    assert [item["current"] for item in items] == [True, False, False, False, False]
    assert [item["replaced_at"] for item in items] == [None, *(item["updated_at"] for item in items[:-1])]
    assert [item["changed_fields"] for item in items] == [
        ["deleted_at"],
        ["deleted_at"],
        ["title", "tags", "pinned", "metadata"],
        ["content", "tags", "metadata"],
        [],
    ]
    assert [item["title"] for item in items] == ["Coffee", "Coffee", "Coffee", "Tea", "Tea"]
    assert [item["deleted_at"] for item in items] == [None, states[3]["deleted_at"], None, None, None]


async def test_a_change_between_two_pages_moves_none(ada: httpx.AsyncClient) -> None:
    states = await _history(ada)
    path = f"/v1/notes/{states[0]['id']}/revisions"
    first = (await ada.get(path, params={"limit": 1})).json()
    await _put(ada, states[-1], title="Milk")
    second = (await ada.get(path, params={"limit": 200, "cursor": first["next_cursor"]})).json()
    assert [item["revision"] for item in first["items"] + second["items"]] == [5, 4, 3, 2, 1]
    assert not any(item["current"] for item in second["items"])


async def test_every_state_can_be_read(ada: httpx.AsyncClient) -> None:
    states = await _history(ada)
    for state, following in zip(states, [*states[1:], None], strict=True):
        response = await ada.get(f"/v1/notes/{state['id']}/revisions/{state['revision']}")
        assert response.headers["ETag"] == state["etag"]
        assert response.json() == state | {"replaced_at": following["updated_at"] if following else None}


@pytest.mark.parametrize(("number", "status"), [("6", 404), ("0", 404), ("2147483648", 422), ("-1", 404), ("x", 404)])
async def test_a_revision_that_never_was_is_not_found(ada: httpx.AsyncClient, number: str, status: int) -> None:
    note = (await _history(ada))[-1]
    path = f"/v1/notes/{note['id']}/revisions/{number}"
    assert (await ada.get(path)).status_code == status
    assert (await ada.post(f"{path}:restore", headers={"If-Match": note["etag"]})).status_code == status


async def test_a_former_state_comes_back_as_a_new_revision(ada: httpx.AsyncClient) -> None:
    states = await _history(ada)
    path = f"/v1/notes/{states[0]['id']}"
    restored = await ada.post(f"{path}/revisions/2:restore", headers={"If-Match": states[-1]["etag"]})
    note = restored.json()

    assert (restored.status_code, restored.headers["ETag"], note["revision"]) == (200, note["etag"], 6)
    assert {name: note[name] for name in FIELDS} == {name: states[1][name] for name in FIELDS}
    assert note["etag"] not in [state["etag"] for state in states]
    assert (await ada.get(path)).json() == note


async def test_to_restore_what_is_there_changes_nothing(ada: httpx.AsyncClient) -> None:
    states = await _history(ada)
    for revision in (5, 3):
        path = f"/v1/notes/{states[0]['id']}/revisions/{revision}:restore"
        restored = await ada.post(path, headers={"If-Match": states[-1]["etag"]})
        assert restored.json() == states[-1]


async def test_a_restored_revision_is_a_change_as_any(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    states = await _history(ada)
    path = f"/v1/notes/{states[0]['id']}"
    restore = f"{path}/revisions/1:restore"
    assert (await ada.post(restore)).status_code == 428
    assert (await ada.post(restore, headers={"If-Match": "*"})).status_code == 400
    stale = await ada.post(restore, headers={"If-Match": states[0]["etag"]})
    assert (stale.status_code, stale.json()["current_etag"]) == (412, states[-1]["etag"])
    assert stale.json()["changed_fields"] == ["title", "content", "pinned", "metadata"]
    assert (await bob.post(restore, headers={"If-Match": states[-1]["etag"]})).json()["type"] == (
        "/problems/note-not-found"
    )
    trashed = (await ada.delete(path, headers={"If-Match": states[-1]["etag"]})).json()
    refused = await ada.post(restore, headers={"If-Match": trashed["etag"]})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/note-trashed")


async def test_somebody_elses_revisions_are_not_found(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    note = (await _history(ada))[-1]
    for path in ("revisions", "revisions/1", "revisions/9", "diff?from=1&to=2", "diff?from=1"):
        response = await bob.get(f"/v1/notes/{note['id']}/{path}")
        assert (response.status_code, response.json()["type"]) == (404, "/problems/note-not-found"), path


async def test_a_cursor_is_of_one_note_and_one_owner(ada: httpx.AsyncClient) -> None:
    one, other = (await _history(ada))[-1], (await _history(ada))[-1]
    cursor = (await ada.get(f"/v1/notes/{one['id']}/revisions?limit=1")).json()["next_cursor"]
    for wrong in (cursor, "x", ""):
        response = await ada.get(f"/v1/notes/{other['id']}/revisions", params={"cursor": wrong})
        assert response.status_code == (400 if wrong else 200)


async def test_a_diff_has_the_fields_and_the_lines_that_differ(ada: httpx.AsyncClient) -> None:
    states = await _history(ada)
    path = f"/v1/notes/{states[0]['id']}/diff"
    assert (await ada.get(path, params={"from": 1, "to": 3})).json() == {
        "from": 1,
        "to": 3,
        "fields": {
            "title": {"before": "Tea", "after": "Coffee"},
            "pinned": {"before": False, "after": True},
            "metadata": {"before": {"a": 1}, "after": {}},
        },
        "content": "@@ -0,0 +1,1 @@\n+hot\n",
        "line_by_line": True,
    }
    back = (await ada.get(path, params={"from": 4, "to": 2})).json()
    assert back["fields"]["deleted_at"] == {"before": states[3]["deleted_at"], "after": None}
    assert back["fields"]["metadata"] == {"before": {}, "after": {"a": True}}
    assert (await ada.get(path, params={"from": 5})).json() == {
        "from": 5,
        "to": 5,
        "fields": {},
        "content": "",
        "line_by_line": True,
    }


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 422), ("?to=1", 422), ("?from=0", 422), ("?from=9", 404), ("?from=1&to=9", 404), ("?x=1", 400)],
)
async def test_a_diff_of_what_is_not_there_is_refused(ada: httpx.AsyncClient, query: str, status: int) -> None:
    note = (await _history(ada))[-1]
    assert (await ada.get(f"/v1/notes/{note['id']}/diff{query}")).status_code == status


def _applied(text: str, unified: str) -> str:
    """What `patch` does, for one text."""
    old, new, place = text.split("\n"), [], 0
    lines = unified.split("\n")[:-1]
    for number, line in enumerate(lines):
        ends = number + 1 < len(lines) and lines[number + 1].startswith("\\")
        if line.startswith("@@"):
            start, _, length = line.split()[1].lstrip("-").partition(",")
            begin = int(start) - (length != "0")
            new += [each + "\n" for each in old[place:begin]]
            place = begin
        elif line[0] in " -":
            assert old[place] == line[1:], "a line that is kept or taken out is there"
            place += 1
        if line[0] in " +" and not line.startswith("@@"):
            new.append(line[1:] + ("" if ends else "\n"))
    rest = old[place:]
    return "".join(new) + "\n".join(rest) if rest and rest != [""] else "".join(new)


async def test_a_diff_applied_to_the_one_text_gives_the_other(ada: httpx.AsyncClient) -> None:
    chance = random.Random(20261123)
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    lines = ["a", "b", "", "@@ -1 +1 @@", "-x", "+y", "\\ No", "\u2028\r\x0b", "🍵"]
    texts = [""]
    for _ in range(40):
        content = "\n".join(chance.choices(lines, k=chance.randrange(30)))
        if chance.random() < 0.5:
            content = "".join(line for line in texts[-1].splitlines(keepends=True) if chance.random() < 0.8)
        if content == texts[-1]:
            continue
        texts.append(content)
        note = await _put(ada, note, title="Tea", content=content)
    assert note["revision"] == len(texts)
    for revision, (before, after) in enumerate(pairwise(texts), 1):
        query = {"from": revision, "to": revision + 1}
        diff = (await ada.get(f"/v1/notes/{note['id']}/diff", params=query)).json()
        assert diff["line_by_line"]
        assert _applied(before, diff["content"]) == after


@pytest.mark.parametrize(
    ("before", "after", "line_by_line"),
    [
        ("\n" * 900_000, "\n" * 500_000, True),
        ("x" * MIB, "y" * MIB, True),
        ("a\n" * (MIB // 4) + "b\n" * (MIB // 4), "b\n" * (MIB // 4) + "a\n" * (MIB // 4), False),
        ("".join(f"{n}\n" for n in range(150_000)), "".join(f"-{n}\n" for n in range(130_000)), False),
    ],
    ids=["empty lines", "one line each", "two halves", "no line in common"],
)
async def test_two_large_texts_are_compared_as_far_as_that_is_not_too_much_work(
    ada: httpx.AsyncClient, before: str, after: str, line_by_line: bool
) -> None:
    """An exact comparison of the third pair takes 10^11 steps: this test would not end."""
    made = (await ada.post("/v1/notes", json={"title": "Tea", "content": before})).json()
    await _put(ada, made, title="Tea", content=after)
    diff = (await ada.get(f"/v1/notes/{made['id']}/diff?from=1&to=2")).json()
    assert diff["line_by_line"] == line_by_line
    assert _applied(before, diff["content"]) == after


async def test_a_restore_by_sql_is_a_part_of_the_history(
    ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    """A backup brings back the row of revision 2, with its number and its time."""
    states = await _history(ada)
    note_id = states[0]["id"]
    back = f"""
        update notes.notes as n set (title, content, tags, pinned, archived, metadata, deleted_at, purge_at, revision,
            updated_at) = (r.title, r.content, r.tags, r.pinned, r.archived, r.metadata, r.deleted_at, r.purge_at,
            r.revision, r.updated_at)
        from notes.revisions as r where r.note_id = n.id and n.id = '{note_id}' and r.revision = 2
    """  # an id that the API gave
    cluster.server.psql(database, [back])

    restored = (await ada.get(f"/v1/notes/{note_id}")).json()
    assert restored == states[1], "the same state, so the same ETag"
    items = await _listed(ada, states[0])
    assert [item["revision"] for item in items] == [2, 5, 4, 3, 2, 1]
    assert items[0]["changed_fields"] == ["title", "tags", "pinned", "metadata"]
    at_restore = items[1]["replaced_at"]
    just_before = (datetime.fromisoformat(at_restore) - timedelta(microseconds=1)).isoformat()
    for time, state in (
        (states[1]["updated_at"], states[1]),
        (states[2]["updated_at"], states[2]),
        (states[4]["updated_at"], states[4]),
        (just_before, states[4]),
        (at_restore, states[1]),
    ):
        assert (await ada.get(f"/v1/notes/{note_id}", params={"at": time})).json() == state

    stale = await ada.put(f"/v1/notes/{note_id}", json={"title": "X"}, headers={"If-Match": states[4]["etag"]})
    assert (stale.status_code, stale.json()["changed_fields"]) == (412, ["title", "tags", "pinned", "metadata"])
    edited = await _put(ada, restored, title="Milk")
    assert edited["revision"] == 6, "no number and no ETag is given twice"
    assert [item["revision"] for item in await _listed(ada, states[0])] == [6, 2, 5, 4, 3, 2, 1]
    assert (await ada.get(f"/v1/notes/{note_id}", params={"at": edited["updated_at"]})).json() == edited

    forward = back.replace("r.revision = 2", "r.revision = 5")
    cluster.server.psql(database, [forward])
    assert (await ada.get(f"/v1/notes/{note_id}")).json() == states[4]
    items = await _listed(ada, states[0], 2)
    assert [item["revision"] for item in items] == [5, 6, 2, 5, 4, 3, 2, 1]
    ends = [item["replaced_at"] for item in items[1:]]
    assert ends == sorted(ends, reverse=True)
    assert len(set(ends)) == len(ends)


async def test_each_of_several_writers_of_one_transaction_is_in_the_history(
    ada: httpx.AsyncClient, cluster: Cluster, database: str
) -> None:
    """By hand, in one transaction, where `now()` stands still: numbers and times go on all the same."""
    note = (await ada.post("/v1/notes", json={"title": "Tea"})).json()
    edits = "".join(
        f"update notes.notes set title = 'Tea {number}' where id = '{note['id']}';"  # an id of the API's
        for number in range(2, 12)
    )
    cluster.server.psql(database, [f"begin; {edits} commit"])
    items = await _listed(ada, note)
    assert [item["revision"] for item in items] == list(range(11, 0, -1))
    assert len({item["updated_at"] for item in items}) == 11
    for item in items:
        then = await ada.get(f"/v1/notes/{note['id']}", params={"at": item["updated_at"]})
        assert then.headers["ETag"] == item["etag"]
