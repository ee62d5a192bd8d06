import re
import tomllib
from pathlib import Path

import pytest

import backup_lambda
from backup_lambda.settings import ApiSettings, SettingsError, WorkerSettings

TOPIC = "arn:aws:sns:us-east-1:1:backups"
SECRET = "arn:aws:secretsmanager:us-east-1:1:secret:url"
KEY = "arn:aws:kms:us-east-1:1:key/1"
WORKER = {
    "HOLDFAST_BUCKET": "backups",
    "HOLDFAST_TOPIC_ARN": TOPIC,
    "HOLDFAST_DATABASE": SECRET,
    "HOLDFAST_PROOF_DATABASE": SECRET,
    "HOLDFAST_SIGNING_KEY": KEY,
}


def test_settings_are_read_from_variables_with_our_prefix() -> None:
    settings = WorkerSettings.from_env({**WORKER, "HOLDFAST_SCHEMAS": "notes, other", "PATH": "/bin"})
    assert (settings.bucket, settings.schemas) == ("backups", ("notes", "other"))
    assert WorkerSettings.from_env(WORKER).schemas == ("notes", "scheduler")


def test_every_setting_of_the_worker_can_be_given() -> None:
    given = {
        "HOLDFAST_INCLUDE_TABLES": "notes.*, scheduler.schedules",
        "HOLDFAST_EXCLUDE_TABLES": "notes.idempotency_keys",
        "HOLDFAST_PROVE": "on_demand",
        "HOLDFAST_REPROVE_AFTER_DAYS": "0",
        "HOLDFAST_PROOF_ROOM_BYTES": "5000000000",
        "HOLDFAST_SUSPECT_FALL_PERCENT": "20",
        "HOLDFAST_OBJECT_LOCK_DAYS": "35",
        "HOLDFAST_FORMER_KEYS": f"{'a' * 64}, {'b' * 64}",
        "HOLDFAST_CHANGED_PERCENT": "30",
        "HOLDFAST_TASK": '{"cluster": "c", "definition": "d", "subnets": ["a", "b"], "security_group": "sg"}',
        "HOLDFAST_TASK_FROM_BYTES": "0",
        "HOLDFAST_DATABASE_CA": "-----BEGIN CERTIFICATE-----",
        "HOLDFAST_RESTORE_DATABASE": "arn:aws:secretsmanager:eu-west-1:1:secret:live",
    }
    settings = WorkerSettings.from_env(WORKER | given)
    assert settings.include_tables == ("notes.*", "scheduler.schedules")
    assert settings.exclude_tables == ("notes.idempotency_keys",)
    assert (settings.prove, settings.reprove_after_days, settings.proof_room_bytes) == ("on_demand", 0, 5_000_000_000)
    assert (settings.suspect_fall_percent, settings.object_lock_days) == (20, 35)
    assert settings.former_keys == ("a" * 64, "b" * 64)
    assert (settings.changed_percent, str(settings.restore_database)[-5:]) == (30, ":live")
    assert settings.task
    assert (settings.task.subnets, settings.task_from_bytes) == (("a", "b"), 0)
    assert given.keys() | WORKER.keys() | {"HOLDFAST_SCHEMAS"} == {
        f"HOLDFAST_{name.upper()}" for name in WorkerSettings.model_fields
    }


def test_an_address_without_a_password_is_no_secret() -> None:
    address = "postgresql+iam://notes_backup@db.example.org:5432/holdfast"
    assert WorkerSettings.from_env(WORKER | {"HOLDFAST_DATABASE": address}).database == address


def test_what_is_empty_excludes_and_limits_nothing() -> None:
    """A template's parameter that nobody filled in arrives so."""
    empty = {
        "HOLDFAST_EXCLUDE_TABLES": "",
        "HOLDFAST_FORMER_KEYS": " ",
        "HOLDFAST_PROOF_ROOM_BYTES": "",
        "HOLDFAST_TASK": "",
    }
    empty |= {"HOLDFAST_RESTORE_DATABASE": ""}
    assert WorkerSettings.from_env(WORKER | empty) == WorkerSettings.from_env(WORKER)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"HOLDFAST_BUKKET": "x"}, "unknown setting HOLDFAST_BUKKET; known: HOLDFAST_BUCKET, HOLDFAST_TOPIC_ARN"),
        ({"HOLDFAST_BUCKET": ""}, "HOLDFAST_BUCKET: "),
        ({"HOLDFAST_TOPIC_ARN": "s3cret"}, "HOLDFAST_TOPIC_ARN: "),
        ({"HOLDFAST_SCHEMAS": "notes,,scheduler"}, "HOLDFAST_SCHEMAS: "),
        ({"HOLDFAST_DATABASE": "postgresql://u:s3cret@h/d"}, "HOLDFAST_DATABASE: "),
        ({"HOLDFAST_PROOF_DATABASE": "postgresql://u:s3cret@h/d"}, "HOLDFAST_PROOF_DATABASE: "),
        ({"HOLDFAST_DATABASE": "postgresql+iam://u:s3cret@h/d"}, "HOLDFAST_DATABASE: "),
        ({"HOLDFAST_DATABASE": "postgresql+iam://h/s3cret"}, "HOLDFAST_DATABASE: "),
        ({"HOLDFAST_SIGNING_KEY": "-----BEGIN PRIVATE KEY-----s3cret"}, "HOLDFAST_SIGNING_KEY: "),
        ({"HOLDFAST_SIGNING_KEY": "arn:aws:s3:us-east-1:1:s3cret"}, "HOLDFAST_SIGNING_KEY: "),
        ({"HOLDFAST_FORMER_KEYS": "abc"}, "HOLDFAST_FORMER_KEYS: "),
        ({"HOLDFAST_INCLUDE_TABLES": ""}, "HOLDFAST_INCLUDE_TABLES: "),
        ({"HOLDFAST_EXCLUDE_TABLES": "a.b,,"}, "HOLDFAST_EXCLUDE_TABLES: "),
        ({"HOLDFAST_PROVE": "never"}, "HOLDFAST_PROVE: "),
        ({"HOLDFAST_REPROVE_AFTER_DAYS": ""}, "HOLDFAST_REPROVE_AFTER_DAYS: "),
        ({"HOLDFAST_REPROVE_AFTER_DAYS": "-1"}, "HOLDFAST_REPROVE_AFTER_DAYS: "),
        ({"HOLDFAST_REPROVE_AFTER_DAYS": "a month"}, "HOLDFAST_REPROVE_AFTER_DAYS: "),
        ({"HOLDFAST_PROOF_ROOM_BYTES": "0"}, "HOLDFAST_PROOF_ROOM_BYTES: "),
        ({"HOLDFAST_PROOF_ROOM_BYTES": "1e9"}, "HOLDFAST_PROOF_ROOM_BYTES: "),
        ({"HOLDFAST_SUSPECT_FALL_PERCENT": "0"}, "HOLDFAST_SUSPECT_FALL_PERCENT: "),
        ({"HOLDFAST_SUSPECT_FALL_PERCENT": "101"}, "HOLDFAST_SUSPECT_FALL_PERCENT: "),
        ({"HOLDFAST_TASK": "s3cret"}, "HOLDFAST_TASK: "),
        ({"HOLDFAST_TASK": '{"cluster": "s3cret"}'}, "HOLDFAST_TASK: "),
        ({"HOLDFAST_TASK_FROM_BYTES": "10 GB"}, "HOLDFAST_TASK_FROM_BYTES: "),
        ({"HOLDFAST_OBJECT_LOCK_DAYS": "1.5"}, "HOLDFAST_OBJECT_LOCK_DAYS: "),
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
