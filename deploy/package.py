"""The backup functions' package: `python -m deploy.package {local,lambda} --python PATH`, or `make package`.

One source, two packages: `local` for the interpreter of the one-machine stack, `lambda` for AWS Lambda (arm64, its
own Python). A package holds backup_lambda and what it declares, nothing else, and is reproducible: the same source
and requirements give the same bytes. Its key in the code bucket carries its SHA-256, because CloudFormation takes
the same key with new bytes for no change.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "services" / "backup_lambda"
REQUIREMENTS = SOURCE / "requirements.txt"
UV = ROOT / ".venv" / "uv" / "bin" / "uv"
LAMBDA_PLATFORM = ["--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.13"]
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold
# Botocore describes over four hundred services, in two thousand files, which each start of a function would unpack.
SERVICES_OF_AWS = {"ecs", "kms", "lambda", "s3", "secretsmanager", "sns", "sts"}
LEFT_OUT_FOLDERS = {"__pycache__", "bin"}
LEFT_OUT_FILES = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", ".lock"}  # they tell how it was installed


class PackageError(Exception):
    """The package could not be built."""


@dataclass(frozen=True)
class Package:
    """A built zip file, and its key in the code bucket."""

    path: Path
    key: str


def build(target: str, python: Path, into: Path = ROOT / "build") -> Package:
    """Build the package `local` or `lambda`; what was built from the same inputs is used again."""
    path = into / f"backup_lambda-{target}-{_digest_of_inputs(target, python)[:16]}.zip"
    if not path.exists():
        into.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            content = Path(scratch) / "content"
            _install(target, python, content)
            for file in _source_files():
                _copy(file, content / "backup_lambda" / file.relative_to(SOURCE))
            zipped = Path(scratch) / "package.zip"
            _zip(content, zipped)
            for outdated in into.glob(f"backup_lambda-{target}-*.zip"):
                outdated.unlink()
            zipped.replace(path)
    return Package(path, f"backup_lambda/{hashlib.sha256(path.read_bytes()).hexdigest()}.zip")


def _digest_of_inputs(target: str, python: Path) -> str:
    digest = hashlib.sha256(f"{target} {_python_version(python) if target == 'local' else LAMBDA_PLATFORM}".encode())
    for file in [Path(__file__), REQUIREMENTS, *_source_files()]:
        digest.update(f"{file.relative_to(ROOT)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _python_version(python: Path) -> str:
    command = [str(python), "-c", "import sys, sysconfig; print(sys.version_info[:2], sysconfig.get_platform())"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _source_files() -> list[Path]:
    return sorted(file for file in SOURCE.rglob("*.py") if "__pycache__" not in file.parts)


def _install(target: str, python: Path, into: Path) -> None:
    platform = LAMBDA_PLATFORM if target == "lambda" else []
    command = [
        *(str(UV), "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:"),
        *("--python", str(python), *platform, "--target", str(into), "--requirements", str(REQUIREMENTS)),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise PackageError(f"the function package could not be built: {done.stderr.strip()}")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _zip(content: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in _files(content):
            entry = zipfile.ZipInfo(str(file.relative_to(content)), LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if file.suffix == ".so" else 0o644) << 16
            archive.writestr(entry, file.read_bytes())


def _files(content: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(content):
        of_botocore = Path(folder).relative_to(content) == Path("botocore/data")
        folders[:] = sorted(set(folders) & SERVICES_OF_AWS if of_botocore else set(folders) - LEFT_OUT_FOLDERS)
        yield from (Path(folder) / name for name in sorted(set(files) - LEFT_OUT_FILES) if not name.endswith(".pyi"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.package", description="Build the functions' package.")
    parser.add_argument("target", choices=["local", "lambda"])
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the interpreter it is for (local)")
    arguments = parser.parse_args()
    try:
        package = build(arguments.target, arguments.python)
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{package.path.relative_to(ROOT)}  {package.path.stat().st_size / 1e6:.1f} MB  key {package.key}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
