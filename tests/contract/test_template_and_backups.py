"""The backup API and its worker are what the template of the AWS stack takes them for."""

import json
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from backup_lambda.history import new_id
from backup_lambda.lease import LAST_ATTEMPT, LEASE
from backup_lambda.routes import MAX_WAIT_SECONDS
from backup_lambda.settings import ApiSettings, KeeperSettings, WorkerSettings
from backup_lambda.states import STARTED_WITHIN
from deploy.local import emulator
from deploy.local.aws import TEMPLATES
from deploy.local.settings import ROOT

RESOURCES: dict[str, Any] = json.loads((TEMPLATES / "backup.json").read_text())["Resources"]


def of_type(kind: str) -> dict[str, Any]:
    return {name: each["Properties"] for name, each in RESOURCES.items() if each["Type"] == f"AWS::{kind}"}


def path_of(resource: str) -> str:
    parts = of_type("ApiGateway::Resource").get(resource)
    return f"{path_of(parts['ParentId'].get('Ref', ''))}/{parts['PathPart']}" if parts else ""


def test_every_route_has_one_gateway_method_and_the_other_way_round() -> None:
    """API Gateway cannot read OpenAPI 3.1, so the stack declares the routes once more."""
    document = json.loads((ROOT / "tests" / "contract" / "backup_lambda.openapi.json").read_text())
    routes = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    methods = [(m["HttpMethod"], path_of(m["ResourceId"]["Ref"])) for m in of_type("ApiGateway::Method").values()]
    assert sorted(methods) == sorted(routes)


def test_a_client_that_waits_is_answered_before_the_function_and_the_gateway_give_up() -> None:
    assert MAX_WAIT_SECONDS + 2 < of_type("Lambda::Function")["Api"]["Timeout"] < 29


def test_the_worker_knows_its_last_attempt() -> None:
    (invocation,) = of_type("Lambda::EventInvokeConfig").values()
    assert 1 + invocation["MaximumRetryAttempts"] == LAST_ATTEMPT


def test_a_backup_is_given_up_after_lambda_gave_up_starting_it() -> None:
    (invocation,) = of_type("Lambda::EventInvokeConfig").values()
    assert STARTED_WITHIN.total_seconds() > invocation["MaximumEventAgeInSeconds"]


def test_a_dead_workers_lease_has_ended_when_the_next_attempt_comes() -> None:
    on_aws = 60  # the documented wait before the first retry of an asynchronous invocation
    assert LEASE.total_seconds() < min(on_aws, emulator.RETRY_AFTER_SECONDS)


def test_the_scheduler_may_follow_every_backup_by_its_id() -> None:
    statements = of_type("IAM::ManagedPolicy")["SchedulerPolicy"]["PolicyDocument"]["Statement"]
    (follow,) = [each for each in statements if each["Sid"] == "StartAndFollowBackups"]
    pattern = follow["Resource"][1]["Fn::Join"][1][-1].rpartition("/")[2]
    ids = [new_id(datetime(year, month, 1, 2, tzinfo=UTC)) for year, month in ((2026, 1), (2099, 12))]
    assert [each for each in ids if fnmatchcase(each, pattern)] == ids
    assert "*" not in pattern


def test_the_functions_have_the_settings_that_they_ask_for() -> None:
    for function, settings in (("Api", ApiSettings), ("Worker", WorkerSettings), ("Keeper", KeeperSettings)):
        variables = of_type("Lambda::Function")[function]["Environment"]["Variables"]
        required = {f"HOLDFAST_{name.upper()}" for name, each in settings.model_fields.items() if each.is_required()}
        allowed = {f"HOLDFAST_{name.upper()}" for name in settings.model_fields}
        assert required <= set(variables) <= allowed
