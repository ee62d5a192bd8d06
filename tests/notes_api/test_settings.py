"""Settings come from HOLDFAST_ variables: all of them right, or the process does not start."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from notes_api.settings import DatabaseSettings, Settings, SettingsError
from tests.notes_api.doors import run

URL = "postgresql://notes_app:s3cret@localhost:5432/holdfast"
RIGHT = {"HOLDFAST_DATABASE_URL": URL, "HOLDFAST_SIGNING_KEY": "s1gned" * 6}


def test_others_variables_are_none_of_ours() -> None:
    settings = Settings.from_env(RIGHT | {"HOME": "/root", "DATABASE_URL": "other"})
    assert settings.database_url.get_secret_value() == URL


def test_a_command_line_runs_in_the_environment_of_the_api() -> None:
    """As `docker compose exec notes_api python -m notes_api.tokens ...` does."""
    of_the_api = {"HOLDFAST_SIGNING_KEY_FILE": "/not/for/us", "HOLDFAST_ATTACHMENTS_BUCKET": "x"}
    settings = DatabaseSettings.from_env({"HOLDFAST_DATABASE_URL": URL, **of_the_api})
    assert settings.database_url.get_secret_value() == URL


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        ({}, "HOLDFAST_DATABASE_URL: Field required"),
        (
            {"HOLDFAST_DATABASE_URL": URL, "HOLDFAST_DATABASE": "x"},
            "unknown setting HOLDFAST_DATABASE; known: HOLDFAST_DATABASE_URL, HOLDFAST_DATABASE_CA",
        ),
        (
            {"HOLDFAST_database_url": URL},
            "unknown setting HOLDFAST_database_url; known: HOLDFAST_DATABASE_URL, HOLDFAST_DATABASE_CA",
        ),
    ],
)
def test_what_is_unknown_or_missing_is_named(env: dict[str, str], complaint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        DatabaseSettings.from_env(env)
    assert str(refused.value) == complaint


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3cret",
        "mysql://root:s3cret@localhost/x",
        "postgresql://notes_app:s3cret@localhost",
        "postgresql:///holdfast",
        "postgresql://notes_app:s3cret@[localhost/holdfast",
    ],
)
def test_a_wrong_one_is_named_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        DatabaseSettings.from_env({"HOLDFAST_DATABASE_URL": url})
    assert str(refused.value).startswith("HOLDFAST_DATABASE_URL: ")
    assert "postgresql://user:password@host:port/database" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    shown = repr(Settings.from_env(RIGHT | {"HOLDFAST_REDIS_URL": "redis://:s3cret@localhost"}))
    assert "s3cret" not in shown
    assert "s1gned" not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIGNING_KEY", "s1gned"),
        ("REQUESTS_PER_MINUTE", "0"),
        ("REQUESTS_PER_MINUTE", "many"),
        ("TRASH_DAYS", "-1"),
        ("TOPIC_ARN", "arn:aws:sns:eu-west-1:000000000000:not-fifo"),
    ],
)
def test_a_value_that_does_not_do_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(RIGHT | {f"HOLDFAST_{name}": value})
    assert str(refused.value).startswith(f"HOLDFAST_{name}: ")
    assert value not in str(refused.value).removeprefix(f"HOLDFAST_{name}: ")


def test_settings_do_not_change() -> None:
    settings = Settings.from_env(RIGHT)
    with pytest.raises(ValidationError):
        settings.database_url = settings.database_url  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("module", ["migrate", "tokens"])
def test_a_command_says_what_is_missing_in_one_line(module: str) -> None:
    done = run(module, *(["create", "--name", "x", "--scope", "notes:read"] if module == "tokens" else []))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "HOLDFAST_DATABASE_URL: Field required\n"


def test_a_secret_may_come_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{URL}\n")
    settings = DatabaseSettings.from_env({"HOLDFAST_DATABASE_URL_FILE": str(tmp_path / "url")})
    assert settings.database_url.get_secret_value() == URL


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        DatabaseSettings.from_env({"HOLDFAST_DATABASE_URL_FILE": str(tmp_path / "url")})
    assert str(refused.value) == f"HOLDFAST_DATABASE_URL_FILE: {tmp_path}/url cannot be read: No such file or directory"
