"""What the OpenAPI document says beyond what FastAPI finds in the code."""

from typing import Any

from notes_api import examples
from notes_api.problems import MEDIA_TYPE
from notes_api.routes.parts import header
from notes_api.schemas import ETAG_PATTERN

ABOUT: dict[str, Any] = {
    "title": "Holdfast notes",
    "version": "1",
    "summary": "Notes whose backups are proven.",
    "description": "Notes whose backups are proven. Every error is `application/problem+json`. Every change of a note"
    " names the version that it changes, in `If-Match`, but those of an import that replaces notes and of attachments."
    " Every POST may have an `Idempotency-Key`, but the import, which changes nothing when it is"
    " sent again.",
    "license_info": {"name": "MIT", "identifier": "MIT"},
    "servers": [{"url": "/", "description": "Where this document is from."}],
    "openapi_tags": [
        {"name": "notes", "description": "Notes, one by one: made, read, changed, put into the trash and taken out."},
        {"name": "revisions", "description": "What a note was before each change."},
        {"name": "transfer", "description": "All notes at once, out and in, as lines of JSON."},
        {"name": "lists", "description": "Many notes: lists, searches and tags, a page at a time."},
        {"name": "bulk", "description": "Many changes in one request."},
        {"name": "changes", "description": "What happened to an owner's notes, in order and without a gap."},
        {"name": "attachments", "description": "Files of a note, which go to a bucket and come from it directly."},
        {"name": "tokens", "description": "Who may do what: each token has scopes, and is shown once."},
    ],
}
MERGE_PATCH = "application/merge-patch+json"
_PARAMETERS = {
    "note_id": "The note's `id`.",
    "attachment_id": "The attachment's `id`.",
    "token_id": "The token's `id`, which is not the token.",
    "revision": "A number that `listRevisions` gives.",
    "limit": "How many at most.",
    "pinned": "Only those that are pinned, or that are not.",
    "archived": "Only those that are archived, or that are not.",
    "permanent": "Delete what is in the trash for good.",
    "from": "Where to begin.",
    "to": "Where to end.",
}
_HEADERS = {
    "RateLimit": header('What is left of the policy, and for how long: `"default";r=5999;t=60`.'),
    "RateLimit-Policy": header('Requests in so many seconds: `"default";q=6000;w=60`.'),
    "Retry-After": header("Seconds after which asking again may help."),
    "Idempotent-Replayed": header("`true` when the request had been done before."),
}


def document(openapi: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document, set right: it has one media type per route for all answers, and one for what is sent."""
    errors: dict[str, Any] = {}
    openapi["components"] |= {"headers": _HEADERS, "examples": errors}
    for path in openapi["paths"].values():
        for operation in path.values():
            bodies = operation.get("requestBody", {}).get("content", {})
            if MERGE_PATCH in bodies:
                bodies[MERGE_PATCH] = bodies.pop("application/json", bodies[MERGE_PATCH])
            for parameter in operation.get("parameters", []):
                if known := _PARAMETERS.get(parameter["name"]):
                    parameter.setdefault("description", known)
                parameter["schema"] = _without_null(parameter["schema"])
                if parameter["name"].lower() == "if-match":
                    parameter["schema"] = {"type": "string", "pattern": ETAG_PATTERN, "examples": [examples.ETAG]}
                    parameter["required"] = operation["operationId"] != "putNote"  # without it 428, and not 422
            with_key = any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", []))
            for status, answer in operation["responses"].items():
                answer["headers"] = answer.get("headers", {}) | _headers(status, with_key=with_key)
                if status >= "400" and "application/json" in answer.get("content", {}):
                    problem = answer["content"].pop("application/json")
                    errors |= problem["examples"]
                    problem["examples"] = {n: {"$ref": f"#/components/examples/{n}"} for n in problem["examples"]}
                    answer["content"][MEDIA_TYPE] = problem
                elif shown := answer.get("content", {}).get("application/json"):
                    shown["example"] = examples.of(shown["schema"], openapi["components"]["schemas"])
        if "delete" in path and "200" in path["delete"]["responses"]:
            path["delete"]["responses"]["200"]["content"]["application/json"]["example"] |= examples.TRASHED
    for member in openapi["components"]["schemas"]["NoteEdit"]["properties"].values():
        member.pop("default", None)  # what is absent stays as it is
    return openapi


def _headers(status: str, *, with_key: bool) -> dict[str, Any]:
    names = ["RateLimit", "RateLimit-Policy"]
    names += ["Retry-After"] if status in {"429", "503"} else []
    names += ["Idempotent-Replayed"] if with_key and status < "300" else []
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or not, and never null."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "title"}}
    return kinds[0] | rest if len(kinds) == 1 else schema
