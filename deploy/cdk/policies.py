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


@dataclass(frozen=True)
class Encryption:
    """The KMS key that the bucket encrypts with, when the condition `by_kms` holds."""

    key_arn: str
    by_kms: CfnCondition


def document(*statements: Any) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


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
        _write_log(log_arn),
    ]


def worker_function(
    *,
    bucket_arn: str,
    topic_arn: str,
    dead_letters_arn: str,
    secret_arns: Sequence[str],
    restore_secret_arn: str,
    restores_live: CfnCondition,
    signing_key_arn: str,
    encryption: Encryption,
    locked: CfnCondition,
    log_arn: str,
) -> list[Statement]:
    """No delete, and no way around Object Lock: what is backed up is out of this role's reach."""
    backup, restore = f"{bucket_arn}/backups/*", f"{bucket_arn}/restores/*"
    of_restore = [f"{restore}/{name}.json" for name in ("progress", "prepared", "result")]
    kept = [f"{backup}/{name}" for name in ("data/*", "index/*", "manifest.json", "manifest.sig", "proof/*")]
    rewritten_or_last = [f"{backup}/{name}" for name in ("progress.json", "failure.json")]
    return [
        _allow("WriteBackups", "s3:PutObject", *kept, *rewritten_or_last),
        # For `python -m backup_lambda run`, which nobody has asked for by the API.
        _allow("AskForBackups", "s3:PutObject", f"{backup}/request.json"),
        _allow("WriteRestores", "s3:PutObject", *of_restore),
        _if(locked, _allow("LockBackups", "s3:PutObjectRetention", *kept)),
        _allow("AbortUploads", "s3:AbortMultipartUpload", f"{backup}/data/*"),
        _allow("ReadBackupsAndRestores", "s3:GetObject", backup, restore),
        _list_bucket(bucket_arn),
        _use_key("UseTheBucketsKey", encryption, "kms:GenerateDataKey", "kms:Decrypt"),
        _sign("SignManifests", signing_key_arn),
        _allow("AnnounceBackups", "sns:Publish", topic_arn),
        _allow("SeeWhoHears", "sns:ListSubscriptionsByTopic", topic_arn),
        _allow("ReadTheDatabaseUrls", "secretsmanager:GetSecretValue", *secret_arns),
        _if(restores_live, _allow("ReadTheLiveDatabasesUrl", "secretsmanager:GetSecretValue", restore_secret_arn)),
        _allow("BuryFailedEvents", "sqs:SendMessage", dead_letters_arn),
        _write_log(log_arn),
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


def ops(bucket_arn: str, methods: Mapping[str, str], encryption: Encryption) -> list[Statement]:
    # The `*` of an id matches slashes: GET /backups/{backup_id} is all that lies below one, too.
    show = "GET /backups/{backup_id}"
    named = [arn for method, arn in methods.items() if method == show or not method.startswith("GET /backups/")]
    return [
        _allow("CallEveryMethod", "execute-api:Invoke", *named),
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
