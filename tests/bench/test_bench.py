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
    command = [sys.executable, "-m", "tests.bench", "--rows", "2000", "--only", "psql COPY", "engine", "memory"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    title, header, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"2,000 notes, 2 MB as JSON; dump of fewer: 200 notes", title)
    assert header.split() == "seconds MB/s peak MiB load compared with measured at most".split()  # noqa: SIM905
    forms = [
        r"psql COPY +[\d.]+ +\d+ +[\d.]+",
        r"engine +[\d.]+ +\d+ +\d+ +[\d.]+  time of psql COPY +[\d.]+x +1.30x  (met|MISSED)",
        r"dump of fewer +[\d.]+ +\d+ +[\d.]+",
        r"dump +[\d.]+ +\d+ +\d+ +[\d.]+  time of pg_dump +0.60x  not measured",
        r" +time of naive +0.40x  not measured",
        r" +memory +\d+ MiB +160 MiB  met",
        r" +memory of naive +0.03x  not measured",
        r" +memory of dump of fewer +[\d.]+x +1.10x  (met|MISSED)",
    ]
    for form, line in zip(forms, lines, strict=True):
        assert re.fullmatch(form, line), line


def test_a_budget_is_met_or_missed() -> None:
    measured = {
        "pg_dump": Measured(10),
        "dump": Measured(5, 100 * MEBIBYTE),
        "pg_restore": Measured(10),
        "dump and proof": Measured(25, 161 * MEBIBYTE),
    }
    lines = [line for line in table(measured, 10, 1, 100) if line.endswith(("met", "MISSED"))]
    assert [line.split()[-3:] for line in lines] == [
        ["0.50x", "0.60x", "met"],
        ["160", "MiB", "met"],
        ["1.25x", "1.20x", "MISSED"],
        ["160", "MiB", "MISSED"],
    ]


def test_the_notes_are_the_same_at_every_run() -> None:
    assert list(notes(50)) == list(notes(100))[:50]
