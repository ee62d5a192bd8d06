"""The functions' packages: reproducible, of one source, with nothing in them that was not declared."""

import re
import sys
import zipfile
from pathlib import Path

import pytest

from deploy import package
from deploy.package import Package

LAMBDA_LIMIT_BYTES = 250 * 1024 * 1024  # AWS: all of a function's code, unzipped
OUR_LIMIT_BYTES = 25 * 1024 * 1024
ELF_AARCH64 = 183  # the number of the machine in an ELF header


@pytest.fixture(scope="module", params=["local", "lambda"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def built(target: str, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return package.build(target, Path(sys.executable), tmp_path_factory.mktemp("build"))


def test_the_same_source_gives_the_same_bytes(target: str, built: Package, tmp_path: Path) -> None:
    again = package.build(target, Path(sys.executable), tmp_path)
    assert again.key == built.key
    assert again.path.read_bytes() == built.path.read_bytes()


def test_the_key_carries_the_digest(built: Package) -> None:
    assert re.fullmatch(r"backup_lambda/[0-9a-f]{64}\.zip", built.key)


def test_it_holds_the_service_and_its_requirements_only(built: Package) -> None:
    requirements = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*])?==", package.REQUIREMENTS.read_text(), re.MULTILINE)
    with zipfile.ZipFile(built.path) as archive:
        names = archive.namelist()
    distributions = {name.split("-")[0].lower() for name in names if ".dist-info/" in name}
    assert distributions <= {re.sub(r"[-.]+", "_", name).lower() for name in requirements}
    assert "backup_lambda/handler.py" in names
    assert not [name for name in names if name.startswith(("notes_api/", "scheduler/", "bin/"))]
    assert not [name for name in names if name.endswith((".pyc", ".pyi", "requirements.txt", "pyproject.toml"))]


def test_it_describes_every_service_of_aws_that_the_source_has_a_client_of(built: Package) -> None:
    with zipfile.ZipFile(built.path) as archive:
        described = set(re.findall(r"^botocore/data/(\w+)/", "\n".join(archive.namelist()), re.MULTILINE))
    calls = re.findall(
        r"\b(?:clients|_open)\(([^)]*)\)", "".join(file.read_text() for file in package.SOURCE.glob("*.py"))
    )
    opened = set(re.findall(r'"(\w+)"', " ".join(calls)))
    assert opened >= {"s3", "sns", "lambda", "secretsmanager", "kms"}
    assert opened <= described


def test_it_is_small_enough(built: Package) -> None:
    with zipfile.ZipFile(built.path) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) < LAMBDA_LIMIT_BYTES
    assert built.path.stat().st_size < OUR_LIMIT_BYTES


def test_the_one_for_lambda_holds_arm64_code(built: Package, target: str) -> None:
    with zipfile.ZipFile(built.path) as archive:
        libraries = {name: archive.read(name)[:20] for name in archive.namelist() if name.endswith(".so")}
    assert {name.split("/")[0] for name in libraries} >= {"isal", "cryptography", "asyncpg", "pydantic_core"}
    for name, header in libraries.items():
        assert header[:4] == b"\x7fELF", name
        assert (int.from_bytes(header[18:20], "little") == ELF_AARCH64) is (target == "lambda"), name
    assert target != "lambda" or all("cpython-313" in name for name in libraries if "cpython" in name)


def test_a_package_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that holds nothing is what a machine without a network sees."""
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    with pytest.raises(package.PackageError, match=r"aioboto3|aiobotocore|aiofiles"):
        package.build("lambda", Path(sys.executable), tmp_path)
