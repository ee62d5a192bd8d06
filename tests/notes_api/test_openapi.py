"""The OpenAPI document is a contract with clients."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.notes_api.doors import run

# Of each operation the scope, and what it may answer besides what any may.
OPERATIONS = {
    "appendToNote": ("notes:write", "200 404 409 412 413 415 428"),
    "batchNotes": ("notes:write", "200 207 404 409 412 413 415"),
    "confirmAttachment": ("attachments:write", "200 404 409"),
    "createAttachment": ("attachments:write", "201 404 409 413 415"),
    "createNote": ("notes:write", "201 409 413 415"),
    "createToken": ("tokens:admin", "201 409 413 415"),
    "deleteAttachment": ("attachments:write", "204 404"),
    "deleteNote": ("notes:write", "200 204 404 409 412 428"),
    "diffRevisions": ("notes:read", "200 404"),
    "editNote": ("notes:write", "200 404 409 412 413 415 428"),
    "exportNotes": ("notes:read", "200"),
    "getAttachment": ("notes:read", "200 404 409"),
    "getNote": ("notes:read", "200 304 404"),
    "getRevision": ("notes:read", "200 404"),
    "importNotes": ("notes:write", "200 415"),
    "listAttachments": ("notes:read", "200 404"),
    "listChanges": ("notes:read", "200 410"),
    "listNotes": ("notes:read", "200"),
    "listRevisions": ("notes:read", "200 404"),
    "listTags": ("notes:read", "200"),
    "listTokens": ("tokens:admin", "200"),
    "putNote": ("notes:write", "200 201 404 409 412 413 415 428"),
    "replaceInNote": ("notes:write", "200 404 409 412 413 415 428"),
    "restoreNote": ("notes:write", "200 404 409 412 428"),
    "restoreRevision": ("notes:write", "200 404 409 412 428"),
    "revokeToken": ("tokens:admin", "204 404"),
    "searchNotes": ("notes:read", "200"),
    "streamChanges": ("notes:read", "200 410"),
}
ALWAYS = {"400", "401", "403", "414", "422", "429", "431", "500", "503"}
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
    assert set(names) == OPERATIONS.keys()


def test_each_operation_tells_its_scope(document: dict[str, Any]) -> None:
    needed = {o["operationId"]: o["security"] for o in operations(document)}
    assert needed == {name: [{"token": [scope]}] for name, (scope, _) in OPERATIONS.items()}
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_a_merge_patch_is_sent_as_what_it_is(document: dict[str, Any]) -> None:
    (edit,) = (o for o in operations(document) if o["operationId"] == "editNote")
    assert edit["requestBody"]["content"].keys() == {"application/merge-patch+json"}


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        for answer in errors.values():
            schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
            assert answer["content"].keys() == {"application/problem+json"}
            assert answer["content"]["application/problem+json"].items() >= schema.items()
            assert answer["description"]


def test_operations_tell_all_their_answers(document: dict[str, Any]) -> None:
    told = {o["operationId"]: o["responses"].keys() - ALWAYS for o in operations(document)}
    assert told == {name: set(answers.split()) for name, (_, answers) in OPERATIONS.items()}
    assert all(o["responses"].keys() >= ALWAYS for o in operations(document))


def test_a_version_is_told_to_be_needed_where_428_is_answered(document: dict[str, Any]) -> None:
    for operation in operations(document):
        required = {p["name"]: p["required"] for p in operation.get("parameters", ()) if p["in"] == "header"}
        # A note is made without one.
        assert required.get("if-match", False) == (
            "428" in operation["responses"] and operation["operationId"] != "putNote"
        )


def test_what_is_sent_and_what_is_answered_has_an_example(document: dict[str, Any]) -> None:
    for operation in operations(document):
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        answers = operation["responses"].values()
        for kind in [kind for each in [*bodies, *answers] for kind in each.get("content", {}).values()]:
            schema = kind["schema"]
            named = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
            assert {"example", "examples"} & kind.keys() or "examples" in named, operation["operationId"]
    assert document["components"]["examples"]["version-mismatch"]["value"]["status"] == 412


def test_every_answer_says_what_is_left_and_some_when_to_come_back(document: dict[str, Any]) -> None:
    for operation in operations(document):
        for status, answer in operation["responses"].items():
            assert "RateLimit" in answer["headers"]
            assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"})
