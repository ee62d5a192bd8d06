"""The scheduler's API in the hands of a fuzzer and a linter that others wrote."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.process import Program, http_ok
from tests.contract.test_notes_api_by_tools import ROOT, SPECTRAL, TOOLS, fuzz, tool
from tests.servers import Cluster, free_port, running

DOCUMENT = Path(__file__).with_name("scheduler.openapi.json")


def run(*command: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "services")} | env,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def database_url(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as name:
        run("scheduler.migrate", HOLDFAST_DATABASE_URL=cluster.url("scheduler_owner", name))
        yield cluster.url("scheduler_app", name)


@pytest.fixture(scope="module")
def url(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    program = Program(
        name="scheduler",
        command=[sys.executable, "-m", "uvicorn", "scheduler.app:create_app", "--factory", "--port", str(port)],
        env={"PYTHONPATH": str(ROOT / "services"), "HOLDFAST_DATABASE_URL": database_url},
        cwd=ROOT,
        answers=lambda: http_ok(f"http://127.0.0.1:{port}/readyz"),
    )
    with running(program, tmp_path_factory.mktemp("served")):
        yield f"http://127.0.0.1:{port}"


def test_a_fuzzer_finds_nothing_with_a_token(url: str, database_url: str, tmp_path: Path) -> None:
    scopes = [f"--scope={scope}" for scope in ("schedules:read", "schedules:write", "runs:read", "runs:write")]
    token = run("scheduler.tokens", "create", "--name", "tools", *scopes, HOLDFAST_DATABASE_URL=database_url)
    fuzz(url, tmp_path, "--header", f"Authorization: Bearer {token}", document=DOCUMENT)


def test_a_fuzzer_finds_nothing_without_a_token(url: str, tmp_path: Path) -> None:
    fuzz(url, tmp_path, "--exclude-checks", "positive_data_acceptance", document=DOCUMENT)


def test_a_linter_has_nothing_to_say() -> None:
    rules = ROOT / "tests" / "tools" / "spectral.yaml"
    tool(TOOLS / "node", SPECTRAL, "lint", "--fail-severity", "hint", "--ruleset", rules, DOCUMENT, where=ROOT)
