"""The three functions as Lambda runs them: a process with settings in its environment, and events of the gateway."""

import asyncio
import base64
import io
import json
import secrets
import sys
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from backup_lambda import aws
from tests.backup_lambda.world import Connection, World, until
from tests.servers import Cluster

SERVICES = Path(__file__).parents[2] / "services"
RUNTIME = Path(__file__).with_name("lambda_runtime.py")
# What stands in for the worker function: it hands its event on, for the test to give to the real one.
RELAY = """
import json, os, botocore.session
def handler(event, context):
    sqs = botocore.session.get_session().create_client("sqs", region_name=os.environ["AWS_REGION"])
    sqs.send_message(QueueUrl=os.environ["QUEUE_URL"], MessageBody=json.dumps(event))
"""
A_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
THE_TASK = {"task": "backup", "number": None, "requested_by": None, "accept_suspect": False}
ANYBODY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}
SEND = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"}]}


class Function:
    """A warm function."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def invoke(self, event: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(event).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer


@asynccontextmanager
async def function(handler: str, environment: Mapping[str, str]) -> AsyncIterator[Function]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(RUNTIME), f"backup_lambda.handler.{handler}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**environment, "PYTHONPATH": str(SERVICES)},
    )
    try:
        yield Function(process)
    finally:
        process.kill()
        await process.wait()


class Gateway(httpx.AsyncBaseTransport):
    """API Gateway's part: an HTTP request becomes an event of the REST proxy, payload version 1."""

    def __init__(self, function: Function, *, in_base64: bool = False) -> None:
        self._function = function
        self._in_base64 = in_base64
        self.request_id = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.request_id = secrets.token_hex(8)
        body = await request.aread()
        answer = (await self._function.invoke(self._event(request, body)))["result"]
        assert answer["isBase64Encoded"] is False
        return httpx.Response(answer["statusCode"], headers=answer["headers"], content=answer["body"])

    def _event(self, request: httpx.Request, body: bytes) -> dict[str, Any]:
        headers = dict(request.headers)
        query = dict(request.url.params) or None
        return {
            "resource": "/{proxy+}",
            "path": request.url.path,
            "httpMethod": request.method,
            "headers": headers,
            "multiValueHeaders": {name: [value] for name, value in headers.items()},
            "queryStringParameters": query,
            "multiValueQueryStringParameters": {name: [value] for name, value in query.items()} if query else None,
            "pathParameters": None,
            "stageVariables": None,
            "requestContext": {
                "resourcePath": "/{proxy+}",
                "httpMethod": request.method,
                "path": f"/v1{request.url.path}",
                "stage": "v1",
                "requestId": self.request_id,
                "identity": {"sourceIp": "127.0.0.1", "userArn": "arn:aws:iam::123456789012:user/ops"},
            },
            "body": (base64.b64encode(body) if self._in_base64 else body).decode() or None,
            "isBase64Encoded": self._in_base64,
        }


@pytest.fixture
async def settings(aws_environment: dict[str, str], world: World) -> dict[str, str]:
    return aws_environment | {"HOLDFAST_BUCKET": world.bucket, "HOLDFAST_TOPIC_ARN": world.topic.arn}


def of_api(settings: dict[str, str], worker_name: str) -> dict[str, str]:
    return settings | {"HOLDFAST_WORKER_FUNCTION": worker_name, "HOLDFAST_KEEPER_FUNCTION": "no-such-function"}


@asynccontextmanager
async def relay_function(queue_url: str) -> AsyncIterator[str]:
    """The name of a function in the emulator that sends its events to a queue."""
    name = f"relay-{secrets.token_hex(4)}"
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("relay.py", RELAY)
    async with aws.clients("lambda", "iam") as (functions, iam):
        role = await iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(ANYBODY))
        await iam.put_role_policy(RoleName=name, PolicyName="send", PolicyDocument=json.dumps(SEND))
        await functions.create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=role["Role"]["Arn"],
            Handler="relay.handler",
            Code={"ZipFile": package.getvalue()},
            Environment={"Variables": {"QUEUE_URL": queue_url}},
            Timeout=30,
        )
        yield name
        await functions.delete_function(FunctionName=name)


@pytest.fixture
async def worker_settings(
    settings: dict[str, str], world: World, cluster: Cluster, database: str
) -> AsyncIterator[dict[str, str]]:
    """With secrets, and a signing key in KMS."""
    async with aws.clients("secretsmanager", "kms") as (secrets_manager, kms):
        urls = {
            "DATABASE": cluster.url("notes_backup", database),
            "PROOF_DATABASE": cluster.url("notes_proof", "postgres"),
        }
        for name, url in urls.items():
            secret = await secrets_manager.create_secret(Name=f"{world.bucket}-{name}", SecretString=url)
            settings = settings | {f"HOLDFAST_{name}": secret["ARN"]}
        key = await kms.create_key(KeySpec="ECC_NIST_EDWARDS25519", KeyUsage="SIGN_VERIFY")
        yield settings | {"HOLDFAST_SIGNING_KEY": key["KeyMetadata"]["Arn"]}


async def test_a_backup_from_the_gateway_to_the_bucket(
    settings: dict[str, str], worker_settings: dict[str, str], world: World, owner: Connection
) -> None:
    await owner.execute("create table notes.notes as select i as id from generate_series(1, 10) i")
    handed_on = (await world.sqs.create_queue(QueueName=f"{world.bucket}-relay"))["QueueUrl"]
    async with (
        relay_function(handed_on) as worker_name,
        function("api", of_api(settings, worker_name)) as api,
        function("worker", worker_settings) as worker,
        httpx.AsyncClient(transport=(gateway := Gateway(api)), base_url="https://api/") as client,
    ):
        asked = await client.post("/backups", json={"label": "by ops"}, headers={"X-Request-Id": "the-clients"})
        assert asked.status_code == 202
        assert asked.headers["x-request-id"] == gateway.request_id
        assert asked.json()["requested_by"] == "arn:aws:iam::123456789012:user/ops"

        async def handed() -> list[dict[str, Any]]:
            answer = await world.sqs.receive_message(QueueUrl=handed_on)
            found: list[dict[str, Any]] = answer.get("Messages", [])
            return found

        backup_id = asked.json()["id"]
        [message] = await until(handed)
        event = json.loads(message["Body"])
        assert event == THE_TASK | {"backup_id": backup_id}
        done = {"backup_id": backup_id, "outcome": "proven"}
        assert await worker.invoke(event) == {"result": done}
        assert await worker.invoke(event) == {"result": done | {"outcome": "left alone"}}

        shown = await client.get(f"/{asked.headers['location']}")
        assert (shown.json()["state"], shown.json()["rows"]) == ("proven", 10)
        [listed] = (await client.get("/backups")).json()["items"]
        assert (listed["id"], listed["state"]) == (backup_id, "proven")

        traced = {"traceparent": f"00-{A_TRACE}-00f067aa0ba902b7-01"}
        proof = await client.post(f"/backups/{backup_id}/proofs", json={}, headers=traced)
        assert proof.status_code == 202
        [message] = await until(handed)
        event = json.loads(message["Body"])
        assert event == THE_TASK | {
            "task": "proof",
            "backup_id": backup_id,
            "number": 2,
            "requested_by": "arn:aws:iam::123456789012:user/ops",
            "trace_id": A_TRACE,
        }
        assert await worker.invoke(event) == {"result": done}
        assert (await world.read_json(f"backups/{backup_id}/proof/2.json"))["verdict"] == "proven"


async def test_problems_come_through_the_gateway(settings: dict[str, str]) -> None:
    async with (
        function("api", of_api(settings, "no-such-function")) as api,
        httpx.AsyncClient(transport=(gateway := Gateway(api, in_base64=True)), base_url="https://api/") as client,
    ):
        for answer, status, kind in [
            (await client.get("/backups/nothing"), 404, "/problems/backup-not-found"),
            (await client.get("/nothing"), 404, "about:blank"),
            (await client.get("/backups?limit=3"), 400, "/problems/malformed-request"),
            (await client.post("/backups", json={"lable": "x"}), 422, "/problems/invalid-request"),
            (await client.post("/backups", json={}), 500, "/problems/aws-refused"),
        ]:
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.status_code, answer.json()["type"]) == (status, kind)
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert answer.json()["request_id"] == gateway.request_id


AN_ID = "20261122T020000Z-3f9a2c1b"
WORKERS_ALONE = {"HOLDFAST_TOPIC_ARN", "HOLDFAST_DATABASE", "HOLDFAST_PROOF_DATABASE"}


NO_TASKS: list[object] = [
    {},
    {"task": "backup"},
    {"task": "backup", "backup_id": "../x"},
    {"task": "backup", "backup_id": AN_ID, "number": 1},
    {"task": "proof", "backup_id": AN_ID},
    {"task": "proof", "backup_id": AN_ID, "number": 0},
    {"task": "restore", "backup_id": AN_ID},
    {"task": "retention"},
    {"Records": []},
]


async def test_unknown_events_are_refused(settings: dict[str, str]) -> None:
    async with (
        function("api", settings) as api,
        function("worker", settings) as worker,
        function("keeper", settings) as keeper,
    ):
        for each in (api, worker, keeper):
            assert {(await each.invoke(event)).get("error") for event in NO_TASKS} == {"UnknownEvent"}


async def test_a_question_that_is_refused_is_answered_with_the_reason(
    settings: dict[str, str], worker_settings: dict[str, str]
) -> None:
    """Not with an error of the function, which would be an alarm."""
    keeper_settings = {name: worker_settings[name] for name in worker_settings if name not in WORKERS_ALONE}
    async with function("worker", worker_settings) as worker, function("keeper", keeper_settings) as keeper:
        told = await worker.invoke({"task": "diff", "backup_id": AN_ID})
        assert told == {"result": {"error": "BackupNotFound", "detail": "No backup has this id."}}
        told = await keeper.invoke({"task": "retention", "digest": "of another plan"})
        assert (told["result"]["error"], "GET /retention again" in told["result"]["detail"]) == ("StalePlan", True)


async def test_a_function_with_wrong_settings_says_which(settings: dict[str, str]) -> None:
    async with function("worker", settings | {"HOLDFAST_DATABASE_URL": "postgresql://u:hunter2@h/d"}) as worker:
        said = await worker.invoke({"task": "backup", "backup_id": "20261122T020000Z-3f9a2c1b"})
    assert said["error"] == "SettingsError"
    assert "unknown setting HOLDFAST_DATABASE_URL" in said["message"]
    assert "hunter2" not in said["message"]


MISSING = "arn:aws:secretsmanager:us-east-1:000000000000:secret:missing-AbCdEf"


@pytest.mark.parametrize("name", ["HOLDFAST_DATABASE", "HOLDFAST_PROOF_DATABASE", "HOLDFAST_SIGNING_KEY"])
async def test_a_backup_whose_secret_cannot_be_read_is_tried_again(
    worker_settings: dict[str, str], world: World, owner: Connection, name: str
) -> None:
    """Once more it is the end: a failure, or a backup that is stored and not proven."""
    await owner.execute("create table notes.notes as select i as id from generate_series(1, 10) i")
    backup_id = await world.wish()
    task = {"task": "backup", "backup_id": backup_id}
    async with function("worker", worker_settings | {name: MISSING}) as worker:
        said = await worker.invoke(task)
        assert said == {"error": "AwsRefused", "message": "GetSecretValue was answered ResourceNotFoundException"}
        ended = await worker.invoke(task)
    outcome = "stored" if name == "HOLDFAST_PROOF_DATABASE" else "failed"
    assert ended == {"result": {"backup_id": backup_id, "outcome": outcome}}


@pytest.fixture
async def task_settings(worker_settings: dict[str, str], world: World) -> dict[str, str]:
    """Of a function that hands everything on to a task of ECS."""
    name = world.bucket
    async with aws.clients("ecs") as (ecs,):
        await ecs.create_cluster(clusterName=name)
        container = {"name": "worker", "image": "holdfast/backup_lambda", "essential": True}
        await ecs.register_task_definition(
            family=name,
            containerDefinitions=[container],
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            cpu="1024",
            memory="2048",
        )
    place = {"cluster": name, "definition": name, "subnets": ["subnet-a", "subnet-b"], "security_group": "sg-worker"}
    return worker_settings | {"HOLDFAST_TASK": json.dumps(place), "HOLDFAST_TASK_FROM_BYTES": "0"}


@pytest.mark.parametrize("what", ["backup", "proof"])
async def test_what_takes_longer_than_a_function_may_is_done_by_a_task(
    task_settings: dict[str, str], worker_settings: dict[str, str], world: World, owner: Connection, what: str
) -> None:
    await owner.execute("create table notes.notes as select i as id from generate_series(1, 10) i")
    backup_id = await world.wish()
    task: dict[str, Any] = {"task": "backup", "backup_id": backup_id}
    if what == "proof":
        async with function("worker", worker_settings) as worker:
            assert (await worker.invoke(task))["result"]["outcome"] == "proven"
        task = {"task": "proof", "backup_id": backup_id, "number": 2}
    async with function("worker", task_settings) as worker:
        assert await worker.invoke(task) == {"result": {"outcome": "handed on"}}
    async with aws.clients("ecs") as (ecs,):
        begun = await ecs.describe_tasks(
            cluster=world.bucket, tasks=(await ecs.list_tasks(cluster=world.bucket))["taskArns"]
        )
    [override] = begun["tasks"][0]["overrides"]["containerOverrides"]
    assert override["name"] == "worker"
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, *override["command"][1:]),
        env={**worker_settings, "PYTHONPATH": str(SERVICES)},
        stderr=asyncio.subprocess.PIPE,
    )
    said = (await done.communicate())[1].decode()
    assert done.returncode == 0, said
    number = task.get("number", 1)
    assert (await world.read_json(f"backups/{backup_id}/proof/{number}.json"))["verdict"] == "proven"


async def test_a_database_that_is_small_is_backed_up_by_the_function(
    task_settings: dict[str, str], world: World, owner: Connection
) -> None:
    await owner.execute("create table notes.notes as select i as id from generate_series(1, 10) i")
    task = {"task": "backup", "backup_id": await world.wish()}
    for limit, outcome in (("1000000000000", "proven"), ("1000000", "handed on")):
        async with function("worker", task_settings | {"HOLDFAST_TASK_FROM_BYTES": limit}) as worker:
            assert (await worker.invoke(task))["result"]["outcome"] == outcome


async def test_a_task_that_cannot_be_begun_is_tried_again(task_settings: dict[str, str], world: World) -> None:
    task = {"task": "backup", "backup_id": await world.wish()}
    place = json.loads(task_settings["HOLDFAST_TASK"]) | {"definition": "gone"}
    async with function("worker", task_settings | {"HOLDFAST_TASK": json.dumps(place)}) as worker:
        said = await worker.invoke(task)
    assert said == {"error": "AwsRefused", "message": "RunTask was answered ClientException"}
