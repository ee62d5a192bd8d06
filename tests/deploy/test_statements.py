"""Every statement of every policy is needed, and so is each of its actions and resources.

Without it a call that was allowed is denied; without a denial, a call that was denied is allowed. A statement that no
call of tests/deploy/calls.py needs fails here by its name.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.deploy.account import TEMPLATE
from tests.deploy.calls import (
    DENIED,
    EVERYWHERE,
    HARDENED_RIGHTS,
    PRIVATE_RIGHTS,
    READ,
    RIGHTS,
    Call,
    attempt,
    put,
    write_log,
)
from tests.deploy.conftest import Deployed
from tests.deploy.test_stack import go_off

Statement = dict[str, Any]
RESOURCES: dict[str, dict[str, Any]] = json.loads(TEMPLATE.read_text())["Resources"]
# All that cannot be shown here: statements whose calls go the same way with and without them.
IN_VAIN = {
    # CloudWatch Logs in the emulator names a group's ARN without the `:*` that AWS has there.
    ("ApiRole", "WriteTheLog"): write_log("$ApiLog"),
    ("WorkerRole", "WriteTheLog"): write_log("$WorkerLog"),
    ("KeeperRole", "WriteTheLog"): write_log("$KeeperLog"),
    # S3 in the emulator asks KMS nothing, and the right is for S3 alone.
    ("ApiRole", "UseTheBucketsKey"): [*put("request.json"), READ],
    ("WorkerRole", "UseTheBucketsKey"): [*put("progress.json"), READ],
    ("KeeperRole", "UseTheBucketsKey"): [*put("expired.json"), READ],
    ("OpsPolicy", "ReadWithTheBucketsKey"): [READ],
}
# The policies of the resources themselves. OnlyOverTls is tried out in tests/deploy/test_stack.py, the other below.
OF_RESOURCES = {
    "S3::Bucket": {"OnlyOverTls"},
    "SNS::Topic": {"OnlyOverTls", "AnnounceAlarms"},
    "SQS::Queue": {"OnlyOverTls"},
}


def statements(policy: str) -> list[Statement]:
    """Of a role or a managed policy, as the template has them."""
    of = RESOURCES[policy]["Properties"]
    found = (of["Policies"][0] if "Policies" in of else of)["PolicyDocument"]["Statement"]
    return [each["Fn::If"][1] if "Fn::If" in each else each for each in found]


# What the emulator cannot tell at all. Both depend on what a request says, which the simulator is not told.
UNTRIED = {("WorkerRole", "GiveTheTaskItsRoles"), ("WorkerRole", "OnlyLambdaAttaches")}
POLICIES = [
    name
    for name, resource in RESOURCES.items()
    if resource["Type"] == "AWS::IAM::ManagedPolicy" or "Policies" in resource["Properties"]
    if name != "TaskRole"  # its statements are the worker's, as tests/cdk/test_template.py shows
]
SIDS = [(policy, str(statement["Sid"])) for policy in POLICIES for statement in statements(policy)]


@pytest.mark.parametrize(("policy", "sid"), [each for each in SIDS if each not in {*IN_VAIN, *UNTRIED}])
def test_a_statement_is_needed_with_all_its_actions_and_resources(
    deployed: Deployed, hardened: Deployed, private: Deployed, policy: str, sid: str
) -> None:
    tables = [(deployed, RIGHTS), (hardened, HARDENED_RIGHTS), (private, PRIVATE_RIGHTS), (private, EVERYWHERE)]
    tried = [(stack, table[policy][sid]) for stack, table in tables if sid in table.get(policy, {})]
    assert tried, f"no call needs {sid}: add one to tests/deploy/calls.py, or remove the statement"
    (statement,) = [each for each in statements(policy) if each["Sid"] == sid]
    allows = statement["Effect"] == "Allow"
    for stack, calls in tried:
        assert {allowed(stack, policy, call) for call in calls} == {allows}, "with the statement"
        with lessened(stack, policy, sid):
            assert {allowed(stack, policy, call) for call in calls} == {not allows}, "without the statement"
    for part in parts(statement):
        found = []
        for stack, calls in tried:
            with lessened(stack, policy, sid, part):
                likely_first = calls[part[1] :] + calls[: part[1]]  # they mostly stand in the same order
                found.append(all(allowed(stack, policy, call) for call in likely_first))
        assert not all(found), f"no call needs {part}"


@pytest.mark.parametrize(("policy", "sid"), IN_VAIN)
def test_what_the_emulator_does_not_ask_about_is_the_same_without(hardened: Deployed, policy: str, sid: str) -> None:
    assert (policy, sid) in SIDS
    with_it = [allowed(hardened, policy, call) for call in IN_VAIN[policy, sid]]
    with lessened(hardened, policy, sid):
        without = [allowed(hardened, policy, call) for call in IN_VAIN[policy, sid]]
    assert with_it == without, "the emulator asks by now: move it to tests/deploy/calls.py"


@pytest.mark.parametrize(("kind", "sids"), OF_RESOURCES.items())
def test_policies_of_resources_say_nothing_else(kind: str, sids: set[str]) -> None:
    (policy,) = [each["Properties"] for each in RESOURCES.values() if each["Type"] == f"AWS::{kind}Policy"]
    found = policy["PolicyDocument"]["Statement"]
    assert {(each["Fn::If"][1] if "Fn::If" in each else each)["Sid"] for each in found} == sids


def test_the_emulators_cloudwatch_publishes_unasked(strict: Deployed) -> None:
    """On AWS only because of the statement AnnounceAlarms."""
    account, topic = strict.account, {"TopicArn": strict.outputs["TopicArn"]}
    queue, sns = account.queue_of_topic(strict.outputs["TopicArn"], "probe-unasked"), account.client("sns")
    policy = json.loads(sns.get_topic_attributes(**topic)["Attributes"]["Policy"])
    rest = [each for each in policy["Statement"] if each["Sid"] != "AnnounceAlarms"]
    sns.set_topic_attributes(**topic, AttributeName="Policy", AttributeValue=json.dumps({**policy, "Statement": rest}))
    go_off(strict, "WorkerErrorsAlarm")
    assert json.loads(account.message(queue)["Message"])["NewStateValue"] == "ALARM"


def test_the_emulators_gateway_does_not_ask_whether_it_may_call_the_function(deployed: Deployed) -> None:
    """On AWS it does, and would answer 500."""
    account, functions = deployed.account, deployed.account.client("lambda")
    name = {"FunctionName": deployed.outputs["ApiFunctionName"]}
    allowed = json.loads(functions.get_policy(**name)["Policy"])["Statement"]
    (of_gateway,) = [each for each in allowed if each["Principal"] == {"Service": "apigateway.amazonaws.com"}]
    functions.remove_permission(**name, StatementId=of_gateway["Sid"])
    try:
        assert account.call(deployed.outputs["ApiId"], "GET", "/backups", deployed.ops).status_code == 200
    finally:
        arn = of_gateway["Condition"]["ArnLike"]["AWS:SourceArn"]
        what = {"Action": of_gateway["Action"], "Principal": "apigateway.amazonaws.com", "SourceArn": arn}
        functions.add_permission(**name, **what, StatementId=of_gateway["Sid"])


def allowed(stack: Deployed, policy: str, call: Call) -> bool:
    error = attempt(stack, policy, call)
    assert error is None or error in DENIED, error
    return error is None


def parts(statement: Statement) -> list[tuple[str, int]]:
    """A field and a number for each of several actions or resources."""
    fields = [field for field in ("Action", "Resource") if isinstance(statement[field], list)]
    return [(field, number) for field in fields for number in range(len(statement[field]))]


@contextmanager
def lessened(stack: Deployed, policy: str, sid: str, part: tuple[str, int] | None = None) -> Iterator[None]:
    """The policy without the statement, or without one entry of its field; afterwards it is as before."""
    of_role = RESOURCES[policy]["Type"] == "AWS::IAM::Role"
    with (role_policy if of_role else managed_policy)(stack, policy) as (document, put_document):
        (statement,) = [each for each in document["Statement"] if each["Sid"] == sid]
        rest = [each for each in document["Statement"] if each["Sid"] != sid]
        if part:
            field, number = part
            rest.append({**statement, field: [each for i, each in enumerate(statement[field]) if i != number]})
        put_document(json.dumps({**document, "Statement": rest}))
        yield


@contextmanager
def role_policy(stack: Deployed, role: str) -> Iterator[Any]:
    iam, name = stack.account.client("iam"), {"RoleName": stack.account.physical_id(stack.stack, role)}
    document = iam.get_role_policy(**name, PolicyName="Rights")["PolicyDocument"]
    try:
        yield document, lambda text: iam.put_role_policy(**name, PolicyName="Rights", PolicyDocument=text)
    finally:
        iam.put_role_policy(**name, PolicyName="Rights", PolicyDocument=json.dumps(document))


@contextmanager
def managed_policy(stack: Deployed, policy: str) -> Iterator[Any]:
    iam, arn = stack.account.client("iam"), {"PolicyArn": stack.outputs[f"{policy}Arn"]}

    def version() -> str:
        return str(iam.get_policy(**arn)["Policy"]["DefaultVersionId"])

    def replace(text: str) -> None:
        before = version()
        iam.create_policy_version(**arn, PolicyDocument=text, SetAsDefault=True)
        iam.delete_policy_version(**arn, VersionId=before)  # IAM keeps five

    document = iam.get_policy_version(**arn, VersionId=version())["PolicyVersion"]["Document"]
    try:
        yield document, replace
    finally:
        replace(json.dumps(document))
