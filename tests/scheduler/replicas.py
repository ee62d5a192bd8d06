"""The scheduler as processes on servers of its own, for programs that are not tests."""

import os
import subprocess
import sys
from pathlib import Path

from deploy.local.postgres import Server
from deploy.local.process import Program

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "PYTHONPATH": str(ROOT / "services"),
    # Credentials that nobody checks, and no AWS at all.
    "AWS_ACCESS_KEY_ID": "AKIATEST",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
}


def make_database(server: Server, name: str) -> None:
    """With the tables, and no schedule."""
    server.create_database(name)
    server.make_roles(name)
    migrate = {"HOLDFAST_DATABASE_URL": server.url("scheduler_owner", name)}
    command = [sys.executable, "-m", "scheduler.migrate"]
    subprocess.run(command, check=True, env=ENVIRONMENT | migrate, stdout=subprocess.DEVNULL)
    server.psql(name, ["truncate scheduler.schedules cascade"])


def worker(name: str, database_url: str, redis_url: str, backups_url: str) -> Program:
    settings = {
        "HOLDFAST_DATABASE_URL": database_url,
        "HOLDFAST_REDIS_URL": redis_url,
        "HOLDFAST_BACKUPS_URL": backups_url,
        "HOLDFAST_TOPIC_ARN": "arn:aws:sns:eu-central-1:000000000000:none",
    }
    command = [sys.executable, "-m", "scheduler.worker"]
    return Program(name, command, ENVIRONMENT | settings, ROOT, answers=lambda: True, stop_seconds=60)
