"""Settings come from HOLDFAST_ variables: all of them right, or the process does not start."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from scheduler.settings import Settings, SettingsError, WorkerSettings

if TYPE_CHECKING:
    from tests.scheduler.conftest import Command

URL = "postgresql://scheduler_app:s3cret@localhost:5432/holdfast"
WORKER = {
    "HOLDFAST_DATABASE_URL": URL,
    "HOLDFAST_REDIS_URL": "rediss://:s3cret@redis:6379/0",
    "HOLDFAST_BACKUPS_URL": "https://abc123.execute-api.eu-central-1.amazonaws.com/v1",
    "HOLDFAST_TOPIC_ARN": "arn:aws:sns:eu-central-1:123456789012:holdfast-backup-Topic-1A",
}


def test_others_variables_are_none_of_ours() -> None:
    settings = Settings.from_env({"HOLDFAST_DATABASE_URL": URL, "HOME": "/root", "DATABASE_URL": "other"})
    assert settings.database_url.get_secret_value() == URL


def test_the_api_knows_nothing_of_the_workers_settings() -> None:
    with pytest.raises(
        SettingsError,
        match=r"known: HOLDFAST_DATABASE_URL, HOLDFAST_DATABASE_CA, HOLDFAST_HTTP_TARGETS, HOLDFAST_OTLP_ENDPOINT,"
        " HOLDFAST_BACKUPS_URL$",
    ):
        Settings.from_env(WORKER)


def test_the_worker_has_its_own() -> None:
    settings = WorkerSettings.from_env(WORKER)
    assert settings.redis_url.get_secret_value() == WORKER["HOLDFAST_REDIS_URL"]
    assert (settings.backups_url, settings.topic_arn) == (WORKER["HOLDFAST_BACKUPS_URL"], WORKER["HOLDFAST_TOPIC_ARN"])


def test_a_file_may_hold_a_secret(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{URL}\n")
    settings = Settings.from_env({"HOLDFAST_DATABASE_URL_FILE": str(tmp_path / "url")})
    assert settings.database_url.get_secret_value() == URL
    with pytest.raises(SettingsError, match=r"HOLDFAST_DATABASE_URL_FILE: .* cannot be read"):
        Settings.from_env({"HOLDFAST_DATABASE_URL_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize("name", WORKER)
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        WorkerSettings.from_env({key: value for key, value in WORKER.items() if key != name})
    assert str(refused.value) == f"{name}: Field required"


@pytest.mark.parametrize("name", ["HOLDFAST_REDIS", "HOLDFAST_database_url", "HOLDFAST_"])
def test_what_is_unknown_is_named(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        WorkerSettings.from_env({**WORKER, name: "s3cret"})
    known = [f"HOLDFAST_{field.upper()}" for field in WorkerSettings.model_fields]
    assert str(refused.value) == f"unknown setting {name}; known: {', '.join(known)}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOLDFAST_DATABASE_URL", ""),
        ("HOLDFAST_DATABASE_URL", "mysql://root:s3cret@localhost/x"),
        ("HOLDFAST_DATABASE_URL", "postgresql://scheduler_app:s3cret@localhost"),
        ("HOLDFAST_DATABASE_URL", "postgresql://scheduler_app:s3cret@[localhost/holdfast"),
        ("HOLDFAST_REDIS_URL", "localhost:6379"),
        ("HOLDFAST_REDIS_URL", "unix:///s3cret"),
        ("HOLDFAST_BACKUPS_URL", "abc123.execute-api.eu-central-1.amazonaws.com/v1"),
        ("HOLDFAST_BACKUPS_URL", "https://example.com/v1/"),
        ("HOLDFAST_BACKUPS_URL", "https://example.com/v1?key=s3cret"),
        ("HOLDFAST_TOPIC_ARN", "backups"),
        ("HOLDFAST_TOPIC_ARN", "arn:aws:sqs:eu-central-1:123456789012:s3cret"),
    ],
)
def test_a_wrong_one_is_named_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        WorkerSettings.from_env({**WORKER, name: value})
    assert str(refused.value).startswith(f"{name}: ")
    assert "s3cret" not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    assert "s3cret" not in repr(WorkerSettings.from_env(WORKER))


def test_settings_do_not_change() -> None:
    settings = WorkerSettings.from_env(WORKER)
    with pytest.raises(ValidationError):
        settings.topic_arn = "other"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("module", ["migrate", "tokens"])
def test_a_command_says_what_is_missing_in_one_line(run: "Command", module: str) -> None:
    done = run(module, *(["create", "--name", "x", "--scope", "runs:read"] if module == "tokens" else []))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "HOLDFAST_DATABASE_URL: Field required\n"
