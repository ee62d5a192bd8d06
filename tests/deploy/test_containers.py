"""What compose.yaml promises, and the two one-shot commands behind it, which run here without containers."""

import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from deploy.containers import __main__ as containers
from deploy.local import emulator
from deploy.local.home import Home, write_private
from deploy.local.settings import ROOT
from tests.servers import EMULATOR_PYTHON, free_port, running

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APIS = ["notes_api", "scheduler", "scheduler_worker"]
READERS = [*APIS, "deploy", "emulator", "mail", "migrations", "ops", "postgres", "valkey"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    dockerfile = service.get("build") and _dockerfile(service["build"])
    assert "user" in service or (dockerfile and "USER 10001:10001" in dockerfile)


@pytest.mark.parametrize("name", SERVICES)
def test_whoever_stays_is_asked_how_it_is(name: str) -> None:
    ends = {name for each in SERVICES.values() for name, how in each.get("depends_on", {}).items()
            if how["condition"] == "service_completed_successfully"}  # fmt: skip
    assert ("healthcheck" in SERVICES[name]) is (name not in ends)


def test_no_secret_stands_in_it() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in ("PASSWORD", "SECRET", "KEY", "TOKEN", "_URL", "CREDENTIALS")):
                assert name.endswith("_FILE") or value in {None, "http://emulator:4566"}, name  # None: of the shell


@pytest.mark.parametrize("name", ["notes_api", "scheduler", "backup_lambda"])
def test_an_image_holds_all_modules_of_its_service(name: str) -> None:
    folder = ROOT / "services" / name
    nothing, *taken, _ = (folder / ".dockerignore").read_text().splitlines()
    modules = {module.relative_to(folder).parts for module in folder.rglob("*.py")}
    needed = {f"!{first}" if rest else "!*.py" for first, *rest in modules}
    assert (nothing, {each for each in taken if not each.startswith("!requirements")}) == ("*", needed)


def test_only_the_host_itself_reaches_it_unless_asked_for() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith(("127.0.0.1:", "${HOLDFAST_ADDRESS:-127.0.0.1}:")) for port in ports)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in READERS:
        (tmp_path / name).mkdir()
    containers.make_secrets(tmp_path)
    return tmp_path


def test_secrets_are_made_once_and_for_their_readers_only(run: Path) -> None:
    files = {file: file.read_text() for name in READERS for file in (run / name).rglob("*") if file.is_file()}
    containers.make_secrets(run)
    assert {file: file.read_text() for file in files} == files
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files if file.parent.name != "postgres")
    assert "notes_owner" not in (run / "notes_api" / "app_url").read_text()


def test_what_was_acknowledged_outlives_the_emulator(run: Path) -> None:
    port, root = free_port(), Home.open(run / "deploy" / "home").secrets
    program = emulator.program(
        EMULATOR_PYTHON, run / "aws", port, root["aws_root_access_key"], root["aws_root_secret_key"]
    )
    (run / "emulator_state").symlink_to(run / "aws")
    url = emulator.endpoint_url(port)
    with running(program, run) as process:
        containers.deploy(run, url, "http://127.0.0.1:5000")
        env = dict(_assignments(run / "ops" / "env"))
        assert env["BACKUPS_URL"].startswith("http://127.0.0.1:5000/")
        assert (run / "notes_api" / "attachments_url").read_text() == "http://127.0.0.1:5000", "clients are outside"
        assert _settings_of("notes_api") <= {file.name for file in (run / "notes_api").iterdir()}
        assert _settings_of("scheduler_worker") <= {file.name for file in (run / "scheduler_worker").iterdir()}
        # As deploy/local/mail.py writes it before it confirms.
        write_private(run / "mail" / "subscriptions.json", '[{"email": "ada@example.org", "filter_policy": ""}]')
        process.kill()
    with running(program, run):
        containers.deploy(run, url, "http://127.0.0.1:5000")
        keys = {"aws_access_key_id": root["aws_root_access_key"], "aws_secret_access_key": root["aws_root_secret_key"]}
        sns = boto3.client("sns", endpoint_url=url, region_name=emulator.REGION, **keys)
        subscriptions = sns.list_subscriptions_by_topic(TopicArn=env["TOPIC_ARN"])["Subscriptions"]
        assert "ada@example.org" in [each["Endpoint"] for each in subscriptions]


def _settings_of(service: str) -> set[str]:
    """The files that compose.yaml has it read in the folder of its own."""
    folder = f"/run/holdfast/{service}/"
    values = map(str, SERVICES[service]["environment"].values())
    return {value.removeprefix(folder) for value in values if value.startswith(folder)}


def _assignments(file: Path) -> Iterator[tuple[str, str]]:
    for line in file.read_text().splitlines():
        name, value = line.split("=", 1)
        yield name, shlex.split(value)[0]


def _dockerfile(build: str | dict[str, str]) -> str:
    if isinstance(build, str):
        return (ROOT / build / "Dockerfile").read_text()
    return (ROOT / build["dockerfile"]).read_text()
