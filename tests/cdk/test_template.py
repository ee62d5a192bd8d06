"""The committed template: in step with the stack, and holding what must not be lost in a change."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App

from deploy.cdk import rights
from deploy.cdk.app import STACK, TEMPLATE, synthesise
from deploy.cdk.backup import BackupStack

TEXT = TEMPLATE.read_text()
CONTENT: dict[str, Any] = json.loads(TEXT)
FUNCTIONS = ("Api", "Worker")
ROLES = ("ApiRole", "WorkerRole")
POLICIES = ("SchedulerPolicy", "OpsPolicy")


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = CONTENT["Resources"][name]["Properties"]
    return found


def of_type(kind: str) -> list[dict[str, Any]]:
    return [each for each in CONTENT["Resources"].values() if each["Type"] == kind]


def statements(name: str) -> list[dict[str, Any]]:
    """Of a role or a managed policy."""
    of = properties(name)
    found: list[dict[str, Any]] = (of["Policies"][0] if "Policies" in of else of)["PolicyDocument"]["Statement"]
    return found


def test_the_committed_template_is_what_the_stack_gives() -> None:
    assert synthesise() == TEXT, "run `.venv/cdk/bin/python -m deploy.cdk.app`"


def test_the_committed_table_of_rights_is_what_the_template_gives() -> None:
    assert rights.TABLE.read_text() == rights.page(CONTENT), "run `python -m deploy.cdk.rights`"


def test_cfn_lint_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    # CDK always writes that a function depends on its role, which the reference to it says already (W3005).
    done = subprocess.run([linter, "--ignore-checks", "W3005", "--", TEMPLATE], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_stack_cannot_be_deleted_by_mistake() -> None:
    assert BackupStack(App(), STACK).termination_protection
    assert CONTENT["Resources"]["Bucket"]["DeletionPolicy"] == "Retain"


def test_cloudformation_alone_can_deploy_it() -> None:
    """No bootstrapped account, no assets, no custom resources."""
    assert set(CONTENT["Parameters"]) == {"CodeBucket", "CodeKey", "DatabaseSecretArn", "RequireTls"}
    assert "Rules" not in CONTENT
    assert not [each["Type"] for each in CONTENT["Resources"].values() if not each["Type"].startswith("AWS::")]
    assert "AWS::CloudFormation::CustomResource" not in TEXT


def test_what_other_deployments_read() -> None:
    assert set(CONTENT["Outputs"]) == {
        "ApiId",
        "ApiUrl",
        "BucketName",
        "TopicArn",
        "ApiFunctionName",
        "WorkerFunctionName",
        "DeadLetterQueueUrl",
        "SchedulerPolicyArn",
        "OpsPolicyArn",
    }


def test_every_method_needs_a_signature() -> None:
    methods = [each["Properties"] for each in of_type("AWS::ApiGateway::Method")]
    assert {method["AuthorizationType"] for method in methods} == {"AWS_IAM"}
    assert {method["Integration"]["Type"] for method in methods} == {"AWS_PROXY"}
    assert sorted((method["HttpMethod"], path_of(method["ResourceId"])) for method in methods) == [
        ("GET", "/backups"),
        ("GET", "/backups/before/{backup_id}"),
        ("GET", "/backups/{backup_id}"),
        ("GET", "/subscriptions"),
        ("POST", "/backups"),
        ("POST", "/subscriptions"),
    ]


def path_of(resource: dict[str, Any]) -> str:
    if "Ref" not in resource:
        return ""  # the API's root
    of = properties(resource["Ref"])
    return f"{path_of(of['ParentId'])}/{of['PathPart']}"


@pytest.mark.parametrize("name", [*ROLES, *POLICIES])
def test_each_right_is_allowed_for_a_purpose_by_name(name: str) -> None:
    for statement in statements(name):
        assert statement["Sid"]
        assert statement["Effect"] == ("Deny" if statement["Sid"].startswith("Nothing") else "Allow")
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not [action for action in actions if "*" in action]


def test_the_only_right_on_any_resource_is_one_that_sns_cannot_limit() -> None:
    everywhere = [(name, each["Sid"]) for name in (*ROLES, *POLICIES) for each in statements(name) if anywhere(each)]
    assert everywhere == [("ApiRole", "ReadFilterPolicies")]


def anywhere(statement: dict[str, Any]) -> bool:
    return "*" in (statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]])


@pytest.mark.parametrize("name", [*ROLES, "OpsPolicy"])
def test_who_asks_for_an_object_may_list_its_prefix(name: str) -> None:
    """Without it S3 answers 403 for an object that is not there; the emulator does not show the difference."""
    listing = [each for each in statements(name) if each["Action"] == "s3:ListBucket"]
    assert [each["Condition"] for each in listing] == [{"StringLike": {"s3:prefix": "backups/*"}}]


@pytest.mark.parametrize("name", [*ROLES, *POLICIES])
def test_nobody_may_delete(name: str) -> None:
    assert "Delete" not in json.dumps(statements(name))


def test_only_the_worker_reads_the_databases_secret() -> None:
    assert [name for name in (*ROLES, *POLICIES) if "secretsmanager" in json.dumps(statements(name))] == ["WorkerRole"]


def test_functions() -> None:
    for name in FUNCTIONS:
        function = properties(name)
        assert (function["Runtime"], function["Architectures"]) == ("python3.13", ["arm64"])
        assert function["Code"] == {"S3Bucket": {"Ref": "CodeBucket"}, "S3Key": {"Ref": "CodeKey"}}
        assert "VpcConfig" not in function
    api, worker = properties("Api"), properties("Worker")
    assert (api["Handler"], api["MemorySize"], api["Timeout"]) == ("backup_lambda.handler.api", 512, 20)
    assert (worker["Handler"], worker["MemorySize"], worker["Timeout"]) == ("backup_lambda.handler.worker", 1769, 900)
    assert worker["ReservedConcurrentExecutions"] == 2


def test_an_event_that_failed_twice_is_kept() -> None:
    invocations = properties("WorkerEventInvokeConfig")
    assert (invocations["MaximumRetryAttempts"], invocations["MaximumEventAgeInSeconds"]) == (1, 3600)
    destination = invocations["DestinationConfig"]["OnFailure"]["Destination"]
    assert destination == {"Fn::GetAtt": ["DeadLetters", "Arn"]}


def test_the_bucket_is_versioned_encrypted_private_and_tidy() -> None:
    bucket = properties("Bucket")
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    rule = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]["ServerSideEncryptionByDefault"]
    assert rule == {"SSEAlgorithm": "AES256"}
    (tidying,) = bucket["LifecycleConfiguration"]["Rules"]
    assert tidying["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


def test_plain_http_is_refused_unless_asked_for() -> None:
    assert CONTENT["Parameters"]["RequireTls"]["Default"] == "true"
    assert CONTENT["Resources"]["BucketPolicy"]["Condition"] == "Tls"
    assert [each["Sid"] for each in tls_statements()] == ["OnlyOverTls"] * 3
    for each in tls_statements():
        assert (each["Effect"], each["Principal"]) == ("Deny", "*")
        assert each["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def tls_statements() -> Iterator[dict[str, Any]]:
    yield from properties("BucketPolicy")["PolicyDocument"]["Statement"]
    for name in ("TopicPolicy", "DeadLettersPolicy"):
        condition, statement, otherwise = properties(name)["PolicyDocument"]["Statement"][0]["Fn::If"]
        assert (condition, otherwise) == ("Tls", {"Ref": "AWS::NoValue"})
        yield statement


def test_each_alarm_is_announced_on_the_topic() -> None:
    alarms = {
        (each["Properties"]["Namespace"], each["Properties"]["MetricName"], each["Properties"]["Threshold"])
        for each in of_type("AWS::CloudWatch::Alarm")
    }
    assert alarms == {
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible", 0),
        ("AWS/Lambda", "Errors", 0),
        ("AWS/Lambda", "Duration", 720_000),  # ms
        ("AWS/Lambda", "Throttles", 0),
        ("AWS/ApiGateway", "5XXError", 0),
    }
    for each in of_type("AWS::CloudWatch::Alarm"):
        assert each["Properties"]["AlarmActions"] == [{"Ref": "Topic"}]
        assert each["Properties"]["ComparisonOperator"] == "GreaterThanThreshold"


def test_logs_are_kept_for_a_set_time() -> None:
    assert [each["Properties"]["RetentionInDays"] for each in of_type("AWS::Logs::LogGroup")] == [90, 90, 90]
    assert properties("GatewayDeploymentStage")["AccessLogSetting"]["DestinationArn"]
