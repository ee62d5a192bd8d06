"""What each statement of the stack's policies is for: the calls that need it, and who makes them."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from tests.deploy.conftest import DATA, INDEX, KEPT, KEY_RECORD, REQUEST, RESULT, Deployed

DENIED = {"AccessDenied", "AccessDeniedException", "AuthorizationError", "Forbidden"}


class Call(NamedTuple):
    """`$Name` among the arguments stands for what `Deployed.names` has. A `gateway` call is `METHOD /path`."""

    service: str
    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        named = ("Key", "Delete", "Prefix", "SecretId", "FunctionName")
        what = next((self.arguments[each] for each in named if each in self.arguments), "")
        return f"{self.service} {self.name} {what}".strip()


def s3(name: str, key: str = "", **arguments: Any) -> Call:
    return Call("s3", name, {"Bucket": "$BucketName", **({"Key": key} if key else {}), **arguments})


def put(*names: str) -> list[Call]:
    return [s3("put_object", f"backups/made/{name}") for name in names]


def delete(*names: str) -> Call:
    """All in one request, of a backup that has none of them: S3 asks for the right, and then finds nothing."""
    return s3("delete_objects", Delete={"Objects": [{"Key": f"backups/gone/{name}"} for name in names]})


def restored(*names: str) -> list[Call]:
    return [s3("put_object", f"restores/made/{name}") for name in names]


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


def simulate(action: str, resource: str) -> Call:
    """What the emulator has no service for is asked of IAM's simulator."""
    return Call("simulate", action, {"resource": resource})


USERS = "arn:aws:rds-db:us-east-1:000000000000:dbuser"
IMAGE = "arn:aws:ecr:us-east-1:000000000000:repository/holdfast/backup_lambda"
VPC_ACTIONS = (
    "CreateNetworkInterface",
    "DeleteNetworkInterface",
    "DescribeNetworkInterfaces",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "DescribeSubnets",
)
ECR_ACTIONS = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
LOG_ACTIONS = ("CreateLogStream", "PutLogEvents")
XRAY_ACTIONS = ("PutTraceSegments", "PutTelemetryRecords")
A_BACKUP = "20261122T020000Z-3f9a2c1b"
IN_AN_HOUR = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
READ, READ_RESTORE, READ_KEY = (s3("get_object", key) for key in (REQUEST, RESULT, KEY_RECORD))
READ_VERSION = s3("get_object", REQUEST, VersionId="$RequestVersion")
LINKED = [s3("get_object", DATA, VersionId="$DataVersion"), s3("get_object", INDEX, VersionId="$IndexVersion")]
LIST = [s3("list_objects_v2", Prefix=prefix) for prefix in ("backups/", "restores/")]
PUBLISH = sns("publish", TopicArn="$TopicArn", Message="x")
SUBSCRIBE = sns("subscribe", TopicArn="$TopicArn", Protocol="email", Endpoint="eve@example.com")
SUBSCRIPTIONS = sns("list_subscriptions_by_topic", TopicArn="$TopicArn")
SUBSCRIPTION = sns("get_subscription_attributes", SubscriptionArn="$SubscriptionArn")
UNSUBSCRIBE = sns("unsubscribe", SubscriptionArn="$NobodysSubscriptionArn")
START_WORKER, ASK_KEEPER = (
    Call("lambda", "invoke", {"FunctionName": f"${name}FunctionName", "InvocationType": "DryRun"})
    for name in ("Worker", "Keeper")
)
DATABASE_URLS = [
    Call("secretsmanager", "get_secret_value", {"SecretId": arn})
    for arn in ("$DatabaseSecretArn", "$ProofDatabaseSecretArn")
]
LIVE_DATABASE_URL = Call("secretsmanager", "get_secret_value", {"SecretId": "$RestoreDatabaseSecretArn"})
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
EVERY_METHOD = {
    "LookAtBackups": gateway(
        "GET /backups",
        "GET /backups/x",
        "GET /restores/x",
        "GET /rows/notes.notes/1/history",
        "GET /retention",
        "GET /subscriptions",
        "GET /backups/before/x",
        "GET /backups/x/tables/notes.notes",
        "GET /backups/x/tables/notes.notes/rows/1",
        "GET /backups/x/diff/now",
        "GET /backups/x/diff/now/after/y",
    ),
    "MakeAndChangeBackups": gateway(
        "POST /backups",
        "POST /backups/x/cancel",
        "POST /backups/x/proofs",
        "POST /backups/x/restores",
        "POST /retention",
        "POST /subscriptions",
        "POST /subscriptions/test",
        "DELETE /subscriptions/x",
    ),
}
BURY = Call("sqs", "send_message", {"QueueUrl": "$DeadLetterQueueUrl", "MessageBody": "x"})
ABORT = s3("abort_multipart_upload", DATA, UploadId="$UploadId")

# By role or policy and Sid, as the template names them: on the stack of the defaults,
RIGHTS: dict[str, dict[str, list[Call]]] = {
    "ApiRole": {
        "WriteRequests": [
            *put("request.json", "cancel.json"),
            *restored("request.json"),
            s3("put_object", "idempotency/x.json"),
        ],
        "ReadBackupsRestoresAndKeys": [READ, READ_RESTORE, READ_KEY],
        "LinkToVersions": LINKED,
        "ListBackupsAndRestores": LIST,
        "StartAndAskTheWorker": [START_WORKER],
        "AskTheKeeper": [ASK_KEEPER],
        "SubscribeByEmail": [SUBSCRIBE],
        "ListSubscriptions": [SUBSCRIPTIONS],
        "ReadFilterPolicies": [SUBSCRIPTION],
        "Unsubscribe": [UNSUBSCRIBE],
    },
    "WorkerRole": {
        "WriteBackups": [
            *(s3("put_object", key.replace("there", "made")) for key in KEPT),
            *put("progress.json", "failure.json"),
        ],
        "AskForBackups": put("request.json"),
        "WriteRestores": restored("progress.json", "prepared.json", "result.json"),
        "AbortUploads": [ABORT],
        "ReadBackupsAndRestores": [READ, READ_RESTORE],
        "ListBackupsAndRestores": LIST,
        "SignManifests": [READ_SIGNING_KEY],
        "AnnounceBackups": [PUBLISH],
        "SeeWhoHears": [SUBSCRIPTIONS],
        "ReadTheDatabaseUrls": DATABASE_URLS,
        "BuryFailedEvents": [BURY],
    },
    "KeeperRole": {
        "SayThatBackupsExpired": put("expired.json", "expired.sig"),
        "DeleteRows": [delete("data/x"), delete("index/x")],
        "ReadBackupsAndRestores": [READ, READ_RESTORE],
        "ListBackupsAndRestores": LIST,
        "SignExpiries": [READ_SIGNING_KEY],
    },
    "SchedulerPolicy": {
        "StartAndFollowBackups": gateway("POST /backups", f"GET /backups/{A_BACKUP}"),
        "ListBackups": gateway("GET /backups", f"GET /backups/before/{A_BACKUP}"),
        "CancelBackups": gateway(f"POST /backups/{A_BACKUP}/cancel"),
        "ProveBackups": gateway(f"POST /backups/{A_BACKUP}/proofs"),
        "PlanAndApplyRetention": gateway("GET /retention", "POST /retention"),
        "AnnounceLostRuns": [PUBLISH],
    },
    "ConsolePolicy": EVERY_METHOD,
    "OpsPolicy": {
        **EVERY_METHOD,
        "ReadBackupsAndRestores": [READ, READ_RESTORE],
        "ListBackupsAndRestores": LIST,
    },
}
# and on the one with KMS, Object Lock and restores into the live database, where it differs.
HARDENED_RIGHTS: dict[str, dict[str, list[Call]]] = {
    "WorkerRole": {
        "SignManifests": SIGN,
        "LockBackups": [
            s3("put_object_retention", key, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": IN_AN_HOUR})
            for key in KEPT
        ],
        "ReadTheLiveDatabasesUrl": [LIVE_DATABASE_URL],
    },
    "KeeperRole": {"SignExpiries": SIGN},
}

# and on the one in a VPC, which IAM lets in to its databases, and which hands on to a task.
PRIVATE_RIGHTS: dict[str, dict[str, list[Call]]] = {
    "WorkerRole": {
        "LogInToTheDatabases": [
            simulate("rds-db:connect", f"{USERS}:resourceid-of-holdfast-data/notes_backup"),
            simulate("rds-db:connect", f"{USERS}:proofresourceid-of-holdfast-data/notes_proof"),
        ],
        "LogInToRestore": [simulate("rds-db:connect", f"{USERS}:resourceid-of-holdfast-data/notes_restore")],
        "HandOnToATask": [Call("ecs", "run_task", {"taskDefinition": "probe-private-worker:1"})],
        "AttachToTheVpc": [simulate(f"ec2:{action}", "*") for action in VPC_ACTIONS],
    },
    "TaskExecutionRole": {
        "LogInToTheRegistry": [simulate("ecr:GetAuthorizationToken", "*")],
        "FetchImages": [simulate(f"ecr:{action}", IMAGE) for action in ECR_ACTIONS],
        "WriteTheLog": [simulate(f"logs:{action}", "$TaskLogArn") for action in LOG_ACTIONS],
    },
}
# In all of them.
EVERYWHERE: dict[str, dict[str, list[Call]]] = {
    role: {"Trace": [simulate(f"xray:{action}", "*") for action in XRAY_ACTIONS]}
    for role in ("ApiRole", "WorkerRole", "KeeperRole")
}


def attempt(deployed: Deployed, who: str, call: Call) -> str | None:
    """The error code, None when it was allowed. `who` is a role or policy of the template, or `nobody`."""
    error = _error(deployed, who, call)
    return None if error == "NoSuchUpload" else error  # somebody with the same right has aborted it before


def _error(deployed: Deployed, who: str, call: Call) -> str | None:
    arguments = {
        key: deployed.names[value[1:]] if str(value).startswith("$") else value for key, value in call.arguments.items()
    }
    if call.service == "simulate":
        return deployed.account.simulate(deployed.stack, who, call.name, arguments["resource"])
    if who.endswith("Role"):
        function = deployed.outputs[f"{who.removesuffix('Role')}FunctionName"]
        error: str | None = deployed.account.invoke(function, call.service, call.name, **arguments)["error"]
        return error
    keys = {
        "SchedulerPolicy": deployed.scheduler,
        "ConsolePolicy": deployed.console,
        "OpsPolicy": deployed.ops,
        "nobody": deployed.nobody,
    }[who]
    if call.service == "gateway":
        method, _, path = call.name.partition(" ")
        answer = deployed.account.call(deployed.outputs["ApiId"], method, path, keys)
        return None if answer.status_code == 200 else answer.headers.get("x-amzn-errortype", str(answer.status_code))
    try:
        getattr(deployed.account.client(call.service, keys), call.name)(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return None
