"""The AWS side of the one-machine stack: the templates of deploy/cdk, deployed unmodified, and who may call it.

Everything here may be done again at every start. The emulator remembers its control plane only when it was stopped
cleanly; whatever it forgot is made anew around the objects in the buckets, which are on disk.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from deploy import cloudformation
from deploy.local.home import Home, HomeError
from deploy.package import Package

TEMPLATES = Path(__file__).parents[1] / "cdk" / "templates"
STACK = "holdfast-backup"
STORAGE_STACK = "holdfast-storage"
CODE_BUCKET = "holdfast-code"
DATABASE_SECRET = "holdfast/backup-database-url"  # noqa: S105  # the secret's name
PROOF_DATABASE_SECRET = "holdfast/proof-database-url"  # noqa: S105  # likewise
RESTORE_DATABASE_SECRET = "holdfast/restore-database-url"  # noqa: S105  # likewise
SIGNING_SECRET = "holdfast/signing-key"  # noqa: S105  # likewise
MAIL_QUEUE = "holdfast-mail"
ACCOUNT_ID = "000000000000"  # the emulator's only account


@dataclass(frozen=True)
class Keys:
    """Of an IAM user."""

    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True)
class Secrets:
    """What the backup worker needs and nobody else may see."""

    database_url: str = field(repr=False)  # of a role that reads what is backed up
    proof_database_url: str = field(repr=False)  # of a role that makes scratch databases
    restore_database_url: str = field(repr=False)  # of a role that writes rows back into what is backed up
    signing_key: str = field(repr=False)  # an Ed25519 private key in PEM


@dataclass(frozen=True)
class Deployed:
    """What runs now, and the keys of its callers."""

    backups_url: str  # the gateway, up to and with the stage
    bucket: str
    topic_arn: str
    queue_url: str
    attachments_bucket: str
    notes_topic_arn: str
    notes_api: Keys
    scheduler: Keys
    console: Keys
    ops: Keys
    mail: Keys


class Account:
    """The account, by its root keys."""

    def __init__(self, endpoint_url: str, region: str, root: Keys) -> None:
        self.endpoint_url, self.region = endpoint_url, region
        session = boto3.session.Session(root.access_key, root.secret_key, region_name=region)
        config = Config(retries={"mode": "standard", "max_attempts": 3}, connect_timeout=3, read_timeout=60)

        def client(name: str) -> Any:
            return session.client(name, endpoint_url=endpoint_url, config=config)

        self.s3, self.iam, self.sns, self.sqs = client("s3"), client("iam"), client("sns"), client("sqs")
        self.cloudformation, self.secrets_manager = client("cloudformation"), client("secretsmanager")

    def deploy(self, home: Home, package: Package, secrets: Secrets, subscriptions: Path) -> Deployed:
        """Raises DeployError. Users' keys are kept in `home`; `subscriptions` is what deploy/local/mail.py keeps."""
        self._upload(package)
        parameters = {
            "CodeBucket": CODE_BUCKET,
            "CodeKey": package.key,
            "DatabaseSecretArn": self._keep_secret(DATABASE_SECRET, secrets.database_url),
            "ProofDatabaseSecretArn": self._keep_secret(PROOF_DATABASE_SECRET, secrets.proof_database_url),
            "RestoreDatabaseSecretArn": self._keep_secret(RESTORE_DATABASE_SECRET, secrets.restore_database_url),
            "RestoresLive": "true",
            "SigningKeyArn": self._keep_secret(SIGNING_SECRET, secrets.signing_key),
            "RequireTls": "false",  # the emulator speaks plain HTTP, on the loopback address
        }
        outputs = self._stack(STACK, "backup.json", parameters)
        storage = self._stack(STORAGE_STACK, "storage.json", {"RequireTls": "false"})
        topic_arn = outputs["TopicArn"]
        queue_url, queue_arn = self._mail_queue(topic_arn)
        mail_policy = _mail_policy(topic_arn, queue_arn)
        keys = {
            "notes_api": self._user("holdfast-notes-api", home, policy_arn=storage["NotesApiPolicyArn"]),
            "scheduler": self._user("holdfast-scheduler", home, policy_arn=outputs["SchedulerPolicyArn"]),
            "console": self._user("holdfast-console", home, policy_arn=outputs["ConsolePolicyArn"]),
            "ops": self._user("holdfast-ops", home, policy_arn=outputs["OpsPolicyArn"]),
            "mail": self._user("holdfast-mail", home, policy=mail_policy),
        }
        self._subscribe_again(subscriptions, topic_arn)
        return Deployed(
            # The emulator's own form of a gateway's address: names below localhost resolve on few machines.
            backups_url=f"{self.endpoint_url}/_aws/execute-api/{outputs['ApiId']}/v1",
            bucket=outputs["BucketName"],
            topic_arn=topic_arn,
            queue_url=queue_url,
            attachments_bucket=storage["BucketName"],
            notes_topic_arn=storage["TopicArn"],
            **keys,
        )

    def _stack(self, name: str, template: str, parameters: dict[str, str]) -> dict[str, str]:
        """Its outputs. Its bucket may be there already, with objects on disk, whatever the emulator forgot."""
        bucket = f"{name}-{ACCOUNT_ID}-{self.region}"
        retained = {"Bucket": bucket} if bucket in self._buckets() else {}
        # A request takes 51,200 bytes along, which is less than the backup stack has.
        key, body = f"templates/{template}", (TEMPLATES / template).read_bytes()
        self.s3.put_object(Bucket=CODE_BUCKET, Key=key, Body=body)
        url = f"{self.endpoint_url}/{CODE_BUCKET}/{key}"
        return cloudformation.deploy(self.cloudformation, name, url, parameters, retained=retained)

    def _keep_secret(self, name: str, value: str) -> str:
        try:
            arn: str = self.secrets_manager.describe_secret(SecretId=name)["ARN"]
        except self.secrets_manager.exceptions.ResourceNotFoundException:
            arn = self.secrets_manager.create_secret(Name=name, SecretString=value)["ARN"]
        else:
            self.secrets_manager.put_secret_value(SecretId=name, SecretString=value)
        return arn

    def _upload(self, package: Package) -> None:
        if CODE_BUCKET not in self._buckets():
            self.s3.create_bucket(Bucket=CODE_BUCKET)
        if not self.s3.list_objects_v2(Bucket=CODE_BUCKET, Prefix=package.key).get("KeyCount"):
            with package.path.open("rb") as body:
                self.s3.put_object(Bucket=CODE_BUCKET, Key=package.key, Body=body)

    def _buckets(self) -> set[str]:
        return {bucket["Name"] for bucket in self.s3.list_buckets()["Buckets"]}

    def _mail_queue(self, topic_arn: str) -> tuple[str, str]:
        """A queue that only the topic may fill, subscribed to it; its URL and ARN."""
        url = self.sqs.create_queue(QueueName=MAIL_QUEUE)["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
        }
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": _policy(statement)})
        self.sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=arn, ReturnSubscriptionArn=True)
        return url, arn

    def _user(self, name: str, home: Home, *, policy_arn: str = "", policy: str = "") -> Keys:
        """An IAM user with one policy; its keys stay the same for as long as the emulator remembers them."""
        with suppress(self.iam.exceptions.EntityAlreadyExistsException):
            self.iam.create_user(UserName=name)
        if policy_arn:
            self.iam.attach_user_policy(UserName=name, PolicyArn=policy_arn)
        else:
            self.iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
        known = home.read_json(f"{name}.json")
        valid = [key["AccessKeyId"] for key in self.iam.list_access_keys(UserName=name)["AccessKeyMetadata"]]
        if known.get("access_key") not in valid:
            for stale in valid:
                self.iam.delete_access_key(UserName=name, AccessKeyId=stale)
            made = self.iam.create_access_key(UserName=name)["AccessKey"]
            known = {"access_key": made["AccessKeyId"], "secret_key": made["SecretAccessKey"]}
            home.write_private(f"{name}.json", json.dumps(known))
        return Keys(**known)

    def _subscribe_again(self, file: Path, topic_arn: str) -> None:
        """The email subscriptions that deploy/local/mail.py has written down."""
        try:
            subscriptions = json.loads(file.read_text()) if file.exists() else []
        except ValueError as error:
            raise HomeError(f"{file} is damaged: mend it, or remove it and subscribe again") from error
        for subscription in subscriptions:
            policy = subscription["filter_policy"]
            self.sns.subscribe(
                TopicArn=topic_arn,
                Protocol="email",
                Endpoint=subscription["email"],
                Attributes={"FilterPolicy": policy} if policy else {},
                ReturnSubscriptionArn=True,
            )


def _mail_policy(topic_arn: str, queue_arn: str) -> str:
    return _policy(
        {"Effect": "Allow", "Action": "sns:ListSubscriptionsByTopic", "Resource": topic_arn},
        # SNS has no resource for it: it cannot be limited to the topic's own subscriptions.
        {"Effect": "Allow", "Action": "sns:GetSubscriptionAttributes", "Resource": "*"},
        {"Effect": "Allow", "Action": ["sqs:ReceiveMessage", "sqs:DeleteMessage"], "Resource": queue_arn},
    )


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})
