"""The backup stack in CloudFormation: what an update changes, and what its parts say to each other."""

import json

import pytest
from botocore.exceptions import ClientError

from tests.deploy import probe
from tests.deploy.conftest import STACK, Deployed


def test_a_new_package_is_what_runs_after_an_update(deployed: Deployed) -> None:
    account, parameters = deployed.account, deployed.parameters
    assert version(deployed, "Worker") == version(deployed, "Api") == "1"
    updated = account.deploy(STACK, {**parameters, "CodeKey": account.upload(probe.package("2"))}, update=True)
    assert version(deployed, "Worker") == version(deployed, "Api") == "2"
    assert updated == deployed.outputs
    account.deploy(STACK, parameters, update=True)
    assert version(deployed, "Worker") == "1"


def version(deployed: Deployed, function: str) -> str:
    report = deployed.account.invoke(deployed.outputs[f"{function}FunctionName"], "sts", "get_caller_identity")
    return str(report["version"])


def test_the_same_package_again_is_no_update(deployed: Deployed) -> None:
    with pytest.raises(ClientError, match="No updates are to be performed"):
        deployed.account.deploy(STACK, deployed.parameters, update=True)


def test_an_alarm_is_announced_on_the_topic(deployed: Deployed) -> None:
    queue = deployed.account.queue_of_topic(deployed.outputs["TopicArn"], "probe-announcements")
    cloudwatch = deployed.account.client("cloudwatch")
    alarms = cloudwatch.describe_alarms(AlarmNamePrefix=f"{STACK}-WorkerErrorsAlarm")["MetricAlarms"]
    cloudwatch.set_alarm_state(AlarmName=alarms[0]["AlarmName"], StateValue="ALARM", StateReason="tried out")
    announced = json.loads(deployed.account.message(queue)["Message"])
    assert (announced["NewStateValue"], announced["AlarmDescription"]) == ("ALARM", "The worker function failed")


def test_the_bucket_keeps_versions_and_is_private(deployed: Deployed) -> None:
    s3, bucket = deployed.account.client("s3"), deployed.outputs["BucketName"]
    assert bucket == f"{STACK}-000000000000-us-east-1"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}


def test_without_being_told_otherwise_plain_http_is_refused(deployed: Deployed) -> None:
    strict = {name: value for name, value in deployed.parameters.items() if name != "RequireTls"}
    outputs = deployed.account.deploy("probe-strict", strict)
    worker, bucket = outputs["WorkerFunctionName"], outputs["BucketName"]
    calls = [
        ("s3", "put_object", {"Bucket": bucket, "Key": "backups/x/manifest.json"}),
        ("sns", "publish", {"TopicArn": outputs["TopicArn"], "Message": "x"}),
        ("sqs", "send_message", {"QueueUrl": outputs["DeadLetterQueueUrl"], "MessageBody": "x"}),
    ]
    errors = [
        deployed.account.invoke(worker, service, call, **arguments)["error"] for service, call, arguments in calls
    ]
    assert errors == ["AccessDenied", "AuthorizationError", "AccessDenied"]
