"""What each statement of the stack's policies is for: the calls that need it, and who makes them."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from tests.deploy.conftest import DATA, INDEX, KEPT, KEY_RECORD, REQUEST, Deployed

DENIED = {"AccessDenied", "AccessDeniedException", "AuthorizationError", "Forbidden"}


class Call(NamedTuple):
    """`$Name` among the arguments stands for what `Deployed.names` has. A `gateway` call is `METHOD /path`."""

    service: str
    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        what = self.arguments.get("Key") or self.arguments.get("SecretId") or ""
        return f"{self.service} {self.name} {what}".strip()


def s3(name: str, key: str = "", **arguments: Any) -> Call:
    return Call("s3", name, {"Bucket": "$BucketName", **({"Key": key} if key else {}), **arguments})


def put(*names: str) -> list[Call]:
    return [s3("put_object", f"backups/made/{name}") for name in names]


def sns(name: str, **arguments: Any) -> Call:
    return Call("sns", name, arguments)


def gateway(*methods: str) -> list[Call]:
    return [Call("gateway", method, {}) for method in methods]


def write_log(group: str) -> list[Call]:
    stream = {"logGroupName": group, "logStreamName": "x"}
    return [
        Call("logs", "create_log_stream", stream),
        Call("logs", "put_log_events", {**stream, "logEvents": [{"timestamp": 0, "message": "x"}]}),
    ]


IN_AN_HOUR = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
READ, READ_KEY = s3("get_object", REQUEST), s3("get_object", KEY_RECORD)
READ_VERSION = s3("get_object", REQUEST, VersionId="$RequestVersion")
LINKED = [s3("get_object", DATA, VersionId="$DataVersion"), s3("get_object", INDEX, VersionId="$IndexVersion")]
LIST = s3("list_objects_v2", Prefix="backups/")
PUBLISH = sns("publish", TopicArn="$TopicArn", Message="x")
SUBSCRIBE = sns("subscribe", TopicArn="$TopicArn", Protocol="email", Endpoint="eve@example.com")
SUBSCRIPTIONS = sns("list_subscriptions_by_topic", TopicArn="$TopicArn")
SUBSCRIPTION = sns("get_subscription_attributes", SubscriptionArn="$SubscriptionArn")
START_WORKER = Call("lambda", "invoke", {"FunctionName": "$WorkerFunctionName", "InvocationType": "DryRun"})
DATABASE_URLS = [
    Call("secretsmanager", "get_secret_value", {"SecretId": arn})
    for arn in ("$DatabaseSecretArn", "$ProofDatabaseSecretArn")
]
READ_SIGNING_KEY = Call("secretsmanager", "get_secret_value", {"SecretId": "$SigningKeyArn"})
SIGN = [
    Call(
        "kms",
        "sign",
        {
            "KeyId": "$SigningKeyArn",
            "Message": "x",
            "MessageType": "RAW",
            "SigningAlgorithm": "ED25519_SHA_512",
        },
    ),
    Call("kms", "get_public_key", {"KeyId": "$SigningKeyArn"}),
]
BURY = Call("sqs", "send_message", {"QueueUrl": "$DeadLetterQueueUrl", "MessageBody": "x"})
ABORT = s3("abort_multipart_upload", DATA, UploadId="$UploadId")

# By role or policy and Sid, as the template names them: on the stack of the defaults,
RIGHTS: dict[str, dict[str, list[Call]]] = {
    "ApiRole": {
        "WriteRequests": [*put("request.json", "cancel.json"), s3("put_object", "idempotency/x.json")],
        "ReadBackupsAndKeys": [READ, READ_KEY],
        "LinkToVersions": LINKED,
        "ListBackups": [LIST],
        "StartTheWorker": [START_WORKER],
        "SubscribeByEmail": [SUBSCRIBE],
        "ListSubscriptions": [SUBSCRIPTIONS],
        "ReadFilterPolicies": [SUBSCRIPTION],
    },
    "WorkerRole": {
        "WriteBackups": [
            *(s3("put_object", key.replace("there", "made")) for key in KEPT),
            *put("progress.json", "failure.json"),
        ],
        "AskForBackups": put("request.json"),
        "AbortUploads": [ABORT],
        "ReadBackups": [READ],
        "ListBackups": [LIST],
        "SignManifests": [READ_SIGNING_KEY],
        "AnnounceBackups": [PUBLISH],
        "ReadTheDatabaseUrls": DATABASE_URLS,
        "BuryFailedEvents": [BURY],
    },
    "SchedulerPolicy": {
        "StartAndFollowBackups": gateway("POST /backups", "GET /backups/x"),
        "NothingBelowABackup": gateway("GET /backups/x/tables/notes.notes", "GET /backups/before/x"),
        "AnnounceLostRuns": [PUBLISH],
    },
    "OpsPolicy": {
        "CallEveryMethod": gateway(
            "POST /backups",
            "GET /backups",
            "GET /backups/before/x",
            "GET /backups/x",
            "GET /backups/x/tables/notes.notes",
            "POST /backups/x/cancel",
            "POST /backups/x/proofs",
            "POST /subscriptions",
            "GET /subscriptions",
        ),
        "ReadBackups": [READ],
        "ListBackups": [LIST],
    },
}
# and on the one with KMS and Object Lock, where it differs.
HARDENED_RIGHTS: dict[str, dict[str, list[Call]]] = {
    "WorkerRole": {
        "SignManifests": SIGN,
        "LockBackups": [
            s3("put_object_retention", key, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": IN_AN_HOUR})
            for key in KEPT
        ],
    }
}


def attempt(deployed: Deployed, who: str, call: Call) -> str | None:
    """The error code, None when it was allowed. `who` is a role or policy of the template, or `nobody`."""
    error = _error(deployed, who, call)
    return None if error == "NoSuchUpload" else error  # somebody with the same right has aborted it before


def _error(deployed: Deployed, who: str, call: Call) -> str | None:
    arguments = {
        key: deployed.names[value[1:]] if str(value).startswith("$") else value for key, value in call.arguments.items()
    }
    if who in {"ApiRole", "WorkerRole"}:
        function = deployed.outputs[f"{who.removesuffix('Role')}FunctionName"]
        error: str | None = deployed.account.invoke(function, call.service, call.name, **arguments)["error"]
        return error
    keys = {"SchedulerPolicy": deployed.scheduler, "OpsPolicy": deployed.ops, "nobody": deployed.nobody}[who]
    if call.service == "gateway":
        method, _, path = call.name.partition(" ")
        answer = deployed.account.call(deployed.outputs["ApiId"], method, path, keys)
        return None if answer.status_code == 200 else answer.headers.get("x-amzn-errortype", str(answer.status_code))
    try:
        getattr(deployed.account.client(call.service, keys), call.name)(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return None
