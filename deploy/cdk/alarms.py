"""What goes off by itself, announced on the backups topic to those who subscribed without choosing events."""

from aws_cdk import Duration
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

MINUTE = Duration.minutes(1)


def add(
    stack: Construct,
    topic: sns.Topic,
    *,
    dead_letters: sqs.Queue,
    gateway: apigateway.RestApi,
    worker: lambda_.Function,
    api: lambda_.Function,
    keeper: lambda_.Function,
    nearly_over: float,
) -> None:
    """`nearly_over` is how many milliseconds of the worker are too many."""

    def alarm(name: str, metric: cloudwatch.Metric, description: str, threshold: float = 0) -> None:
        """Goes off when `metric` is above `threshold` in one period; silence is no alarm."""
        made = cloudwatch.Alarm(
            stack,
            name,
            metric=metric,
            threshold=threshold,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=description,
        )
        made.add_alarm_action(actions.SnsAction(topic))

    dead = dead_letters.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum")
    alarm("DeadLettersAlarm", dead, "An event that the worker failed on lies in the dead-letter queue")
    duration = worker.metric_duration(period=MINUTE, statistic="Maximum")
    alarm("WorkerDurationAlarm", duration, "A backup took over 80 % of the worker's time limit", nearly_over)
    errors = gateway.deployment_stage.metric_server_error(period=MINUTE, statistic="Sum")
    alarm("GatewayErrorsAlarm", errors, "The API answered with a 5xx")
    for function, name in ((api, "Api"), (worker, "Worker"), (keeper, "Keeper")):
        alarm(f"{name}ErrorsAlarm", function.metric_errors(period=MINUTE), f"The {name.lower()} function failed")
        throttles = function.metric_throttles(period=MINUTE)
        alarm(f"{name}ThrottlesAlarm", throttles, f"The {name.lower()} function was throttled")
