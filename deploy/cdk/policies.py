"""Who may do what in the stacks: every policy, written out by hand.

A statement has one purpose and a Sid that names it. A resource is named wherever it has a name; a wildcard stands
for an id that is made later (`backups/*/...`, `GET/backups/*`) or has its reason beside it. docs/rights.md shows all
of this as a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import Aws, CfnCondition, Fn

Statement = dict[str, Any]
BACKUP_ID = "????????T??????Z-????????"
_TO_TASKS = {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}


@dataclass(frozen=True)
class Encryption:
    """The KMS key that the bucket encrypts with, when the condition `by_kms` holds."""

    key_arn: str
    by_kms: CfnCondition


def document(*statements: Any) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def assumed_by(service: str) -> dict[str, Any]:
    """Who may take a role on: a service of AWS, for us and not for another account.

    A machine is given its role by a profile, which is of its own account; EC2 is not known to say for whom it asks.
    """
    trusted = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    if service == "ec2.amazonaws.com":
        return document(trusted)
    return document({**trusted, "Condition": {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}})


def api_function(
    *, bucket_arn: str, topic_arn: str, worker_arn: str, keeper_arn: str, encryption: Encryption, log_arn: str
) -> list[Statement]:
    backup, restore, keys = (f"{bucket_arn}/{name}/*" for name in ("backups", "restores", "idempotency"))
    requests = [f"{backup}/request.json", f"{backup}/cancel.json", f"{restore}/request.json"]
    return [
        _allow("WriteRequests", "s3:PutObject", *requests, keys),
        _allow("ReadBackupsRestoresAndKeys", "s3:GetObject", backup, restore, keys),
        # A link leads to the version that the manifest speaks of, with the rights of this role.
        _allow("LinkToVersions", "s3:GetObjectVersion", f"{backup}/data/*", f"{backup}/index/*"),
        _list_bucket(bucket_arn),
        _use_key("UseTheBucketsKey", encryption, "kms:GenerateDataKey", "kms:Decrypt"),
        _allow("StartAndAskTheWorker", "lambda:InvokeFunction", worker_arn),
        _allow("AskTheKeeper", "lambda:InvokeFunction", keeper_arn),
        _allow("SubscribeByEmail", "sns:Subscribe", topic_arn),
        _allow("ListSubscriptions", "sns:ListSubscriptionsByTopic", topic_arn),
        # SNS has no resource for these two: they cannot be limited to the topic's own subscriptions.
        _allow("ReadFilterPolicies", "sns:GetSubscriptionAttributes", "*"),
        _allow("Unsubscribe", "sns:Unsubscribe", "*"),
        _trace(),
        _write_log(log_arn),
    ]


@dataclass(frozen=True)
class Databases:
    """Where the worker reads, proves and restores: ARNs of secrets, or of users that IAM lets in; and when which."""

    secrets: Sequence[str]
    live_secret: str
    users: Sequence[str]
    live_user: str
    by_password: CfnCondition
    by_iam: CfnCondition
    live_by_password: CfnCondition
    live_by_iam: CfnCondition


def backups(
    *,
    bucket_arn: str,
    topic_arn: str,
    databases: Databases,
    signing_key_arn: str,
    encryption: Encryption,
    locked: CfnCondition,
) -> list[Statement]:
    """To make, prove and restore, as a function or as a task.

    No delete, and no way around Object Lock: what is backed up is out of their reach.
    """
    backup, restore = f"{bucket_arn}/backups/*", f"{bucket_arn}/restores/*"
    of_restore = [f"{restore}/{name}.json" for name in ("progress", "prepared", "result")]
    kept = [f"{backup}/{name}" for name in ("data/*", "index/*", "manifest.json", "manifest.sig", "proof/*")]
    rewritten_or_last = [f"{backup}/{name}" for name in ("progress.json", "failure.json")]
    return [
        _allow("WriteBackups", "s3:PutObject", *kept, *rewritten_or_last),
        _allow("WriteRestores", "s3:PutObject", *of_restore),
        _if(locked, _allow("LockBackups", "s3:PutObjectRetention", *kept)),
        _allow("AbortUploads", "s3:AbortMultipartUpload", f"{backup}/data/*"),
        _allow("ReadBackupsAndRestores", "s3:GetObject", backup, restore),
        _list_bucket(bucket_arn),
        _use_key("UseTheBucketsKey", encryption, "kms:GenerateDataKey", "kms:Decrypt"),
        _sign("SignManifests", signing_key_arn),
        _allow("AnnounceBackups", "sns:Publish", topic_arn),
        _allow("SeeWhoHears", "sns:ListSubscriptionsByTopic", topic_arn),
        _if(
            databases.by_password,
            _allow("ReadTheDatabaseUrls", "secretsmanager:GetSecretValue", *databases.secrets),
        ),
        _if(
            databases.live_by_password,
            _allow("ReadTheLiveDatabasesUrl", "secretsmanager:GetSecretValue", databases.live_secret),
        ),
        _if(databases.by_iam, _allow("LogInToTheDatabases", "rds-db:connect", *databases.users)),
        _if(databases.live_by_iam, _allow("LogInToRestore", "rds-db:connect", databases.live_user)),
    ]


def worker_function(
    *,
    bucket_arn: str,
    dead_letters_arn: str,
    task_arn: str,
    passed_role_arns: Sequence[str],
    with_task: CfnCondition,
    private: CfnCondition,
    log_arn: str,
) -> list[Statement]:
    """What it may beside `backups`."""
    interfaces = ["Create", "Delete", "Describe"]
    addresses = ["ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses", "ec2:DescribeSubnets"]
    # None of these has a resource that has a name before it is made.
    attach = _allow_all(
        "AttachToTheVpc",
        [*(f"ec2:{verb}NetworkInterface{'s' * (verb == 'Describe')}" for verb in interfaces), *addresses],
        "*",
    )
    by_code = {"ArnLike": {"lambda:SourceFunctionArn": _functions_of_the_stack()}}
    return [
        # For `python -m backup_lambda run`, which nobody has asked for by the API.
        _allow("AskForBackups", "s3:PutObject", f"{bucket_arn}/backups/*/request.json"),
        _allow("BuryFailedEvents", "sqs:SendMessage", dead_letters_arn),
        _if(with_task, _allow("HandOnToATask", "ecs:RunTask", task_arn)),
        _if(with_task, {**_allow("GiveTheTaskItsRoles", "iam:PassRole", *passed_role_arns), "Condition": _TO_TASKS}),
        _if(private, attach),
        # Lambda itself needs them, and the code that it runs does not.
        _if(private, {**attach, "Sid": "OnlyLambdaAttaches", "Effect": "Deny", "Condition": by_code}),
        _trace(),
        _write_log(log_arn),
    ]


def task_execution(log_arn: str, secret_arns: Sequence[str] = ()) -> list[Statement]:
    """What ECS does before a task of ours runs, and with what it says."""
    read = [_allow("ReadItsSecrets", "secretsmanager:GetSecretValue", *secret_arns)] if secret_arns else []
    images = f"arn:{Aws.PARTITION}:ecr:{Aws.REGION}:{Aws.ACCOUNT_ID}:repository/holdfast/*"
    layers = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    return [
        _allow("LogInToTheRegistry", "ecr:GetAuthorizationToken", "*"),  # it has no resource
        _allow_all("FetchImages", layers, images),
        *read,
        _write_log(log_arn),
    ]


def public_task_execution(log_arn: str, secret_arn: str) -> list[Statement]:
    """The same for an image of somebody else, which everybody may have."""
    return [_allow("ReadItsSecret", "secretsmanager:GetSecretValue", secret_arn), _write_log(log_arn)]


def log_in(resource_id: str, *roles: str) -> Statement:
    """To PostgreSQL on RDS, as these roles of it and no others."""
    place = f"arn:{Aws.PARTITION}:rds-db:{Aws.REGION}:{Aws.ACCOUNT_ID}:dbuser:{resource_id}"
    return _allow("LogInToTheDatabase", "rds-db:connect", *(f"{place}/{role}" for role in roles))


def flow_logs(log_arn: str) -> list[Statement]:
    actions = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogGroups", "logs:DescribeLogStreams"]
    return [_allow_all("WriteTheLog", actions, log_arn)]


def managed(name: str) -> str:
    """A policy of AWS's own."""
    return f"arn:{Aws.PARTITION}:iam::aws:policy/{name}"


def key_of_the_account() -> dict[str, Any]:
    """Whoever in this account has a right by a policy; nobody else, and not even the account may be locked out."""
    root = {"Principal": {"AWS": f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:root"}}
    return document({**_allow("ByPoliciesOfTheAccount", "kms:*", "*"), **root})


def host(
    *, resource_id: str, secret_arns: Sequence[str], parameters: Sequence[str], code_bucket: str
) -> list[Statement]:
    """What the containers of the one host have in common: they share its role."""
    images = f"arn:{Aws.PARTITION}:ecr:{Aws.REGION}:{Aws.ACCOUNT_ID}:repository/holdfast/*"
    layers = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    return [
        log_in(resource_id, "notes_owner", "notes_app", "scheduler_owner", "scheduler_app"),
        _allow("ReadWhatStacksPublish", "ssm:GetParametersByPath", *parameters),
        _allow("ReadSecrets", "secretsmanager:GetSecretValue", *secret_arns),
        _allow("FetchTheBundle", "s3:GetObject", f"arn:{Aws.PARTITION}:s3:::{code_bucket}/host/*"),
        _allow("LogInToTheRegistry", "ecr:GetAuthorizationToken", "*"),  # it has no resource
        _allow_all("FetchImages", layers, images),
    ]


def keeper_function(*, bucket_arn: str, signing_key_arn: str, encryption: Encryption, log_arn: str) -> list[Statement]:
    """The only role that deletes, and rows only: neither manifests nor signatures nor proofs, and no version.

    What it deletes has a delete marker above it, until the bucket's lifecycle removes it.
    """
    backup = f"{bucket_arn}/backups/*"
    return [
        _allow("SayThatBackupsExpired", "s3:PutObject", f"{backup}/expired.json", f"{backup}/expired.sig"),
        _allow("DeleteRows", "s3:DeleteObject", f"{backup}/data/*", f"{backup}/index/*"),
        _allow("ReadBackupsAndRestores", "s3:GetObject", backup, f"{bucket_arn}/restores/*"),
        _list_bucket(bucket_arn),
        _use_key("UseTheBucketsKey", encryption, "kms:GenerateDataKey", "kms:Decrypt"),
        _sign("SignExpiries", signing_key_arn),
        _trace(),
        _write_log(log_arn),
    ]


def scheduler(topic_arn: str, methods: Mapping[str, str]) -> list[Statement]:
    """`methods` gives the ARN of `METHOD /path`."""
    invoke, follow = "execute-api:Invoke", ("GET /backups/{backup_id}", "GET /backups/before/{backup_id}")
    # With a `*` for the id, which matches slashes as well, all that lies below a backup would be open, too.
    one, older = (f"{methods[method].removesuffix('*')}{BACKUP_ID}" for method in follow)
    return [
        _allow("StartAndFollowBackups", invoke, methods["POST /backups"], one),
        _allow("ListBackups", invoke, methods["GET /backups"], older),
        _allow("CancelBackups", invoke, methods["POST /backups/{backup_id}/cancel"]),
        _allow("ProveBackups", invoke, methods["POST /backups/{backup_id}/proofs"]),
        _allow("PlanAndApplyRetention", invoke, methods["GET /retention"], methods["POST /retention"]),
        _allow("AnnounceLostRuns", "sns:Publish", topic_arn),
    ]


def console(methods: Mapping[str, str]) -> list[Statement]:
    """It shows and drives all that the API has; what it asks for is what the token of a person may."""
    # The `*` of an id matches slashes: GET /backups/{backup_id} is all that lies below one, too.
    show = "GET /backups/{backup_id}"
    named = {name: arn for name, arn in methods.items() if name == show or not name.startswith("GET /backups/")}
    looking = [arn for name, arn in named.items() if name.startswith("GET ")]
    changing = [arn for name, arn in named.items() if not name.startswith("GET ")]
    invoke = "execute-api:Invoke"
    return [_allow("LookAtBackups", invoke, *looking), _allow("MakeAndChangeBackups", invoke, *changing)]


def ops(bucket_arn: str, methods: Mapping[str, str], encryption: Encryption) -> list[Statement]:
    return [
        *console(methods),
        _allow("ReadBackupsAndRestores", "s3:GetObject", f"{bucket_arn}/backups/*", f"{bucket_arn}/restores/*"),
        _list_bucket(bucket_arn),
        _use_key("ReadWithTheBucketsKey", encryption, "kms:Decrypt"),
    ]


def notes_api(bucket_arn: str, topic_arn: str) -> list[Statement]:
    """A deleted object has a delete marker, and can be had back for as long as the bucket keeps former versions.

    It signs what its clients upload and download, with these rights.
    """
    attachments = f"{bucket_arn}/attachments/*"
    return [
        _allow("StoreAttachments", "s3:PutObject", attachments),
        _allow("ReadAttachments", "s3:GetObject", attachments),
        # A download is of the version that was confirmed.
        _allow("ReadConfirmedVersions", "s3:GetObjectVersion", attachments),
        _allow("DeleteAttachments", "s3:DeleteObject", attachments),
        _list_bucket(bucket_arn, "ListAttachments", "attachments/*"),
        _allow("TellOfChanges", "sns:Publish", topic_arn),
    ]


def bucket(bucket_arn: str) -> dict[str, Any]:
    return document(_deny_plain_http("s3:*", bucket_arn, f"{bucket_arn}/*"))


def static_bucket(bucket_arn: str, distribution_id: str) -> dict[str, Any]:
    """What CloudFront shows, and nobody else reads."""
    distribution = f"arn:{Aws.PARTITION}:cloudfront::{Aws.ACCOUNT_ID}:distribution/{distribution_id}"
    shown = {
        **_allow("ShowToCloudFront", "s3:GetObject", f"{bucket_arn}/*"),
        "Principal": {"Service": "cloudfront.amazonaws.com"},
        "Condition": {"StringEquals": {"AWS:SourceArn": distribution}},
    }
    return document(_deny_plain_http("s3:*", bucket_arn, f"{bucket_arn}/*"), shown)


def topic(topic_arn: str, tls: CfnCondition) -> dict[str, Any]:
    """Roles publish by their own policies; SNS's default policy, which allows the whole account, is replaced."""
    return document(
        _if(tls, _deny_plain_http("sns:Publish", topic_arn)),
        {
            **_allow("AnnounceAlarms", "sns:Publish", topic_arn),
            "Principal": {"Service": "cloudwatch.amazonaws.com"},
            "Condition": {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
        },
    )


def notes_topic(topic_arn: str, tls: CfnCondition) -> dict[str, Any]:
    """Who publishes and subscribes is said by their own policies; SNS's default policy is replaced."""
    elsewhere = {"StringNotEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID}}
    only_ours = {**_allow_all("OnlyThisAccount", ["sns:Publish", "sns:Subscribe"], topic_arn), "Effect": "Deny"}
    return document(
        _if(tls, _deny_plain_http("sns:Publish", topic_arn)), {**only_ours, "Principal": "*", "Condition": elsewhere}
    )


def dead_letters(queue_arn: str) -> dict[str, Any]:
    """The worker function's role may fill it by its own policy."""
    return document(_deny_plain_http("sqs:*", queue_arn))


def _allow(sid: str, action: str, *resources: str) -> Statement:
    return {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": _one_or_list(resources)}


def _allow_all(sid: str, actions: Sequence[str], resource: str) -> Statement:
    return {**_allow(sid, "", resource), "Action": _one_or_list(actions)}


def _list_bucket(bucket_arn: str, sid: str = "ListBackupsAndRestores", *prefixes: str) -> Statement:
    # Without this right S3 answers 403 instead of 404 for an object that is not there.
    within = _one_or_list(prefixes or ("backups/*", "restores/*"))
    return {**_allow(sid, "s3:ListBucket", bucket_arn), "Condition": {"StringLike": {"s3:prefix": within}}}


def _sign(sid: str, key_arn: str) -> Statement:
    # A KMS key or a secret: the ARN says which, and actions of the other service match nothing.
    return _allow_all(sid, ["kms:Sign", "kms:GetPublicKey", "secretsmanager:GetSecretValue"], key_arn)


def _trace() -> Statement:
    return _allow_all("Trace", ["xray:PutTraceSegments", "xray:PutTelemetryRecords"], "*")  # X-Ray has no resources


def _functions_of_the_stack() -> str:
    return f"arn:{Aws.PARTITION}:lambda:{Aws.REGION}:{Aws.ACCOUNT_ID}:function:{Aws.STACK_NAME}-*"


def _write_log(log_arn: str) -> Statement:
    return _allow_all("WriteTheLog", ["logs:CreateLogStream", "logs:PutLogEvents"], log_arn)


def _use_key(sid: str, encryption: Encryption, *actions: str) -> Any:
    """Only through S3, and only for what it encrypts."""
    through_s3 = {"StringEquals": {"kms:ViaService": f"s3.{Aws.REGION}.{Aws.URL_SUFFIX}"}}
    return _if(encryption.by_kms, {**_allow_all(sid, actions, encryption.key_arn), "Condition": through_s3})


def _deny_plain_http(action: str, *resources: str) -> Statement:
    return {
        "Sid": "OnlyOverTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": _one_or_list(resources),
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def _if(condition: CfnCondition, statement: Statement) -> Any:
    return Fn.condition_if(condition.logical_id, statement, Aws.NO_VALUE)


def _one_or_list(values: Sequence[str]) -> Any:
    return values[0] if len(values) == 1 else list(values)
