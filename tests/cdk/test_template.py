"""The committed template: in step with the stack, and holding what must not be lost in a change."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App

from deploy.cdk import rights
from deploy.cdk.app import STACKS, TEMPLATES, stack_name, synthesise

TEXT = (TEMPLATES / "backup.json").read_text()
CONTENT: dict[str, Any] = json.loads(TEXT)
CLOUDFORMATION_TAKES_BYTES = 1_000_000  # from a bucket
FUNCTIONS = ("Api", "Worker", "Keeper")
ROLES = ("ApiRole", "WorkerRole", "TaskRole", "KeeperRole")
POLICIES = ("SchedulerPolicy", "ConsolePolicy", "OpsPolicy")


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = CONTENT["Resources"][name]["Properties"]
    return found


def of_type(kind: str) -> list[dict[str, Any]]:
    return [each for each in CONTENT["Resources"].values() if each["Type"] == kind]


def statements(name: str) -> list[dict[str, Any]]:
    """Of a role or a managed policy, also those that depend on a parameter."""
    of = properties(name)
    found: list[dict[str, Any]] = (of["Policies"][0] if "Policies" in of else of)["PolicyDocument"]["Statement"]
    return [each["Fn::If"][1] if "Fn::If" in each else each for each in found]


def conditional(name: str) -> dict[str, str]:
    """The condition by the Sid of each statement that has one."""
    of = properties(name)
    found = (of["Policies"][0] if "Policies" in of else of)["PolicyDocument"]["Statement"]
    return {each["Fn::If"][1]["Sid"]: each["Fn::If"][0] for each in found if "Fn::If" in each}


@pytest.mark.parametrize("name", STACKS)
def test_the_committed_template_is_what_the_stack_gives(name: str) -> None:
    assert synthesise(name) == (TEMPLATES / f"{name}.json").read_text(), "run `.venv/cdk/bin/python -m deploy.cdk.app`"


def test_the_committed_table_of_rights_is_what_the_templates_give() -> None:
    assert rights.TABLE.read_text() == rights.page(), "run `python -m deploy.cdk.rights`"


@pytest.mark.parametrize("name", STACKS)
def test_cfn_lint_finds_nothing(name: str) -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    # CDK always writes that a function depends on its role, which the reference to it says already (W3005). A secret
    # that a deployment does not name has an empty ARN, in a statement that such a deployment has not (W1030).
    template = TEMPLATES / f"{name}.json"
    done = subprocess.run(
        [linter, "--ignore-checks", "W3005", "W1030", "--", template], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_cannot_be_deleted_by_mistake(name: str) -> None:
    assert STACKS[name](App(), stack_name(name)).termination_protection


@pytest.mark.parametrize("name", ["backup", "storage"])
def test_a_bucket_outlives_its_stack(name: str) -> None:
    content = json.loads((TEMPLATES / f"{name}.json").read_text())
    assert content["Resources"]["Bucket"]["DeletionPolicy"] == "Retain"


def test_cloudformation_alone_can_deploy_it() -> None:
    """No bootstrapped account, no assets, no custom resources."""
    for name in STACKS:
        text = (TEMPLATES / f"{name}.json").read_text()
        content = json.loads(text)
        assert len(text) < CLOUDFORMATION_TAKES_BYTES
        assert "Rules" not in content
        assert not [each["Type"] for each in content["Resources"].values() if not each["Type"].startswith("AWS::")]
        assert "AWS::CloudFormation::CustomResource" not in text
        assert "Fn::ImportValue" not in text, "stacks know of each other by parameters of SSM"
        assert not [output for output in content.get("Outputs", {}).values() if "Export" in output]


def test_what_a_deployment_must_say_and_may_say() -> None:
    defaults = {name: each.get("Default") for name, each in CONTENT["Parameters"].items()}
    assert defaults == {
        "CodeBucket": None,
        "CodeKey": None,
        "NetworkStack": "holdfast-network",
        "InVpc": "false",
        "WorkerImage": "",
        "TaskFromBytes": "10000000000",
        "DataStack": "holdfast-data",
        "DatabaseSecretArn": "",
        "ProofDatabaseSecretArn": "",
        "RestoresLive": "false",
        "RestoreDatabaseSecretArn": "",
        "DatabaseCa": "",
        "SigningKeyArn": None,
        "FormerKeys": "",
        "KmsKeyArn": "",
        "ObjectLockDays": "0",
        "Prove": "always",
        "Schemas": "notes,scheduler",
        "IncludeTables": "*",
        "ExcludeTables": "",
        "SuspectFallPercent": "50",
        "ChangedPercent": "50",
        "ReproveAfterDays": "30",
        "ProofRoomBytes": "",
        "Retention": "last 7, daily 14, weekly 8, monthly 24, labelled, proven 3",
        "RequireTls": "true",
    }


@pytest.mark.parametrize(
    ("parameter", "value", "fits"),
    [
        ("SigningKeyArn", "arn:aws:kms:eu-north-1:123456789012:key/0b6a4b9e", True),
        ("SigningKeyArn", "arn:aws:secretsmanager:eu-north-1:123456789012:secret:signing-AbCdEf", True),
        ("SigningKeyArn", "arn:aws:kms:eu-north-1:123456789012:alias/signing", False),  # a right is for a key
        ("SigningKeyArn", "-----BEGIN PRIVATE KEY-----", False),
        ("KmsKeyArn", "", True),
        ("KmsKeyArn", "arn:aws:kms:eu-north-1:123456789012:key/0b6a4b9e", True),
        ("KmsKeyArn", "alias/aws/s3", False),
    ],
)
def test_a_key_is_named_by_its_arn(parameter: str, value: str, fits: bool) -> None:
    assert bool(re.fullmatch(CONTENT["Parameters"][parameter]["AllowedPattern"], value)) is fits


def test_what_other_deployments_read() -> None:
    assert set(CONTENT["Outputs"]) == {
        "ApiId",
        "ApiUrl",
        "BucketName",
        "TopicArn",
        "ApiFunctionName",
        "WorkerFunctionName",
        "KeeperFunctionName",
        "DeadLetterQueueUrl",
        "DeadLetterQueueName",
        "GatewayName",
        "SchedulerPolicyArn",
        "ConsolePolicyArn",
        "OpsPolicyArn",
    }


def test_every_method_needs_a_signature() -> None:
    methods = [each["Properties"] for each in of_type("AWS::ApiGateway::Method")]
    assert {method["AuthorizationType"] for method in methods} == {"AWS_IAM"}
    assert {method["Integration"]["Type"] for method in methods} == {"AWS_PROXY"}
    assert sorted((method["HttpMethod"], path_of(method["ResourceId"])) for method in methods) == [
        ("DELETE", "/subscriptions/{subscription_id}"),
        ("GET", "/backups"),
        ("GET", "/backups/before/{backup_id}"),
        ("GET", "/backups/{backup_id}"),
        ("GET", "/backups/{backup_id}/diff/{other}"),
        ("GET", "/backups/{backup_id}/diff/{other}/after/{cursor}"),
        ("GET", "/backups/{backup_id}/tables/{table}"),
        ("GET", "/backups/{backup_id}/tables/{table}/rows/{key}"),
        ("GET", "/restores/{restore_id}"),
        ("GET", "/retention"),
        ("GET", "/rows/{table}/{key}/history"),
        ("GET", "/subscriptions"),
        ("POST", "/backups"),
        ("POST", "/backups/{backup_id}/cancel"),
        ("POST", "/backups/{backup_id}/proofs"),
        ("POST", "/backups/{backup_id}/restores"),
        ("POST", "/retention"),
        ("POST", "/subscriptions"),
        ("POST", "/subscriptions/test"),
    ]


def test_each_post_is_throttled() -> None:
    settings = properties("GatewayDeploymentStage")["MethodSettings"]
    limits = {
        each["ResourcePath"].replace("~1", "/"): (each["ThrottlingRateLimit"], each["ThrottlingBurstLimit"])
        for each in settings
        if each["HttpMethod"] == "POST"
    }
    posts = [
        each["Properties"] for each in of_type("AWS::ApiGateway::Method") if each["Properties"]["HttpMethod"] == "POST"
    ]
    assert set(limits) == {f"/{path_of(method['ResourceId'])}" for method in posts}
    assert set(limits.values()) == {(1, 5)}


def path_of(resource: dict[str, Any]) -> str:
    if "Ref" not in resource:
        return ""  # the API's root
    of = properties(resource["Ref"])
    return f"{path_of(of['ParentId'])}/{of['PathPart']}"


@pytest.mark.parametrize("name", [*ROLES, *POLICIES])
def test_each_right_is_allowed_for_a_purpose_by_name(name: str) -> None:
    for statement in statements(name):
        assert statement["Sid"]
        assert statement["Effect"] == ("Deny" if statement["Sid"] == "OnlyLambdaAttaches" else "Allow")
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not [action for action in actions if "*" in action]


def test_the_only_rights_on_any_resource_are_those_that_aws_cannot_limit() -> None:
    everywhere = [(name, each["Sid"]) for name in (*ROLES, *POLICIES) for each in statements(name) if anywhere(each)]
    assert everywhere == [
        ("ApiRole", "ReadFilterPolicies"),
        ("ApiRole", "Unsubscribe"),
        ("ApiRole", "Trace"),
        ("WorkerRole", "AttachToTheVpc"),
        ("WorkerRole", "OnlyLambdaAttaches"),
        ("WorkerRole", "Trace"),
        ("KeeperRole", "Trace"),
    ]


def anywhere(statement: dict[str, Any]) -> bool:
    return "*" in (statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]])


@pytest.mark.parametrize("name", [*ROLES, "OpsPolicy"])
def test_who_asks_for_an_object_may_list_its_prefix(name: str) -> None:
    """Without it S3 answers 403 for an object that is not there; the emulator does not show the difference."""
    listing = [each for each in statements(name) if each["Action"] == "s3:ListBucket"]
    assert [each["Condition"] for each in listing] == [{"StringLike": {"s3:prefix": ["backups/*", "restores/*"]}}]


def test_nobody_may_delete_but_the_keeper_and_that_only_rows() -> None:
    """And under a delete marker, whose version nobody deletes."""
    may = [
        (name, each) for name in (*ROLES, *POLICIES) for each in statements(name) if "DeleteObject" in json.dumps(each)
    ]
    ((name, statement),) = may
    assert (name, statement["Action"]) == ("KeeperRole", "s3:DeleteObject")
    resources = [each["Fn::Join"][1][-1] for each in statement["Resource"]]
    assert resources == ["/backups/*/data/*", "/backups/*/index/*"]


@pytest.mark.parametrize("name", [*ROLES, *POLICIES])
def test_nobody_goes_around_object_lock(name: str) -> None:
    assert not [
        word for word in ("Bypass", "LegalHold", "ObjectLockConfiguration") if word in json.dumps(statements(name))
    ]


@pytest.mark.parametrize(
    ("word", "who"),
    [
        ("DatabaseSecretArn", ["WorkerRole", "TaskRole"]),
        ("rds-db:connect", ["WorkerRole", "TaskRole"]),
        ("PutObjectRetention", ["WorkerRole", "TaskRole"]),
        ("kms:Sign", ["WorkerRole", "TaskRole", "KeeperRole"]),
        ("SigningKeyArn", ["WorkerRole", "TaskRole", "KeeperRole"]),
        ("iam:PassRole", ["WorkerRole"]),
    ],
)
def test_who_reads_secrets_locks_and_signs(word: str, who: list[str]) -> None:
    assert [name for name in (*ROLES, *POLICIES) if word in json.dumps(statements(name))] == who


def test_the_scheduler_makes_follows_and_proves_backups_and_reads_nothing_below_one() -> None:
    named = {
        each["Sid"]: [arn["Fn::Join"][1][-1] for arn in listed(each["Resource"])]
        for each in statements("SchedulerPolicy")
        if each["Action"] == "execute-api:Invoke"
    }
    assert named == {
        "StartAndFollowBackups": ["/v1/POST/backups", "/v1/GET/backups/????????T??????Z-????????"],
        "ListBackups": ["/v1/GET/backups", "/v1/GET/backups/before/????????T??????Z-????????"],
        "CancelBackups": ["/v1/POST/backups/*/cancel"],
        "ProveBackups": ["/v1/POST/backups/*/proofs"],
        "PlanAndApplyRetention": ["/v1/GET/retention", "/v1/POST/retention"],
    }


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_rights_come_with_what_they_are_for() -> None:
    assert conditional("ApiRole") == {"UseTheBucketsKey": "EncryptedByKms"}
    both = {
        "UseTheBucketsKey": "EncryptedByKms",
        "LockBackups": "Locked",
        "ReadTheDatabaseUrls": "ByPassword",
        "ReadTheLiveDatabasesUrl": "RestoresByPassword",
        "LogInToTheDatabases": "ByIam",
        "LogInToRestore": "RestoresByIam",
    }
    handed_on = {"HandOnToATask": "WithTask", "GiveTheTaskItsRoles": "WithTask"}
    assert conditional("WorkerRole") == both | handed_on | {
        "AttachToTheVpc": "Private",
        "OnlyLambdaAttaches": "Private",
    }
    assert conditional("TaskRole") == both
    assert CONTENT["Resources"]["TaskRole"]["Condition"] == "WithTask"
    assert conditional("KeeperRole") == {"UseTheBucketsKey": "EncryptedByKms"}
    assert conditional("OpsPolicy") == {"ReadWithTheBucketsKey": "EncryptedByKms"}
    assert conditional("SchedulerPolicy") == {}
    assert CONTENT["Conditions"]["EncryptedByKms"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "KmsKeyArn"}, ""]}]}
    conditions = CONTENT["Conditions"]
    assert conditions["ByIam"] == {"Fn::Equals": [{"Ref": "DatabaseSecretArn"}, ""]}
    assert conditions["IntoLive"] == {"Fn::Equals": [{"Ref": "RestoresLive"}, "true"]}
    assert conditions["ByPassword"] == {"Fn::Not": [{"Condition": "ByIam"}]}
    assert conditions["RestoresByIam"] == {"Fn::And": [{"Condition": "IntoLive"}, {"Condition": "ByIam"}]}
    assert conditions["RestoresByPassword"] == {"Fn::And": [{"Condition": "IntoLive"}, {"Condition": "ByPassword"}]}
    assert conditions["WithTask"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "WorkerImage"}, ""]}]}
    assert conditions["Private"] == {"Fn::Equals": [{"Ref": "InVpc"}, "true"]}
    assert CONTENT["Conditions"]["Locked"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "ObjectLockDays"}, "0"]}]}


@pytest.mark.parametrize("name", [*ROLES, "OpsPolicy"])
def test_the_buckets_key_is_used_through_s3_only(name: str) -> None:
    (statement,) = [each for each in statements(name) if "BucketsKey" in each["Sid"]]
    assert statement["Resource"] == {"Ref": "KmsKeyArn"}
    through = {"Fn::Join": ["", ["s3.", {"Ref": "AWS::Region"}, ".", {"Ref": "AWS::URLSuffix"}]]}
    assert statement["Condition"] == {"StringEquals": {"kms:ViaService": through}}


def test_a_task_has_the_rights_of_the_worker_but_for_what_lambda_alone_needs() -> None:
    of_lambda = {"AskForBackups", "BuryFailedEvents", "Trace", "WriteTheLog", *conditional("WorkerRole")} - {
        *conditional("TaskRole")
    }
    worker, task = ({each["Sid"]: each for each in statements(name)} for name in ("WorkerRole", "TaskRole"))
    assert task == {sid: statement for sid, statement in worker.items() if sid not in of_lambda}


def test_a_task_is_told_what_the_worker_is() -> None:
    (container,) = properties("TaskDefinition")["ContainerDefinitions"]
    told = {each["Name"]: each["Value"] for each in container["Environment"]}
    of_function = properties("Worker")["Environment"]["Variables"]
    assert told == {name: value for name, value in of_function.items() if not name.startswith("HOLDFAST_TASK")}
    assert container["ReadonlyRootFilesystem"] is True


def test_the_worker_is_in_a_vpc_where_it_is_to_be() -> None:
    condition, within, otherwise = properties("Worker")["VpcConfig"]["Fn::If"]
    assert (condition, otherwise) == ("Private", {"Ref": "AWS::NoValue"})
    of_network = "{{resolve:ssm:/holdfast-network/%s}}"
    named = [resolved(each) for each in (*within["SubnetIds"], *within["SecurityGroupIds"])]
    assert named == [of_network % name for name in ("PrivateSubnetA", "PrivateSubnetB", "WorkerSecurityGroup")]


def resolved(value: Any) -> str:
    """With the defaults of the parameters."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(map(resolved, parts))
        case {"Ref": name} if name in CONTENT["Parameters"]:
            return str(CONTENT["Parameters"][name].get("Default", f"<{name}>"))
        case {"Ref": name}:
            return f"<{name}>"
        case _:
            return str(value)


def test_iam_lets_the_worker_in_as_its_roles_and_no_others() -> None:
    of_account = "arn:<AWS::Partition>:rds-db:<AWS::Region>:<AWS::AccountId>:dbuser:{{resolve:ssm:/holdfast-data/"
    named = {each["Sid"]: [resolved(arn) for arn in listed(each["Resource"])] for each in statements("TaskRole")}
    assert named["LogInToTheDatabases"] == [
        f"{of_account}ResourceId}}}}/notes_backup",
        f"{of_account}ProofResourceId}}}}/notes_proof",
    ]
    assert named["LogInToRestore"] == [f"{of_account}ResourceId}}}}/notes_restore"]
    told = properties("Worker")["Environment"]["Variables"]
    by_iam = {name: told[f"HOLDFAST_{name}"]["Fn::If"][1] for name in ("DATABASE", "PROOF_DATABASE")}
    assert {name: resolved(url) for name, url in by_iam.items()} == {
        "DATABASE": "postgresql+iam://notes_backup@{{resolve:ssm:/holdfast-data/Endpoint}}/holdfast",
        "PROOF_DATABASE": "postgresql+iam://notes_proof@{{resolve:ssm:/holdfast-data/ProofEndpoint}}/postgres",
    }


def test_what_is_no_json_object_does_not_reach_the_function() -> None:
    """Where the API's own document says that a body is needed."""
    document = json.loads((TEMPLATES.parents[2] / "tests/contract/backup_lambda.openapi.json").read_text())
    needed = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation.get("requestBody", {}).get("required")
    }
    checked = {
        (each["Properties"]["HttpMethod"], path_of(each["Properties"]["ResourceId"]))
        for each in of_type("AWS::ApiGateway::Method")
        if each["Properties"].get("RequestModels") == {"application/json": {"Ref": "GatewayBody"}}
        and each["Properties"]["RequestValidatorId"] == {"Ref": "GatewayValidator"}
    }
    assert checked == needed
    assert properties("GatewayBody")["Schema"]["type"] == "object"


def test_the_gateway_and_the_functions_are_traced_and_log_what_goes_wrong() -> None:
    stage = properties("GatewayDeploymentStage")
    assert stage["TracingEnabled"] is True
    (everything,) = [each for each in stage["MethodSettings"] if each["ResourcePath"] == "/*"]
    assert (everything["LoggingLevel"], everything["DataTraceEnabled"]) == ("ERROR", False), "no bodies in logs"
    assert [properties(name)["TracingConfig"] for name in FUNCTIONS] == [{"Mode": "Active"}] * 3


def test_callers_with_a_key_are_counted_and_limited() -> None:
    plan = properties("GatewayUsagePlan")
    assert plan["ApiStages"] == [
        {"ApiId": {"Ref": "Gateway"}, "Stage": {"Ref": "GatewayDeploymentStage"}, "Throttle": {}}
    ]
    assert (plan["Quota"]["Period"], plan["Throttle"]["RateLimit"]) == ("DAY", 10)


def test_nobody_else_has_the_roles() -> None:
    trusted = {
        name: [each["Principal"]["Service"] for each in properties(name)["AssumeRolePolicyDocument"]["Statement"]]
        for name in ROLES
    }
    assert trusted == {
        "ApiRole": ["lambda.amazonaws.com"],
        "KeeperRole": ["lambda.amazonaws.com"],
        "WorkerRole": ["lambda.amazonaws.com"],
        "TaskRole": ["ecs-tasks.amazonaws.com"],
    }


def test_functions() -> None:
    for name in FUNCTIONS:
        function = properties(name)
        assert (function["Runtime"], function["Architectures"]) == ("python3.13", ["arm64"])
        assert function["Code"] == {"S3Bucket": {"Ref": "CodeBucket"}, "S3Key": {"Ref": "CodeKey"}}
    api, worker, keeper = (properties(name) for name in FUNCTIONS)
    assert (api["Handler"], api["MemorySize"], api["Timeout"]) == ("backup_lambda.handler.api", 512, 28)
    assert (worker["Handler"], worker["MemorySize"], worker["Timeout"]) == ("backup_lambda.handler.worker", 1769, 900)
    assert (keeper["Handler"], keeper["MemorySize"], keeper["Timeout"]) == ("backup_lambda.handler.keeper", 512, 25)
    assert (worker["ReservedConcurrentExecutions"], keeper["ReservedConcurrentExecutions"]) == (3, 1)
    assert api["Environment"]["Variables"] == {
        "HOLDFAST_BUCKET": {"Ref": "Bucket"},
        "HOLDFAST_TOPIC_ARN": {"Ref": "Topic"},
        "HOLDFAST_WORKER_FUNCTION": {"Ref": "Worker"},
        "HOLDFAST_KEEPER_FUNCTION": {"Ref": "Keeper"},
        "HOLDFAST_RETENTION": {"Ref": "Retention"},
    }
    assert keeper["Environment"]["Variables"] == {
        "HOLDFAST_BUCKET": {"Ref": "Bucket"},
        "HOLDFAST_SIGNING_KEY": {"Ref": "SigningKeyArn"},
        "HOLDFAST_FORMER_KEYS": {"Ref": "FormerKeys"},
        "HOLDFAST_RETENTION": {"Ref": "Retention"},
    }
    told = worker["Environment"]["Variables"]
    chosen = {"HOLDFAST_BUCKET", "HOLDFAST_TOPIC_ARN", "HOLDFAST_TASK", "HOLDFAST_RESTORE_DATABASE"}
    assert told["HOLDFAST_RESTORE_DATABASE"]["Fn::If"][::2] == ["IntoLive", ""]
    assert {
        name: (value["Fn::If"][2] if "Fn::If" in value else value)["Ref"]
        for name, value in told.items()
        if name not in chosen
    } == {
        "HOLDFAST_DATABASE": "DatabaseSecretArn",
        "HOLDFAST_PROOF_DATABASE": "ProofDatabaseSecretArn",
        "HOLDFAST_DATABASE_CA": "DatabaseCa",
        "HOLDFAST_TASK_FROM_BYTES": "TaskFromBytes",
        "HOLDFAST_SIGNING_KEY": "SigningKeyArn",
        "HOLDFAST_FORMER_KEYS": "FormerKeys",
        "HOLDFAST_OBJECT_LOCK_DAYS": "ObjectLockDays",
        "HOLDFAST_PROVE": "Prove",
        "HOLDFAST_SCHEMAS": "Schemas",
        "HOLDFAST_INCLUDE_TABLES": "IncludeTables",
        "HOLDFAST_EXCLUDE_TABLES": "ExcludeTables",
        "HOLDFAST_SUSPECT_FALL_PERCENT": "SuspectFallPercent",
        "HOLDFAST_CHANGED_PERCENT": "ChangedPercent",
        "HOLDFAST_REPROVE_AFTER_DAYS": "ReproveAfterDays",
        "HOLDFAST_PROOF_ROOM_BYTES": "ProofRoomBytes",
    }


def test_an_event_that_failed_twice_is_kept() -> None:
    invocations = properties("WorkerEventInvokeConfig")
    assert (invocations["MaximumRetryAttempts"], invocations["MaximumEventAgeInSeconds"]) == (1, 3600)
    destination = invocations["DestinationConfig"]["OnFailure"]["Destination"]
    assert destination == {"Fn::GetAtt": ["DeadLetters", "Arn"]}


def test_the_bucket_is_versioned_encrypted_private_and_tidy() -> None:
    bucket = properties("Bucket")
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    ((condition, by_kms, by_s3),) = [
        each["Fn::If"] for each in bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    ]
    assert (condition, by_s3) == ("EncryptedByKms", {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}})
    assert by_kms == {
        "BucketKeyEnabled": True,
        "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": {"Ref": "KmsKeyArn"}},
    }
    uploads, versions = bucket["LifecycleConfiguration"]["Rules"]
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert versions["NoncurrentVersionExpiration"] == {"NoncurrentDays": 7}
    assert versions["ExpiredObjectDeleteMarker"] is True
    assert not [each for each in (uploads, versions) if "ExpirationInDays" in each or each["Status"] != "Enabled"]


def test_object_lock_is_the_objects_own_and_never_the_buckets_default() -> None:
    """progress.json is rewritten every two seconds."""
    bucket = properties("Bucket")
    assert bucket["ObjectLockEnabled"] == {"Fn::If": ["Locked", True, {"Ref": "AWS::NoValue"}]}
    assert "ObjectLockConfiguration" not in bucket


def test_plain_http_is_refused_unless_asked_for() -> None:
    assert CONTENT["Parameters"]["RequireTls"]["Default"] == "true"
    assert {CONTENT["Resources"][name]["Condition"] for name in ("BucketPolicy", "DeadLettersPolicy")} == {"Tls"}
    assert [each["Sid"] for each in tls_statements()] == ["OnlyOverTls"] * 3
    for each in tls_statements():
        assert (each["Effect"], each["Principal"]) == ("Deny", "*")
        assert each["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def tls_statements() -> Iterator[dict[str, Any]]:
    yield from properties("BucketPolicy")["PolicyDocument"]["Statement"]
    yield from properties("DeadLettersPolicy")["PolicyDocument"]["Statement"]
    condition, statement, otherwise = properties("TopicPolicy")["PolicyDocument"]["Statement"][0]["Fn::If"]
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
    assert [each["Properties"]["RetentionInDays"] for each in of_type("AWS::Logs::LogGroup")] == [90] * 6
    assert properties("GatewayDeploymentStage")["AccessLogSetting"]["DestinationArn"]
