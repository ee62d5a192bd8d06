"""Stacks deployed one by one into an account, by the command that docs/deploy.md names."""

import io
import json
import re
import tarfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest

from deploy import aws as deploying
from deploy import package
from deploy.aws import Misused, authority, bundle, main, why_failed
from tests.deploy import probe
from tests.deploy.conftest import PUBLISHED
from tests.deploy.test_login import certify
from tests.servers import Aws

A_CERTIFICATE = "arn:aws:acm:us-east-1:000000000000:certificate/0b6a4b9e"
A_KEY = "arn:aws:kms:us-east-1:000000000000:key/0b6a4b9e"


@pytest.fixture
def account(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> boto3.session.Session:
    for name, value in aws.variables.items():
        monkeypatch.setenv(name, value)
    return boto3.session.Session(region_name=aws.region)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[package.Package]:
    """What was built in place of a package for Lambda, which takes half a minute and a network."""
    made: list[package.Package] = []
    (tmp_path / "package.zip").write_bytes(probe.package())

    def build(target: str, _python: object) -> package.Package:
        assert target == "lambda"
        made.append(package.Package(tmp_path / "package.zip", f"backup_lambda/{len(made)}.zip"))
        return made[-1]

    monkeypatch.setattr(package, "build", build)
    return made


def code_key(account: boto3.session.Session, stack: str) -> str:
    (found,) = account.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    return str({each["ParameterKey"]: each["ParameterValue"] for each in found["Parameters"]}["CodeKey"])


def test_a_stack_is_made_changed_and_rolled_back_alone(
    account: boto3.session.Session, built: list[package.Package], capsys: pytest.CaptureFixture[str]
) -> None:
    ssm, stack = account.client("ssm"), "alone-backup"
    for of, names in PUBLISHED.items():
        for name in names:
            ssm.put_parameter(Name=f"/{of}/{name}", Value=f"{name.lower()}-of-{of}", Type="String", Overwrite=True)
    ssm.put_parameter(Name="/alone-data/SigningKeyArn", Value=A_KEY, Type="String")
    made = ["backup", "--name", stack, "--set", "SigningKeyArn=ssm:/alone-data/SigningKeyArn"]
    assert main([*made, "--set", "RequireTls=false"]) == 0, capsys.readouterr().err
    assert ssm.get_parameter(Name=f"/{stack}/TopicArn")["Parameter"]["Value"] in capsys.readouterr().out
    assert main(["backup", "--name", stack, "--set", "Retention=last 3"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().err
    assert "the way back: python -m deploy.aws backup --set CodeKey=backup_lambda/0.zip" in told
    assert "--set 'Retention=last 7" in told
    assert code_key(account, stack) == "backup_lambda/1.zip"
    (now,) = account.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    said = {each["ParameterKey"]: each["ParameterValue"] for each in now["Parameters"]}
    assert (said["SigningKeyArn"], said["RequireTls"], said["Retention"]) == (A_KEY, "false", "last 3"), (
        "what was said stays"
    )
    assert main(["backup", "--name", stack, "--set", "CodeKey=backup_lambda/0.zip"]) == 0
    assert (code_key(account, stack), len(built)) == ("backup_lambda/0.zip", 2)
    assert main(["backup", "--name", stack, "--set", "CodeKey=backup_lambda/0.zip"]) == 0, "again changes nothing"

    cloudformation = account.client("cloudformation")
    cloudformation.update_termination_protection(StackName=stack, EnableTerminationProtection=False)
    cloudformation.delete_stack(StackName=stack)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    assert main([*made, "--set", "RequireTls=false"]) == 0, "a new one takes over the bucket that the former one left"


def test_each_stack_that_the_emulator_has_servers_for_is_deployed_from_its_template(
    account: boto3.session.Session, capsys: pytest.CaptureFixture[str]
) -> None:
    ssm = account.client("ssm")
    said: dict[str, list[str]] = {"storage": [], "cluster": ["--set", f"CertificateArn={A_CERTIFICATE}"], "watch": []}
    for stack, more in said.items():
        for name in read_by(stack):
            ssm.put_parameter(Name=name, Value=f"a-value{name.replace('/', '-')}", Type="String", Overwrite=True)
        assert main([stack, "--name", f"tried-{stack}", *more]) == 0, capsys.readouterr().err
        (found,) = account.client("cloudformation").describe_stacks(StackName=f"tried-{stack}")["Stacks"]
        assert found["EnableTerminationProtection"] is True


def read_by(stack: str) -> set[str]:
    """What other stacks publish, and this one reads, under the names that they have unless somebody says others."""
    content = json.loads((deploying.TEMPLATES / f"{stack}.json").read_text())
    read = re.findall(r'{{resolve:ssm:/", {"Ref": "(\w+)"}, "(/\w+)}}', json.dumps(content))
    return {f"/{content['Parameters'][of]['Default']}{name}" for of, name in read}


@pytest.fixture
def migrations(account: boto3.session.Session, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a stack that has such a task."""
    monkeypatch.setattr(deploying.Account, "look_again_seconds", 0.1)
    ssm, ecs = account.client("ssm"), account.client("ecs")
    ecs.create_cluster(clusterName="tried")
    container = {"name": "main", "image": "holdfast/notes_api", "essential": True}
    made = ecs.register_task_definition(family="tried-migrations", containerDefinitions=[container])
    values = {
        "tried-notes-api/MigrationsTask": made["taskDefinition"]["taskDefinitionArn"],
        "tried-notes-api/ClusterName": "tried",
        **{f"tried-place/PublicSubnet{zone}": f"subnet-{zone.lower()}" for zone in "AB"},
        "tried-place/ServiceSecurityGroup": "sg-services",
    }
    for name, value in values.items():
        ssm.put_parameter(Name=f"/{name}", Value=value, Type="String", Overwrite=True)
    return "tried-notes-api"


@pytest.mark.parametrize("image", ["", "holdfast/notes_api:next"])
def test_a_task_is_waited_for(
    account: boto3.session.Session, migrations: str, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The emulator runs no container; somebody stops what it pretends to run, which it says ended well."""
    ecs = account.client("ecs")
    ran: list[str] = []

    def stop() -> None:
        while not (arns := ecs.list_tasks(cluster="tried", desiredStatus="RUNNING")["taskArns"]):
            time.sleep(0.05)
        (task,) = ecs.describe_tasks(cluster="tried", tasks=arns)["tasks"]
        definition = ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])["taskDefinition"]
        ran.append(definition["containerDefinitions"][0]["image"])
        ecs.stop_task(cluster="tried", task=arns[0], reason="stopped by hand")

    stopping = Thread(target=stop)
    stopping.start()
    of_image = ["--set", f"Image={image}"] if image else []
    assert main(["notes_api", "--name", migrations, "--network", "tried-place", "--run", "Migrations", *of_image]) == 0
    stopping.join()
    assert capsys.readouterr().err == ""
    assert ran == [image or "holdfast/notes_api"]


@pytest.mark.parametrize(
    ("containers", "why"),
    [
        ([{"name": "main", "exitCode": 0}], ""),
        ([{"name": "main", "exitCode": 1}], "main ended with 1 (Essential container in task exited)"),
        ([{"name": "main"}], "main never ran (Essential container in task exited)"),
    ],
)
def test_a_task_has_done_its_work_when_its_containers_end_well(containers: list[dict[str, Any]], why: str) -> None:
    """As DescribeTasks has them."""
    stopped = {"lastStatus": "STOPPED", "stoppedReason": "Essential container in task exited", "containers": containers}
    assert why_failed(stopped) == why


def test_a_task_that_a_stack_does_not_have_is_named(migrations: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notes_api", "--name", migrations, "--network", "tried-place", "--run", "Cleaning"]) == 1
    assert f"stack {migrations} has no task Cleaning" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cluster"], "say what these are, with --set NAME=VALUE: CertificateArn"),
        (["storage", "--set", "CorsOrigin=x"], "the storage stack has no parameter CorsOrigin; it has"),
        (["storage", "--set", "CorsOrigins"], "CorsOrigins is not of the form NAME=VALUE"),
        (["storage", "--set", "CorsOrigins=@/no/such/file"], "/no/such/file cannot be read: No such file"),
        (["storage", "--set", "CorsOrigins=ssm:/no/such"], "ParameterNotFound"),
        (["storage", "--name", "no_stack"], "CloudFormation refused stack no_stack"),
        (["notes_api", "--run", "Migrations", "--set", "Cpu=512"], "a task is told its Image alone"),
    ],
)
@pytest.mark.usefixtures("account")
def test_what_cannot_be_is_said_in_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_without_a_region_it_says_what_to_set(
    account: boto3.session.Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert main(["storage"]) == 1
    assert "set AWS_DEFAULT_REGION" in capsys.readouterr().err


def test_the_bundle_of_the_host_is_reproducible_and_has_what_compose_reads() -> None:
    assert bundle() == bundle()
    with tarfile.open(fileobj=io.BytesIO(bundle())) as archive:
        names = set(archive.getnames())
    assert {"compose.yaml", "deploy/nginx/nginx.conf.template"} <= names


@pytest.fixture
def trust_store() -> Iterator[str]:
    """As AWS's: several certificates of a Region in one file."""
    names = ("Root CA ECC384 G1", "Root CA RSA2048 G1", "Root CA RSA4096 G1")
    content = "".join(certify("127.0.0.1", f"Amazon RDS eu-north-1 {name}")[2] for name in names).encode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/eu-north-1/eu-north-1-bundle.pem"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(content if found else b"")

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{{region}}/{{region}}-bundle.pem"
    server.shutdown()
    server.server_close()
    thread.join()


def test_who_vouches_for_rds_is_fetched_from_aws(trust_store: str) -> None:
    found = authority("eu-north-1", trust_store)
    assert found.count("BEGIN CERTIFICATE") == 1
    with pytest.raises(Misused, match="give AuthorityPem"):
        authority("nowhere-1", trust_store)


def test_templates_say_which_parameters_there_are() -> None:
    for stack in deploying.STACKS:
        assert "Parameters" in json.loads((deploying.TEMPLATES / f"{stack}.json").read_text())
