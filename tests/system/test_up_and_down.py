"""Starting, stopping, and what is there afterwards, however it ended."""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.local.emulator import GUARD
from deploy.local.settings import ROOT
from tests.system.stack import LOCAL_PYTHON, Stack, eventually

pytestmark = pytest.mark.timeout(400)  # several starts of a whole stack
NewStack = Callable[[], Stack]
BYTES = b"what is attached"


def test_ctrl_c_leaves_nothing_behind_and_the_next_start_finds_everything(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.up()
    stack.subscribe("ada@example.org")
    note = _write_note(stack)
    backup_id = stack.ended(stack.trigger())["backup_id"]
    keys, processes = stack.env["AWS_ACCESS_KEY_ID"], stack.processes()
    assert stack.down() == 0
    _nothing_is_left(stack, processes)

    stack.up()
    assert stack.env["AWS_ACCESS_KEY_ID"] == keys, "a person's shell stays valid"
    _finds(stack, note, backup_id)


def test_the_folder_of_a_former_release_goes_on(new_stack: NewStack) -> None:
    """It lacks a secret, and its token has fewer scopes: the new one reaches the same notes."""
    stack = new_stack()
    stack.up()
    note, former = _write_note(stack), stack.env["NOTES_TOKEN"]
    stack.execute("update notes.tokens set scopes = array['notes:read', 'notes:write']")
    assert stack.down() == 0
    secrets = json.loads((stack.home / "secrets.json").read_text())
    del secrets["notes_signing_key"]
    (stack.home / "secrets.json").write_text(json.dumps(secrets))

    stack.up()
    assert stack.env["NOTES_TOKEN"] != former
    with stack.notes() as notes:
        assert notes.get(f"/v1/notes/{note}").status_code == 200
        _attach(notes, note)
    token = stack.env["NOTES_TOKEN"]
    assert stack.down() == 0
    stack.up()
    assert stack.env["NOTES_TOKEN"] == token
    with stack.notes() as notes:
        (attachment,) = notes.get(f"/v1/notes/{note}").json()["attachments"]
        path = f"/v1/notes/{note}/attachments/{attachment['id']}"
        assert httpx.get(notes.get(path).json()["download"]["url"]).content == BYTES


def test_a_killed_emulator_is_reported_and_forgets_nothing_that_was_acknowledged(new_stack: NewStack) -> None:
    stack = new_stack()
    process = stack.begin()
    _wait_for(process, "ready\n")
    stack.subscribe("ada@example.org")
    note = _write_note(stack)
    backup_id = stack.ended(stack.trigger())["backup_id"]
    processes = stack.processes()
    (emulator,) = [p for p in processes if f"{GUARD}:app" in p.cmdline() and p.pid == os.getpgid(p.pid)]
    os.killpg(emulator.pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "holdfast: emulator was ended by SIGKILL\n" in said
    assert f"({stack.home}/logs/emulator.log)" in said
    _nothing_is_left(stack, processes)

    stack.up()
    _finds(stack, note, backup_id)


def test_a_killed_stack_leaves_nothing_behind_and_starts_again(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.up()
    note, processes = _write_note(stack), stack.processes()
    assert stack.process
    stack.process.kill()
    stack.process.communicate()
    _nothing_is_left(stack, processes)
    stack.up()
    with stack.notes() as notes:
        assert notes.get(f"/v1/notes/{note}").status_code == 200


def test_new_code_is_deployed_by_an_update_of_the_stack(new_stack: NewStack, tmp_path: Path) -> None:
    """From a copy of the checkout, in which a line of the function changes between two starts."""
    checkout = tmp_path / "checkout"
    for part in ("deploy", "services"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    stack = new_stack()
    stack.root = checkout
    stack.up()
    stack.down()
    errors = checkout / "services" / "backup_lambda" / "errors.py"
    errors.write_text(errors.read_text().replace("There is no such backup.", "Deployed anew."))
    stack.up()
    with stack.backups() as backups:
        assert backups.get("backups/20261122T020000Z-3f9a2c1b").json()["title"] == "Deployed anew."


def test_a_second_start_says_that_one_runs_already(stack: Stack) -> None:
    second = Stack(stack.home, stack.port)
    said, _ = second.begin().communicate(timeout=20)
    assert second.process
    assert second.process.returncode == 1
    assert stack.process
    assert (
        said == f"holdfast: Holdfast runs already in {stack.home} (process {stack.process.pid}): `make down` stops it\n"
    )


def test_a_taken_port_is_one_line(stack: Stack, tmp_path: Path) -> None:
    second = Stack(tmp_path / "home", stack.port)
    said, _ = second.begin().communicate(timeout=20)
    assert said.startswith(f"holdfast: port {stack.port} is taken by another program: set HOLDFAST_PORT to another one")
    assert said.count("\n") == 1
    assert not second.home.exists()


def test_down_stops_it_from_elsewhere(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.up()
    processes = stack.processes()
    assert _command(stack, "down") == (0, "stopped\n")
    assert stack.down() == 0
    _nothing_is_left(stack, processes)
    assert _command(stack, "down") == (0, "Holdfast does not run here\n")


def test_reset_is_refused_while_it_runs(stack: Stack) -> None:
    code, said = _command(stack, "reset")
    assert (code, "runs already" in said) == (1, True)
    assert stack.home.exists()


def test_an_ordinary_user_can_start_it(new_stack: NewStack) -> None:
    """Root becomes one in a user namespace, where it keeps nothing but the ownership of its files."""
    as_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    if subprocess.run([*as_user, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine makes no user namespaces: run the tests as an ordinary user to see this one")
    stack = new_stack()
    stack.up(*as_user)
    assert stack.ended(stack.trigger())["state"] == "succeeded"
    assert not (stack.home / "postgres").is_symlink(), "only root needs a directory elsewhere"
    assert stack.down() == 0


def _attach(notes: httpx.Client, note: str) -> None:
    sha256 = base64.b64encode(hashlib.sha256(BYTES).digest()).decode()
    new = {"name": "x.txt", "content_type": "text/plain", "size_bytes": len(BYTES), "sha256": sha256}
    announced = notes.post(f"/v1/notes/{note}/attachments", json=new)
    assert announced.status_code == 201, announced.text
    form = announced.json()["upload"]
    assert httpx.post(form["url"], data=form["fields"], files={"file": BYTES}).status_code == 204
    confirmed = notes.post(f"{announced.headers['Location']}:confirm")
    assert confirmed.status_code == 200, confirmed.text


def _write_note(stack: Stack) -> str:
    with stack.notes() as notes:
        answer = notes.post("/v1/notes", json={"title": "kept"})
        assert answer.status_code == 201
        return str(answer.json()["id"])


def _finds(stack: Stack, note_id: str, backup_id: str) -> None:
    """The note, the backup, the bucket's objects, and the subscription, by its next mail."""
    with stack.notes() as notes, stack.backups() as backups:
        assert notes.get(f"/v1/notes/{note_id}").status_code == 200
        assert backups.get(f"backups/{backup_id}").json()["state"] == "proven"
    next_backup = stack.ended(stack.trigger())["backup_id"]
    eventually(lambda: [mail for mail in stack.mails() if next_backup in mail.get_content()])
    confirmations = [mail for mail in stack.mails() if "subscribed" in mail["Subject"]]
    assert len(confirmations) == 1, "known subscribers are not greeted again"


def _nothing_is_left(stack: Stack, processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=90)  # a worker may take 35 s to end, on a machine with time
    assert alive == []
    ports = range(stack.port, stack.port + 8)
    listening = [c.laddr for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert [address for address in listening if address and address.port in ports] == []


def _command(stack: Stack, command: str) -> tuple[int, str]:
    """Exit code and all that it said."""
    done = subprocess.run(
        [str(LOCAL_PYTHON), "-m", "deploy.local", command],
        check=False,
        cwd=ROOT,
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


def _wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout
    for said in process.stdout:
        if said == line:
            return
    pytest.fail(f"it ended without saying {line!r}")
