"""The worker itself, with the rights of its role and no others, calls what tests/deploy/calls.py lists."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from backup_lambda import aws, backups
from backup_lambda.app import utc_now
from backup_lambda.schemas import BackupIn
from backup_lambda.settings import WorkerSettings
from backup_lambda.tasks import Started
from backup_lambda.worker import create_worker, no_end
from tests.deploy.account import Keys
from tests.deploy.calls import HARDENED_RIGHTS, RIGHTS
from tests.deploy.conftest import KEPT, Deployed
from tests.deploy.test_statements import statements
from tests.servers import Cluster

# What a backup that succeeds does not ask for, and who does.
OTHERWISE = {
    "AbortUploads": "the worker, when an upload was cut off",
    "BuryFailedEvents": "Lambda, when the worker failed twice",
    "UseTheBucketsKey": "S3, and the emulator's does not",
    "WriteTheLog": "Lambda",
}


class Need(NamedTuple):
    """A call, and what it is made on: an ARN, or a key with `*` for what differs between backups."""

    service: str
    name: str
    what: str


@dataclass
class Calls:
    """What clients are asked for, and what is denied to them."""

    made: set[Need] = field(default_factory=set)
    denied: list[str] = field(default_factory=list)

    def listen(self, client: Any) -> None:
        client.meta.events.register("provide-client-params", self._asked)
        client.meta.events.register("after-call", self._answered)

    def _asked(self, params: Mapping[str, Any], model: Any, **_: Any) -> None:
        service, name = model.service_model.service_name, re.sub(r"\B([A-Z])", r"_\1", model.name).lower()
        self.made.add(need(service, name, params))
        if "ObjectLockMode" in params:  # AWS asks for this right, too
            self.made.add(need(service, "put_object_retention", params))

    def _answered(self, http_response: Any, model: Any, **_: Any) -> None:
        if http_response.status_code in (401, 403):
            self.denied.append(model.name)


def need(service: str, name: str, arguments: Mapping[str, Any]) -> Need:
    named = ("Key", "Prefix", "SecretId", "KeyId", "TopicArn")
    what = next(str(arguments[each]) for each in named if each in arguments)
    if name in ("get_object", "list_objects_v2"):
        return Need(service, name, what.split("/")[0])  # and all below it
    return Need(service, name, re.sub(r"^backups/[^/]+/(?:(data|index|proof)/.*)?", _anything, what))


def _anything(found: re.Match[str]) -> str:
    return f"backups/*/{found[1]}/*" if found[1] else "backups/*/"


def listed(stack: Deployed) -> dict[Need, str]:
    """The Sid by what needs it, of tests/deploy/calls.py."""
    found = {}
    for sid, calls in (RIGHTS["WorkerRole"] | HARDENED_RIGHTS["WorkerRole"]).items():
        for call in calls if sid not in OTHERWISE else []:
            arguments = {key: stack.names.get(str(value)[1:], value) for key, value in call.arguments.items()}
            found[need(call.service, call.name, arguments)] = sid
    return found


@pytest.fixture
def worker_keys(hardened: Deployed) -> Keys:
    """Of a user with the policy of the hardened stack's worker, word for word."""
    iam, user = hardened.account.client("iam"), f"{hardened.stack}-as-worker"
    role = hardened.account.physical_id(hardened.stack, "WorkerRole")
    assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    assert iam.list_role_policies(RoleName=role)["PolicyNames"] == ["Rights"]
    document = iam.get_role_policy(RoleName=role, PolicyName="Rights")["PolicyDocument"]
    keys = hardened.account.user(user)
    iam.put_user_policy(UserName=user, PolicyName="Rights", PolicyDocument=json.dumps(document))
    return keys


@pytest.fixture
def settings(hardened: Deployed, cluster: Cluster) -> Iterator[WorkerSettings]:
    """Those of the deployed function, whose secrets hold real URLs meanwhile."""
    functions, secrets = hardened.account.client("lambda"), hardened.account.client("secretsmanager")
    function = functions.get_function_configuration(FunctionName=hardened.outputs["WorkerFunctionName"])
    settings = WorkerSettings.from_env(function["Environment"]["Variables"])
    with cluster.database() as database:
        made = "create table notes.notes as select id from generate_series(1, 3) id"
        cluster.server.psql(database, [made, "grant select on notes.notes to notes_backup"])
        urls = {
            settings.database_secret: cluster.url("notes_backup", database),
            settings.proof_database_secret: cluster.url("notes_proof", "postgres"),
        }
        for secret, url in urls.items():
            secrets.put_secret_value(SecretId=secret, SecretString=url)
        yield settings
        for secret in urls:
            secrets.put_secret_value(SecretId=secret, SecretString="postgresql://")


async def test_the_workers_own_calls_are_those_that_its_statements_are_tried_with(
    hardened: Deployed, worker_keys: Keys, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": worker_keys.access_key, "AWS_SECRET_ACCESS_KEY": worker_keys.secret_key}
    for name, value in (hardened.account.aws.variables | keys).items():
        monkeypatch.setenv(name, value)
    calls = Calls()
    async with aws.clients("s3", "sns", "secretsmanager", "kms") as clients:
        for client in clients:
            calls.listen(client)
        s3, sns, secrets, kms = clients
        worker = create_worker(settings, utc_now, s3=s3, sns=sns, secrets=secrets, kms=kms)
        asked = await backups.request(
            worker.means.store, _nobody, BackupIn(), key=None, requested_by="the worker's role", now=utc_now
        )
        assert await worker.back_up(asked.id, no_end) == "proven"
    assert calls.denied == []
    sids = listed(hardened)
    assert calls.made <= sids.keys(), "not in tests/deploy/calls.py"
    assert {sids[each] for each in calls.made} == {each["Sid"] for each in statements("WorkerRole")} - OTHERWISE.keys()
    locked = {each.what for each in calls.made if each.name == "put_object_retention"}
    assert locked == {need("s3", "put_object", {"Key": key}).what for key in KEPT}, "what may be locked is"


async def _nobody(task: Started) -> None:
    """No worker is started: the test's is it."""
