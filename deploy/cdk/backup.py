"""The backup stack: gateway, two functions from one package, bucket, topic, dead letters, alarms.

Who may do what is in policies.py. CDK's own grants and generated policies stay unused.
"""

import json
import re
from collections.abc import Mapping

from aws_cdk import (
    Acknowledgment,
    Aws,
    BootstraplessSynthesizer,
    CfnCondition,
    CfnElement,
    CfnOutput,
    CfnParameter,
    Duration,
    Fn,
    RemovalPolicy,
    Stack,
    Validations,
)
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as cloudwatch_actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_destinations as destinations
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from deploy.cdk import policies

STAGE = "v1"
ROUTES = (
    ("POST", "/backups"),
    ("GET", "/backups"),
    ("GET", "/backups/before/{backup_id}"),
    ("GET", "/backups/{backup_id}"),
    ("POST", "/subscriptions"),
    ("GET", "/subscriptions"),
)
WORKER_TIMEOUT = Duration.minutes(15)  # Lambda's longest
KEEP_LOGS = logs.RetentionDays.THREE_MONTHS
ACCESS_LOG = {
    "requestId": "$context.requestId",
    "time": "$context.requestTime",
    "user": "$context.identity.userArn",
    "ip": "$context.identity.sourceIp",
    "method": "$context.httpMethod",
    "path": "$context.path",
    "status": "$context.status",
    "integrationStatus": "$context.integrationStatus",
    "latencyMs": "$context.responseLatency",
}


class BackupStack(Stack):
    """Deployed by CloudFormation alone: no assets, so no bootstrapped account, and no custom resources."""

    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(
            scope,
            name,
            description="Holdfast: backups, their API and their announcements",
            synthesizer=BootstraplessSynthesizer(),
            termination_protection=True,
        )
        secret = CfnParameter(
            self, "DatabaseSecretArn", description="Secret whose string is the postgresql:// URL of role notes_backup"
        )
        Validations.of(self).acknowledge(
            Acknowledgment(id="CloudFormation-Validate::W2509", reason="It is the secret's name, not the secret")
        )
        self.secret_arn = secret.value_as_string
        self.code = lambda_.Code.from_cfn_parameters(
            bucket_name_param=CfnParameter(self, "CodeBucket", description="Bucket of the functions' package"),
            object_key_param=CfnParameter(self, "CodeKey", description="A new package needs a new key to be deployed"),
        )
        self._storage()
        self._functions()
        methods = self._gateway()
        self._resource_policies()
        self._alarms()
        self._outputs(methods)

    def _storage(self) -> None:
        self.bucket = s3.Bucket(
            self,
            "Bucket",
            # Known beforehand, so that a stack made anew can take over the backups of the one before it.
            bucket_name=f"{Aws.STACK_NAME}-{Aws.ACCOUNT_ID}-{Aws.REGION}",
            versioned=True,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            lifecycle_rules=[
                s3.LifecycleRule(id="AbandonedUploads", abort_incomplete_multipart_upload_after=Duration.days(1))
            ],
            removal_policy=RemovalPolicy.RETAIN,
        )
        self.topic = sns.Topic(self, "Topic", topic_name=f"{Aws.STACK_NAME}-events")
        self.dead_letters = sqs.Queue(
            self, "DeadLetters", encryption=sqs.QueueEncryption.SQS_MANAGED, retention_period=Duration.days(14)
        )

    def _functions(self) -> None:
        settings = {"HOLDFAST_BUCKET": self.bucket.bucket_name, "HOLDFAST_TOPIC_ARN": self.topic.topic_arn}
        worker_log, api_log = self._log_group("WorkerLog"), self._log_group("ApiLog")
        self.worker_role = self._role(
            "WorkerRole",
            policies.worker_function(
                bucket_arn=self.bucket.bucket_arn,
                topic_arn=self.topic.topic_arn,
                dead_letters_arn=self.dead_letters.queue_arn,
                secret_arn=self.secret_arn,
                log_arn=worker_log.log_group_arn,
            ),
        )
        self.worker = lambda_.Function(
            self,
            "Worker",
            description="Reads the database in one snapshot and streams it to the bucket",
            code=self.code,
            handler="backup_lambda.handler.worker",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            memory_size=1769,  # MB, at which Lambda gives one whole CPU
            timeout=WORKER_TIMEOUT,
            reserved_concurrent_executions=2,  # a backup, and the next one when the first hangs
            retry_attempts=1,
            max_event_age=Duration.hours(1),
            on_failure=destinations.SqsDestination(self.dead_letters),
            role=self.worker_role.without_policy_updates(),
            log_group=worker_log,
            environment={**settings, "HOLDFAST_DATABASE_SECRET": self.secret_arn},
        )
        api_role = self._role(
            "ApiRole",
            policies.api_function(
                bucket_arn=self.bucket.bucket_arn,
                topic_arn=self.topic.topic_arn,
                worker_arn=self.worker.function_arn,
                log_arn=api_log.log_group_arn,
            ),
        )
        self.api = lambda_.Function(
            self,
            "Api",
            description="Answers the gateway and starts the worker",
            code=self.code,
            handler="backup_lambda.handler.api",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            memory_size=512,
            timeout=Duration.seconds(20),  # the gateway gives up after 29 s
            role=api_role.without_policy_updates(),
            log_group=api_log,
            environment={**settings, "HOLDFAST_WORKER_FUNCTION": self.worker.function_name},
        )

    def _gateway(self) -> dict[str, str]:
        """A Regional REST API with IAM on every method; the ARN of each `METHOD /path`."""
        self.gateway = apigateway.RestApi(
            self,
            "Gateway",
            rest_api_name=Aws.STACK_NAME,
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            cloud_watch_role=True,  # without one in the account, a stage with an access log cannot be made
            default_method_options=apigateway.MethodOptions(authorization_type=apigateway.AuthorizationType.IAM),
            deploy_options=apigateway.StageOptions(
                stage_name=STAGE,
                throttling_rate_limit=10,  # requests in a second
                throttling_burst_limit=20,
                method_options={
                    "/backups/POST": apigateway.MethodDeploymentOptions(
                        throttling_rate_limit=1, throttling_burst_limit=5
                    )
                },
                access_log_destination=apigateway.LogGroupLogDestination(self._log_group("AccessLog")),
                access_log_format=apigateway.AccessLogFormat.custom(json.dumps(ACCESS_LOG)),
            ),
        )
        self.gateway.node.try_remove_child("Endpoint")  # an output that CDK makes; ours is ApiUrl
        function = apigateway.LambdaIntegration(self.api, allow_test_invoke=False)
        for method, path in ROUTES:
            self.gateway.root.resource_for_path(path).add_method(method, function)
        return {
            f"{method} {path}": self.gateway.arn_for_execute_api(method, re.sub(r"\{\w+}", "*", path), STAGE)
            for method, path in ROUTES
        }

    def _resource_policies(self) -> None:
        require_tls = CfnParameter(
            self,
            "RequireTls",
            allowed_values=["true", "false"],
            default="true",
            description="false only for an emulator of AWS that speaks plain HTTP",
        )
        tls = CfnCondition(self, "Tls", expression=Fn.condition_equals(require_tls, "true"))
        bucket_policy = s3.CfnBucketPolicy(
            self,
            "BucketPolicy",
            bucket=self.bucket.bucket_name,
            policy_document=policies.bucket(self.bucket.bucket_arn),
        )
        bucket_policy.cfn_options.condition = tls
        sns.CfnTopicPolicy(
            self,
            "TopicPolicy",
            topics=[self.topic.topic_arn],
            policy_document=policies.topic(self.topic.topic_arn, tls),
        )
        sqs.CfnQueuePolicy(
            self,
            "DeadLettersPolicy",
            queues=[self.dead_letters.queue_url],
            policy_document=policies.dead_letters(self.dead_letters.queue_arn, self.worker_role.role_arn, tls),
        )

    def _alarms(self) -> None:
        """Each is announced on the backups topic, to those who subscribed without choosing events."""
        nearly_over = 0.8 * WORKER_TIMEOUT.to_milliseconds()
        minute = Duration.minutes(1)
        dead = self.dead_letters.metric_approximate_number_of_messages_visible(period=minute, statistic="Maximum")
        self._alarm("DeadLettersAlarm", dead, "An event that the worker failed on lies in the dead-letter queue")
        self._alarm("WorkerErrorsAlarm", self.worker.metric_errors(period=minute), "The worker function failed")
        self._alarm(
            "WorkerDurationAlarm",
            self.worker.metric_duration(period=minute, statistic="Maximum"),
            "A backup took over 80 % of the worker's time limit",
            threshold=nearly_over,
        )
        self._alarm(
            "GatewayErrorsAlarm",
            self.gateway.deployment_stage.metric_server_error(period=minute, statistic="Sum"),
            "The API answered with a 5xx",
        )
        for function, name in ((self.api, "Api"), (self.worker, "Worker")):
            throttles = function.metric_throttles(period=minute)
            self._alarm(f"{name}ThrottlesAlarm", throttles, f"The {name.lower()} function was throttled")

    def _alarm(self, name: str, metric: cloudwatch.Metric, description: str, threshold: float = 0) -> None:
        """Goes off when `metric` is above `threshold` in one period; silence is no alarm."""
        alarm = cloudwatch.Alarm(
            self,
            name,
            metric=metric,
            threshold=threshold,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=description,
        )
        alarm.add_alarm_action(cloudwatch_actions.SnsAction(self.topic))

    def _outputs(self, methods: Mapping[str, str]) -> None:
        api_id = self.gateway.rest_api_id
        scheduler = self._managed_policy("SchedulerPolicy", policies.scheduler(self.topic.topic_arn, methods))
        ops = self._managed_policy("OpsPolicy", policies.ops(self.bucket.bucket_arn, methods))
        outputs = {
            "ApiId": api_id,
            "ApiUrl": f"https://{api_id}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}/{STAGE}",
            "BucketName": self.bucket.bucket_name,
            "TopicArn": self.topic.topic_arn,
            "ApiFunctionName": self.api.function_name,
            "WorkerFunctionName": self.worker.function_name,
            "DeadLetterQueueUrl": self.dead_letters.queue_url,
            "SchedulerPolicyArn": scheduler.managed_policy_arn,
            "OpsPolicyArn": ops.managed_policy_arn,
        }
        for name, value in outputs.items():
            CfnOutput(self, name, value=value)

    def _log_group(self, name: str) -> logs.LogGroup:
        return logs.LogGroup(self, name, retention=KEEP_LOGS, removal_policy=RemovalPolicy.DESTROY)

    def _role(self, name: str, rights: list[policies.Statement]) -> iam.Role:
        document = iam.PolicyDocument.from_json(policies.document(*rights))
        principal = iam.ServicePrincipal("lambda.amazonaws.com")
        return iam.Role(self, name, assumed_by=principal, inline_policies={"Rights": document})

    def _managed_policy(self, name: str, rights: list[policies.Statement]) -> iam.ManagedPolicy:
        return iam.ManagedPolicy(self, name, document=iam.PolicyDocument.from_json(policies.document(*rights)))

    def _allocate_logical_id(self, element: CfnElement) -> str:
        """The names of this file without CDK's hash: people meet them in events, alarms and docs/rights.md."""
        parts = (part.split(".")[0] for part in element.node.path.split("/")[1:])
        return "".join(filter(str.isalnum, "".join(part for part in parts if part not in ("Default", "Resource"))))
