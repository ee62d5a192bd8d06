"""The notes API in the hands of tools that others wrote: a fuzzer, a generator of clients, and a linter."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.notes_api.doors import run
from tests.notes_api.processes import served
from tests.servers import Aws, Cluster

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv" / "tools" / "bin"
SPECTRAL = ROOT / ".venv" / "spectral" / "node_modules" / "@stoplight" / "spectral-cli" / "dist" / "index.js"
DOCUMENT = Path(__file__).with_name("notes_api.openapi.json")
CONFIG = ROOT / "tests" / "tools" / "schemathesis.toml"
BUCKET = "notes-by-tools"
EXAMPLES = 10  # of each operation
ENVIRONMENT = {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", "HOME": "/nonexistent", "PYTHONUTF8": "1"}


@pytest.fixture(scope="module")
def database_url(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as name:
        done = run("migrate", HOLDFAST_DATABASE_URL=cluster.url("notes_owner", name))
        assert done.returncode == 0, done.stderr
        yield cluster.url("notes_app", name)


@pytest.fixture(scope="module")
def url(database_url: str, aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("served") / "log"
    keys = {"aws_access_key_id": aws.access_key, "aws_secret_access_key": aws.secret_key}
    s3 = boto3.client("s3", endpoint_url=aws.endpoint_url, region_name=aws.region, **keys)
    s3.create_bucket(Bucket=BUCKET)
    s3.close()
    more = {"HOLDFAST_ATTACHMENTS_BUCKET": BUCKET, "HOLDFAST_ATTACHMENT_BYTES": str(5 * 1024**3)}
    with served(log, database_url, 0, HOLDFAST_REQUESTS_PER_MINUTE="1000000", **aws.variables, **more) as service:
        yield service.url


@pytest.fixture(scope="module")
def token(database_url: str) -> str:
    scopes = [f"--scope={scope}" for scope in ("notes:read", "notes:write", "attachments:write", "tokens:admin")]
    done = run("tokens", "create", "--name", "tools", *scopes, HOLDFAST_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def tool(*command: str | Path, where: Path, **env: str) -> None:
    done = subprocess.run(
        command, check=False, cwd=where, env=ENVIRONMENT | env, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-30_000:] + done.stderr[-4000:]


def fuzz(url: str, where: Path, *options: str, document: Path = DOCUMENT) -> None:
    """All checks and phases, which is the default: `--checks` would go before what CONFIG says of an operation."""
    # With a seed, since what has failed once in CI should fail again: its cases are the same, but for ids and times.
    bounds = ("--max-examples", str(EXAMPLES), "--seed", "1", "--generation-database", "none", "--no-color")
    tool(
        TOOLS / "schemathesis",
        "--config-file",
        CONFIG,
        "run",
        document,
        "--url",
        url,
        *bounds,
        *options,
        where=where,
        SCHEMATHESIS_HOOKS="tests.tools.fuzzer",
        PYTHONPATH=str(ROOT),
    )


def test_a_fuzzer_finds_nothing_with_a_token(url: str, token: str, tmp_path: Path) -> None:
    # Neither does its token revoke itself, nor does it listen to a stream that has no end.
    without = ("--exclude-operation-id", "revokeToken", "--exclude-operation-id", "streamChanges")
    fuzz(url, tmp_path, "--header", f"Authorization: Bearer {token}", *without)


def test_a_fuzzer_finds_nothing_without_a_token(url: str, tmp_path: Path) -> None:
    # Nothing but 401 can be expected, so what is accepted is not looked at.
    fuzz(url, tmp_path, "--exclude-checks", "positive_data_acceptance")


def test_a_generated_client_works(url: str, token: str, tmp_path: Path) -> None:
    to = ("--output-path", tmp_path / "client", "--meta", "none", "--config", ROOT / "tests" / "tools" / "client.yaml")
    tool(TOOLS / "openapi-python-client", "generate", "--path", DOCUMENT, *to, "--fail-on-warning", where=tmp_path)
    script = Path(__file__).with_name("with_a_generated_client.py")
    tool(TOOLS / "python", script, where=tmp_path, PYTHONPATH=str(tmp_path), URL=url, TOKEN=token)


def test_a_linter_has_nothing_to_say() -> None:
    rules = ROOT / "tests" / "tools" / "spectral.yaml"
    tool(TOOLS / "node", SPECTRAL, "lint", "--fail-severity", "hint", "--ruleset", rules, DOCUMENT, where=ROOT)
