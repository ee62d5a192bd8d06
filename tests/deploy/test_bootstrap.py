"""The built package, started by the bootstrap that Lambda runs: it is whole, and what comes out is what AWS expects."""

import json
import secrets
import sys
import zipfile
from pathlib import Path
from typing import Any

import boto3
import pytest

from deploy import package
from tests.deploy.runtime import LISTED, linked, started
from tests.servers import Aws

TOPIC = "arn:aws:sns:us-east-1:000000000000:nobody"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = package.build("local", Path(sys.executable), tmp_path_factory.mktemp("build"))
    folder = tmp_path_factory.mktemp("task")
    with zipfile.ZipFile(built.path) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linked(tmp_path_factory.mktemp("bootstrap"))


@pytest.fixture
def settings(aws: Aws) -> dict[str, str]:
    keys = {"aws_access_key_id": aws.access_key, "aws_secret_access_key": aws.secret_key}
    bucket = f"bootstrap-{secrets.token_hex(4)}"
    boto3.client("s3", endpoint_url=aws.endpoint_url, region_name=aws.region, **keys).create_bucket(Bucket=bucket)
    return {**aws.variables, "HOLDFAST_BUCKET": bucket, "HOLDFAST_TOPIC_ARN": TOPIC}


def test_the_api_answers_the_gateway_again_and_again(unpacked: Path, bootstrap: Path, settings: dict[str, str]) -> None:
    functions = {"HOLDFAST_WORKER_FUNCTION": "worker", "HOLDFAST_KEEPER_FUNCTION": "keeper"}
    with started(unpacked, "backup_lambda.handler.api", settings | functions, bootstrap) as runtime:
        for _ in range(2):
            kind, answer = runtime.ask(LISTED)
            assert (kind, answer["statusCode"]) == ("response", 200)
            assert '"items":[]' in answer["body"]


@pytest.mark.parametrize("name", ["api", "worker", "keeper"])
def test_an_event_that_is_for_somebody_else_is_an_error_of_the_invocation(
    unpacked: Path, bootstrap: Path, settings: dict[str, str], name: str
) -> None:
    """Which Lambda counts, tries again and buries; and the function lives on."""
    with started(unpacked, f"backup_lambda.handler.{name}", settings, bootstrap) as runtime:
        for _ in range(2):
            kind, error = runtime.ask({"Records": []})
            assert (kind, error["errorType"]) == ("error", "UnknownEvent")
            assert error["stackTrace"]


def test_wrong_settings_are_told_at_the_first_event(unpacked: Path, bootstrap: Path, settings: dict[str, str]) -> None:
    wrong = settings | {"HOLDFAST_DATABASE": "postgresql://u:hunter2@h/d"}
    with started(unpacked, "backup_lambda.handler.worker", wrong, bootstrap) as runtime:
        kind, error = runtime.ask({"task": "test"})
    assert (kind, error["errorType"]) == ("error", "SettingsError")
    assert "HOLDFAST_DATABASE" in error["errorMessage"]
    assert "hunter2" not in str(error)


def test_a_handler_that_is_not_there_is_an_error_of_the_start(
    unpacked: Path, bootstrap: Path, settings: dict[str, str]
) -> None:
    with started(unpacked, "backup_lambda.handler.gone", settings, bootstrap) as runtime:
        kind, error = runtime.ask({})
    assert (kind, error["errorType"]) == ("init/error", "Runtime.HandlerNotFound")


def test_the_template_names_handlers_that_are_there(unpacked: Path) -> None:
    content: dict[str, Any] = json.loads((package.ROOT / "deploy/cdk/templates/backup.json").read_text())
    handlers = {
        each["Properties"]["Handler"]
        for each in content["Resources"].values()
        if each["Type"] == "AWS::Lambda::Function"
    }
    assert handlers == {f"backup_lambda.handler.{name}" for name in ("api", "worker", "keeper")}
    assert (unpacked / "backup_lambda" / "handler.py").exists()
