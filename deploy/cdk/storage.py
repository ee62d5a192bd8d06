"""The storage stack: the bucket of attachments, the topic of notes' changes, and what the notes API may do with both.

It stands alone: notes are backed up without it, and it holds nothing that a backup needs.
"""

from typing import Any

from aws_cdk import Aws, BootstraplessSynthesizer, CfnElement, CfnOutput, Duration, Fn, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from deploy.cdk import policies
from deploy.cdk.parameters import StorageParameters, short_name

UNDELETED_FOR = Duration.days(30)  # as long as a note stays in the trash, from when it was purged


class StorageStack(Stack):
    """Deployed by CloudFormation alone, as the backup stack is."""

    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(
            scope,
            name,
            description="Holdfast: attachments of notes, and the topic of their changes",
            synthesizer=BootstraplessSynthesizer(),
            termination_protection=True,
        )
        self.parameters = StorageParameters(self)
        self._storage()
        self._policies()

    def _storage(self) -> None:
        self.bucket = s3.Bucket(
            self,
            "Bucket",
            # Known beforehand, so that a stack made anew can take over the attachments of the one before it.
            bucket_name=f"{Aws.STACK_NAME}-{Aws.ACCOUNT_ID}-{Aws.REGION}",
            versioned=True,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            lifecycle_rules=[
                s3.LifecycleRule(id="AbandonedUploads", abort_incomplete_multipart_upload_after=Duration.days(1)),
                s3.LifecycleRule(
                    id="FormerVersions",
                    noncurrent_version_expiration=UNDELETED_FOR,
                    expired_object_delete_marker=True,
                ),
            ],
            removal_policy=RemovalPolicy.RETAIN,
        )
        bucket = self.bucket.node.default_child
        assert isinstance(bucket, s3.CfnBucket)
        bucket.cors_configuration = Fn.condition_if(
            self.parameters.browsers_come.logical_id, self._cors(), Aws.NO_VALUE
        )
        # By note, in order: subscribers are FIFO queues. Who publishes gives each message an id of its own.
        self.topic = sns.Topic(self, "Topic", topic_name=f"{Aws.STACK_NAME}-notes.fifo", fifo=True)

    def _cors(self) -> dict[str, Any]:
        rule = {
            "AllowedOrigins": Fn.split(",", self.parameters.cors_origins),
            "AllowedMethods": ["GET", "POST"],
            "AllowedHeaders": ["*"],
            "MaxAge": 3600,  # seconds
        }
        return {"CorsRules": [rule]}

    def _policies(self) -> None:
        tls = self.parameters.tls
        over_tls = s3.CfnBucketPolicy(
            self,
            "BucketPolicy",
            bucket=self.bucket.bucket_name,
            policy_document=policies.bucket(self.bucket.bucket_arn),
        )
        over_tls.cfn_options.condition = tls
        topic_arn = self.topic.topic_arn
        sns.CfnTopicPolicy(
            self, "TopicPolicy", topics=[topic_arn], policy_document=policies.notes_topic(topic_arn, tls)
        )
        rights = policies.document(*policies.notes_api(self.bucket.bucket_arn, topic_arn))
        notes_api = iam.CfnManagedPolicy(self, "NotesApiPolicy", policy_document=rights)
        outputs = {
            "BucketName": self.bucket.bucket_name,
            "TopicArn": topic_arn,
            "NotesApiPolicyArn": notes_api.ref,
        }
        for name, value in outputs.items():
            CfnOutput(self, name, value=value)

    def _allocate_logical_id(self, element: CfnElement) -> str:
        return short_name(element)
