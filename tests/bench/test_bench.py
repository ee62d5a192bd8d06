"""The bench itself works. Its figures mean something only with many rows, on a machine that has nothing else to do."""

import re
import subprocess
import sys
from pathlib import Path

from tests.bench.__main__ import Measured, table
from tests.bench.rows import notes

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1024 * 1024


def test_it_measures_and_prints_a_table() -> None:
    options = ["--rows", "2000", "--backups", "2", "--only", "psql COPY", "engine", "restore", "reading"]
    command = [sys.executable, "-m", "tests.bench", *options]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    title, header, *lines = done.stdout.splitlines()
    assert title == "2,000 notes, 2 MB as JSON; dump of fewer: 200 notes; history: 2 backups of these"
    assert header.split() == "seconds MB/s peak MiB load compared with measured at most".split()  # noqa: SIM905
    forms = [
        r"psql COPY +[\d.]+ +\d+ +[\d.]+",
        r"engine +[\d.]+ +\d+ +\d+ +[\d.]+  time of psql COPY +[\d.]+x +1.30x  (met|MISSED)",
        r"restore +[\d.]+ +\d+ +\d+ +[\d.]+  time of pg_restore +1.50x  not measured",
        r" +restored and compared: time of pg_restore +not measured",
        r"one row +[\d.]+ +\d+ +[\d.]+  reads of index and data +2 +2  met",
        r" +bytes of the ranged read +0.0\d MiB +1.50 MiB  met",
        r"history +[\d.]+ +\d+ +[\d.]+  time +[\d.]+ s +1.00 s  (met|MISSED)",
        r"diff +[\d.]+ +\d+ +[\d.]+  share of the data read +[\d.]+% +2.00%  MISSED",
    ]
    for form, line in zip(forms, lines, strict=True):
        assert re.fullmatch(form, line), line


def test_a_budget_is_met_or_missed() -> None:
    measured = {
        "pg_dump": Measured(10),
        "dump": Measured(5, 100 * MEBIBYTE),
        "pg_restore": Measured(10),
        "dump and proof": Measured(25, 161 * MEBIBYTE),
        "restore": Measured(14, compared_seconds=20),
        "history": Measured(1.5),
        "diff": Measured(1, share=0.015),
    }
    verdicts = [line for line in table(measured, 10, 1, 100, 3) if line.endswith(("x", "met", "MISSED"))]
    assert [line.split()[-3:] for line in verdicts] == [
        ["0.50x", "0.60x", "met"],
        ["160", "MiB", "met"],
        ["1.25x", "1.20x", "MISSED"],
        ["160", "MiB", "MISSED"],
        ["1.40x", "1.50x", "met"],
        ["of", "pg_restore", "2.00x"],
        ["1.00", "s", "MISSED"],
        ["1.50%", "2.00%", "met"],
    ]


def test_the_notes_are_the_same_at_every_run() -> None:
    assert list(notes(50)) == list(notes(100))[:50]


def test_the_scheduler_is_measured() -> None:
    command = [sys.executable, "-m", "tests.bench", "--only", "scheduler", "--schedules", "50", "--runs", "3000"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert "50 schedules due at once, 2 workers" in done.stdout
    counted = ("lost", "fired twice", "backups too many", "fired by the next tick", "due times in the ledgers")
    lines = [line for line in done.stdout.splitlines() if line.startswith(counted)]
    assert len(lines) == len(counted)
    for line in lines:
        assert re.search(r" 0 +0 +met$", line), line
    assert re.search(r"idle tick( +[\d.]+){3} +p50 +[\d.]+ ms +2.00 ms  (met|MISSED)", done.stdout)
    assert re.search(r"ledger of a day( +[\d.]+){2} +time with few +[\d.]+x +1.50x  (met|MISSED)", done.stdout)
