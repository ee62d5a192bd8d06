"""The matrix of docs/rights.md, tried out both ways: by functions with the stack's roles, and by its users."""

from typing import Any, NamedTuple

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.deploy.account import Keys
from tests.deploy.conftest import SECRET, Deployed

DENIED = {"AccessDenied", "AccessDeniedException", "AuthorizationError"}


class Call(NamedTuple):
    """`$Name` among the arguments stands for what fixture `names` has."""

    service: str
    name: str
    arguments: dict[str, Any]


def s3(name: str, **arguments: Any) -> Call:
    return Call("s3", name, {"Bucket": "$BucketName", **arguments})


def sns(name: str, **arguments: Any) -> Call:
    return Call("sns", name, arguments)


DATA = "backups/x/data/notes.notes.json.gz"
THERE = "backups/there/request.json"
DATABASE_SECRET = Call("secretsmanager", "get_secret_value", {"SecretId": SECRET})
PUBLISH = sns("publish", TopicArn="$TopicArn", Message="x")
SUBSCRIBE = sns("subscribe", TopicArn="$TopicArn", Protocol="email", Endpoint="eve@example.com")
SUBSCRIPTIONS = sns("list_subscriptions_by_topic", TopicArn="$TopicArn")
SUBSCRIPTION = sns("get_subscription_attributes", SubscriptionArn="$SubscriptionArn")
START_WORKER = Call("lambda", "invoke", {"FunctionName": "$WorkerFunctionName", "InvocationType": "DryRun"})
START_API = Call("lambda", "invoke", {"FunctionName": "$ApiFunctionName", "InvocationType": "DryRun"})
BURY = Call("sqs", "send_message", {"QueueUrl": "$DeadLetterQueueUrl", "MessageBody": "x"})
EXHUME = Call("sqs", "receive_message", {"QueueUrl": "$DeadLetterQueueUrl"})
ABORT = s3("abort_multipart_upload", Key=DATA, UploadId="$UploadId")
READ, READ_KEY = s3("get_object", Key=THERE), s3("get_object", Key="idempotency/there.json")
LIST, LIST_ALL = s3("list_objects_v2", Prefix="backups/"), s3("list_objects_v2")
DELETE, DELETE_VERSION = s3("delete_object", Key=THERE), s3("delete_object", Key=THERE, VersionId="$VersionId")
UNVERSION = s3("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"})
OPEN_BUCKET = s3("put_bucket_policy", Policy="{}")
WRITE_ASKED = [s3("put_object", Key=key) for key in ("backups/x/request.json", "idempotency/x.json")]
WRITE_MADE = [
    s3("put_object", Key=key)
    for key in (
        "backups/x/progress.json",
        DATA,
        "backups/x/index/notes.notes.json.gz",
        "backups/x/manifest.json",
        "backups/x/failure.json",
    )
]
WRITE_ELSEWHERE = s3("put_object", Key="other.json")
DESTROY = [DELETE, DELETE_VERSION, UNVERSION, OPEN_BUCKET]

ALLOWED = {
    "Api": [*WRITE_ASKED, READ, READ_KEY, LIST, SUBSCRIBE, SUBSCRIPTIONS, SUBSCRIPTION, START_WORKER],
    "Worker": [*WRITE_MADE, READ, LIST, PUBLISH, DATABASE_SECRET, BURY, ABORT],
    "scheduler": [PUBLISH],
    "ops": [READ, LIST],
    "nobody": [],
}
ALL = [
    *(*WRITE_ASKED, *WRITE_MADE, WRITE_ELSEWHERE, *DESTROY, READ, READ_KEY, LIST, LIST_ALL, ABORT),
    *(PUBLISH, SUBSCRIBE, SUBSCRIPTIONS, SUBSCRIPTION, START_WORKER, START_API, DATABASE_SECRET, BURY, EXHUME),
]


@pytest.fixture(scope="module")
def names(deployed: Deployed) -> dict[str, str]:
    bucket, root = deployed.outputs["BucketName"], deployed.account.client("s3")
    subscribed = deployed.account.client("sns").subscribe(
        TopicArn=deployed.outputs["TopicArn"],
        Protocol="email",
        Endpoint="ada@example.com",
        ReturnSubscriptionArn=True,
    )
    return {
        **deployed.outputs,
        "SubscriptionArn": subscribed["SubscriptionArn"],
        "UploadId": root.create_multipart_upload(Bucket=bucket, Key=DATA)["UploadId"],
        "VersionId": root.head_object(Bucket=bucket, Key=THERE)["VersionId"],
    }


@pytest.mark.parametrize("call", ALL, ids=lambda call: f"{call.name}-{call.arguments.get('Key', '')}")
@pytest.mark.parametrize("who", ALLOWED)
def test_a_right(deployed: Deployed, names: dict[str, str], who: str, call: Call) -> None:
    arguments = {
        key: names[value[1:]] if str(value).startswith("$") else value for key, value in call.arguments.items()
    }
    if who in {"Api", "Worker"}:
        function = deployed.outputs[f"{who}FunctionName"]
        error = deployed.account.invoke(function, call.service, call.name, **arguments)["error"]
    else:
        error = attempt(deployed, getattr(deployed, who), call, arguments)
    assert error is None if call in ALLOWED[who] else error in DENIED, error


def attempt(deployed: Deployed, keys: Keys, call: Call, arguments: dict[str, Any]) -> str | None:
    """The error code, None when it was allowed."""
    try:
        getattr(deployed.account.client(call.service, keys), call.name)(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


@pytest.mark.parametrize("function", ["Api", "Worker"])
def test_a_function_is_told_that_an_object_is_missing(deployed: Deployed, function: str) -> None:
    asked = {"Bucket": deployed.outputs["BucketName"], "Key": "backups/there/manifest.json"}
    report = deployed.account.invoke(deployed.outputs[f"{function}FunctionName"], "s3", "get_object", **asked)
    assert report["error"] == "NoSuchKey"


def test_without_keys_nothing_is_read_or_written(deployed: Deployed) -> None:
    bucket = f"{deployed.account.aws.endpoint_url}/{deployed.outputs['BucketName']}"
    answers = [
        httpx.get(bucket),
        httpx.get(f"{bucket}/{THERE}"),
        httpx.put(f"{bucket}/{THERE}", content=b"x"),
        httpx.delete(f"{bucket}/{THERE}"),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
