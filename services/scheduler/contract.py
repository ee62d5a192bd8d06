"""What the OpenAPI document says beyond what FastAPI finds in the code."""

from typing import Any

from scheduler.problems import MEDIA_TYPE
from scheduler.routes.parts import MERGE_PATCH, header

ABOUT: dict[str, Any] = {
    "title": "Holdfast scheduler",
    "version": "1",
    "summary": "What is backed up when, and how it went.",
    "description": "What is backed up when, and how it went. Every error is `application/problem+json`.",
    "license_info": {"name": "MIT", "identifier": "MIT"},
    "servers": [{"url": "/", "description": "Where this document is from."}],
    "openapi_tags": [
        {"name": "schedules", "description": "What is to happen, when, and what became of each due time."},
        {"name": "runs", "description": "What happened at a due time, or at a person's wish."},
        {"name": "alarms", "description": "What is wrong, from when it was seen until it was over."},
    ],
}
_PARAMETERS = {
    "schedule_id": "The schedule's `id`.",
    "run_id": "The run's `id`.",
    "alarm_id": "The alarm's `id`.",
    "limit": "How many at most.",
    "count": "How many.",
    "state": "Only those that are in it.",
    "trigger": "Only those that were made by it.",
    "from": "Due times after it; a day before `to`, if it is not said.",
    "to": "Due times up to it; now, if it is not said.",
}
_RETRY_AFTER = {"Retry-After": header("Seconds after which asking again may help.")}


def document(openapi: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document, set right: it has one media type per route for all answers, and one for what is sent."""
    errors: dict[str, Any] = {}
    openapi["components"] |= {"examples": errors}
    for path in openapi["paths"].values():
        for operation in path.values():
            bodies = operation.get("requestBody", {}).get("content", {})
            if MERGE_PATCH in bodies:
                bodies[MERGE_PATCH] = bodies.pop("application/json", bodies[MERGE_PATCH])
            for parameter in operation.get("parameters", []):
                if known := _PARAMETERS.get(parameter["name"]):
                    parameter.setdefault("description", known)
                parameter["schema"] = _without_null(parameter["schema"])
            for status, answer in operation["responses"].items():
                if status == "503":
                    answer["headers"] = _RETRY_AFTER
                if status >= "400" and "application/json" in answer.get("content", {}):
                    problem = answer["content"].pop("application/json")
                    errors |= problem["examples"]
                    problem["examples"] = {n: {"$ref": f"#/components/examples/{n}"} for n in problem["examples"]}
                    answer["content"][MEDIA_TYPE] = problem
    for member in openapi["components"]["schemas"]["ScheduleEdit"]["properties"].values():
        member.pop("default", None)  # what is absent stays as it is
    return openapi


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or not, and never null."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "title"}}
    return kinds[0] | rest if len(kinds) == 1 else schema
