"""The backup stack: gateway, three functions from one package, bucket, topic, dead letters, alarms.

Who may do what is in policies.py, what goes off in alarms.py. CDK's own grants and generated policies stay unused.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from aws_cdk import (
    Aws,
    CfnElement,
    Duration,
    Fn,
    RemovalPolicy,
    Stack,
)
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_destinations as destinations
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from deploy.cdk import alarms, policies
from deploy.cdk.parameters import Parameters, one_of, publish, short_name
from deploy.cdk.stacks import by_cloudformation_alone
from deploy.cdk.task import task_of_worker

STAGE = "v1"
ROUTES = (
    ("POST", "/backups"),
    ("GET", "/backups"),
    ("GET", "/backups/before/{backup_id}"),
    ("GET", "/backups/{backup_id}"),
    ("POST", "/backups/{backup_id}/cancel"),
    ("POST", "/backups/{backup_id}/proofs"),
    ("POST", "/backups/{backup_id}/restores"),
    ("GET", "/backups/{backup_id}/tables/{table}"),
    ("GET", "/backups/{backup_id}/tables/{table}/rows/{key}"),
    ("GET", "/backups/{backup_id}/diff/{other}"),
    ("GET", "/backups/{backup_id}/diff/{other}/after/{cursor}"),
    ("GET", "/restores/{restore_id}"),
    ("GET", "/rows/{table}/{key}/history"),
    ("GET", "/retention"),
    ("POST", "/retention"),
    ("POST", "/subscriptions"),
    ("GET", "/subscriptions"),
    ("POST", "/subscriptions/test"),
    ("DELETE", "/subscriptions/{subscription_id}"),
)
WITH_BODY = {
    ("POST", path)
    for path in (
        "/backups",
        "/backups/{backup_id}/proofs",
        "/backups/{backup_id}/restores",
        "/retention",
        "/subscriptions",
    )
}
RATE, BURST = 10, 20  # requests in a second
WORKER_TIMEOUT = Duration.minutes(15)  # Lambda's longest
API_TIMEOUT = Duration.seconds(28)  # `Prefer: wait=25` must fit in, and the gateway gives up after 29 s
KEEPER_TIMEOUT = Duration.seconds(25)  # the API waits for its answer
UNDELETED_FOR = Duration.days(7)  # in which what retention deleted can be had back by removing its delete marker
KEEP_LOGS, KEEP_LOGS_DAYS = logs.RetentionDays.THREE_MONTHS, 90
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
        super().__init__(scope, name, **by_cloudformation_alone("Holdfast: backups, their API and their announcements"))
        self.parameters = Parameters(self)
        self.code = lambda_.Code.from_cfn_parameters(
            bucket_name_param=self.parameters.code_bucket, object_key_param=self.parameters.code_key
        )
        self.encryption = policies.Encryption(self.parameters.kms_key, self.parameters.encrypted_by_kms)
        self._storage()
        self._functions()
        methods = self._gateway()
        self._resource_policies()
        alarms.add(
            self,
            self.topic,
            dead_letters=self.dead_letters,
            gateway=self.gateway,
            worker=self.worker,
            api=self.api,
            keeper=self.keeper,
            nearly_over=0.8 * WORKER_TIMEOUT.to_milliseconds(),
        )
        self._outputs(methods)

    def _storage(self) -> None:
        self.bucket = s3.Bucket(
            self,
            "Bucket",
            # Known beforehand, so that a stack made anew can take over the backups of the one before it.
            bucket_name=f"{Aws.STACK_NAME}-{Aws.ACCOUNT_ID}-{Aws.REGION}",
            versioned=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            lifecycle_rules=[
                s3.LifecycleRule(id="AbandonedUploads", abort_incomplete_multipart_upload_after=Duration.days(1)),
                # Object Lock, where it is set, keeps a version for as long as it says.
                s3.LifecycleRule(
                    id="FormerVersions",
                    noncurrent_version_expiration=UNDELETED_FOR,
                    expired_object_delete_marker=True,
                ),
            ],
            removal_policy=RemovalPolicy.RETAIN,
        )
        self._encrypt_and_lock()
        self.topic = sns.Topic(self, "Topic", topic_name=f"{Aws.STACK_NAME}-events")
        self.dead_letters = sqs.Queue(
            self, "DeadLetters", encryption=sqs.QueueEncryption.SQS_MANAGED, retention_period=Duration.days(14)
        )

    def _encrypt_and_lock(self) -> None:
        """By parameter, which CDK's own bucket cannot. No default retention: what is rewritten must not be locked."""
        bucket = self.bucket.node.default_child
        assert isinstance(bucket, s3.CfnBucket)
        by_s3 = {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        by_kms = {
            "BucketKeyEnabled": True,  # else each object asks KMS
            "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": self.encryption.key_arn},
        }
        bucket.bucket_encryption = s3.CfnBucket.BucketEncryptionProperty(
            server_side_encryption_configuration=[Fn.condition_if(self.encryption.by_kms.logical_id, by_kms, by_s3)]
        )
        bucket.object_lock_enabled = Fn.condition_if(self.parameters.locked.logical_id, True, Aws.NO_VALUE)

    def _functions(self) -> None:
        settings = {"HOLDFAST_BUCKET": self.bucket.bucket_name, "HOLDFAST_TOPIC_ARN": self.topic.topic_arn}
        self._make_worker(settings)
        self._make_keeper()
        asked = {
            "HOLDFAST_WORKER_FUNCTION": self.worker.function_name,
            "HOLDFAST_KEEPER_FUNCTION": self.keeper.function_name,
        }
        self._make_api({**settings, **asked, **self.parameters.of_retention})

    def _make_worker(self, settings: Mapping[str, str]) -> None:
        parameters, log = self.parameters, self._log_group("WorkerLog")
        rights = policies.backups(
            bucket_arn=self.bucket.bucket_arn,
            topic_arn=self.topic.topic_arn,
            databases=parameters.databases,
            signing_key_arn=parameters.signing_key,
            encryption=self.encryption,
            locked=parameters.locked,
        )
        environment = {**settings, **parameters.of_worker}
        task = task_of_worker(self, parameters, rights, environment)
        more = policies.worker_function(
            bucket_arn=self.bucket.bucket_arn,
            dead_letters_arn=self.dead_letters.queue_arn,
            task_arn=task.definition_arn,
            passed_role_arns=task.role_arns,
            with_task=parameters.with_task,
            private=parameters.private,
            log_arn=log.log_group_arn,
        )
        self.worker = self._function(
            "Worker",
            description="Makes backups from one snapshot, proves that they restore, and restores them",
            memory_size=1769,  # MB, at which Lambda gives one whole CPU
            timeout=WORKER_TIMEOUT,
            # A backup, a proof or the next backup when the first hangs, and a restore or a question about a backup.
            reserved_concurrent_executions=3,
            retry_attempts=1,
            max_event_age=Duration.hours(1),
            on_failure=destinations.SqsDestination(self.dead_letters),
            role=self._role("WorkerRole", [*rights, *more]).without_policy_updates(),
            log_group=log,
            environment={
                **environment,
                "HOLDFAST_TASK": one_of(parameters.with_task, self.to_json_string(task.place), ""),
                "HOLDFAST_TASK_FROM_BYTES": parameters.task_from_bytes,
            },
        )
        self._count_proven(log.log_group_name, task.log_name)
        function = self.worker.node.default_child
        assert isinstance(function, lambda_.CfnFunction)
        within = {"SubnetIds": parameters.subnets, "SecurityGroupIds": [parameters.security_group]}
        function.vpc_config = Fn.condition_if(parameters.private.logical_id, within, Aws.NO_VALUE)

    def _count_proven(self, *log_names: str) -> None:
        """Each backup that was made and proven; a later proof of an older one is none."""
        for name, log in zip(("ProvenByFunction", "ProvenByTask"), log_names, strict=True):
            counted = logs.CfnMetricFilter(
                self,
                name,
                log_group_name=log,
                filter_pattern='"backup proven"',  # as backup_lambda.attempt writes it
                metric_transformations=[
                    {
                        "metricNamespace": "Holdfast",
                        "metricName": f"{Aws.STACK_NAME}-proven",
                        "metricValue": "1",
                        "unit": "Count",
                    }
                ],
            )
            if name == "ProvenByTask":
                counted.cfn_options.condition = self.parameters.with_task

    def _make_keeper(self) -> None:
        log = self._log_group("KeeperLog")
        role = self._role(
            "KeeperRole",
            policies.keeper_function(
                bucket_arn=self.bucket.bucket_arn,
                signing_key_arn=self.parameters.signing_key,
                encryption=self.encryption,
                log_arn=log.log_group_arn,
            ),
        )
        self.keeper = self._function(
            "Keeper",
            description="Deletes the data of backups that retention does not keep",
            memory_size=512,
            timeout=KEEPER_TIMEOUT,
            reserved_concurrent_executions=1,  # one plan at a time
            role=role.without_policy_updates(),
            log_group=log,
            environment={
                "HOLDFAST_BUCKET": self.bucket.bucket_name,
                "HOLDFAST_SIGNING_KEY": self.parameters.signing_key,
                "HOLDFAST_FORMER_KEYS": self.parameters.former_keys,
                **self.parameters.of_retention,
            },
        )

    def _make_api(self, settings: Mapping[str, str]) -> None:
        log = self._log_group("ApiLog")
        role = self._role(
            "ApiRole",
            policies.api_function(
                bucket_arn=self.bucket.bucket_arn,
                topic_arn=self.topic.topic_arn,
                worker_arn=self.worker.function_arn,
                keeper_arn=self.keeper.function_arn,
                encryption=self.encryption,
                log_arn=log.log_group_arn,
            ),
        )
        self.api = self._function(
            "Api",
            description="Answers the gateway, starts the worker and asks the keeper",
            memory_size=512,
            timeout=API_TIMEOUT,
            role=role.without_policy_updates(),
            log_group=log,
            environment=settings,
        )

    def _function(self, name: str, **more: Any) -> lambda_.Function:
        return lambda_.Function(
            self,
            name,
            code=self.code,
            handler=f"backup_lambda.handler.{name.lower()}",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            tracing=lambda_.Tracing.ACTIVE,
            **more,
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
                throttling_rate_limit=RATE,
                throttling_burst_limit=BURST,
                method_options={
                    f"{path}/POST": apigateway.MethodDeploymentOptions(
                        throttling_rate_limit=1, throttling_burst_limit=5
                    )
                    for method, path in ROUTES
                    if method == "POST"
                },
                # What is wrong with the gateway itself. Bodies would stand in the log with more.
                logging_level=apigateway.MethodLoggingLevel.ERROR,
                data_trace_enabled=False,
                metrics_enabled=True,
                tracing_enabled=True,
                access_log_destination=apigateway.LogGroupLogDestination(self._log_group("AccessLog")),
                access_log_format=apigateway.AccessLogFormat.custom(json.dumps(ACCESS_LOG)),
            ),
        )
        self.gateway.deployment_stage.node.add_dependency(
            # The gateway would make it without an end.
            logs.CfnLogGroup(
                self,
                "ExecutionLog",
                log_group_name=f"API-Gateway-Execution-Logs_{self.gateway.rest_api_id}/{STAGE}",
                retention_in_days=KEEP_LOGS_DAYS,
            )
        )
        self.gateway.node.try_remove_child("Endpoint")  # an output that CDK makes; ours is ApiUrl
        # Lambda takes 20 KB of such permissions, and CloudFormation 51,200 bytes of everything: one for all methods.
        function = apigateway.LambdaIntegration(self.api, allow_test_invoke=False, scope_permission_to_method=False)
        checked = {
            "request_validator": self.gateway.add_request_validator(
                "Validator", validate_request_body=True, validate_request_parameters=True
            ),
            "request_models": {"application/json": self._body_model()},
        }
        for method, path in ROUTES:
            more: dict[str, Any] = checked if (method, path) in WITH_BODY else {}
            self.gateway.root.resource_for_path(path).add_method(method, function, **more)
        self._usage_plan()
        return {
            f"{method} {path}": self.gateway.arn_for_execute_api(method, re.sub(r"\{\w+}", "*", path), STAGE)
            for method, path in ROUTES
        }

    def _body_model(self) -> apigateway.Model:
        """The function says what is wrong with an object; what is none does not reach it."""
        schema = apigateway.JsonSchema(type=apigateway.JsonSchemaType.OBJECT)
        return self.gateway.add_model("Body", content_type="application/json", schema=schema)

    def _usage_plan(self) -> None:
        """For callers with a key of API Gateway: it counts them, and is no lock. Nobody needs a key; all need IAM."""
        self.gateway.add_usage_plan(
            "UsagePlan",
            api_stages=[apigateway.UsagePlanPerApiStage(api=self.gateway, stage=self.gateway.deployment_stage)],
            throttle=apigateway.ThrottleSettings(rate_limit=RATE, burst_limit=BURST),
            quota=apigateway.QuotaSettings(limit=20_000, period=apigateway.Period.DAY),
        )

    def _resource_policies(self) -> None:
        tls = self.parameters.tls
        bucket_policy = s3.CfnBucketPolicy(
            self,
            "BucketPolicy",
            bucket=self.bucket.bucket_name,
            policy_document=policies.bucket(self.bucket.bucket_arn),
        )
        sns.CfnTopicPolicy(
            self,
            "TopicPolicy",
            topics=[self.topic.topic_arn],
            policy_document=policies.topic(self.topic.topic_arn, tls),
        )
        queue_policy = sqs.CfnQueuePolicy(
            self,
            "DeadLettersPolicy",
            queues=[self.dead_letters.queue_url],
            policy_document=policies.dead_letters(self.dead_letters.queue_arn),
        )
        bucket_policy.cfn_options.condition = queue_policy.cfn_options.condition = tls

    def _outputs(self, methods: Mapping[str, str]) -> None:
        api_id = self.gateway.rest_api_id
        scheduler = self._managed_policy("SchedulerPolicy", policies.scheduler(self.topic.topic_arn, methods))
        console = self._managed_policy("ConsolePolicy", policies.console(methods))
        ops = self._managed_policy("OpsPolicy", policies.ops(self.bucket.bucket_arn, methods, self.encryption))
        outputs = {
            "ApiId": api_id,
            "ApiUrl": f"https://{api_id}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}/{STAGE}",
            "BucketName": self.bucket.bucket_name,
            "TopicArn": self.topic.topic_arn,
            "ApiFunctionName": self.api.function_name,
            "WorkerFunctionName": self.worker.function_name,
            "KeeperFunctionName": self.keeper.function_name,
            "DeadLetterQueueUrl": self.dead_letters.queue_url,
            "DeadLetterQueueName": self.dead_letters.queue_name,
            "GatewayName": Aws.STACK_NAME,
            "SchedulerPolicyArn": scheduler.ref,
            "ConsolePolicyArn": console.ref,
            "OpsPolicyArn": ops.ref,
        }
        publish(self, outputs)

    def _log_group(self, name: str) -> logs.LogGroup:
        return logs.LogGroup(self, name, retention=KEEP_LOGS, removal_policy=RemovalPolicy.DESTROY)

    def _role(self, name: str, rights: list[policies.Statement]) -> iam.Role:
        role = iam.Role(self, name, assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        resource = role.node.default_child
        assert isinstance(resource, iam.CfnRole)
        # Given to CDK's role itself, a statement could not depend on a parameter.
        document = policies.document(*rights)
        resource.policies = [iam.CfnRole.PolicyProperty(policy_name="Rights", policy_document=document)]
        return role

    def _managed_policy(self, name: str, rights: list[policies.Statement]) -> iam.CfnManagedPolicy:
        return iam.CfnManagedPolicy(self, name, policy_document=policies.document(*rights))

    def _allocate_logical_id(self, element: CfnElement) -> str:
        return short_name(element)
