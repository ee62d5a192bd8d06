"""The functions themselves, with the rights of their roles and no others, call what tests/deploy/calls.py lists."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest

from backup_lambda import aws, backups, restores, retention
from backup_lambda.app import utc_now
from backup_lambda.keeper import create_keeper
from backup_lambda.retention import Policy
from backup_lambda.schemas import BackupIn, RestoreIn
from backup_lambda.settings import KeeperSettings, WorkerSettings
from backup_lambda.store import S3Store
from backup_lambda.tasks import RestoreTask, RetentionTask, Started
from backup_lambda.worker import create_worker, no_end
from tests.deploy.calls import HARDENED_RIGHTS, RIGHTS
from tests.deploy.conftest import KEPT, Deployed
from tests.deploy.test_statements import statements
from tests.servers import Cluster

# What work that succeeds does not ask for, and who does.
OTHERWISE = {
    "AbortUploads": "the worker, when an upload was cut off",
    "AskForBackups": "the worker as a process of its own",
    "BuryFailedEvents": "Lambda, when the worker failed twice",
    "UseTheBucketsKey": "S3, and the emulator's does not",
    "WriteTheLog": "Lambda",
    "Trace": "Lambda",
    "AttachToTheVpc": "Lambda",
    "OnlyLambdaAttaches": "nobody: it denies",
    "HandOnToATask": "the worker's handler, where there is a task",
    "GiveTheTaskItsRoles": "ECS, then",
    "LogInToTheDatabases": "RDS, where the databases are the data stack's",
    "LogInToRestore": "RDS, likewise",
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
        self.made |= needs(service, name, params)
        if "ObjectLockMode" in params:  # AWS asks for this right, too
            self.made |= needs(service, "put_object_retention", params)

    def _answered(self, http_response: Any, model: Any, **_: Any) -> None:
        if http_response.status_code in (401, 403):
            self.denied.append(model.name)


def needs(service: str, name: str, arguments: Mapping[str, Any]) -> set[Need]:
    if name == "delete_objects":
        return {Need(service, name, _anything(each["Key"])) for each in arguments["Delete"]["Objects"]}
    named = ("Key", "Prefix", "SecretId", "KeyId", "TopicArn", "SubscriptionArn", "FunctionName")
    what = next(str(arguments[each]) for each in named if each in arguments)
    if name in ("get_object", "list_objects_v2"):
        return {Need(service, name, what.split("/")[0])}  # and all below it
    return {Need(service, name, _anything(what))}


def _anything(what: str) -> str:
    """Without what differs between backups, restores or keys."""
    if what.startswith("idempotency/"):
        return "idempotency/*"
    return re.sub(r"^(\w+)/[^/]+/(?:(data|index|proof)/.*)?", _folder, what)


def _folder(found: re.Match[str]) -> str:
    return f"{found[1]}/*/{found[2]}/*" if found[2] else f"{found[1]}/*/"


def listed(stack: Deployed, role: str) -> dict[Need, str]:
    """The Sid by what needs it, of tests/deploy/calls.py."""
    found: dict[Need, str] = {}
    for sid, calls in (RIGHTS[role] | HARDENED_RIGHTS.get(role, {})).items():
        for call in calls if sid not in OTHERWISE else []:
            arguments = {key: stack.names.get(str(value)[1:], value) for key, value in call.arguments.items()}
            found |= dict.fromkeys(needs(call.service, call.name, arguments), sid)
    return found


@asynccontextmanager
async def clients_of(stack: Deployed, role: str, *services: str) -> AsyncIterator[tuple[Calls, list[Any]]]:
    """With the keys of a user who has the policy of a role of the stack, word for word; and what they are asked."""
    iam, user = stack.account.client("iam"), f"{stack.stack}-as-{role}"
    role_name = stack.account.physical_id(stack.stack, role)
    assert iam.list_attached_role_policies(RoleName=role_name)["AttachedPolicies"] == []
    assert iam.list_role_policies(RoleName=role_name)["PolicyNames"] == ["Rights"]
    document = iam.get_role_policy(RoleName=role_name, PolicyName="Rights")["PolicyDocument"]
    keys, calls = stack.account.user(user), Calls()
    iam.put_user_policy(UserName=user, PolicyName="Rights", PolicyDocument=json.dumps(document))
    with pytest.MonkeyPatch.context() as environment:
        own = {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
        for name, value in (stack.account.aws.variables | own).items():
            environment.setenv(name, value)
        async with aws.clients(*services) as clients:
            for client in clients:
                calls.listen(client)
            yield calls, clients


def told(stack: Deployed, function: str) -> dict[str, str]:
    """The settings of a deployed function."""
    name = stack.outputs[f"{function}FunctionName"]
    found = stack.account.client("lambda").get_function_configuration(FunctionName=name)
    variables: dict[str, str] = found["Environment"]["Variables"]
    return variables


@pytest.fixture
def settings(hardened: Deployed, cluster: Cluster) -> Iterator[WorkerSettings]:
    """Those of the deployed worker, whose secrets hold real URLs meanwhile."""
    settings, secrets = WorkerSettings.from_env(told(hardened, "Worker")), hardened.account.client("secretsmanager")
    assert settings.restore_database
    with cluster.database() as database:
        statements = [
            "create table notes.notes (id int primary key)",
            "insert into notes.notes select generate_series(1, 3)",
            "grant select on notes.notes to notes_backup",
            "grant select, insert, update, delete on notes.notes to notes_restore",
        ]
        cluster.server.psql(database, statements)
        urls = {
            settings.database: cluster.url("notes_backup", database),
            settings.proof_database: cluster.url("notes_proof", "postgres"),
            settings.restore_database: cluster.url("notes_restore", database),
        }
        for secret, url in urls.items():
            secrets.put_secret_value(SecretId=secret, SecretString=url)
        yield settings
        for secret in urls:
            secrets.put_secret_value(SecretId=secret, SecretString="postgresql://")


async def test_the_functions_own_calls_are_those_that_their_statements_are_tried_with(
    hardened: Deployed, settings: WorkerSettings
) -> None:
    """Two backups, a restore of rows into the live database, and a plan by which the older backup expires."""
    of_keeper = KeeperSettings.from_env(told(hardened, "Keeper"))
    async with (
        clients_of(hardened, "ApiRole", "s3") as (api, (s3,)),
        clients_of(hardened, "WorkerRole", "s3", "sns", "secretsmanager", "kms") as (worker_calls, clients),
        clients_of(hardened, "KeeperRole", "s3", "secretsmanager", "kms") as (keeper_calls, others),
    ):
        store, only_one = S3Store(s3, settings.bucket), Policy.parse("last 1, proven 1")
        worker = create_worker(settings, utc_now, **dict(zip(("s3", "sns", "secrets", "kms"), clients, strict=True)))
        keeper = create_keeper(of_keeper, utc_now, **dict(zip(("s3", "secrets", "kms"), others, strict=True)))
        asked = [
            await backups.request(store, _nobody, BackupIn(), key=key, requested_by=None, now=utc_now)
            for key in ("first", "second")
        ]
        for each in asked:
            assert await worker.back_up(each.id, no_end) == "proven"
        wanted = RestoreIn.model_validate({"tables": [{"table": "notes", "keys": [[1]]}]})
        restore = await restores.request(
            store, _nobody, asked[0].id, wanted, key="third", requested_by=None, now=utc_now
        )
        assert await worker.restore(RestoreTask(restore_id=restore.id), no_end) == "completed"
        plan = await retention.plan(store, only_one, utc_now)
        result = await replace(keeper, policy=only_one).apply(RetentionTask(digest=plan.digest), lambda: 25.0)
        assert (result.expired, result.left) == ([min(each.id for each in asked)], {})
    for role, calls in (("ApiRole", api), ("WorkerRole", worker_calls), ("KeeperRole", keeper_calls)):
        sids = listed(hardened, role)
        assert calls.denied == [], role
        assert calls.made <= sids.keys(), "not in tests/deploy/calls.py"
        if role != "ApiRole":  # it does more than it was asked for here
            every = {each["Sid"] for each in statements(role)}
            assert {sids[each] for each in calls.made} == every - OTHERWISE.keys()
    locked = {each.what for each in worker_calls.made if each.name == "put_object_retention"}
    kept = set[Need]().union(*(needs("s3", "put_object", {"Key": key}) for key in KEPT))
    assert locked == {each.what for each in kept}, "what may be locked is"


async def _nobody(task: Started) -> None:
    """No worker is started: the test's is it."""
