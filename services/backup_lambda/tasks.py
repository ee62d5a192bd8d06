"""What the API hands to the worker."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backup_lambda.objects import LAST_NUMBER


class Task(BaseModel):
    """Make a backup, or prove one again. `number` is that of the proof, and so are the fields after it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    task: Literal["backup", "proof"]
    backup_id: Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$")]
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
