"""What the API hands to the worker and to the keeper."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from backup_lambda.objects import LAST_NUMBER

Id = Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$")]


class _Task(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    trace_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None  # of the request that led to it


class Task(_Task):
    """Make a backup, or prove one again. `number` is that of the proof, and so are the fields after it."""

    task: Literal["backup", "proof"]
    backup_id: Id
    number: Annotated[int, Field(ge=1, le=LAST_NUMBER)] | None = None
    requested_by: str | None = None
    accept_suspect: bool = False

    @model_validator(mode="after")
    def _only_a_proof_has_a_number(self) -> Self:
        if (self.task == "proof") != (self.number is not None):
            raise ValueError("a proof has a number, and a backup has none")
        return self

    @property
    def name(self) -> str:
        """As `progress.json` has it."""
        return self.task if self.number is None else f"proof/{self.number}"


class RestoreTask(_Task):
    """Do what `restores/{restore_id}/request.json` asks for."""

    task: Literal["restore"] = "restore"
    restore_id: Id


class TrialTask(_Task):
    """Publish a message that says that mails arrive."""

    task: Literal["test"] = "test"
    requested_by: str | None = None


class DiffTask(_Task):
    """A page of what differs between a backup and the database now; the asker waits for the answer."""

    task: Literal["diff"] = "diff"
    backup_id: Id
    cursor: str | None = None


class RetentionTask(_Task):
    """Apply a plan; the asker waits for the answer. For the keeper."""

    task: Literal["retention"] = "retention"
    digest: str
    requested_by: str | None = None


Started: TypeAlias = Task | RestoreTask | TrialTask  # begun, and not waited for
Question: TypeAlias = DiffTask | RetentionTask  # waited for
WORKERS_TASKS: TypeAdapter[Started | DiffTask] = TypeAdapter(
    Annotated[Task | RestoreTask | TrialTask | DiffTask, Field(discriminator="task")]
)
