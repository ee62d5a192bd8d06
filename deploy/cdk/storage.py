"""The storage stack: the bucket of attachments, the topic of notes' changes, and what the notes API may do with both.

Where it is wanted there is a bucket of static files, too, which CloudFront shows to everybody.

It stands alone: notes are backed up without it, and it holds nothing that a backup needs.
"""

from typing import Any

from aws_cdk import Aws, CfnDeletionPolicy, CfnElement, CfnOutput, Duration, Fn, RemovalPolicy, Stack
from aws_cdk import aws_cloudfront as cloudfront
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from deploy.cdk import policies
from deploy.cdk.parameters import StorageParameters, publish, short_name
from deploy.cdk.stacks import by_cloudformation_alone

# Of AWS's own, the same in all accounts.
CACHING_OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"
SECURITY_HEADERS = "67f7725c-6f97-4210-82d7-5512b31e9d03"
UNDELETED_FOR = Duration.days(30)  # as long as a note stays in the trash, from when it was purged


class StorageStack(Stack):
    """Deployed by CloudFormation alone, as the backup stack is."""

    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(
            scope, name, **by_cloudformation_alone("Holdfast: attachments of notes, and the topic of their changes")
        )
        self.parameters = StorageParameters(self)
        self._storage()
        self._policies()
        self._static_files()

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
        publish(self, outputs)

    def _static_files(self) -> None:
        wanted = self.parameters.static_files
        bucket = s3.CfnBucket(
            self,
            "StaticBucket",
            bucket_encryption=_encrypted(),
            public_access_block_configuration=_closed(),
            versioning_configuration={"status": "Enabled"},
            lifecycle_configuration={
                "rules": [
                    {
                        "id": "FormerVersions",
                        "status": "Enabled",
                        "noncurrentVersionExpiration": {"noncurrentDays": UNDELETED_FOR.to_days()},
                    }
                ]
            },
        )
        bucket.cfn_options.deletion_policy = bucket.cfn_options.update_replace_policy = CfnDeletionPolicy.RETAIN
        access = cloudfront.CfnOriginAccessControl(
            self,
            "StaticAccess",
            origin_access_control_config={
                "name": Aws.STACK_NAME,
                "originAccessControlOriginType": "s3",
                "signingBehavior": "always",
                "signingProtocol": "sigv4",
            },
        )
        distribution = cloudfront.CfnDistribution(
            self,
            "StaticDistribution",
            distribution_config={
                "enabled": True,
                "comment": "Static files of Holdfast",
                "httpVersion": "http2and3",
                "ipv6Enabled": True,
                "priceClass": "PriceClass_100",
                "origins": [
                    {
                        "id": "bucket",
                        "domainName": bucket.attr_regional_domain_name,
                        "originAccessControlId": access.ref,
                        "s3OriginConfig": {"originAccessIdentity": ""},
                    }
                ],
                "defaultCacheBehavior": {
                    "targetOriginId": "bucket",
                    "viewerProtocolPolicy": "redirect-to-https",
                    "compress": True,
                    "cachePolicyId": CACHING_OPTIMIZED,
                    "responseHeadersPolicyId": SECURITY_HEADERS,
                },
            },
        )
        policy = s3.CfnBucketPolicy(
            self,
            "StaticPolicy",
            bucket=bucket.ref,
            policy_document=policies.static_bucket(bucket.attr_arn, distribution.ref),
        )
        for each in (bucket, access, distribution, policy):
            each.cfn_options.condition = wanted
        shown = CfnOutput(self, "StaticAddress", value=distribution.attr_domain_name)
        shown.condition = wanted

    def _allocate_logical_id(self, element: CfnElement) -> str:
        return short_name(element)


def _encrypted() -> s3.CfnBucket.BucketEncryptionProperty:
    by_s3 = s3.CfnBucket.ServerSideEncryptionByDefaultProperty(sse_algorithm="AES256")
    rule = s3.CfnBucket.ServerSideEncryptionRuleProperty(server_side_encryption_by_default=by_s3)
    return s3.CfnBucket.BucketEncryptionProperty(server_side_encryption_configuration=[rule])


def _closed() -> s3.CfnBucket.PublicAccessBlockConfigurationProperty:
    return s3.CfnBucket.PublicAccessBlockConfigurationProperty(
        block_public_acls=True, block_public_policy=True, ignore_public_acls=True, restrict_public_buckets=True
    )
