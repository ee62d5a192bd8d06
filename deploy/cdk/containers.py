"""A service on ECS: containers of one image on Fargate, migrations as a task of their own, what the balancer sends it.

A deployment that does not become healthy is rolled back by itself. Each service has roles of its own, and so have its
migrations, which alone log in as the owner of its schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_cdk import Aws, CfnElement, Stack, Token
from aws_cdk import aws_applicationautoscaling as autoscaling
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from deploy.cdk import policies
from deploy.cdk.parameters import ZONES, ServiceParameters, one_of, publish, published, short_name
from deploy.cdk.stacks import by_cloudformation_alone

PORT = 8000
KEEP_LOGS_DAYS = 90
TMP = "/tmp"  # noqa: S108  # of the container, whose other files are read only
DRAIN_SECONDS = 35


@dataclass(frozen=True)
class Program:
    """What runs: its name, its command where the image has another, who it is in PostgreSQL, and what it is told."""

    name: str
    role: str
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)  # ARNs, by the setting that each one's string is for
    command: Sequence[str] = ()
    health: Sequence[str] = ()  # the command that asks it, where no balancer does
    managed_policy_arns: Sequence[str] = ()


class ServiceStack(Stack):
    """Deployed, upgraded and rolled back on its own: all that it knows of others is what they have published."""

    def __init__(self, scope: Construct, name: str, description: str) -> None:
        super().__init__(scope, name, **by_cloudformation_alone(description))
        self.parameters = ServiceParameters(self)
        self.cluster = published(self.parameters.cluster, "ClusterName")
        self.log = logs.CfnLogGroup(self, "Log", retention_in_days=KEEP_LOGS_DAYS)

    def database(self, role: str) -> dict[str, str]:
        data = self.parameters.data
        return {
            "HOLDFAST_DATABASE_URL": f"postgresql+iam://{role}@{published(data, 'Endpoint')}/holdfast",
            "HOLDFAST_DATABASE_CA": published(data, "Authorities"),
        }

    def migrations(self, module: str, role: str) -> None:
        """A task that somebody runs, before the service that needs it."""
        program = Program("Migrations", role, self.database(role), command=("python", "-m", module))
        publish(self, {"MigrationsTask": self._definition(program).ref, "ClusterName": self.cluster})

    def service(self, program: Program, paths: Sequence[str] = (), priority: int = 0) -> None:
        """As many containers as its load needs. With `paths` the balancer sends it the requests to them."""
        target, rules = self._behind_the_balancer(program, paths, priority) if paths else (None, [])
        made = ecs.CfnService(
            self,
            f"{program.name}Service",
            cluster=self.cluster,
            task_definition=self._definition(program).ref,
            launch_type="FARGATE",
            # Afterwards it is autoscaling that says how many: a deployment leaves them as they are.
            desired_count=Token.as_number(one_of(self.parameters.none_yet, 0, Aws.NO_VALUE)),
            availability_zone_rebalancing="ENABLED",
            deployment_configuration={
                "deploymentCircuitBreaker": {"enable": True, "rollback": True},
                "minimumHealthyPercent": 100,
                "maximumPercent": 200,
            },
            health_check_grace_period_seconds=60 if target else None,
            load_balancers=[{"containerName": "main", "containerPort": PORT, "targetGroupArn": target.ref}]
            if target
            else None,
            network_configuration={
                "awsvpcConfiguration": {
                    "subnets": [published(self.parameters.network, f"PublicSubnet{zone}") for zone in ZONES],
                    "securityGroups": [published(self.parameters.network, "ServiceSecurityGroup")],
                    "assignPublicIp": "ENABLED",  # there is no NAT; the security group lets in the balancer alone
                }
            },
        )
        for rule in rules:  # ECS takes a target group only once a balancer has it
            made.add_resource_dependency(rule)
        self._scaled(program, made)
        publish(self, {f"{program.name}ServiceName": made.attr_name})

    def _definition(self, program: Program) -> ecs.CfnTaskDefinition:
        container: dict[str, Any] = {
            "name": "main",
            "image": self.parameters.image,
            "environment": [{"name": name, "value": value} for name, value in sorted(program.environment.items())],
            "secrets": [{"name": name, "valueFrom": arn} for name, arn in sorted(program.secrets.items())],
            "portMappings": [{"containerPort": PORT}],
            "readonlyRootFilesystem": True,
            "mountPoints": [{"sourceVolume": "tmp", "containerPath": TMP, "readOnly": False}],
            "linuxParameters": {"initProcessEnabled": True, "capabilities": {"drop": ["ALL"]}},
            "stopTimeout": DRAIN_SECONDS,
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": self.log.ref,
                    "awslogs-region": Aws.REGION,
                    "awslogs-stream-prefix": program.name.lower(),
                },
            },
        }
        if program.command:
            container["command"] = list(program.command)
        if program.health:
            asked = {"interval": 15, "timeout": 10, "retries": 4, "startPeriod": 30}  # seconds
            container["healthCheck"] = {"command": ["CMD", *program.health], **asked}
        login = policies.log_in(published(self.parameters.data, "ResourceId"), program.role)
        return ecs.CfnTaskDefinition(
            self,
            f"{program.name}Definition",
            family=f"{Aws.STACK_NAME}-{program.name.lower()}",
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu=self.parameters.cpu,
            memory=self.parameters.memory,
            runtime_platform={"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"},
            task_role_arn=self._role(f"{program.name}Role", [login], program.managed_policy_arns).attr_arn,
            execution_role_arn=self._role(
                f"{program.name}ExecutionRole",
                policies.task_execution(self.log.attr_arn, [*program.secrets.values()]),
            ).attr_arn,
            volumes=[{"name": "tmp"}],
            container_definitions=[container],
        )

    def _role(self, name: str, rights: list[policies.Statement], managed: Sequence[str] = ()) -> iam.CfnRole:
        return iam.CfnRole(
            self,
            name,
            assume_role_policy_document=policies.assumed_by("ecs-tasks.amazonaws.com"),
            policies=[iam.CfnRole.PolicyProperty(policy_name="Rights", policy_document=policies.document(*rights))],
            managed_policy_arns=list(managed) or None,
        )

    def _behind_the_balancer(
        self, program: Program, paths: Sequence[str], priority: int
    ) -> tuple[elb.CfnTargetGroup, list[elb.CfnListenerRule]]:
        target = elb.CfnTargetGroup(
            self,
            f"{program.name}Targets",
            vpc_id=published(self.parameters.network, "VpcId"),
            port=PORT,
            protocol="HTTP",
            target_type="ip",
            health_check_path="/readyz",
            health_check_interval_seconds=10,
            health_check_timeout_seconds=5,
            healthy_threshold_count=2,
            unhealthy_threshold_count=3,
            target_group_attributes=[
                {"key": "deregistration_delay.timeout_seconds", "value": str(DRAIN_SECONDS)},
                {"key": "load_balancing.algorithm.type", "value": "least_outstanding_requests"},
            ],
        )
        rules = [
            elb.CfnListenerRule(
                self,
                f"{program.name}Rule{number or ''}",
                listener_arn=published(self.parameters.cluster, "ListenerArn"),
                priority=priority + number,
                conditions=[{"field": "path-pattern", "pathPatternConfig": {"values": list(few)}}],
                actions=[{"type": "forward", "targetGroupArn": target.ref}],
            )
            for number, few in enumerate(
                paths[start : start + 5] for start in range(0, len(paths), 5)
            )  # ELB takes five
        ]
        publish(self, {f"{program.name}TargetsName": target.attr_target_group_full_name})
        return target, rules

    def _scaled(self, program: Program, service: ecs.CfnService) -> None:
        scaled = autoscaling.CfnScalableTarget(
            self,
            f"{program.name}Scaled",
            service_namespace="ecs",
            scalable_dimension="ecs:service:DesiredCount",
            resource_id=f"service/{self.cluster}/{service.attr_name}",
            min_capacity=Token.as_number(self.parameters.at_least),
            max_capacity=Token.as_number(self.parameters.at_most),
        )
        autoscaling.CfnScalingPolicy(
            self,
            f"{program.name}Scaling",
            policy_name=f"{program.name}-by-cpu",
            policy_type="TargetTrackingScaling",
            scaling_target_id=scaled.ref,
            target_tracking_scaling_policy_configuration={
                "predefinedMetricSpecification": {"predefinedMetricType": "ECSServiceAverageCPUUtilization"},
                "targetValue": 60,
                "scaleInCooldown": 300,
                "scaleOutCooldown": 60,
            },
        )

    def _allocate_logical_id(self, element: CfnElement) -> str:
        return short_name(element)
