"""What those who fork it get: a workflow that does nothing but call make, with actions that cannot change."""

import re
from typing import Any

import pytest
import yaml

from deploy.local.settings import ROOT

WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
UPDATES: list[dict[str, Any]] = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
STEPS = [(name, step) for name, job in WORKFLOW["jobs"].items() for step in job["steps"]]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(("job", "step"), STEPS)
def test_a_step_is_a_target_of_make_or_an_action_pinned_by_its_commit(job: str, step: dict[str, Any]) -> None:
    if "uses" in step:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), job
    elif step["run"] != "git diff --exit-code":
        make, target = step["run"].split()
        assert (make, target in TARGETS) == ("make", True), job


def test_it_may_read_and_nothing_more_and_every_job_ends() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 60 for job in WORKFLOW["jobs"].values())
    checkouts = [step for _, step in STEPS if "actions/checkout@" in step.get("uses", "")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_it_tests_on_every_python_that_the_services_run_on() -> None:
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_everything_that_is_pinned_is_kept_new() -> None:
    pinned = {
        "docker": {file.parent for file in ROOT.glob("*/*/Dockerfile")},
        "pip": {file.parent for file in [*ROOT.glob("services/*/pyproject.toml"), *ROOT.glob("deploy/*/*.in")]},
        "npm": {file.parent for file in ROOT.glob("tests/*/package-lock.json")},
        "docker-compose": {ROOT},
        "github-actions": {ROOT},
    }
    watched = {
        each["package-ecosystem"]: {
            ROOT / folder.strip("/") for folder in each.get("directories", [each.get("directory")])
        }
        for each in UPDATES
    }
    assert watched == pinned
