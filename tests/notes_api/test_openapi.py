"""The OpenAPI document is a contract with clients."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.notes_api.doors import run

COMMITTED = Path(__file__).parents[1] / "contract" / "notes_api.openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(COMMITTED.read_text())
    return found


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_the_committed_one_is_what_the_service_has() -> None:
    assert run("openapi").stdout == COMMITTED.read_text(), "if that is wanted: make contracts"


async def test_it_is_served(anybody: httpx.AsyncClient, document: dict[str, Any]) -> None:
    assert (await anybody.get("/openapi.json")).json() == document
    assert (await anybody.get("/docs")).status_code == 200


def test_operations_have_names_that_clients_can_be_made_from(document: dict[str, Any]) -> None:
    names = [o["operationId"] for o in operations(document)]
    assert len(set(names)) == len(names)
    assert {"createNote", "putNote", "getNote", "editNote", "deleteNote", "listNotes", "searchNotes"} <= set(names)


def test_each_operation_tells_its_scope(document: dict[str, Any]) -> None:
    needed = {o["operationId"]: o["security"] for o in operations(document)}
    assert needed["getNote"] == [{"token": ["notes:read"]}]
    assert needed["editNote"] == [{"token": ["notes:write"]}]
    assert needed["createToken"] == [{"token": ["tokens:admin"]}]
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_a_merge_patch_is_sent_as_what_it_is(document: dict[str, Any]) -> None:
    (edit,) = (o for o in operations(document) if o["operationId"] == "editNote")
    assert edit["requestBody"]["content"].keys() == {"application/merge-patch+json"}


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert {"400", "401", "403", "422", "500", "503"} <= errors.keys()
        for answer in errors.values():
            schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
            assert answer["content"] == {"application/problem+json": schema}
            assert answer["description"]
    (creation,) = (o for o in operations(document) if o["operationId"] == "createNote")
    assert {"413", "415"} <= creation["responses"].keys()
