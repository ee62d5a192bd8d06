"""The committed contract is what the API says of itself."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_contract_is_in_step() -> None:
    command = [sys.executable, "-m", "backup_lambda.openapi"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT / "services").stdout
    committed = ROOT / "tests" / "contract" / "backup_lambda.openapi.json"
    assert printed == committed.read_text(), f"run `cd services && python -m backup_lambda.openapi > {committed}`"


def test_the_functions_do_not_load_it() -> None:
    script = "import sys, backup_lambda.handler; sys.exit('backup_lambda.openapi' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT / "services", env={"PATH": os.defpath})
