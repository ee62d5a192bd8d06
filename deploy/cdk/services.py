"""The services on ECS, a stack each: which programs run, with which rights, and what reaches them."""

from constructs import Construct

from deploy.cdk.containers import Program, ServiceStack
from deploy.cdk.parameters import published

ANY_ADDRESS = {"FORWARDED_ALLOW_IPS": "*"}  # only the balancer can reach it


class NotesApiStack(ServiceStack):
    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name, "Holdfast: the notes API on ECS")
        storage, data = self.parameters.stack("Storage"), self.parameters.data
        self.migrations("notes_api.migrate", "notes_owner")
        api = Program(
            "Api",
            "notes_app",
            {
                **self.database("notes_app"),
                **ANY_ADDRESS,
                "HOLDFAST_ATTACHMENTS_BUCKET": published(storage, "BucketName"),
                "HOLDFAST_TOPIC_ARN": published(storage, "TopicArn"),
            },
            secrets={
                "HOLDFAST_REDIS_URL": published(data, "RedisUrlSecretArn"),
                "HOLDFAST_SIGNING_KEY": published(data, "CursorKeySecretArn"),
            },
            managed_policy_arns=[published(storage, "NotesApiPolicyArn")],
        )
        self.service(api, ["/v1/*", "/docs*", "/openapi.json", "/admin", "/admin/*"], priority=100)


class SchedulerStack(ServiceStack):
    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name, "Holdfast: the scheduler on ECS")
        backup = self.parameters.stack("Backup")
        targets = {"HOLDFAST_HTTP_TARGETS": self.parameters.http_targets()}
        self.migrations("scheduler.migrate", "scheduler_owner")
        api = Program(
            "Api",
            "scheduler_app",
            {
                **self.database("scheduler_app"),
                **ANY_ADDRESS,
                **targets,
                "HOLDFAST_BACKUPS_URL": published(backup, "ApiUrl"),
            },
            managed_policy_arns=[published(backup, "ConsolePolicyArn")],
        )
        paths = ["/v1/schedules", "/v1/runs", "/v1/alarms"]
        patterns = [pattern for path in paths for pattern in (path, f"{path}/*", f"{path}:*")]
        self.service(api, [*patterns, "/ops", "/ops/*"], priority=10)
        worker = Program(
            "Worker",
            "scheduler_app",
            {
                **self.database("scheduler_app"),
                **targets,
                "HOLDFAST_BACKUPS_URL": published(backup, "ApiUrl"),
                "HOLDFAST_TOPIC_ARN": published(backup, "TopicArn"),
            },
            secrets={"HOLDFAST_REDIS_URL": published(self.parameters.data, "RedisUrlSecretArn")},
            command=("python", "-m", "scheduler.worker"),
            health=("python", "-m", "scheduler.worker", "--check"),
            managed_policy_arns=[published(backup, "SchedulerPolicyArn")],
        )
        self.service(worker)
