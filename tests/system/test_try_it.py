"""The README is right: its "Try it" is run as it stands, and its tables name what there is."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from backup_lambda.retention import Policy
from backup_lambda.settings import WorkerSettings
from deploy.local.settings import PREFIX, ROOT, Settings
from notes_api.settings import Settings as NotesSettings
from scheduler.settings import WorkerSettings as SchedulerSettings
from tests.system.stack import Stack

README = (ROOT / "README.md").read_text()
TEMPLATE = json.loads((ROOT / "deploy" / "cdk" / "templates" / "backup.json").read_text())
PARAMETERS = TEMPLATE["Parameters"]
VARIABLES = TEMPLATE["Resources"]["Worker"]["Properties"]["Environment"]["Variables"]


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def commands(text: str) -> Iterator[str]:
    """The shell blocks of a section, also those that are indented below a number."""
    for indent, block in re.findall(r"^( *)```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        yield re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)


@pytest.mark.timeout(240)
def test_try_it_and_getting_it_back_walk_through_the_whole_chain(
    new_stack: Callable[[], Stack], tmp_path: Path
) -> None:
    """As a stranger does: on a stack that holds nothing yet."""
    stack = new_stack()
    stack.up()
    script = "".join(
        [
            *commands(section("Try it")),
            "echo; echo 'GETTING IT BACK'\n",
            *commands(section("Getting it back")),
            "echo; echo 'THE NOTES API'\n",
            *commands(section("The notes API")),
            "echo; echo 'SCHEDULES'\n",
            *commands(section("Schedules")),
        ]
    )
    script = script.replace(". .local/env", f". {stack.home}/env").replace("make cli", f"make -C {ROOT} cli")
    script = re.sub(r"(?<=PYTHONPATH=)(?=services)|(?<![\w/])(?=\.venv/)", f"{ROOT}/", script)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=200,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    said, rest = done.stdout.split("GETTING IT BACK")
    back, rest = rest.split("THE NOTES API\n")
    notes, scheduled = rest.split("SCHEDULES\n")
    assert "Groceries" in said
    assert_all_of_it_is_back(back, done.stderr)
    assert_the_notes_api_does_what_it_shows(notes)
    assert_schedules_do_what_they_show(scheduled)
    assert re.search(r'"state": ?"succeeded"', said)
    assert "\n403\n" in said, "the unsigned call"
    assert re.search(r'^\{"id":"[0-9a-f-]{36}",.*"title":"Groceries"', said, re.MULTILINE), "by zcat"
    assert re.search(r"^Subject: .*\bPROVEN\b", said, re.MULTILINE)
    assert said.count('"state":"proven"') >= 2, "in the list, and in the answer that was waited for"
    assert said.count('"title":"Groceries"') >= 3, "written, by zcat, and by the link"
    assert re.search(r"\b1 row\b|\b\d+ rows\b", said), "the mail says how many"


def assert_all_of_it_is_back(said: str, aside: str) -> None:
    assert "DELETE 1\n" in said
    assert re.search(r"^title +\"Groceries\"$", said, re.MULTILINE), "by `row`"
    assert re.search(r"^notes.notes +1 +1 +0 +0 +0", said, re.MULTILINE), "by `restore`: a row was added"
    assert '"title":"Groceries"' in said, "by NGINX, after the restore"
    assert '"state":"completed"' in said, "by curl"
    assert len(re.findall(r"^restore \S+ of \S+: completed", aside, re.MULTILINE)) == 4
    assert re.search(r"^\d+ rows added, ", aside, re.MULTILINE), "by `diff`"


def assert_the_notes_api_does_what_it_shows(said: str) -> None:
    refused, revisions, diff, listed, found, tags, restored, batch, imported, changes, beans, *_ = filter(
        None, said.splitlines()
    )
    assert '"changed_fields":["pinned","metadata"]' in refused
    assert revisions.count('"revision"') == 3
    assert "+Leeks" in diff
    assert '"count":1' in listed
    assert "<mark>roses</mark>" in found
    assert '{"tag":"garden","notes":1}' in tags
    assert '"deleted_at":null' in restored
    assert batch.count('"status":201') == 2
    assert re.search(r'"created":0,"unchanged":[1-9]\d*,"exists":0', imported)
    assert changes.count('"note.created"') == 1
    assert beans == "beans"


def assert_schedules_do_what_they_show(said: str) -> None:
    new, edit, edited, paused, resumed, *_, ledger, backfill, alarms = filter(None, said.splitlines())
    assert json.loads(new)["due"][0]["local"][11:16] == "02:30"
    assert {each["local"][11:16] for each in json.loads(edit)["appear"]} == {"03:30"}
    assert [json.loads(each)["revision"] for each in (edited, paused, resumed)] == [2, 3, 4]
    assert json.loads(paused)["paused"]["note"] == "moving house"
    assert re.search(r'"state":"succeeded"', said), "the proof"
    assert json.loads(ledger)["complete"] is True
    assert json.loads(backfill) == {"count": 0, "due": []}
    assert "items" in json.loads(alarms)


@pytest.mark.parametrize(("title", "settings"), [("The notes API", NotesSettings), ("Schedules", SchedulerSettings)])
def test_the_table_of_a_services_settings_is_whole(title: str, settings: type[BaseModel]) -> None:
    table = re.findall(r"^\| `(HOLDFAST_\w+)` \| (\S*) ?\|", section(title), re.MULTILINE)

    def shown(value: object) -> str:
        return str((value.get_secret_value() if isinstance(value, SecretStr) else value) or "")

    fields = settings.model_fields
    assert [(name, default.strip("|")) for name, default in table] == [
        (f"{PREFIX}{name.upper()}", "" if each.is_required() else shown(each.default)) for name, each in fields.items()
    ]


def test_the_table_of_settings_is_whole() -> None:
    table = re.findall(r"^\| `(HOLDFAST_\w+)` \| (\S*) ?\|", section("The one-machine stack"), re.MULTILINE)
    named = {name: default.strip("`|") for name, default in table}
    assert list(named) == [f"{PREFIX}{field.name.upper()}" for field in fields(Settings)]
    defaults = {
        f"{PREFIX}{field.name.upper()}": str(field.default).removeprefix(f"{ROOT}/") for field in fields(Settings)
    }
    assert named == defaults


def test_the_table_of_parameters_is_whole() -> None:
    """Every parameter of the template and every setting of the worker, and which of the two gives which."""
    rows = re.findall(r"^\| `?(\w*?)`? ?\| `?(\w*?)`? ?\| `?([^|`]*?)`? ?\| ", section("On AWS"), re.MULTILINE)
    named = [row for row in rows if row[0] != "parameter"]
    assert {name: default for name, _, default in named if name} == {
        name: each.get("Default", "") for name, each in PARAMETERS.items()
    }
    assert sorted(setting for _, setting, _ in named if setting) == sorted(
        f"{PREFIX}{name.upper()}" for name in WorkerSettings.model_fields
    )
    assert {setting: {name} for name, setting, _ in named if setting and name} == {
        setting: found for setting, value in VARIABLES.items() if (found := said_by(value))
    }


def said_by(value: Any) -> set[str]:
    """The parameters, other than names of stacks, that a variable is made of, or at least depends on."""

    def found(within: Any) -> set[str]:
        names = {name for name in re.findall(r'"Ref": "(\w+)"', json.dumps(within)) if name in PARAMETERS}
        return names - {"NetworkStack", "DataStack"}

    condition = TEMPLATE["Conditions"].get(value["Fn::If"][0]) if "Fn::If" in value else None
    return found(value) or found(condition)


def by_itself(value: Any) -> str:
    """What a variable is where somebody else's databases, and no task, are used, and no more is said."""
    if isinstance(value, dict) and "Fn::If" in value:
        value = value["Fn::If"][2]
    return value if isinstance(value, str) else str(PARAMETERS.get(value.get("Ref"), {}).get("Default", ""))


def test_the_templates_defaults_are_those_of_the_settings() -> None:
    arn = "arn:aws:secretsmanager:eu-north-1:123456789012:secret:x"
    needed = {
        f"{PREFIX}{name.upper()}": arn for name, each in WorkerSettings.model_fields.items() if each.is_required()
    }
    by_default = {setting: by_itself(value) or needed.get(setting, "") for setting, value in VARIABLES.items()}
    assert WorkerSettings.from_env(by_default) == WorkerSettings.from_env(needed)
    assert Policy.parse(PARAMETERS["Retention"]["Default"]) == Policy()


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "docs/deploy.md", "docs/well-architected.md"])
def test_every_path_and_target_that_it_names_exists(file: str) -> None:
    text = (ROOT / file).read_text()
    paths = re.findall(r"`((?:services|deploy|tests|docs)/[\w./]*)(?:`|::)", text)
    assert paths
    for path, test in re.findall(r"`(tests/[\w./]+)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / path).read_text()
    assert [path for path in paths if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)(?=[`\s])", text, re.MULTILINE))
    assert targets
    defined = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets <= defined
