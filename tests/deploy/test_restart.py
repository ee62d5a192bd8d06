"""What the one-machine stack relies on when the emulator stops, cleanly or not."""

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from deploy.local import emulator
from deploy.local.process import Process
from tests.deploy import probe
from tests.deploy.account import CODE_BUCKET, Account, StackError
from tests.servers import EMULATOR_PYTHON, Aws, free_port, private_directory, running

STACK = "restarted-backup"
BUCKET = f"{STACK}-000000000000-us-east-1"


@pytest.fixture
def home() -> Iterator[Path]:
    with private_directory() as home:
        yield home


@contextmanager
def emulated(home: Path) -> Iterator[tuple[Account, Process]]:
    """An emulator that tries failed events again at once."""
    aws = Aws("", emulator.REGION, "AKIAROOTROOTROOTROOT", secrets.token_urlsafe(30))
    port = free_port()
    program = emulator.program(EMULATOR_PYTHON, home, port, aws.access_key, aws.secret_key)
    program = replace(program, env={**program.env, "LAMBDA_ASYNC_RETRY_BASE_SECONDS": "0.1"})
    with running(program, home) as process:
        yield Account(replace(aws, endpoint_url=emulator.endpoint_url(port))), process


def parameters(account: Account) -> dict[str, str]:
    return {
        "CodeBucket": CODE_BUCKET,
        "CodeKey": account.upload(probe.package()),
        "DatabaseSecretArn": account.secret("database-url"),
        "ProofDatabaseSecretArn": account.secret("proof-database-url"),
        "SigningKeyArn": account.secret("signing-key"),
        "RequireTls": "false",
    }


def write_a_backup(account: Account) -> dict[str, Any]:
    """The answers to a multipart upload, a lease that was renewed, and a manifest."""
    s3 = account.client("s3")
    of_data = {"Bucket": BUCKET, "Key": "backups/x/data/notes.notes.json.gz"}
    upload = s3.create_multipart_upload(**of_data, ChecksumAlgorithm="SHA256")["UploadId"]
    part = s3.upload_part(**of_data, UploadId=upload, PartNumber=1, Body=b"rows", ChecksumAlgorithm="SHA256")
    parts = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}]
    data = s3.complete_multipart_upload(**of_data, UploadId=upload, MultipartUpload={"Parts": parts})
    of_lease = {"Bucket": BUCKET, "Key": "backups/x/progress.json", "ContentType": "application/json"}
    taken = s3.put_object(**of_lease, Body=b'{"rows": 0}', IfNoneMatch="*")
    renewed = s3.put_object(**of_lease, Body=b'{"rows": 1}', IfMatch=taken["ETag"])
    s3.put_object(Bucket=BUCKET, Key="backups/x/manifest.json", Body=b"{}", IfNoneMatch="*")
    return {"data": data, "taken": taken, "renewed": renewed}


def check_the_backup(account: Account, written: dict[str, Any]) -> None:
    """All of it is there, and conditions hold as if nothing had happened."""
    s3 = account.client("s3")
    data = s3.get_object(Bucket=BUCKET, Key="backups/x/data/notes.notes.json.gz", Range="bytes=1-2")
    assert (data["Body"].read(), data["ETag"]) == (b"ow", written["data"]["ETag"])
    lease = {"Bucket": BUCKET, "Key": "backups/x/progress.json"}
    now, before = s3.get_object(**lease), s3.get_object(**lease, VersionId=written["taken"]["VersionId"])
    assert (now["ETag"], now["VersionId"]) == (written["renewed"]["ETag"], written["renewed"]["VersionId"])
    assert (now["Body"].read(), now["ContentType"]) == (b'{"rows": 1}', "application/json")
    assert before["Body"].read() == b'{"rows": 0}'
    for stale in ({"Key": lease["Key"], "IfMatch": before["ETag"]}, {"Key": lease["Key"], "IfNoneMatch": "*"}):
        with pytest.raises(ClientError, match="PreconditionFailed"):
            s3.put_object(Bucket=BUCKET, Body=b"{}", **stale)
    s3.put_object(**lease, Body=b'{"rows": 2}', IfMatch=now["ETag"])
    assert len(s3.list_object_versions(Bucket=BUCKET, Prefix=lease["Key"])["Versions"]) == 3


def test_after_a_clean_stop_everything_is_there_again(home: Path) -> None:
    with emulated(home) as (account, _):
        outputs = account.deploy(STACK, parameters(account))
        ops = account.user("ops", outputs["OpsPolicyArn"])
        topic = {"TopicArn": outputs["TopicArn"]}
        wanted = {"FilterPolicy": json.dumps({"type": ["backup.failed"]})}
        account.client("sns").subscribe(**topic, Protocol="email", Endpoint="ada@example.com", Attributes=wanted)
        written = write_a_backup(account)
    with emulated(home) as (account, _):
        assert account.settled(STACK) == outputs
        assert account.call(outputs["ApiId"], "GET", "/backups", ops).status_code == 200
        assert account.call(outputs["ApiId"], "GET", "/backups").status_code == 403
        (subscription,) = account.client("sns").list_subscriptions_by_topic(**topic)["Subscriptions"]
        kept = account.client("sns").get_subscription_attributes(SubscriptionArn=subscription["SubscriptionArn"])
        assert kept["Attributes"]["FilterPolicy"] == wanted["FilterPolicy"]
        key = {"Bucket": BUCKET, "Key": "backups/x/manifest.json"}
        assert account.invoke(outputs["WorkerFunctionName"], "s3", "get_object", **key)["error"] is None
        assert account.invoke(outputs["WorkerFunctionName"], "s3", "delete_object", **key)["error"] == "AccessDenied"
        check_the_backup(account, written)


def test_after_a_kill_the_stack_is_made_anew_around_its_bucket(home: Path) -> None:
    with emulated(home) as (account, process):
        outputs = account.deploy(STACK, parameters(account))
        account.user("ops", outputs["OpsPolicyArn"])
        written = write_a_backup(account)
        process.kill()
    with emulated(home) as (account, _):
        assert account.client("iam").list_users()["Users"] == []
        with pytest.raises(StackError):  # CloudFormation makes no bucket where there is one
            account.deploy(STACK, parameters(account))
        account.client("cloudformation").delete_stack(StackName=STACK)
        adopt_bucket(account)
        again = account.deploy(STACK, parameters(account), update=True)
        assert again["BucketName"] == outputs["BucketName"]
        assert again["TopicArn"] == outputs["TopicArn"]
        assert again["ApiId"] != outputs["ApiId"]
        check_the_backup(account, written)
        manifest = {"Bucket": BUCKET, "Key": "backups/x/manifest.json"}
        assert account.invoke(again["WorkerFunctionName"], "s3", "get_object", **manifest)["error"] is None


def adopt_bucket(account: Account) -> None:
    """Begin the stack with the bucket that is there, as one would on AWS; the rest comes by an update."""
    bucket = {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain", "Properties": {"BucketName": BUCKET}}
    adopted = {"ResourceType": "AWS::S3::Bucket", "LogicalResourceId": "Bucket"}
    cloudformation = account.client("cloudformation")
    cloudformation.create_change_set(
        StackName=STACK,
        ChangeSetName="adopt",
        ChangeSetType="IMPORT",
        TemplateBody=json.dumps({"Resources": {"Bucket": bucket}}),
        ResourcesToImport=[{**adopted, "ResourceIdentifier": {"BucketName": BUCKET}}],
    )
    cloudformation.execute_change_set(StackName=STACK, ChangeSetName="adopt")
    account.settled(STACK)


def test_what_was_acknowledged_outlives_a_kill(home: Path) -> None:
    acknowledged: list[int] = []
    with emulated(home) as (account, process):
        s3 = account.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        threading.Timer(1.0, process.kill).start()
        with suppress(BotoCoreError):
            while True:
                number = len(acknowledged)
                s3.put_object(Bucket=BUCKET, Key=f"{number}", Body=f"{number}".encode() * 1000, IfNoneMatch="*")
                acknowledged.append(number)
    with emulated(home) as (account, _):
        s3 = account.client("s3")
        assert acknowledged
        for number in acknowledged:
            assert s3.get_object(Bucket=BUCKET, Key=f"{number}")["Body"].read() == f"{number}".encode() * 1000


def test_an_event_that_failed_twice_lies_among_the_dead_letters(home: Path) -> None:
    with emulated(home) as (account, _):
        outputs = account.deploy(STACK, parameters(account))
        event = {"task": "backup", "backup_id": "x"}  # nothing that the probe knows
        account.client("lambda").invoke(
            FunctionName=outputs["WorkerFunctionName"], InvocationType="Event", Payload=json.dumps(event)
        )
        dead = account.message(outputs["DeadLetterQueueUrl"])
        assert dead["requestPayload"] == event
        assert dead["requestContext"]["condition"] == "RetriesExhausted"
