"""Many changes in one request."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from notes_api import batch, problems
from notes_api.access import Writer
from notes_api.batch import MOST, Create, Done, Operation
from notes_api.db import Db
from notes_api.errors import IdTaken, NoteExists, NoteNotFound, NoteNotTrashed, NoteTrashed, VersionMismatch
from notes_api.idempotency import Doing
from notes_api.problems import documented
from notes_api.routes.parts import WITH_BODY, WITH_KEY, Route
from notes_api.schemas import NoteListed, Problem

router = APIRouter(prefix="/v1", tags=["bulk"], route_class=Route)

_EXAMPLE: JsonDict = {
    "operations": [
        {"op": "create", "note": {"title": "Shopping", "tags": ["home"]}},
        {
            "op": "update",
            "id": "019ab1c2-7d3e-7f00-8a00-3f9a2c1b5d6e",
            "if_match": '"3-64436af8a8c40"',
            "change": {"archived": True},
        },
    ],
    "atomic": True,
}


class BatchIn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [_EXAMPLE]})

    operations: Annotated[list[Operation], Field(min_length=1, max_length=MOST, description="Done in this order.")]
    atomic: Annotated[bool, Field(description="All or none; false: each for itself.")] = True
    dry_run: Annotated[bool, Field(description="Change nothing, and say what would happen.")] = False


class BatchResult(BaseModel):
    """What became of an operation: `note`, or a `problem`."""

    index: int
    status: Annotated[int, Field(description="As a request for it alone would have had.")]
    id: UUID | None
    note: NoteListed | None
    problem: Problem | None


class BatchOut(BaseModel):
    results: list[BatchResult]
    dry_run: bool


@router.post(
    "/notes:batch",
    operation_id="batchNotes",
    response_model=BatchOut,
    responses={
        200: {"description": "All were done; of a dry run: all would be."},
        207: {"model": BatchOut, "description": "Not atomic: each result has a status of its own."},
        **documented(
            *WITH_BODY, *WITH_KEY, NoteNotFound, NoteTrashed, NoteNotTrashed, IdTaken, VersionMismatch, NoteExists
        ),
    },
)
async def run(request: Request, wanted: BatchIn, caller: Writer, connection: Db, once: Doing) -> Response:
    """Create, update, delete and restore up to 100 notes, without their content in the answer."""
    days = request.app.state.settings.trash_days
    done = await batch.run(
        connection, caller.owner, wanted.operations, days, atomic=wanted.atomic, dry_run=wanted.dry_run
    )
    results = [_result(index, each, request.state.request_id) for index, each in enumerate(done)]
    answer = BatchOut(results=results, dry_run=wanted.dry_run)
    return await once.answer(answer, 200 if wanted.atomic else 207, {})


def _result(index: int, done: Done, request_id: str) -> BatchResult:
    if done.row is None:
        assert done.refused
        problem = problems.problem(done.refused, request_id)
        return BatchResult(index=index, status=problem.status, id=done.operation.id, note=None, problem=problem)
    note = NoteListed.of(done.row)
    status = 201 if isinstance(done.operation, Create) else 200
    return BatchResult(index=index, status=status, id=note.id, note=note, problem=None)
