"""The emulator's own paths ask for no signature: none of them is reachable but the one that says that it is ready."""

import boto3
import httpx
import pytest

from tests.servers import Aws


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
