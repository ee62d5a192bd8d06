"""A stack of CloudFormation: made, updated, or made anew around a bucket that outlived it."""

import json
import time
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

SETTLE_SECONDS = 120


class DeployError(Exception):
    """CloudFormation did not take the stack; the message has its reasons."""


def deploy(
    cloudformation: Any, name: str, template: str, parameters: Mapping[str, str], retained: Mapping[str, str]
) -> dict[str, str]:
    """The outputs of the stack, once it is as `template`, which is JSON, says. Raises DeployError.

    `retained` names buckets that exist, by logical id. A new stack adopts them: CloudFormation makes no bucket where
    there is one, and those of the template are retained when their stack is gone.
    """
    status = _status(cloudformation, name)
    if status == "ROLLBACK_COMPLETE":  # the first attempt failed, and nothing but deleting can be done with it
        cloudformation.delete_stack(StackName=name)
        _settle(cloudformation, name)
        status = None
    if status is None and retained:
        _adopt(cloudformation, name, retained)
        status = "IMPORT_COMPLETE"
    try:
        (cloudformation.update_stack if status else cloudformation.create_stack)(
            StackName=name,
            TemplateBody=compact(template),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise DeployError(f"CloudFormation refused stack {name}: {error}") from error
    return _settle(cloudformation, name)


def compact(template: str) -> str:
    """Without what is for people only: CloudFormation takes 51,200 bytes along with a request."""
    return json.dumps(json.loads(template), separators=(",", ":"))


def _adopt(cloudformation: Any, name: str, buckets: Mapping[str, str]) -> None:
    """A stack that has these buckets and nothing else, by CloudFormation's import."""
    kind = "AWS::S3::Bucket"
    cloudformation.create_change_set(
        StackName=name,
        ChangeSetName="adopt",
        ChangeSetType="IMPORT",
        TemplateBody=json.dumps(
            {
                "Resources": {
                    logical_id: {"Type": kind, "DeletionPolicy": "Retain", "Properties": {"BucketName": bucket}}
                    for logical_id, bucket in buckets.items()
                }
            }
        ),
        ResourcesToImport=[
            {"ResourceType": kind, "LogicalResourceId": logical_id, "ResourceIdentifier": {"BucketName": bucket}}
            for logical_id, bucket in buckets.items()
        ],
    )
    cloudformation.execute_change_set(StackName=name, ChangeSetName="adopt")
    _settle(cloudformation, name)


def _settle(cloudformation: Any, name: str) -> dict[str, str]:
    deadline = time.monotonic() + SETTLE_SECONDS
    while (status := _status(cloudformation, name)) and status.endswith("IN_PROGRESS"):
        if time.monotonic() > deadline:
            raise DeployError(f"stack {name} is still {status} after {SETTLE_SECONDS} s")
        time.sleep(0.05)
    if status is None:
        return {}
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"):
        raise DeployError(f"stack {name} ended as {status}: {_reasons(cloudformation, name)}")
    (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def _status(cloudformation: Any, name: str) -> str | None:
    """None when there is no such stack, or no more."""
    try:
        (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if "does not exist" not in str(error):
            raise
        return None
    status: str = stack["StackStatus"]
    return None if status == "DELETE_COMPLETE" else status


def _reasons(cloudformation: Any, name: str) -> str:
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    failed = [event for event in events if event["ResourceStatus"].endswith("FAILED")]
    return "; ".join(f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '?')}" for event in failed)
