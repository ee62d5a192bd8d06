"""Plugs are pulled while the system works: nothing acknowledged is lost, no failure looks like a success."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest

from deploy.local.postgres import UNPRIVILEGED_USER, Postgres
from tests.servers import free_port, postgres, private_directory
from tests.system.stack import Stack, eventually

pytestmark = pytest.mark.timeout(400)  # several starts of a whole stack, and a lease that has to end
NewStack = Callable[[], Stack]


def test_postgresql_stopped_in_the_middle_of_a_backup(new_stack: NewStack) -> None:
    stack, port = new_stack(), free_port()
    with private_directory(owner=UNPRIVILEGED_USER) as home, postgres() as of_proofs:
        with postgres(port, home) as server:
            stack.settings = {
                "HOLDFAST_DATABASE_URL": server.url("postgres", "holdfast"),
                "HOLDFAST_PROOF_DATABASE_URL": of_proofs.url("notes_proof", "postgres"),
            }
            stack.up()
            server.psql("postgres", ["alter role notes_proof nocreatedb"])  # so that a proof here would not succeed
            stack.subscribe("ada@example.org")
            with stack.locked("notes.notes") as waited_for:
                run_id = stack.trigger()
                backup_id = eventually(lambda: stack.run(run_id)["backup_id"])
                eventually(waited_for)
                _kill(server)
        backup = eventually(lambda: b if (b := stack.backup(backup_id))["state"] != "running" else None)
        assert backup["state"] == "failed"
        assert "PostgreSQL" in backup["reason"]
        (mail,) = eventually(lambda: [m for m in stack.mails() if backup_id in m.get_content()])
        assert "FAILED" in mail["Subject"]
        assert backup["reason"] in mail.get_content().replace("\n", " ")
        with stack.bucket() as bucket:
            assert bucket.get(f"backups/{backup_id}/request.json").status_code == 200
            assert bucket.get(f"backups/{backup_id}/manifest.json").status_code == 404
            assert bucket.get(f"backups/{backup_id}/data/notes.notes.json.gz").status_code == 404
        with stack.notes() as notes:
            assert notes.get("/v1/notes").status_code == 503

        with postgres(port, home):
            run = stack.ended(run_id)
            assert (run["state"], backup["reason"] in run["reason"]) == ("failed", True)
            with stack.notes() as notes:
                eventually(lambda: notes.get("/v1/notes").status_code == 200)
            assert stack.backup(stack.ended(stack.trigger())["backup_id"])["state"] == "proven"


def test_power_cut_in_the_middle_of_a_backup(new_stack: NewStack) -> None:
    """Everything dies at once. After the next start the run is accounted for, and somebody is told."""
    stack = new_stack()
    stack.up()
    stack.subscribe("ada@example.org")
    with stack.locked("notes.tokens") as waited_for:  # by then other tables are in the bucket
        run_id = stack.trigger()
        backup_id = eventually(lambda: stack.run(run_id)["backup_id"])
        eventually(waited_for)
        assert stack.process
        everything = [*stack.processes(), psutil.Process(stack.process.pid)]
        _kill_at_once(everything)
        stack.process.communicate()

    stack.up()
    run = eventually(lambda: r if (r := stack.run(run_id))["state"] in ("succeeded", "failed") else None)
    assert run["state"] == _state_it_means(stack.backup(backup_id))
    eventually(lambda: [m for m in stack.mails() if backup_id in m.get_content()])
    assert stack.ended(stack.trigger())["state"] == "succeeded"


def test_redis_killed_is_reported_by_name_and_the_run_goes_on_after_the_next_start(new_stack: NewStack) -> None:
    stack = new_stack()
    process = stack.begin()
    assert process.stdout
    eventually(lambda: process.stdout and process.stdout.readline() == "ready\n")
    run_id = stack.trigger()
    (valkey,) = [p for p in stack.processes() if "valkey-server" in p.name()]
    valkey.kill()
    said, _ = process.communicate(timeout=120)
    assert (process.returncode, "holdfast: valkey was ended by SIGKILL\n" in said) == (1, True)
    stack.up()
    assert stack.ended(run_id)["state"] == "succeeded"


def _state_it_means(backup: dict[str, Any]) -> str:
    return {"proven": "succeeded", "failed": "failed"}[backup["state"]]


def _kill(server: Postgres) -> None:
    postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
    _kill_at_once([postmaster, *postmaster.children(recursive=True)])


def _kill_at_once(processes: list[psutil.Process]) -> None:
    """As a machine that loses power does it."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # some end when they see another one end
            process.kill()
    psutil.wait_procs(processes, timeout=30)
