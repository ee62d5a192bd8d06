"""One function of the stack asks another: to begin something, or for an answer.

A known error of ours goes through as what it is, so that the API answers with it.
"""

import json
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from backup_lambda import aws, errors
from backup_lambda.errors import AwsUnavailable, BackupsError
from backup_lambda.tasks import DiffTask, Question, Started
from backup_lambda.traces import TRACE_ID


@dataclass(frozen=True)
class Functions:
    """`starting` and `asking` are clients of Lambda; the second waits, and asks once. Both methods raise AwsError."""

    starting: Any
    asking: Any
    worker: str
    keeper: str

    async def start(self, task: Started) -> None:
        """Have a task done, and do not wait for it."""
        with aws.errors_named():
            await self.starting.invoke(FunctionName=self.worker, InvocationType="Event", Payload=_traced(task))

    async def ask(self, question: Question) -> bytes:
        """The answer's JSON. Raises what the other function raised, if that is one of our errors."""
        function = self.worker if isinstance(question, DiffTask) else self.keeper
        with aws.errors_named():
            answer = await self.asking.invoke(
                FunctionName=function, InvocationType="RequestResponse", Payload=_traced(question)
            )
            body = await answer["Payload"].read()
        if answer.get("FunctionError"):
            raise AwsUnavailable(f"the {question.task} ended without an answer; the log of {function} says why")
        return answer_of(json.loads(body))


def _traced(task: Started | Question) -> str:
    """As the other function takes it; a task of no trace is as it was before there were any."""
    found = {"trace_id": TRACE_ID.get()} if TRACE_ID.get() else {}
    return json.dumps(task.model_dump(mode="json", exclude={"trace_id"}) | found)


async def answered(answering: Awaitable[BaseModel]) -> dict[str, Any]:
    """What `ask` understands."""
    try:
        return {"answer": (await answering).model_dump(mode="json")}
    except BackupsError as error:
        return {"error": type(error).__name__, "detail": error.detail}


def answer_of(told: dict[str, Any]) -> bytes:
    """The JSON of what was `answered`. Raises the error, if it was one."""
    if kind := told.get("error"):
        raise getattr(errors, kind)(told["detail"])
    return json.dumps(told["answer"]).encode()
