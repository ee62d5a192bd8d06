"""The OpenAPI document is a contract with clients."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.scheduler.conftest import Command

COMMITTED = Path(__file__).parents[1] / "contract" / "scheduler.openapi.json"
SCOPES = {
    "cancelRun": "runs:write",
    "closeAlarm": "runs:write",
    "createSchedule": "schedules:write",
    "deleteSchedule": "schedules:write",
    "editSchedule": "schedules:write",
    "getAlarm": "runs:read",
    "getLedger": "schedules:read",
    "getRun": "runs:read",
    "getSchedule": "schedules:read",
    "listAlarms": "runs:read",
    "listRevisions": "schedules:read",
    "listRuns": "runs:read",
    "listSchedules": "schedules:read",
    "pauseSchedule": "schedules:write",
    "previewBackfill": "schedules:read",
    "previewEdit": "schedules:read",
    "previewNewSchedule": "schedules:read",
    "previewSchedule": "schedules:read",
    "resumeSchedule": "schedules:write",
    "runAgain": "runs:write",
    "startBackfill": "schedules:write",
    "triggerSchedule": "schedules:write",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(COMMITTED.read_text())
    return found


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_the_committed_one_is_what_the_service_has(run: "Command") -> None:
    assert run("openapi").stdout == COMMITTED.read_text(), "if that is wanted: make contracts"


async def test_it_is_served(ops: httpx.AsyncClient, document: dict[str, Any]) -> None:
    assert (await ops.get("/openapi.json")).json() == document


def test_each_operation_has_a_name_and_tells_its_scope(document: dict[str, Any]) -> None:
    told = {o["operationId"]: o["security"] for o in operations(document)}
    assert told == {name: [{"token": [scope]}] for name, scope in SCOPES.items()}
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert {"400", "401", "403", "422", "500", "503"} <= errors.keys()
        for answer in errors.values():
            [(media_type, content)] = answer["content"].items()
            assert (media_type, content["schema"]) == (
                "application/problem+json",
                {"$ref": "#/components/schemas/Problem"},
            )
            assert content["examples"]
            assert answer["description"]
