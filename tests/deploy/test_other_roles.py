"""The roles of the stacks that the emulator has no servers for, by its simulator of policies.

With each statement what the role is for is allowed, and without it, or one of its actions or resources, denied.
"""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from deploy.aws import TEMPLATES
from tests.deploy.test_statements import parts
from tests.servers import Aws

Statement = dict[str, Any]
Needed = list[tuple[str, str]]  # actions and what they are done to
ACCOUNT = "123456789012"
PSEUDO = {"Partition": "aws", "Region": "us-east-1", "AccountId": ACCOUNT, "StackName": "this"}
CONTENTS = {stack: json.loads((TEMPLATES / f"{stack}.json").read_text())
            for stack in ("network", "data", "host", "notes_api", "scheduler")}  # fmt: skip


def published(name: str, stack: str = "data") -> str:
    return f"{{{{resolve:ssm:/holdfast-{stack}/{name}}}}}"


def all_of(service: str, actions: str, *resources: str) -> Needed:
    return [(f"{service}:{action}", resource) for action in actions.split() for resource in resources]


def log_in(*users: str) -> Needed:
    place = f"arn:aws:rds-db:us-east-1:{ACCOUNT}:dbuser:{published('ResourceId')}"
    return all_of("rds-db", "connect", *(f"{place}/{user}" for user in users))


LOGIN = all_of("ecr", "GetAuthorizationToken", "*")


def images(name: str) -> Needed:
    repository = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/holdfast/{name}"
    return all_of("ecr", "BatchCheckLayerAvailability BatchGetImage GetDownloadUrlForLayer", repository)


def written(log: str) -> Needed:
    return all_of("logs", "CreateLogStream PutLogEvents", f"{log}.Arn")


def execution(service: str, *secrets: str) -> dict[str, Needed]:
    """What ECS does before a container of a service runs, and with what it says."""
    read = all_of("secretsmanager", "GetSecretValue", *(published(f"{name}SecretArn") for name in secrets))
    return {
        "LogInToTheRegistry": LOGIN,
        "FetchImages": images(service),
        "WriteTheLog": written("Log"),
        **({"ReadItsSecrets": read} if read else {}),
    }


def roles_task(server: str) -> dict[str, Needed]:
    secret = all_of("secretsmanager", "GetSecretValue", f"{server}.MasterUserSecret.SecretArn")
    return {"ReadItsSecret": secret, "WriteTheLog": written("RolesLog")}


PARAMETERS = f"arn:aws:ssm:us-east-1:{ACCOUNT}:parameter/holdfast-"
RIGHTS: dict[tuple[str, str], dict[str, Needed]] = {
    ("network", "FlowLogRole"): {
        "WriteTheLog": all_of(
            "logs", "CreateLogStream PutLogEvents DescribeLogGroups DescribeLogStreams", "FlowLog.Arn"
        )
    },
    ("data", "RolesExecutionRole"): roles_task("Database"),
    ("data", "ProofRolesExecutionRole"): roles_task("ProofDatabase"),
    ("host", "HostRole"): {
        "LogInToTheDatabase": log_in("notes_owner", "notes_app", "scheduler_owner", "scheduler_app"),
        "ReadWhatStacksPublish": all_of(
            "ssm", "GetParametersByPath", *(f"{PARAMETERS}{stack}" for stack in ("data", "storage", "backup"))
        ),
        "ReadSecrets": all_of(
            "secretsmanager", "GetSecretValue", published("RedisUrlSecretArn"), published("CursorKeySecretArn")
        ),
        "FetchTheBundle": all_of("s3", "GetObject", "arn:aws:s3:::CodeBucket/host/0b6a4b9e.tar.gz"),
        "LogInToTheRegistry": LOGIN,
        "FetchImages": images("deploy"),
    },
    ("notes_api", "MigrationsRole"): {"LogInToTheDatabase": log_in("notes_owner")},
    ("notes_api", "MigrationsExecutionRole"): execution("notes_api"),
    ("notes_api", "ApiRole"): {"LogInToTheDatabase": log_in("notes_app")},
    ("notes_api", "ApiExecutionRole"): execution("notes_api", "RedisUrl", "CursorKey"),
    ("scheduler", "MigrationsRole"): {"LogInToTheDatabase": log_in("scheduler_owner")},
    ("scheduler", "MigrationsExecutionRole"): execution("scheduler"),
    ("scheduler", "ApiRole"): {"LogInToTheDatabase": log_in("scheduler_app")},
    ("scheduler", "ApiExecutionRole"): execution("scheduler"),
    ("scheduler", "WorkerRole"): {"LogInToTheDatabase": log_in("scheduler_app")},
    ("scheduler", "WorkerExecutionRole"): execution("scheduler", "RedisUrl"),
}


def roles() -> Iterator[tuple[str, str, list[Statement]]]:
    """Those that have rights of their own, with the template's references replaced by what they are to."""
    for stack, content in CONTENTS.items():
        for name, resource in content["Resources"].items():
            if resource["Type"] == "AWS::IAM::Role" and "Policies" in resource["Properties"]:
                (policy,) = resource["Properties"]["Policies"]
                yield stack, name, plain(policy["PolicyDocument"]["Statement"], content["Parameters"])


def plain(value: Any, parameters: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [plain(each, parameters) for each in value]
    match value:
        case {"Ref": str(name)} if name.startswith("AWS::"):
            return PSEUDO[name.removeprefix("AWS::")]
        case {"Ref": str(name)}:
            return parameters[name].get("Default", name)
        case {"Fn::Join": [str(between), list(found)]}:
            return between.join(plain(found, parameters))
        case {"Fn::GetAtt": [str(name), str(attribute)]}:
            return f"{name}.{attribute}"
        case dict():
            return {key: plain(each, parameters) for key, each in value.items()}
    return value


FOUND = {(stack, name): statements for stack, name, statements in roles()}
SIDS = [(role, statement["Sid"]) for role, statements in FOUND.items() for statement in statements]


@pytest.mark.parametrize(("role", "sid"), SIDS, ids=lambda each: each if isinstance(each, str) else ".".join(each))
def test_a_statement_is_needed_with_all_its_actions_and_resources(aws: Aws, role: tuple[str, str], sid: str) -> None:
    needed, statements = RIGHTS[role][sid], FOUND[role]
    (statement,) = [each for each in statements if each["Sid"] == sid]
    rest = [each for each in statements if each["Sid"] != sid]
    assert allowed(aws, statements, needed) == set(needed)
    assert allowed(aws, rest, needed) == set()
    for field, number in parts(statement):
        kept = [each for i, each in enumerate(statement[field]) if i != number]
        assert allowed(aws, [*rest, {**statement, field: kept}], needed) != set(needed), (
            field,
            statement[field][number],
        )


def test_every_right_of_these_roles_is_one_that_is_needed() -> None:
    assert {(role, sid) for role, rights in RIGHTS.items() for sid in rights} == set(SIDS)


def allowed(aws: Aws, statements: list[Statement], needed: Needed) -> set[tuple[str, str]]:
    keys = {"aws_access_key_id": aws.access_key, "aws_secret_access_key": aws.secret_key}
    iam = boto3.client("iam", endpoint_url=aws.endpoint_url, region_name=aws.region, **keys)
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    may = set()
    for action, resource in needed:
        found = iam.simulate_custom_policy(PolicyInputList=[document], ActionNames=[action], ResourceArns=[resource])
        if found["EvaluationResults"][0]["EvalDecision"] == "allowed":
            may.add((action, resource))
    return may
