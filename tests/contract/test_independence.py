"""Each service stands alone: it imports itself, the standard library and what it declares, and nothing of another."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

SERVICES = Path(__file__).parents[2] / "services"
NAMES = sorted(path.name for path in SERVICES.iterdir() if (path / "pyproject.toml").exists())
# A command, and what makes it fast; the driver that SQLAlchemy loads by its URL; the standard library's time zones.
USED_WITHOUT_IMPORT = {"uvicorn", "httptools", "uvloop", "asyncpg", "tzdata"}
# Modules that only a command line loads, and the extra that says what it needs beside the service's own dependencies.
COMMAND_LINE = ("__main__.py", "calls.py", "cli.py", "cli_restore.py", "gateway.py", "terminal.py", "views.py")
EXTRAS = {"cli": {("backup_lambda", file) for file in COMMAND_LINE}}
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "core", "base", "manager", "service", "misc"}


def project_of(service: str) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((SERVICES / service / "pyproject.toml").read_text())["project"]
    return project


def extras(service: str) -> list[str]:
    return sorted(project_of(service).get("optional-dependencies", {}))


def extras_of(service: str, file: str) -> list[str]:
    return [extra for extra in extras(service) if (service, file) in EXTRAS[extra]]


def test_there_are_three_services() -> None:
    assert NAMES == ["backup_lambda", "notes_api", "scheduler"]


@pytest.mark.parametrize("service", NAMES)
def test_a_service_imports_no_other(service: str) -> None:
    others = set(NAMES) - {service}
    assert [found for found in imports(service) if found[1] in others] == []


@pytest.mark.parametrize("service", NAMES)
def test_a_service_imports_only_what_it_declares(service: str) -> None:
    known = {service, *sys.stdlib_module_names}
    provided_by = packages_distributions()
    undeclared = [
        (file, module)
        for file, module in imports(service)
        if module not in known
        and not declared(service, *extras_of(service, file)) & {canonical(name) for name in provided_by.get(module, [])}
    ]
    assert undeclared == []


@pytest.mark.parametrize("service", NAMES)
def test_a_service_declares_only_what_it_imports(service: str) -> None:
    provided_by = packages_distributions()
    used = {canonical(name) for _, module in imports(service) for name in provided_by.get(module, [])}
    assert declared(service, *extras(service)) - used - USED_WITHOUT_IMPORT == set()


@pytest.mark.parametrize("service", NAMES)
def test_what_an_extra_brings_is_imported_where_it_is_asked_for_only(service: str) -> None:
    """So that what is deployed without it can be imported."""
    with_extras = {Path(file).stem for file, _ in imports(service) if extras_of(service, file)}
    assert [
        (file, module)
        for file, module in own_modules(service)
        if module in with_extras and not extras_of(service, file)
    ] == []


WITH_EXTRAS = [(name, extra) for name in NAMES for extra in (None, *extras(name))]


@pytest.mark.parametrize(("service", "extra"), WITH_EXTRAS)
def test_its_requirements_are_pinned_with_hashes_and_hold_what_it_declares(service: str, extra: str | None) -> None:
    text = (SERVICES / service / (f"requirements-{extra}.txt" if extra else "requirements.txt")).read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*])?==\S+(.*(?:\n    --hash=.*)+)", text, re.MULTILINE)
    lines = re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)
    assert len(pins) == len(lines), "every line has a version and hashes"
    assert declared(service, *filter(None, [extra])) <= {canonical(name) for name, _ in pins}
    assert "://" not in text


def test_only_the_edge_commits() -> None:
    """A transaction ends where a request or a job ends, so that what is inside can be put together."""
    edges = {"db.py", "migrate.py", "env.py", "tokens.py", "worker.py"}
    found = [
        str(file.relative_to(SERVICES))
        for file in SERVICES.rglob("*.py")
        if file.name not in edges and re.search(r"\.(commit|begin)\(\)", file.read_text())
    ]
    assert found == []


def test_modules_are_named_for_what_they_hold() -> None:
    named = [file for root in (SERVICES, SERVICES.parent / "deploy") for file in root.rglob("*.py")]
    assert [str(file) for file in named if file.stem in NAMES_THAT_SAY_NOTHING] == []


def imports(service: str) -> Iterator[tuple[str, str]]:
    """`(file, top-level module)` of every import, the lazy ones inside functions too."""
    for file in sorted((SERVICES / service).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from ((file.name, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield file.name, node.module.split(".")[0]


def own_modules(service: str) -> Iterator[tuple[str, str]]:
    """`(file, module)` of every import of one of the service's own modules."""
    for file in sorted((SERVICES / service).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == service:
                yield from ((file.name, name) for name in (*node.module.split(".")[1:], *(a.name for a in node.names)))


def declared(service: str, *extras: str) -> set[str]:
    project = project_of(service)
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    return {canonical(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
