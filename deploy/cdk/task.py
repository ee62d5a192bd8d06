"""The worker as a task of ECS on Fargate, which may take as long as it needs; there is one where it has an image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws_cdk import Aws, CfnResource, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs

from deploy.cdk import policies
from deploy.cdk.parameters import Parameters

CPU, MEMORY = "1024", "2048"  # a whole CPU, and MiB
KEEP_LOGS_DAYS = 90
TMP = "/tmp"  # noqa: S108  # of the container, whose other files are read only


@dataclass(frozen=True)
class Task:
    definition_arn: str  # of every revision
    role_arns: list[str]
    log_name: str
    place: dict[str, Any]  # what the worker function is told


def task_of_worker(
    stack: Stack, parameters: Parameters, rights: list[policies.Statement], environment: Mapping[str, str]
) -> Task:
    def only_with_a_task(made: Any) -> Any:
        assert isinstance(made, CfnResource)
        made.cfn_options.condition = parameters.with_task
        return made

    def role(name: str, of: list[policies.Statement]) -> iam.CfnRole:
        document = policies.document(*of)
        made = iam.CfnRole(
            stack,
            name,
            assume_role_policy_document=policies.assumed_by("ecs-tasks.amazonaws.com"),
            policies=[iam.CfnRole.PolicyProperty(policy_name="Rights", policy_document=document)],
        )
        assert isinstance(only_with_a_task(made), iam.CfnRole)
        return made

    cluster = only_with_a_task(ecs.CfnCluster(stack, "Cluster", cluster_settings=[_INSIGHTS]))
    log = only_with_a_task(logs.CfnLogGroup(stack, "TaskLog", retention_in_days=KEEP_LOGS_DAYS))
    task_role, execution_role = (
        role("TaskRole", rights),
        role("TaskExecutionRole", policies.task_execution(log.attr_arn)),
    )
    family = f"{Aws.STACK_NAME}-worker"
    only_with_a_task(
        ecs.CfnTaskDefinition(
            stack,
            "TaskDefinition",
            family=family,
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu=CPU,
            memory=MEMORY,
            runtime_platform={"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"},
            task_role_arn=task_role.attr_arn,
            execution_role_arn=execution_role.attr_arn,
            volumes=[{"name": "tmp"}],
            container_definitions=[
                {
                    "name": "worker",
                    "image": parameters.worker_image,
                    "environment": [{"name": name, "value": value} for name, value in sorted(environment.items())],
                    "readonlyRootFilesystem": True,
                    "mountPoints": [{"sourceVolume": "tmp", "containerPath": TMP, "readOnly": False}],
                    "stopTimeout": 60,
                    "logConfiguration": {
                        "logDriver": "awslogs",
                        "options": {
                            "awslogs-group": log.ref,
                            "awslogs-region": Aws.REGION,
                            "awslogs-stream-prefix": "worker",
                        },
                    },
                }
            ],
        )
    )
    return Task(
        f"arn:{Aws.PARTITION}:ecs:{Aws.REGION}:{Aws.ACCOUNT_ID}:task-definition/{family}:*",
        [task_role.attr_arn, execution_role.attr_arn],
        log.ref,
        {
            "cluster": cluster.ref,
            "definition": family,
            "subnets": parameters.task_subnets,
            "security_group": parameters.security_group,
        },
    )


_INSIGHTS = ecs.CfnCluster.ClusterSettingsProperty(name="containerInsights", value="enabled")
