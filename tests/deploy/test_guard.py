"""What the emulator of AWS does otherwise than AWS, and must not: back doors, web pages, objects that are not kept."""

import os
import secrets

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError

from deploy.local import emulator
from tests.servers import EMULATOR_PYTHON, Aws, free_port, private_directory, running


@pytest.mark.parametrize(
    "path", ["/_ministack/reset", "//_ministack/reset", "/%5fministack/reset", "/_ministack/config"]
)
def test_a_back_door_is_shut(aws: Aws, path: str) -> None:
    keys = {"aws_access_key_id": aws.access_key, "aws_secret_access_key": aws.secret_key}
    s3 = boto3.client("s3", endpoint_url=aws.endpoint_url, region_name=aws.region, **keys)
    s3.create_bucket(Bucket="guarded")
    s3.put_object(Bucket="guarded", Key="kept", Body=b"kept")
    assert httpx.post(f"{aws.endpoint_url}{path}", json={}).status_code in (404, 405)
    assert s3.get_object(Bucket="guarded", Key="kept")["Body"].read() == b"kept"


def test_a_web_page_cannot_call_it(aws: Aws) -> None:
    answer = httpx.get(aws.endpoint_url, headers={"Origin": "https://example.org"})
    assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (404, False)


def test_an_object_that_cannot_be_kept_is_not_acknowledged() -> None:
    """As on a full disk. The stack then goes down and says why, in place of a backup that is stored nowhere."""
    port, root = free_port(), ("AKIAROOTROOTROOTROOT", secrets.token_urlsafe(30))
    with (
        private_directory() as home,
        running(emulator.program(EMULATOR_PYTHON, home, port, *root), home) as process,
    ):
        session = boto3.session.Session(*root, region_name=emulator.REGION)
        once = Config(retries={"total_max_attempts": 1})
        s3 = session.client("s3", endpoint_url=emulator.endpoint_url(port), config=once)
        s3.create_bucket(Bucket="full")
        (folder,) = (home / "s3").glob("*/full")
        folder.rmdir()
        folder.touch()
        with pytest.raises(ConnectionClosedError):
            s3.put_object(Bucket="full", Key="backup", Body=b"rows")
        process.stop()
        assert process.exit_code == os.EX_IOERR
        assert "An object could not be kept" in process.log_tail()
