"""A stack of CloudFormation: made, updated, or made anew around a bucket that outlived it."""

import json
import time
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from botocore.exceptions import ClientError

SETTLE_SECONDS = 120


class DeployError(Exception):
    """CloudFormation did not take the stack; the message has its reasons."""


def deploy(
    cloudformation: Any,
    name: str,
    template_url: str,
    parameters: Mapping[str, str],
    *,
    kept: Collection[str] = (),
    retained: Mapping[str, str] = MappingProxyType({}),
    within_seconds: int = SETTLE_SECONDS,
    protected: bool = False,
) -> dict[str, str]:
    """The outputs of the stack, once it is as the template, an object of S3, says. Raises DeployError.

    The parameters of `kept` stay as they are. A change that fails is rolled back by CloudFormation. A stack that is
    `protected` cannot be deleted by mistake. `retained` names buckets that exist, by logical id. A new stack adopts
    them: CloudFormation makes no bucket where there is one, and those of the template are retained when their stack is
    gone.
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
            TemplateURL=template_url,
            Parameters=[
                *({"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()),
                *({"ParameterKey": key, "UsePreviousValue": True} for key in sorted(kept)),
            ],
            Capabilities=["CAPABILITY_IAM"],
        )
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise DeployError(f"CloudFormation refused stack {name}: {error}") from error
        return _outputs(cloudformation, name)  # also where a change has failed and was rolled back to just this
    outputs = _settle(cloudformation, name, within_seconds)
    if protected:
        cloudformation.update_termination_protection(StackName=name, EnableTerminationProtection=True)
    return outputs


def parameters_of(cloudformation: Any, name: str) -> dict[str, str]:
    """What was said when the stack was deployed last; nothing when there is no such stack."""
    if _status(cloudformation, name) in {None, "ROLLBACK_COMPLETE"}:
        return {}
    (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    return {each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])}


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


def _settle(cloudformation: Any, name: str, within_seconds: int = SETTLE_SECONDS) -> dict[str, str]:
    deadline = time.monotonic() + within_seconds
    while (status := _status(cloudformation, name)) and status.endswith("IN_PROGRESS"):
        if time.monotonic() > deadline:
            raise DeployError(f"stack {name} is still {status} after {within_seconds} s")
        time.sleep(0.05 if within_seconds == SETTLE_SECONDS else 5)
    if status is None:
        return {}
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"):
        raise DeployError(f"stack {name} ended as {status}: {_reasons(cloudformation, name)}")
    return _outputs(cloudformation, name)


def _outputs(cloudformation: Any, name: str) -> dict[str, str]:
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
