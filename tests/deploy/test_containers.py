"""What compose.yaml promises, and the two one-shot commands behind it, which run here without containers."""

import inspect
import re
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
from notes_api.settings import Settings as NotesSettings
from scheduler.settings import Settings as SchedulerSettings
from scheduler.settings import WorkerSettings
from tests.servers import EMULATOR_PYTHON, Aws, free_port, running

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APIS = ["notes_api", "scheduler", "scheduler_worker"]
SETTINGS: dict[str, Any] = {
    "notes_api": NotesSettings,
    "scheduler": SchedulerSettings,
    "scheduler_worker": WorkerSettings,
}
READERS = [*APIS, "deploy", "emulator", "mail", "migrations", "ops", "postgres", "valkey"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"] > 0
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
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
                assert name.endswith("_FILE") or value is None, name  # None: of the shell


@pytest.mark.parametrize("name", ["notes_api", "scheduler", "backup_lambda"])
def test_an_image_holds_all_modules_of_its_service(name: str) -> None:
    folder = ROOT / "services" / name
    nothing, *taken, _ = (folder / ".dockerignore").read_text().splitlines()
    modules = {module.relative_to(folder).parts for module in folder.rglob("*.py")}
    needed = {f"!{first}" if rest else "!*.py" for first, *rest in modules}
    assert (nothing, {each for each in taken if not each.startswith("!requirements")}) == ("*", needed)


@pytest.mark.parametrize("name", ["notes_api", "scheduler", "backup_lambda"])
def test_what_is_mounted_on_ecs_can_be_written_as_in_the_image(name: str) -> None:
    """Without VOLUME, a volume of ECS belongs to root."""
    assert "\nVOLUME /tmp\n" in (ROOT / "services" / name / "Dockerfile").read_text()
    for stack in ("backup", "notes_api", "scheduler"):
        template = (ROOT / "deploy" / "cdk" / "templates" / f"{stack}.json").read_text()
        assert set(re.findall(r'"ContainerPath": "([^"]+)"', template)) == {"/tmp"}


def test_only_the_host_itself_reaches_it_unless_asked_for() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith(("127.0.0.1:", "${HOLDFAST_ADDRESS:-127.0.0.1}:")) for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_of_one_release(name: str) -> None:
    """And one of ours is of the release that somebody says, each service by itself."""
    service = SERVICES[name]
    if "build" not in service:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?", service["image"])
        return
    bases = re.findall(r"^FROM (\S+)", _dockerfile(service["build"]), re.MULTILINE)
    stages = re.findall(r"^FROM \S+ AS (\S+)", _dockerfile(service["build"]), re.MULTILINE)
    assert all(re.fullmatch(r"python:3\.13\.\d+-slim", base) for base in bases if base not in stages)


@pytest.mark.parametrize("name", ["deploy", "settings"])
def test_what_a_command_writes_is_a_volume_of_its_own(name: str) -> None:
    """Else it is the container's own file system, which is read-only."""
    written = set(re.findall(r'run / "(\w+)"', inspect.getsource(getattr(containers, name))))
    mounted = {volume.partition(":/run/holdfast/")[2] for volume in SERVICES[name]["volumes"]}
    assert written
    assert written <= mounted


def test_in_aws_there_is_nothing_that_aws_has() -> None:
    local = {name for name, service in SERVICES.items() if service.get("profiles") == ["local"]}
    assert local == {"secrets", "postgres", "roles", "redis", "emulator", "mailpit", "deploy", "mail"}
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert name in local or other not in local or how["required"] is False, (name, other)


def test_on_a_host_services_are_told_what_the_stacks_have_published(run: Path, aws: Aws) -> None:
    """By the same files that say where things are on one machine."""
    session = boto3.session.Session(aws.access_key, aws.secret_key, region_name=aws.region)
    at = {"endpoint_url": aws.endpoint_url}
    ssm, secrets = session.client("ssm", **at), session.client("secretsmanager", **at)
    redis, cursor = (secrets.create_secret(Name=f"host-{name}", SecretString=value)["ARN"]
                     for name, value in (("redis", "rediss://:t@cache:6379/0"), ("cursor", "c" * 48)))  # fmt: skip
    published = {
        "host-data": {
            "Endpoint": "db.example:5432",
            "Authorities": "PEM",
            "RedisUrlSecretArn": redis,
            "CursorKeySecretArn": cursor,
        },
        "host-storage": {"BucketName": "attachments", "TopicArn": "arn:aws:sns:us-east-1:123456789012:notes.fifo"},
        "host-backup": {"ApiUrl": "https://api.example/v1", "TopicArn": "arn:aws:sns:us-east-1:123456789012:backups"},
    }
    for stack, values in published.items():
        for name, value in {**{f"Unused{n}": "x" for n in range(12)}, **values}.items():  # more than one page
            ssm.put_parameter(Name=f"/{stack}/{name}", Value=value, Type="String")
    before = {who: {file.name for file in (run / who).iterdir()} for who in APIS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", aws.endpoint_url)
        containers.settings("host-data,host-storage,host-backup", session, run)
    for who in [*APIS, "migrations"]:
        assert "region=us-east-1" in (run / who / "aws_config").read_text()
        assert before.get(who, set()) <= {file.name for file in (run / who).iterdir()}
    for who in APIS:
        said = {name: str(value) for name, value in SERVICES[who]["environment"].items()}
        files = {
            name: file.replace("/run/holdfast", str(run)) for name, file in said.items() if "/run/holdfast" in file
        }
        env = {name: file for name, file in files.items() if name.startswith("HOLDFAST_")}
        assert SETTINGS[who].from_env(env).database_url.get_secret_value().startswith("postgresql+iam://")
    owner = (run / "migrations" / "notes_owner_url").read_text()
    assert owner == "postgresql+iam://notes_owner@db.example:5432/holdfast"


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
