"""An AWS account in the emulator: what a person with the root keys does to deploy the stack and to look at it."""

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from tests.servers import Aws

TEMPLATES = Path(__file__).parents[2] / "deploy" / "cdk" / "templates"
TEMPLATE = TEMPLATES / "backup.json"
CODE_BUCKET = "probe-code"
ONCE = Config(retries={"total_max_attempts": 1})  # a call that failed must not be made again unseen


@dataclass(frozen=True)
class Keys:
    access_key: str
    secret_key: str = field(repr=False)


class StackError(Exception):
    """CloudFormation rolled back; the message has its reasons."""


@dataclass(frozen=True)
class Account:
    aws: Aws

    def client(self, service: str, keys: Keys | None = None) -> Any:
        return _client(self.aws, service, keys or Keys(self.aws.access_key, self.aws.secret_key))

    def upload(self, package: bytes) -> str:
        """The key of the package in the code bucket."""
        key = f"{hashlib.sha256(package).hexdigest()}.zip"
        self._code_bucket().put_object(Bucket=CODE_BUCKET, Key=key, Body=package)
        return key

    def secret(self, name: str) -> str:
        """The ARN of a secret that may be there already."""
        secrets_manager = self.client("secretsmanager")
        with suppress(secrets_manager.exceptions.ResourceExistsException):
            secrets_manager.create_secret(Name=name, SecretString="postgresql://")
        arn: str = secrets_manager.describe_secret(SecretId=name)["ARN"]
        return arn

    def key(self, spec: str, usage: str) -> str:
        """The ARN of a new KMS key, whose policy leaves it to the account's own policies who may use it."""
        made = self.client("kms").create_key(KeySpec=spec, KeyUsage=usage)
        arn: str = made["KeyMetadata"]["Arn"]
        return arn

    def physical_id(self, stack: str, name: str) -> str:
        detail = self.client("cloudformation").describe_stack_resource(StackName=stack, LogicalResourceId=name)
        found: str = detail["StackResourceDetail"]["PhysicalResourceId"]
        return found

    def deploy(
        self, stack: str, parameters: dict[str, str], *, update: bool = False, template: str = "backup.json"
    ) -> dict[str, str]:
        """The stack's outputs. Raises StackError."""
        request = {
            "StackName": stack,
            "TemplateURL": self._in_a_bucket(template),
            "Parameters": [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
            "Capabilities": ["CAPABILITY_IAM"],
        }
        cloudformation = self.client("cloudformation")
        (cloudformation.update_stack if update else cloudformation.create_stack)(**request)
        return self.settled(stack)

    def _in_a_bucket(self, template: str) -> str:
        self._code_bucket().put_object(Bucket=CODE_BUCKET, Key=template, Body=(TEMPLATES / template).read_bytes())
        return f"{self.aws.endpoint_url}/{CODE_BUCKET}/{template}"

    def _code_bucket(self) -> Any:
        s3 = self.client("s3")
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket=CODE_BUCKET)
        return s3

    def settled(self, stack: str) -> dict[str, str]:
        cloudformation = self.client("cloudformation")
        deadline = time.monotonic() + 30
        while True:
            found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
            status = found["StackStatus"]
            if not status.endswith("IN_PROGRESS"):
                break
            assert time.monotonic() < deadline, f"{stack} is still {status}"
            time.sleep(0.05)
        if status not in {"CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"}:
            events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
            raise StackError(status, [event.get("ResourceStatusReason") for event in events])
        return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}

    def invoke(self, function: str, service: str, call: str, **arguments: Any) -> dict[str, Any]:
        """What tests/deploy/probe.py reports."""
        event = json.dumps({"service": service, "call": call, "arguments": arguments})
        answer = self.client("lambda").invoke(FunctionName=function, Payload=event)
        report: dict[str, Any] = json.load(answer["Payload"])
        return report

    def simulate(self, stack: str, role: str, action: str, resource: str) -> str | None:
        """None where the role may."""
        iam = self.client("iam")
        arn = iam.get_role(RoleName=self.physical_id(stack, role))["Role"]["Arn"]
        found = iam.simulate_principal_policy(PolicySourceArn=arn, ActionNames=[action], ResourceArns=[resource])
        return None if found["EvaluationResults"][0]["EvalDecision"] == "allowed" else "AccessDenied"

    def user(self, name: str, policy_arn: str = "") -> Keys:
        iam = self.client("iam")
        iam.create_user(UserName=name)
        if policy_arn:
            iam.attach_user_policy(UserName=name, PolicyArn=policy_arn)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return Keys(made["AccessKeyId"], made["SecretAccessKey"])

    def queue_of_topic(self, topic_arn: str, name: str) -> str:
        """The URL of a queue that gets what is published on the topic."""
        sqs = self.client("sqs")
        url: str = sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
        self.client("sns").subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=arn)
        return url

    def message(self, queue_url: str, seconds: int = 10) -> dict[str, Any]:
        """The next message of the queue, which must come within `seconds` (up to 20)."""
        answer = self.client("sqs").receive_message(QueueUrl=queue_url, WaitTimeSeconds=seconds)
        body: dict[str, Any] = json.loads(answer["Messages"][0]["Body"])
        return body

    def call(self, api_id: str, method: str, path: str, keys: Keys | None = None, body: bytes = b"") -> httpx.Response:
        """A call of the gateway, signed when there are keys. What is posted is an object, unless it says otherwise."""
        body = body or (b"{}" if method == "POST" else b"")
        url = f"{self.aws.endpoint_url}/_aws/execute-api/{api_id}/v1{path}"
        request = AWSRequest(method, url, data=body, headers={"Content-Type": "application/json"})
        if keys:
            credentials = Credentials(keys.access_key, keys.secret_key)
            SigV4Auth(credentials, "execute-api", self.aws.region).add_auth(request)
        return httpx.request(method, url, content=body, headers=dict(request.headers))


@cache
def _client(aws: Aws, service: str, keys: Keys) -> Any:
    return boto3.client(
        service,
        endpoint_url=aws.endpoint_url,
        region_name=aws.region,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        config=ONCE,
    )
