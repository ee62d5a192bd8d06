"""What goes over the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from scheduler.models import Run, Schedule


class ScheduleOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    cron: str
    timezone: Annotated[str, Field(description="An IANA name; `cron` is in its local time.")]
    target: dict[str, Any]
    next_due_at: datetime
    created_at: datetime

    @classmethod
    def of(cls, schedule: Schedule) -> Self:
        return cls.model_validate(schedule)


class RunOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    schedule_id: UUID
    trigger: Literal["schedule", "manual"]
    due_at: datetime
    state: Annotated[
        Literal["queued", "running", "waiting", "succeeded", "failed"],
        Field(description="`waiting` is for the backup to end, or to try again. The last two are final."),
    ]
    reason: Annotated[str | None, Field(description="Why it failed, what went wrong last, or what its success lacks.")]
    backup_id: Annotated[str | None, Field(description="As the backup API names it, once it took the request.")]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, run: Run) -> Self:
        return cls.model_validate(run)


class SchedulePage(BaseModel):
    items: list[ScheduleOut]
    next_cursor: UUID | None
    has_more: bool


class RunPage(BaseModel):
    items: list[RunOut]
    next_cursor: UUID | None
    has_more: bool


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[UUID | None, Field(description="`next_cursor` of the page before.")] = None


class NoQuery(BaseModel):
    """Refuses all query parameters: one that is ignored is a client's bug that nobody sees."""

    model_config = ConfigDict(extra="forbid")


class InvalidPart(BaseModel):
    """Where the request is wrong: in the body at a JSON pointer, or in a parameter."""

    pointer: str | None = None
    parameter: str | None = None
    code: str
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it. Switch on `type`: its meaning never changes."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[InvalidPart] | None = None
