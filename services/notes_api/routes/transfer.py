"""All notes at once, out and in."""

import tempfile
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from notes_api import examples, exported, imported
from notes_api.access import Reader, Writer
from notes_api.db import Db
from notes_api.errors import MalformedRequest, TooManyExports, UnsupportedMediaType
from notes_api.exchange import CLOSED_BY_CLIENT
from notes_api.exported import ExportedNote
from notes_api.imported import LineReport, NoteLine, Summary
from notes_api.problems import documented
from notes_api.routes.parts import ALWAYS, InTime, Route, header, refuse_other_than

router = APIRouter(prefix="/v1", tags=["transfer"], route_class=Route)

IMPORT = "/v1/notes:import"
LINES = "application/x-ndjson"
REPORT_IN_MEMORY_BYTES = 1024 * 1024
CHUNK_BYTES = 64 * 1024


def _of_lines(example: str, *models: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI 3.1 has no word for a line: this is what each of them is."""
    each = [model.model_json_schema(ref_template="#/components/schemas/{model}") for model in models]
    text = " or ".join(schema["title"] for schema in each)
    return {LINES: {"schema": {"type": "string", "description": f"A line each, as JSON: {text}."}, "example": example}}


@router.get(
    "/notes:export",
    operation_id="exportNotes",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "All notes, the trash included, as they were at one moment, without attachments and former"
            " revisions. Without the end of the answer,"
            " as HTTP marks it, something is missing.",
            "content": _of_lines(examples.EXPORTED, ExportedNote),
            "headers": {"Changes-Cursor": header("Where to follow the changes from: GET /v1/changes?cursor=...")},
        },
        **documented(*ALWAYS, TooManyExports),
    },
)
async def export(request: Request, caller: Reader) -> StreamingResponse:
    """Read all notes, one per line."""
    state = request.app.state
    lines = exported.lines(state.pool, state.exports, state.signer, caller.owner)
    cursor = (await anext(lines)).decode()
    return InTime(lines, media_type=LINES, headers={"Changes-Cursor": cursor, "Cache-Control": "no-store"})


class ImportQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    existing: Annotated[
        Literal["keep", "replace"], Field(description="What to do with a note that is there, and differs.")
    ] = "keep"


async def _lines_without_a_key(request: Request) -> None:
    """Raises UnsupportedMediaType and MalformedRequest. Asked when it is known who calls."""
    refuse_other_than(LINES, request)
    if "idempotency-key" in request.headers:
        raise MalformedRequest("An import takes no Idempotency-Key: sent again, it changes nothing.")


OfLines = Annotated[None, Depends(_lines_without_a_key)]


@router.post(
    "/notes:import",
    operation_id="importNotes",
    response_class=StreamingResponse,
    openapi_extra={"requestBody": {"required": True, "content": _of_lines(examples.TO_IMPORT, NoteLine)}},
    responses={
        200: {
            "description": "What became of each line, in their order, and then how many there were of each.",
            "content": _of_lines(examples.IMPORTED, LineReport, Summary),
        },
        **documented(*ALWAYS, UnsupportedMediaType),
    },
)
async def import_(
    request: Request, caller: Writer, connection: Db, query: Annotated[ImportQuery, Query()], _: OfLines
) -> Response:
    """Make notes of lines, each for itself: as an export gives them, or as a client writes them.

    A line with an `id` makes the note with this id. Sent again, a line changes nothing.
    """
    state = request.app.state
    await request.state.held.release()  # others need it while the client sends
    summary = Summary()
    # Sent when all is read: a client that reads only after it has sent would wait for us, and we for it.
    report = tempfile.SpooledTemporaryFile(REPORT_IN_MEMORY_BYTES)  # noqa: SIM115 - closed where it is sent
    try:
        lines, replace = request.stream(), query.existing == "replace"
        days = state.settings.trash_days
        async for each in imported.reports(state.pool, caller, lines, trash_days=days, replace=replace):
            report.write(each.model_dump_json(exclude_none=True).encode() + b"\n")
            summary.lines += 1
            setattr(summary, each.status, getattr(summary, each.status) + 1)
        report.write(b'{"summary":' + summary.model_dump_json().encode() + b"}\n")
        report.seek(0)
    except ClientDisconnect:  # which is no fault of ours, and nobody waits for the answer
        report.close()
        return Response(status_code=CLOSED_BY_CLIENT)
    except BaseException:
        report.close()
        raise
    return InTime(_sent(report), media_type=LINES)


async def _sent(report: Any) -> AsyncIterator[bytes]:
    with report:
        while chunk := await run_in_threadpool(report.read, CHUNK_BYTES):
            yield chunk
