"""Deploy one stack to an AWS account: `python -m deploy.aws STACK`, or `make deploy STACK=...`. See docs/deploy.md.

Each stack is deployed without the others, from the committed template: neither Node nor CDK is needed. What a
deployment does not say stays as it was, or as the template has it.
"""

import argparse
import hashlib
import io
import json
import re
import shlex
import sys
import tarfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from deploy import package
from deploy.cloudformation import DeployError, deploy, parameters_of
from deploy.package import PackageError

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "deploy" / "cdk" / "templates"
STACKS = sorted(file.stem for file in TEMPLATES.glob("*.json"))
# AWS publishes who vouches for RDS by Region; see "Using SSL/TLS to encrypt a connection to a DB instance".
AUTHORITIES = "https://truststore.pki.rds.amazonaws.com/{region}/{region}-bundle.pem"
AUTHORITY = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\s*", re.DOTALL)
WITHIN_SECONDS = 3600  # a database takes a quarter of an hour
MACHINE_IMAGE = "ssm:/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id"
HELP = "a parameter; the value ssm:/STACK/NAME is what that stack has published, and @FILE what is in a file"
# What containers on a host need beside their images.
BUNDLED = ("compose.yaml", "deploy/nginx")


class Misused(Exception):
    """What was asked for cannot be; the message says what to do."""


class TaskFailed(Exception):
    """A task of a stack did not do what it was to do."""


class Account:
    """An account and Region, by the credentials that boto3 finds."""

    look_again_seconds = 5.0

    def __init__(self, session: Any) -> None:
        self.region = session.region_name
        if not self.region:
            raise Misused("there is no Region: set AWS_DEFAULT_REGION, or choose a profile that has one")
        self.s3, self.ssm, self.ecs, self.cloudformation = (
            session.client(name) for name in ("s3", "ssm", "ecs", "cloudformation")
        )
        self.account_id = session.client("sts").get_caller_identity()["Account"]
        self.bucket = f"holdfast-code-{self.account_id}-{self.region}"

    def deploy(self, stack: str, name: str, given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """The outputs; and the parameters that were changed, with the values that lead back.

        Raises Misused, DeployError, PackageError and what boto3 raises.
        """
        template = (TEMPLATES / f"{stack}.json").read_bytes()
        known = json.loads(template).get("Parameters", {})
        if unknown := given.keys() - known:
            raise Misused(f"the {stack} stack has no parameter {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        self._make_bucket()
        before = parameters_of(self.cloudformation, name)
        values = {**self._made(stack, given, before), **{key: self._resolved(value) for key, value in given.items()}}
        missing = {key for key, each in known.items() if "Default" not in each} - values.keys() - before.keys()
        if missing:
            raise Misused(f"say what these are, with --set NAME=VALUE: {', '.join(sorted(missing))}")
        url = self._put(f"templates/{hashlib.sha256(template).hexdigest()[:16]}/{stack}.json", template)
        kept = before.keys() & known.keys() - values.keys()
        outputs = deploy(
            self.cloudformation,
            name,
            url,
            values,
            kept=kept,
            retained=self._left_by_a_former(name),
            within_seconds=WITHIN_SECONDS,
            protected=True,
        )
        return outputs, {key: value for key, value in before.items() if values.get(key, value) != value}

    def run(self, name: str, task: str, network: str, image: str = "") -> None:
        """Run a task of the stack to its end, of another image where one is named.

        Raises Misused, TaskFailed and what boto3 raises.
        """
        try:
            definition, cluster = (self._resolved(f"ssm:/{name}/{what}") for what in (f"{task}Task", "ClusterName"))
        except self.ssm.exceptions.ParameterNotFound:
            raise Misused(f"stack {name} has no task {task}, or is not there yet") from None
        if image:
            definition = self._of_image(definition, self._resolved(image))
        place = {
            "subnets": [self._resolved(f"ssm:/{network}/PublicSubnet{zone}") for zone in "AB"],
            "securityGroups": [self._resolved(f"ssm:/{network}/ServiceSecurityGroup")],
            "assignPublicIp": "ENABLED",  # there is no NAT
        }
        begun = self.ecs.run_task(
            cluster=cluster,
            taskDefinition=definition,
            launchType="FARGATE",
            networkConfiguration={"awsvpcConfiguration": place},
        )
        if not begun["tasks"]:
            raise TaskFailed(f"{task} was not begun: {begun['failures']}")
        (arn,) = [each["taskArn"] for each in begun["tasks"]]
        deadline = time.monotonic() + WITHIN_SECONDS
        while (ended := self.ecs.describe_tasks(cluster=cluster, tasks=[arn])["tasks"][0])["lastStatus"] != "STOPPED":
            if time.monotonic() > deadline:
                raise TaskFailed(f"{task} still runs after {WITHIN_SECONDS} s: {arn}")
            time.sleep(self.look_again_seconds)
        if reason := why_failed(ended):
            raise TaskFailed(f"{task} failed: {reason}; its log says more: {arn}")

    def _of_image(self, definition: str, image: str) -> str:
        """A revision of the task's definition that has this image, for a task alone: no service takes it on."""
        found = self.ecs.describe_task_definition(taskDefinition=definition)["taskDefinition"]
        wanted = self.ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape.members
        (container,) = found["containerDefinitions"]
        revised = {key: value for key, value in found.items() if key in wanted}
        made = self.ecs.register_task_definition(**{**revised, "containerDefinitions": [{**container, "image": image}]})
        arn: str = made["taskDefinition"]["taskDefinitionArn"]
        return arn

    def _made(self, stack: str, given: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
        """What is made here unless somebody says otherwise, as to go back to a former package."""
        if stack == "backup" and "CodeKey" not in given:
            built = package.build("lambda", Path(sys.executable))
            self._put(built.key, built.path.read_bytes())
            return {"CodeBucket": self.bucket, "CodeKey": built.key}
        if stack == "host":
            content = bundle()
            key = f"host/{hashlib.sha256(content).hexdigest()[:16]}.tar.gz"
            self._put(key, content)
            # Once: another one means another machine.
            image = {} if {"ImageId"} & (given.keys() | before.keys()) else {"ImageId": self._resolved(MACHINE_IMAGE)}
            return {"CodeBucket": self.bucket, "Bundle": key, **image}
        if stack == "data" and "AuthorityPem" not in given and "AuthorityPem" not in before:
            return {"AuthorityPem": authority(self.region)}
        return {}

    def _left_by_a_former(self, name: str) -> dict[str, str]:
        """The bucket of a stack that was deleted, or never came to be, for a new one of the same name to take over."""
        bucket = f"{name}-{self.account_id}-{self.region}"
        there = {each["Name"] for each in self.s3.list_buckets()["Buckets"]}
        return {"Bucket": bucket} if bucket in there else {}

    def _resolved(self, value: str) -> str:
        """`ssm:/stack/Name` is what that stack has published."""
        if not value.startswith("ssm:"):
            return value
        found: str = self.ssm.get_parameter(Name=value.removeprefix("ssm:"))["Parameter"]["Value"]
        return found

    def _put(self, key: str, body: bytes) -> str:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        found: str = self.s3.generate_presigned_url("get_object", Params={"Bucket": self.bucket, "Key": key})
        return found.partition("?")[0]

    def _make_bucket(self) -> None:
        if self.bucket in {each["Name"] for each in self.s3.list_buckets()["Buckets"]}:
            return
        place = {} if self.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        self.s3.create_bucket(Bucket=self.bucket, **place)
        self.s3.put_public_access_block(
            Bucket=self.bucket,
            PublicAccessBlockConfiguration=dict.fromkeys(
                ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
            ),
        )


def why_failed(task: Mapping[str, Any]) -> str:
    """Of a task that has stopped, as ECS describes it; nothing where all of its containers ended well."""
    codes = {each["name"]: each.get("exitCode") for each in task["containers"]}
    if not any(code != 0 for code in codes.values()):
        return ""
    ends = ", ".join(
        f"{name} never ran" if code is None else f"{name} ended with {code}" for name, code in codes.items()
    )
    return f"{ends} ({task.get('stoppedReason', 'without a reason')})"


def bundle() -> bytes:
    """The same files give the same bytes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=6) as archive:
        for name in BUNDLED:
            archive.add(ROOT / name, name, filter=_plain)
    body = bytearray(content.getvalue())
    body[4:8] = bytes(4)  # gzip writes down when it was made
    return bytes(body)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    return entry


def authority(region: str, url: str = AUTHORITIES) -> str:
    """The certificate of rds-ca-rsa2048-g1 in that Region. Raises Misused."""
    from cryptography import x509  # noqa: PLC0415  # only here, where a database is made

    try:
        with urllib.request.urlopen(url.format(region=region), timeout=30) as answer:  # noqa: S310  # AWS's, by https
            found = AUTHORITY.findall(answer.read())
    except OSError as error:
        raise Misused(f"AWS's certificates could not be fetched ({error}): give AuthorityPem with --set") from None
    for pem in found:
        certificate = x509.load_pem_x509_certificate(pem)
        if certificate.subject.rfc4514_string().find("Root CA RSA2048 G1") >= 0:
            text: str = pem.decode()
            return text
    raise Misused("AWS's certificates do not have the one of rds-ca-rsa2048-g1: give AuthorityPem with --set")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.aws", description=__doc__.partition("\n")[0])
    parser.add_argument("stack", choices=STACKS)
    parser.add_argument("--name", help="of the stack in the account, if not holdfast-STACK")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="given",
                        help=HELP)  # fmt: skip
    parser.add_argument(
        "--run",
        metavar="TASK",
        help="do not deploy it, but run a task that it has, to its end; of another Image, where --set names one",
    )
    parser.add_argument("--network", default="holdfast-network", help="the network stack that tasks run in")
    wanted = parser.parse_args(arguments)
    try:
        given = dict(_parted(each) for each in wanted.given)
        name = wanted.name or f"holdfast-{wanted.stack.replace('_', '-')}"
        account = Account(boto3.session.Session())
        if wanted.run:
            if given.keys() - {"Image"}:
                raise Misused("a task is told its Image alone; the rest is as the stack has it")
            account.run(name, wanted.run, wanted.network, given.get("Image", ""))
            return 0
        outputs, former = account.deploy(wanted.stack, name, given)
    except (Misused, DeployError, TaskFailed, PackageError, BotoCoreError, ClientError) as error:
        print(error, file=sys.stderr)
        return 1
    for key, value in sorted(outputs.items()):
        print(f"{key}\t{value.strip()}")
    if former:
        back = " ".join(f"--set {shlex.quote(f'{key}={value}')}" for key, value in sorted(former.items()))
        print(f"the way back: python -m deploy.aws {wanted.stack} {back}", file=sys.stderr)
    return 0


def _parted(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise Misused(f"{given} is not of the form NAME=VALUE")
    if value.startswith("@"):
        try:
            value = Path(value[1:]).read_text()
        except OSError as error:
            raise Misused(f"{value[1:]} cannot be read: {error.strerror}") from None
    return name, value


if __name__ == "__main__":
    raise SystemExit(main())
