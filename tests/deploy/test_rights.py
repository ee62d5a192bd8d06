"""The matrix of docs/rights.md, tried out both ways: by functions with the stack's roles, and by its users."""

import httpx
import pytest

from tests.deploy.calls import (
    DENIED,
    HARDENED_RIGHTS,
    READ_VERSION,
    RIGHTS,
    Call,
    attempt,
    delete,
    put,
    restored,
    s3,
)
from tests.deploy.conftest import DATA, MANIFEST, PROOF, REQUEST, RESULT, SIGNATURE, Deployed

START_API = Call("lambda", "invoke", {"FunctionName": "$ApiFunctionName", "InvocationType": "DryRun"})
OF_WHAT_STAYS = (REQUEST, RESULT, MANIFEST, SIGNATURE, PROOF)
EXHUME = Call("sqs", "receive_message", {"QueueUrl": "$DeadLetterQueueUrl"})
LIST_ALL = s3("list_objects_v2")
DESTROY = [
    *(s3("delete_object", key) for key in OF_WHAT_STAYS),
    s3("delete_object", REQUEST, VersionId="$RequestVersion"),
    s3("delete_object", DATA, VersionId="$DataVersion"),
    delete("manifest.json"),
    delete("expired.json"),
    s3("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"}),
    s3("put_bucket_policy", Policy="{}"),
]
WRITE_ELSEWHERE = [s3("put_object", "other.json"), *put("other.json"), *restored("other.json")]
UNLOCK = [
    s3("delete_object", DATA, VersionId="$DataVersion", BypassGovernanceRetention=True),
    s3("put_object_lock_configuration", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}),
]
CALLERS = [*RIGHTS, "nobody"]


def rights(table: dict[str, dict[str, list[Call]]], who: str) -> list[Call]:
    """All that `who` may do, but for the gateway, which has a test of its own."""
    return [call for calls in table.get(who, {}).values() for call in calls if call.service != "gateway"]


def different(calls: list[Call]) -> list[Call]:
    return [call for number, call in enumerate(calls) if call not in calls[:number]]


ALL = different(
    [
        *(call for who in RIGHTS for call in rights(RIGHTS, who)),
        *(START_API, EXHUME, LIST_ALL, READ_VERSION, *WRITE_ELSEWHERE, *DESTROY),
    ]
)
ALL_HARDENED = different([*(call for who in HARDENED_RIGHTS for call in rights(HARDENED_RIGHTS, who)), *UNLOCK])


@pytest.mark.parametrize("call", ALL, ids=str)
@pytest.mark.parametrize("who", CALLERS)
def test_a_right(deployed: Deployed, who: str, call: Call) -> None:
    error = attempt(deployed, who, call)
    assert error is None if call in rights(RIGHTS, who) else error in DENIED, error


@pytest.mark.parametrize("call", ALL_HARDENED, ids=str)
@pytest.mark.parametrize("who", CALLERS)
def test_a_right_where_kms_signs_and_objects_are_locked(hardened: Deployed, who: str, call: Call) -> None:
    error = attempt(hardened, who, call)
    assert error is None if call in rights(HARDENED_RIGHTS, who) else error in DENIED, error


def test_the_keeper_deletes_rows_and_of_the_same_batch_nothing_else(deployed: Deployed) -> None:
    """S3 asks about every object of a request."""
    keys = ("backups/there/data/old.json.gz", MANIFEST)
    root, bucket = deployed.account.client("s3"), deployed.outputs["BucketName"]
    root.put_object(Bucket=bucket, Key=keys[0], Body=b"{}")
    attempt(deployed, "KeeperRole", s3("delete_objects", Delete={"Objects": [{"Key": key} for key in keys]}))
    assert root.head_object(Bucket=bucket, Key=MANIFEST)
    assert attempt(deployed, "KeeperRole", s3("delete_objects", Delete={"Objects": [{"Key": keys[0]}]})) is None
    listed = root.list_object_versions(Bucket=bucket, Prefix=keys[0])
    assert (len(listed["DeleteMarkers"]), len(listed["Versions"])) == (1, 1), "it can be had back"


@pytest.mark.parametrize("who", ["ApiRole", "WorkerRole", "KeeperRole"])
def test_a_function_is_told_that_an_object_is_missing(deployed: Deployed, who: str) -> None:
    assert attempt(deployed, who, s3("get_object", "backups/there/failure.json")) == "NoSuchKey"


def test_without_keys_nothing_is_read_or_written(deployed: Deployed) -> None:
    bucket = f"{deployed.account.aws.endpoint_url}/{deployed.outputs['BucketName']}"
    answers = [
        httpx.get(bucket),
        httpx.get(f"{bucket}/{REQUEST}"),
        httpx.put(f"{bucket}/{REQUEST}", content=b"x"),
        httpx.delete(f"{bucket}/{REQUEST}"),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
