import re
import tomllib
from pathlib import Path

import pytest

import backup_lambda
from backup_lambda.settings import ApiSettings, SettingsError, WorkerSettings

TOPIC = "arn:aws:sns:us-east-1:1:backups"
SECRET = "arn:aws:secretsmanager:us-east-1:1:secret:url"
WORKER = {"HOLDFAST_BUCKET": "backups", "HOLDFAST_TOPIC_ARN": TOPIC, "HOLDFAST_DATABASE_SECRET": SECRET}


def test_settings_are_read_from_variables_with_our_prefix() -> None:
    settings = WorkerSettings.from_env({**WORKER, "HOLDFAST_SCHEMAS": "notes, other", "PATH": "/bin"})
    assert (settings.bucket, settings.schemas) == ("backups", ("notes", "other"))
    assert WorkerSettings.from_env(WORKER).schemas == ("notes", "scheduler")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"HOLDFAST_BUKKET": "x"}, "unknown setting HOLDFAST_BUKKET; known: HOLDFAST_BUCKET, HOLDFAST_TOPIC_ARN"),
        ({"HOLDFAST_BUCKET": ""}, "HOLDFAST_BUCKET: "),
        ({"HOLDFAST_TOPIC_ARN": "s3cret"}, "HOLDFAST_TOPIC_ARN: "),
        ({"HOLDFAST_SCHEMAS": "notes,,scheduler"}, "HOLDFAST_SCHEMAS: "),
        ({"HOLDFAST_DATABASE_SECRET": "postgresql://u:s3cret@h/d"}, "HOLDFAST_DATABASE_SECRET: "),
    ],
)
def test_wrong_settings_are_named_and_not_shown(change: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)) as raised:
        WorkerSettings.from_env(WORKER | change)
    assert "s3cret" not in str(raised.value)


def test_missing_settings_are_named() -> None:
    with pytest.raises(
        SettingsError, match=r"HOLDFAST_BUCKET: Field required; HOLDFAST_TOPIC_ARN: .*HOLDFAST_WORKER_FUNC"
    ):
        ApiSettings.from_env({})


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((Path(backup_lambda.__file__).parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == backup_lambda.__version__
