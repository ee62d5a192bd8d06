"""The watch stack: alarms on what the other stacks cannot see of themselves, and one page that shows how all is.

All of it is announced on the backups topic, as the alarms of the backup stack are.
"""

from typing import Any

from aws_cdk import Aws, CfnCondition, CfnElement, Stack, Token
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from deploy.cdk.parameters import WatchParameters, one_of, publish, published, short_name
from deploy.cdk.stacks import by_cloudformation_alone

DAY, HOUR, MINUTE = 86_400, 3600, 60
PROVEN_WITHIN_HOURS = 26
GIB = 1024**3


class WatchStack(Stack):
    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name, **by_cloudformation_alone("Holdfast: alarms, and a page that shows how it is"))
        self.parameters = WatchParameters(self)
        self.topic = published(self.parameters.backup, "TopicArn")
        self._of_backups()
        self._of_databases()
        self._of_ecs()
        self._of_the_host()
        page = cloudwatch.CfnDashboard(self, "Page", dashboard_body=self.to_json_string({"widgets": self._widgets()}))
        publish(self, {"PageName": page.ref})

    def _of_backups(self) -> None:
        self._alarm(
            "NoProvenBackupAlarm",
            f"No backup has been made and proven for {PROVEN_WITHIN_HOURS} hours",
            {"namespace": "Holdfast", "metric_name": f"{self.parameters.backup}-proven", "statistic": "Sum"},
            "LessThanThreshold",
            1,
            period=HOUR,
            periods=PROVEN_WITHIN_HOURS,
            missing="breaching",  # what does not run says nothing
        )

    def _of_databases(self) -> None:
        for name, instance in (("Database", "InstanceId"), ("ProofDatabase", "ProofInstanceId")):
            identifier = {"DBInstanceIdentifier": published(self.parameters.data, instance)}

            def of_rds(metric: str, of: dict[str, str] = identifier) -> dict[str, Any]:
                return {"namespace": "AWS/RDS", "metric_name": metric, "dimensions": of, "statistic": "Maximum"}

            when = self.parameters.on_rds
            free = of_rds("FreeStorageSpace") | {"statistic": "Minimum"}
            self._alarm(
                f"{name}StorageAlarm",
                "A server has less than 4 GiB left",
                free,
                "LessThanThreshold",
                4 * GIB,
                when=when,
            )
            self._alarm(
                f"{name}ConnectionsAlarm",
                "A server has nearly as many connections as it takes",
                of_rds("DatabaseConnections"),
                "GreaterThanThreshold",
                Token.as_number(self.parameters.connections),
                when=when,
            )

    def _of_ecs(self) -> None:
        parameters, when = self.parameters, self.parameters.on_ecs
        balancer = published(parameters.cluster, "BalancerName")
        for name, stack in (("NotesApi", parameters.notes_api), ("Scheduler", parameters.scheduler)):
            healthy = {
                "namespace": "AWS/ApplicationELB",
                "metric_name": "HealthyHostCount",
                "dimensions": {"LoadBalancer": balancer, "TargetGroup": published(stack, "ApiTargetsName")},
                "statistic": "Minimum",
            }
            self._alarm(
                f"{name}HealthAlarm", "No container of a service answers", healthy, "LessThanThreshold", 1, when=when,
                missing="breaching",
            )  # fmt: skip
        running = {
            "namespace": "ECS/ContainerInsights",
            "metric_name": "RunningTaskCount",
            "dimensions": {
                "ClusterName": published(parameters.cluster, "ClusterName"),
                "ServiceName": published(parameters.scheduler, "WorkerServiceName"),
            },
            "statistic": "Minimum",
        }
        self._alarm(
            "WorkersAlarm",
            "No worker of the scheduler runs",
            running,
            "LessThanThreshold",
            1,
            when=when,
            missing="breaching",
        )

    def _of_the_host(self) -> None:
        # CloudFormation asks for what is published only when something else changed as well.
        machine = one_of(
            self.parameters.host_named, self.parameters.host_instance, published(self.parameters.host, "InstanceId")
        )
        instance, when = {"InstanceId": machine}, self.parameters.on_host
        status = {"namespace": "AWS/EC2", "metric_name": "StatusCheckFailed", "statistic": "Maximum"}
        self._alarm(
            "HostAlarm", "The host does not answer", status | {"dimensions": instance}, "GreaterThanThreshold", 0,
            when=when, missing="breaching",
        )  # fmt: skip
        answers = {"namespace": "Holdfast", "metric_name": f"{self.parameters.host}-answers", "statistic": "Sum"}
        self._alarm(
            "HostAnswersAlarm",
            "A container on the host is not well, or NGINX does not answer",
            answers,
            "LessThanThreshold",
            1,
            when=when,
            missing="breaching",
        )
        for name, metric in (("Disk", "disk_used_percent"), ("Memory", "mem_used_percent")):
            used = {"namespace": "Holdfast", "metric_name": metric, "dimensions": instance, "statistic": "Maximum"}
            self._alarm(
                f"Host{name}Alarm",
                f"The host's {name.lower()} is full by 85 %",
                used,
                "GreaterThanThreshold",
                85,
                when=when,
            )

    def _alarm(
        self,
        name: str,
        description: str,
        metric: dict[str, Any],
        comparison: str,
        threshold: float,
        *,
        when: CfnCondition | None = None,
        period: int = 5 * MINUTE,
        periods: int = 2,
        missing: str = "notBreaching",
    ) -> None:
        dimensions = [{"name": key, "value": value} for key, value in metric.get("dimensions", {}).items()]
        made = cloudwatch.CfnAlarm(
            self,
            name,
            alarm_description=description,
            **{**metric, "dimensions": dimensions},
            comparison_operator=comparison,
            threshold=threshold,
            period=period,
            evaluation_periods=periods,
            treat_missing_data=missing,
            alarm_actions=[self.topic],
            ok_actions=[self.topic],
        )
        if when:
            made.cfn_options.condition = when

    def _widgets(self) -> list[dict[str, Any]]:
        """From top to bottom: are we safe, does it run, is there room."""
        backup, data = self.parameters.backup, self.parameters.data
        worker, api = (published(backup, f"{name}FunctionName") for name in ("Worker", "Api"))
        dead, gateway = published(backup, "DeadLetterQueueName"), published(backup, "GatewayName")
        instance = one_of(self.parameters.on_rds, published(data, "InstanceId"), "elsewhere")
        said = (
            "## Are we safe?\nEach backup that was made and proven is counted here. "
            f"Without one for {PROVEN_WITHIN_HOURS} hours there is an alarm, and a mail."
        )
        return [
            {"type": "text", "width": 24, "height": 2, "properties": {"markdown": said}},
            _graph(
                "Backups that were made and proven, by day", (0, 2), [["Holdfast", f"{backup}-proven"]], period=DAY
            ),
            _graph(
                "The worker function: seconds of 900, and errors", (12, 2),
                [["AWS/Lambda", "Duration", "FunctionName", worker, {"stat": "Maximum"}],
                 ["AWS/Lambda", "Errors", "FunctionName", worker, {"yAxis": "right"}]],
            ),
            _graph(
                "The gateway: requests, and what went wrong", (0, 8),
                [["AWS/ApiGateway", metric, "ApiName", gateway] for metric in ("Count", "4XXError", "5XXError")],
            ),
            _graph(
                "Throttled, and dead letters", (12, 8),
                [["AWS/Lambda", "Throttles", "FunctionName", worker], ["AWS/Lambda", "Throttles", "FunctionName", api],
                 ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", dead, {"stat": "Maximum"}]],
            ),
            _graph(
                "PostgreSQL: free bytes, and connections", (0, 14),
                [["AWS/RDS", "FreeStorageSpace", "DBInstanceIdentifier", instance, {"stat": "Minimum"}],
                 ["AWS/RDS", "DatabaseConnections", "DBInstanceIdentifier", instance, {"yAxis": "right"}]], "Average",
            ),
            _graph(
                "PostgreSQL: CPU in percent", (12, 14),
                [["AWS/RDS", "CPUUtilization", "DBInstanceIdentifier", instance, {"stat": "Average"}]],
            ),
        ]  # fmt: skip

    def _allocate_logical_id(self, element: CfnElement) -> str:
        return short_name(element)


def _graph(
    title: str, at: tuple[int, int], metrics: list[Any], stat: str = "Sum", period: int = 5 * MINUTE
) -> dict[str, Any]:
    properties = {
        "title": title,
        "metrics": metrics,
        "stat": stat,
        "period": period,
        "region": Aws.REGION,
        "view": "timeSeries",
    }
    return {"type": "metric", "x": at[0], "y": at[1], "width": 12, "height": 6, "properties": properties}
