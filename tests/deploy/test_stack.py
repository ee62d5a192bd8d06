"""The backup stack in CloudFormation: what an update changes, and what its parts say to each other."""

import json

import pytest
from botocore.exceptions import ClientError

from tests.deploy import probe
from tests.deploy.calls import BURY, HARDENED_RIGHTS, PUBLISH, attempt, s3
from tests.deploy.conftest import MANIFEST, STACK, Deployed


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
    go_off(deployed, "WorkerErrorsAlarm")
    announced = json.loads(deployed.account.message(queue)["Message"])
    assert (announced["NewStateValue"], announced["AlarmDescription"]) == ("ALARM", "The worker function failed")


def go_off(stack: Deployed, name: str) -> None:
    cloudwatch = stack.account.client("cloudwatch")
    alarms = cloudwatch.describe_alarms(AlarmNamePrefix=f"{stack.stack}-{name}")["MetricAlarms"]
    cloudwatch.set_alarm_state(AlarmName=alarms[0]["AlarmName"], StateValue="ALARM", StateReason="tried out")


def test_the_bucket_keeps_versions_and_is_private(deployed: Deployed) -> None:
    s3, bucket = deployed.account.client("s3"), deployed.outputs["BucketName"]
    assert bucket == f"{STACK}-000000000000-us-east-1"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}


def test_without_being_told_otherwise_plain_http_is_refused_by_each_policy(
    strict: Deployed, deployed: Deployed
) -> None:
    """And on a stack without these statements it is not."""
    calls = [s3("put_object", "backups/x/manifest.json"), PUBLISH, BURY]
    refused = [attempt(strict, "WorkerRole", call) for call in calls]
    assert refused == ["AccessDenied", "AuthorizationError", "AccessDenied"]
    assert [attempt(deployed, "WorkerRole", call) for call in calls] == [None, None, None]


def test_a_locked_object_outlives_whoever_may_delete(hardened: Deployed) -> None:
    """The worker locks by its own right; even root needs to say that it goes around the lock."""
    (lock,) = [each for each in HARDENED_RIGHTS["WorkerRole"]["LockBackups"] if each.arguments["Key"] == MANIFEST]
    assert attempt(hardened, "WorkerRole", lock) is None
    root, version = hardened.account.client("s3"), {"Bucket": hardened.outputs["BucketName"], "Key": MANIFEST}
    version["VersionId"] = root.head_object(**version)["VersionId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        root.delete_object(**version)
    assert root.head_object(**version)


def test_the_worker_is_told_how_to_sign_and_how_long_to_lock(deployed: Deployed, hardened: Deployed) -> None:
    for stack, days in ((deployed, "0"), (hardened, "1")):
        functions = stack.account.client("lambda")
        worker = functions.get_function_configuration(FunctionName=stack.outputs["WorkerFunctionName"])
        told = worker["Environment"]["Variables"]
        assert told["HOLDFAST_OBJECT_LOCK_DAYS"] == days
        assert told["HOLDFAST_SIGNING_KEY"] == stack.parameters["SigningKeyArn"]
        assert told["HOLDFAST_PROOF_DATABASE"] == stack.parameters["ProofDatabaseSecretArn"]
        assert told["HOLDFAST_PROVE"] == "always"
