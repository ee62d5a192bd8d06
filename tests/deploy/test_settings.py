"""What a person may set about the one-machine stack."""

import socket
from pathlib import Path

import pytest

from deploy.local.settings import Settings, SettingsError


def test_ports_follow_the_first_one_unless_set() -> None:
    settings = Settings.from_env({"HOLDFAST_PORT": "9000", "HOLDFAST_AWS_PORT": "4566", "PATH": "/bin"})
    assert (settings.port, settings.notes_api_port, settings.aws_port, settings.smtp_port) == (9000, 9001, 4566, 9006)


def test_the_defaults_are_the_same_rule() -> None:
    assert Settings.from_env({}) == Settings.from_env({"HOLDFAST_PORT": "8080"})


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        ({"HOLDFAST_PROT": "1"}, "HOLDFAST_PROT is not a setting. There are: HOLDFAST_HOME, HOLDFAST_PORT"),
        ({"HOLDFAST_PORT": "http"}, "HOLDFAST_PORT must be a port, 1 to 65535, and is 'http'"),
        ({"HOLDFAST_PORT": "65535"}, "HOLDFAST_PORT must be a port"),
        ({"HOLDFAST_HOME": "/"}, "HOLDFAST_HOME must be a folder below /"),
        ({"HOLDFAST_DATABASE_URL": "garbage"}, "HOLDFAST_DATABASE_URL must be of the form postgresql://"),
        ({"HOLDFAST_DATABASE_URL": "postgresql://u:s3cret@h:99999/d"}, "HOLDFAST_DATABASE_URL must be of the form"),
        ({"HOLDFAST_DATABASE_URL": "postgresql://h/d?sslmode=require"}, "without a query"),
        ({"HOLDFAST_PROOF_DATABASE_URL": "http://h"}, "HOLDFAST_PROOF_DATABASE_URL must be of the form postgresql://"),
        ({"HOLDFAST_REDIS_URL": "http://h"}, "HOLDFAST_REDIS_URL must be of the form redis://"),
        ({"HOLDFAST_SMTP_URL": "http://h"}, "HOLDFAST_SMTP_URL must be of the form smtp://"),
    ],
)
def test_a_wrong_setting_is_named(env: dict[str, str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as refused:
        Settings.from_env(env)
    assert "s3cret" not in str(refused.value)


def test_a_port_that_is_set_twice_is_named() -> None:
    with pytest.raises(SettingsError, match="port 9000 is set twice: set HOLDFAST_PORT to another one"):
        Settings.from_env({"HOLDFAST_PORT": "9000", "HOLDFAST_AWS_PORT": "9000"}).check_ports()


def test_a_taken_port_is_one_line_with_port_and_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as refused:
            Settings(valkey_port=port).check_ports()
    assert str(refused.value).startswith(
        f"port {port} is taken by another program: set HOLDFAST_VALKEY_PORT to another"
    )
    assert "\n" not in str(refused.value)


def test_a_server_of_ones_own_needs_no_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        Settings(valkey_port=taken.getsockname()[1], redis_url="redis://elsewhere", port=1024 + 1).check_ports()
