"""What may take longer than a function has is handed on to a task on ECS: the same code, without an end.

AWS may ask a function twice, and then two tasks run: the lease lets one of them work.
"""

from dataclasses import dataclass
from typing import Any

from backup_lambda import aws, snapshot
from backup_lambda.errors import AwsUnavailable
from backup_lambda.making import Means
from backup_lambda.settings import Place
from backup_lambda.tasks import RestoreTask, Task

CONTAINER = "worker"  # as the task's definition names it
_SIZE = "select pg_database_size(current_database())"


@dataclass(frozen=True)
class Fargate:
    """`ecs` is a client. What is read or written of a database of `from_bytes` bytes or more is for a task."""

    ecs: Any
    place: Place
    from_bytes: int

    async def is_for(self, means: Means) -> bool:
        """Raises AwsError and DatabaseFailed."""
        if not self.from_bytes:
            return True
        connection = await snapshot.connect(await means.database_url())
        try:
            size: int = await connection.fetchval(_SIZE)
        finally:
            connection.terminate()
        return size >= self.from_bytes

    async def begin(self, task: Task | RestoreTask) -> None:
        """Raises AwsError, also when there is no room for a task just now."""
        command = ["python", "-m", "backup_lambda", "perform", task.model_dump_json()]
        with aws.errors_named():
            answer = await self.ecs.run_task(
                cluster=self.place.cluster,
                taskDefinition=self.place.definition,
                launchType="FARGATE",
                networkConfiguration={
                    "awsvpcConfiguration": {
                        "subnets": list(self.place.subnets),
                        "securityGroups": [self.place.security_group],
                        "assignPublicIp": "ENABLED",  # there is no NAT: it fetches its image by its own address
                    }
                },
                overrides={"containerOverrides": [{"name": CONTAINER, "command": command}]},
            )
        if not answer.get("tasks"):
            reasons = ", ".join(str(each.get("reason")) for each in answer.get("failures", []))
            raise AwsUnavailable(f"ECS began no task: {reasons}")
