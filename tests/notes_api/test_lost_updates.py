"""Two clients and more that change one note at once: no update is lost, none is made twice."""

import asyncio
import json
import random
from collections import Counter
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.notes_api.doors import client, new_token

EDITS = 1000
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


async def test_a_thousand_edits_by_two_clients_are_all_there_once(ada: httpx.AsyncClient) -> None:
    """One sends whole contents, the other what is to be added. Each goes on only when its edit was taken."""
    path = (await ada.post("/v1/notes", json={"title": "Tea"})).headers["Location"]

    async def by_patch(number: int) -> httpx.Response:
        note = (await ada.get(path)).json()
        patch = json.dumps({"content": f"{note['content']}patch {number}\n"})
        return await ada.patch(path, content=patch, headers={"If-Match": note["etag"]} | MERGE_PATCH)

    async def by_append(number: int) -> httpx.Response:
        etag = (await ada.get(path)).headers["ETag"]
        return await ada.post(f"{path}:append", json={"content": f"append {number}\n"}, headers={"If-Match": etag})

    refused = 0

    async def edit(how: Any) -> None:
        nonlocal refused
        for number in range(EDITS // 2):
            while (answer := await how(number)).status_code == 412:
                refused += 1
            assert answer.status_code == 200, answer.text

    await asyncio.gather(edit(by_patch), edit(by_append))

    note = (await ada.get(path)).json()
    lines = note["content"].splitlines()
    assert Counter(lines) == Counter(f"{how} {number}" for how in ("patch", "append") for number in range(EDITS // 2))
    for how in ("patch", "append"):
        of_one = [line for line in lines if line.startswith(how)]
        assert of_one == [f"{how} {number}" for number in range(EDITS // 2)], "in the order in which they were sent"
    assert note["revision"] == EDITS + 1
    assert refused > 0, "they did meet"


async def test_edits_that_are_sent_twice_are_made_once(ada: httpx.AsyncClient) -> None:
    """A client that hears no answer sends the same again, with its key; here each request, at once and later."""
    path = (await ada.post("/v1/notes", json={"title": "Tea"})).headers["Location"]

    async def append(line: str) -> None:
        for attempt in range(1000):
            headers = {
                "If-Match": (await ada.get(path)).headers["ETag"],
                "Idempotency-Key": f"{line.strip()} {attempt}",
            }
            answers = await asyncio.gather(
                *(ada.post(f"{path}:append", json={"content": line}, headers=headers) for _ in range(3))
            )
            again = await ada.post(f"{path}:append", json={"content": line}, headers=headers)
            statuses = {answer.status_code for answer in (*answers, again)}
            assert statuses <= {200, 409, 412}
            if 200 in statuses:
                assert again.status_code == 200
                return
        raise AssertionError("never taken")

    async def edit(who: str) -> None:
        for number in range(20):
            await append(f"{who} {number}\n")

    await asyncio.gather(edit("one"), edit("other"))
    content = (await ada.get(path)).json()["content"]
    assert Counter(content.splitlines()) == Counter(
        f"{who} {number}" for who in ("one", "other") for number in range(20)
    )


class Editor:
    """Changes the note in a way of chance, and keeps what became of it: from which state to which."""

    def __init__(self, somebody: httpx.AsyncClient, path: str, seed: int) -> None:
        self._somebody, self._path, self._chance = somebody, path, random.Random(seed)
        self.made: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = []
        self.refused: Counter[int] = Counter()

    async def edit(self, times: int) -> None:
        for _ in range(times):
            note = (await self._somebody.get(self._path)).json()
            request, expected = self._request(note)
            answer = await self._somebody.request(**request)
            if answer.status_code == 200:
                self.made.append((note, answer.json(), expected))
            else:
                self.refused[answer.status_code] += 1

    def _request(self, note: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A request, and the fields that it makes of the note."""
        word = str(self._chance.getrandbits(64))
        named = {"If-Match": note["etag"]}
        if note["deleted_at"]:
            return {"method": "POST", "url": f"{self._path}:restore", "headers": named}, {"deleted_at": None}
        way = self._chance.choice(["put", "title", "metadata", "append", "replace", "delete", "revision"])
        url, method = self._path, "POST"
        body: dict[str, Any] = {}
        expected: dict[str, Any] = {}
        match way:
            case "put":
                method, body = "PUT", {"title": word, "content": word}
                expected = body | {"metadata": {}}
            case "title":
                method, body = "PATCH", {"title": word}
                expected = body
            case "metadata":
                method, body = "PATCH", {"metadata": {word[:2]: word}}
                expected = {"metadata": note["metadata"] | body["metadata"]}
            case "append":
                url, body = f"{url}:append", {"content": word}
                expected = {"content": note["content"] + word}
            case "replace":
                find = note["content"][:3] or "x"
                url, body = f"{url}:replace", {"find": find, "replace": word[:3], "all": True}
                expected = {"content": note["content"].replace(find, word[:3])}
            case "delete":
                return {"method": "DELETE", "url": url, "headers": named}, {}
            case "revision":
                url = f"{url}/revisions/{self._chance.randint(1, note['revision'])}:restore"
                return {"method": "POST", "url": url, "headers": named}, {}
        content_type = MERGE_PATCH if method == "PATCH" else {"Content-Type": "application/json"}
        return {"method": method, "url": url, "content": json.dumps(body), "headers": named | content_type}, expected


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_change_follows_exactly_one_other(app: FastAPI, ada: httpx.AsyncClient, seed: int) -> None:
    """Whatever the routes: what was answered as done is one chain of states, each made of the one before it."""
    first = (await ada.post("/v1/notes", json={"title": "Tea", "content": "tea"})).json()
    path = f"/v1/notes/{first['id']}"
    editors = [Editor(ada, path, seed * 100 + number) for number in range(4)]
    await asyncio.gather(*(editor.edit(40) for editor in editors))

    made = [each for editor in editors for each in editor.made]
    assert {status for editor in editors for status in editor.refused} <= {412, 422}
    assert any(editor.refused[412] for editor in editors), "they did meet"
    for before, after, expected in made:
        unchanged = {name: before[name] for name in ("title", "content", "tags", "metadata")} if expected else {}
        assert {name: after[name] for name in unchanged | expected} == unchanged | expected

    follows = {before["etag"]: after for before, after, _ in made if before["etag"] != after["etag"]}
    changes = [(before, after) for before, after, _ in made if before["etag"] != after["etag"]]
    assert len(follows) == len(changes), "no state was changed twice"
    chain = [first]
    while (following := follows.get(chain[-1]["etag"])) is not None:
        chain.append(following)
    assert len(chain) == len(changes) + 1, "no change is lost"
    assert (await ada.get(path)).json() == chain[-1]
    items = (await ada.get(f"{path}/revisions", params={"limit": 200})).json()["items"]
    assert [item["etag"] for item in items] == [state["etag"] for state in reversed(chain)]


async def test_of_many_that_make_one_note_one_makes_it(app: FastAPI, ada: httpx.AsyncClient) -> None:
    path = "/v1/notes/018f0000-0000-7000-8000-000000000000"
    async with client(app, await new_token(app, "notes:read", "notes:write")) as bob:
        answers = await asyncio.gather(
            *(
                somebody.put(path, json={"title": str(number)}, headers={"If-None-Match": "*"})
                for number in range(10)
                for somebody in (ada, bob)
            )
        )
    assert Counter(answer.status_code for answer in answers) == {201: 1, 412: 9, 409: 10}
