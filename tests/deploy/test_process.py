"""Programs are waited for, watched and ended, with whatever they started."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from deploy.local.process import Process, Program, ProgramError

ROOT = Path(__file__).parents[2]


def python(code: str, ready: Path | None = None) -> Program:
    return Program(
        name="example",
        command=[sys.executable, "-c", textwrap.dedent(code)],
        env={},
        cwd=ROOT,
        answers=ready.exists if ready else (lambda: False),
        stop_seconds=1,
    )


def test_one_that_ends_at_once_is_named_with_its_last_words(tmp_path: Path) -> None:
    process = Process(python("import sys; print('no such file'); sys.exit(3)"), tmp_path)
    with pytest.raises(ProgramError, match=r"example ended with exit code 3\n    no such file"):
        process.wait_until_it_answers(20)


def test_one_that_never_answers_is_given_up(tmp_path: Path) -> None:
    process = Process(python("import time; time.sleep(60)"), tmp_path)
    try:
        with pytest.raises(ProgramError, match="does not answer after 0 s"):
            process.wait_until_it_answers(0.2)
    finally:
        process.stop()


def test_a_missing_program_is_an_error_of_ours(tmp_path: Path) -> None:
    program = Program("example", ["/nowhere/at-all"], {}, ROOT, lambda: True)
    with pytest.raises(ProgramError, match="example could not be started"):
        Process(program, tmp_path)


def test_what_a_program_started_ends_with_it(tmp_path: Path) -> None:
    """Also when it ignores the request to stop, and its child too."""
    code = f"""
        import pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
        pathlib.Path({str(tmp_path / "ready")!r}).touch()
        time.sleep(60)
    """
    process = Process(python(code, tmp_path / "ready"), tmp_path)
    process.wait_until_it_answers(20)
    process.stop()
    assert process.exit_code == -signal.SIGKILL
    assert gone(process.pid)
    assert gone(int((tmp_path / "child").read_text()))


def test_a_killed_parent_takes_its_programs_along(tmp_path: Path) -> None:
    code = f"""
        import pathlib, time
        from deploy.local.process import Process, Program
        program = Program("example", ["sleep", "60"], {{}}, pathlib.Path("/"), lambda: True)
        process = Process(program, pathlib.Path({str(tmp_path)!r}))
        print(process.pid, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        os.kill(parent.pid, signal.SIGKILL)
    assert gone(child)


def test_a_log_that_grew_large_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "example.log"
    log.write_bytes(b"x" * (10 * 1024 * 1024 + 1))
    Process(python("print('anew')"), tmp_path).stop()
    assert log.stat().st_size < 100
    assert (tmp_path / "example.log.1").stat().st_size > 10 * 1024 * 1024


def test_a_password_in_the_environment_is_not_shown() -> None:
    assert "hunter2" not in repr(Program("example", [], {"PASSWORD": "hunter2"}, ROOT, lambda: True))


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether the process ends in time; a zombie that its parent has not collected counts as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
