"""The backup stack: gateway, three functions from one package, bucket, topic, dead letters, alarms.

Who may do what is in policies.py, what goes off in alarms.py. CDK's own grants and generated policies stay unused.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from aws_cdk import (
    Aws,
    BootstraplessSynthesizer,
    CfnElement,
    CfnOutput,
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
from deploy.cdk.parameters import Parameters, short_name

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
WORKER_TIMEOUT = Duration.minutes(15)  # Lambda's longest
API_TIMEOUT = Duration.seconds(28)  # `Prefer: wait=25` must fit in, and the gateway gives up after 29 s
KEEPER_TIMEOUT = Duration.seconds(25)  # the API waits for its answer
UNDELETED_FOR = Duration.days(7)  # in which what retention deleted can be had back by removing its delete marker
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
        log = self._log_group("WorkerLog")
        self.worker_role = self._role(
            "WorkerRole",
            policies.worker_function(
                bucket_arn=self.bucket.bucket_arn,
                topic_arn=self.topic.topic_arn,
                dead_letters_arn=self.dead_letters.queue_arn,
                secret_arns=[self.parameters.database_secret, self.parameters.proof_database_secret],
                restore_secret_arn=self.parameters.restore_database_secret,
                restores_live=self.parameters.restores_live,
                signing_key_arn=self.parameters.signing_key,
                encryption=self.encryption,
                locked=self.parameters.locked,
                log_arn=log.log_group_arn,
            ),
            # A backup that takes longer than a function may runs as a task, with the same rights.
            "ecs-tasks.amazonaws.com",
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
            role=self.worker_role.without_policy_updates(),
            log_group=log,
            environment={**settings, **self.parameters.of_worker},
        )

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
                throttling_rate_limit=10,  # requests in a second
                throttling_burst_limit=20,
                method_options={
                    f"{path}/POST": apigateway.MethodDeploymentOptions(
                        throttling_rate_limit=1, throttling_burst_limit=5
                    )
                    for method, path in ROUTES
                    if method == "POST"
                },
                access_log_destination=apigateway.LogGroupLogDestination(self._log_group("AccessLog")),
                access_log_format=apigateway.AccessLogFormat.custom(json.dumps(ACCESS_LOG)),
            ),
        )
        self.gateway.node.try_remove_child("Endpoint")  # an output that CDK makes; ours is ApiUrl
        # Lambda takes 20 KB of such permissions, and CloudFormation 51,200 bytes of everything: one for all methods.
        function = apigateway.LambdaIntegration(self.api, allow_test_invoke=False, scope_permission_to_method=False)
        for method, path in ROUTES:
            self.gateway.root.resource_for_path(path).add_method(method, function)
        return {
            f"{method} {path}": self.gateway.arn_for_execute_api(method, re.sub(r"\{\w+}", "*", path), STAGE)
            for method, path in ROUTES
        }

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
        ops = self._managed_policy("OpsPolicy", policies.ops(self.bucket.bucket_arn, methods, self.encryption))
        outputs = {
            "ApiId": api_id,
            "ApiUrl": f"https://{api_id}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}/{STAGE}",
            "BucketName": self.bucket.bucket_name,
            "TopicArn": self.topic.topic_arn,
            "ApiFunctionName": self.api.function_name,
            "WorkerFunctionName": self.worker.function_name,
            "KeeperFunctionName": self.keeper.function_name,
            "WorkerRoleArn": self.worker_role.role_arn,
            "DeadLetterQueueUrl": self.dead_letters.queue_url,
            "SchedulerPolicyArn": scheduler.ref,
            "OpsPolicyArn": ops.ref,
        }
        for name, value in outputs.items():
            CfnOutput(self, name, value=value)

    def _log_group(self, name: str) -> logs.LogGroup:
        return logs.LogGroup(self, name, retention=KEEP_LOGS, removal_policy=RemovalPolicy.DESTROY)

    def _role(self, name: str, rights: list[policies.Statement], *also_for: str) -> iam.Role:
        services = [iam.ServicePrincipal(each) for each in ("lambda.amazonaws.com", *also_for)]
        role = iam.Role(self, name, assumed_by=iam.CompositePrincipal(*services))
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
