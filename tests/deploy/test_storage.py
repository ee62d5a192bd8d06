"""The storage stack: what the notes API does in it, by its own code and with its own rights, and what it may not do."""

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from botocore.exceptions import ClientError

from notes_api.settings import Settings
from notes_api.storage import Storage, storage
from tests.deploy.account import Account, Keys
from tests.deploy.calls import DENIED
from tests.servers import Aws

BYTES = b"what is attached"
SHA256 = hashlib.sha256(BYTES).digest()


@pytest.fixture(scope="session")
def account(aws: Aws) -> Account:
    return Account(aws)


@pytest.fixture(scope="session")
def stack(account: Account) -> dict[str, str]:
    """Its outputs."""
    return account.deploy("probe-storage", {"RequireTls": "false"}, template="storage.json")


@pytest.fixture(scope="session")
def notes_api(account: Account, stack: dict[str, str]) -> Keys:
    return account.user("probe-notes-api", stack["NotesApiPolicyArn"])


@pytest.fixture
async def bucket(
    account: Account, stack: dict[str, str], notes_api: Keys, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Storage]:
    """As the notes API has it."""
    keys = {"AWS_ACCESS_KEY_ID": notes_api.access_key, "AWS_SECRET_ACCESS_KEY": notes_api.secret_key}
    for name, value in (account.aws.variables | keys).items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_env(
        {
            "HOLDFAST_DATABASE_URL": "postgresql://127.0.0.1/x",
            "HOLDFAST_SIGNING_KEY": "k" * 32,
            "HOLDFAST_ATTACHMENTS_BUCKET": stack["BucketName"],
        }
    )
    async with storage(settings) as opened:
        assert opened
        yield opened


async def test_its_rights_are_enough(bucket: Storage) -> None:
    key = f"attachments/{uuid4()}/{uuid4()}"
    assert await bucket.head(key) is None, "not there, and not forbidden"
    form = await bucket.presign_upload(key, content_type="text/plain", size_bytes=len(BYTES), sha256=SHA256)
    async with httpx.AsyncClient() as anybody:
        uploaded = await anybody.post(form.url, data=form.fields, files={"file": BYTES})
        assert uploaded.status_code == 204, uploaded.text
        stored = await bucket.head(key)
        assert stored
        assert stored.version, "the bucket is versioned"
        assert await bucket.digest(key, stored.version) == SHA256
        await bucket.discard([key])
        assert await bucket.head(key) is None
        # What was deleted can be had back for a while: a note that comes back from a backup has its attachments.
        link = await bucket.presign_download(key, stored.version, name="x.txt")
        assert (await anybody.get(link.url)).content == BYTES


async def test_its_forms_reach_attachments_only(bucket: Storage) -> None:
    form = await bucket.presign_upload("backups/x", content_type="text/plain", size_bytes=len(BYTES), sha256=SHA256)
    async with httpx.AsyncClient() as anybody:
        assert (await anybody.post(form.url, data=form.fields, files={"file": BYTES})).status_code == 403


async def test_the_storage_that_keeps_checksums_says_them(
    account: Account, stack: dict[str, str], bucket: Storage
) -> None:
    put = {"Bucket": stack["BucketName"], "Body": BYTES, "ChecksumAlgorithm": "SHA256"}
    account.client("s3").put_object(Key="attachments/checked", **put)
    stored = await bucket.head("attachments/checked")
    assert stored
    assert stored.sha256 == SHA256
    assert base64.b64encode(stored.sha256).decode().endswith("=")


def test_it_tells_of_changes_in_order(account: Account, stack: dict[str, str], notes_api: Keys) -> None:
    told = account.client("sns", notes_api).publish(
        TopicArn=stack["TopicArn"], Message="{}", MessageGroupId="note", MessageDeduplicationId=str(uuid4())
    )
    assert told["SequenceNumber"], "as only a FIFO topic has it"


@pytest.mark.parametrize(
    ("service", "call", "arguments"),
    [
        ("s3", "put_object", {"Bucket": "$BucketName", "Key": "other"}),
        ("s3", "get_object", {"Bucket": "$BucketName", "Key": "other"}),
        ("s3", "delete_object", {"Bucket": "$BucketName", "Key": "other"}),
        ("s3", "delete_object", {"Bucket": "$BucketName", "Key": "attachments/there", "VersionId": "$Version"}),
        ("s3", "list_objects_v2", {"Bucket": "$BucketName"}),
        ("s3", "list_object_versions", {"Bucket": "$BucketName", "Prefix": "attachments/"}),
        ("s3", "put_bucket_policy", {"Bucket": "$BucketName", "Policy": "{}"}),
        ("s3", "put_bucket_cors", {"Bucket": "$BucketName", "CORSConfiguration": {"CORSRules": []}}),
        ("sns", "subscribe", {"TopicArn": "$TopicArn", "Protocol": "sqs", "Endpoint": "arn:aws:sqs:us-east-1:0:x"}),
        ("sns", "set_topic_attributes", {"TopicArn": "$TopicArn", "AttributeName": "Policy", "AttributeValue": "{}"}),
        ("sns", "delete_topic", {"TopicArn": "$TopicArn"}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_it_may_do_nothing_else(
    account: Account, stack: dict[str, str], notes_api: Keys, service: str, call: str, arguments: dict[str, Any]
) -> None:
    there = account.client("s3").put_object(Bucket=stack["BucketName"], Key="attachments/there", Body=BYTES)
    names = {**stack, "Version": there["VersionId"]}
    named = {key: names[value[1:]] if str(value).startswith("$") else value for key, value in arguments.items()}
    with pytest.raises(ClientError) as refused:
        getattr(account.client(service, notes_api), call)(**named)
    assert refused.value.response["Error"]["Code"] in DENIED


def test_nobody_else_of_the_account_reaches_it(account: Account, stack: dict[str, str]) -> None:
    nobody = account.user("probe-storage-nobody")
    with pytest.raises(ClientError):
        account.client("s3", nobody).get_object(Bucket=stack["BucketName"], Key="attachments/there")
    with pytest.raises(ClientError):
        account.client("sns", nobody).publish(TopicArn=stack["TopicArn"], Message="{}", MessageGroupId="note")


def test_pages_are_let_in_where_their_origins_are_named(account: Account) -> None:
    origins = "https://app.example.org,https://other.example.org"
    outputs = account.deploy(
        "probe-storage-pages", {"RequireTls": "false", "CorsOrigins": origins}, template="storage.json"
    )
    (rule,) = account.client("s3").get_bucket_cors(Bucket=outputs["BucketName"])["CORSRules"]
    assert rule["AllowedOrigins"] == origins.split(",")


def test_plain_http_is_refused_by_default(account: Account) -> None:
    outputs = account.deploy("probe-storage-strict", {}, template="storage.json")
    with pytest.raises(ClientError) as refused:
        account.client("s3", account.user("probe-strict-notes-api", outputs["NotesApiPolicyArn"])).put_object(
            Bucket=outputs["BucketName"], Key="attachments/x", Body=BYTES
        )
    assert refused.value.response["Error"]["Code"] in DENIED
