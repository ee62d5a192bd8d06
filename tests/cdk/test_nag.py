"""cdk-nag's AwsSolutions rules on all stacks: everything that they find has a reason, and every reason a finding."""

import json
import re

import pytest
from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from deploy.cdk.app import STACKS, stack_name
from deploy.cdk.findings import ACCEPTED


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Rule and construct."""
    outdir = tmp_path_factory.mktemp("cdk")
    app = App(analytics_reporting=False, outdir=str(outdir))
    for name, make in STACKS.items():
        make(app, stack_name(name))
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    report = json.loads((outdir / "validation-report.json").read_text())
    return {
        (violation["ruleName"].removeprefix("AwsSolutions-"), construct["constructPath"])
        for plugin in report["pluginReports"]
        for violation in plugin["violations"]
        for construct in violation["violatingConstructs"]
    }


def test_every_finding_has_a_reason(findings: set[tuple[str, str]]) -> None:
    assert {each for each in findings if not any(_matches(entry, each) for entry in ACCEPTED)} == set()


def test_every_reason_has_a_finding(findings: set[tuple[str, str]]) -> None:
    assert [entry for entry in ACCEPTED if not any(_matches(entry, each) for each in findings)] == []


def _matches(entry: tuple[str, str, str], finding: tuple[str, str]) -> bool:
    rule, construct, _ = entry
    return bool(re.fullmatch(rule, finding[0]) and re.fullmatch(construct, finding[1]))
