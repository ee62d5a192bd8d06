"""From the start of a function to its first answer, by Lambda's own bootstrap, beside a bare Mangum handler.

    python -m tests.bench.cold STARTS

Both are the same built package, in which the bare handler is one file more, and both are asked for /backups by the
gateway's event. The bare one answers from nothing; ours lists a bucket. A start includes the interpreter's own.
"""

import secrets
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import boto3

from deploy import package
from deploy.local import emulator
from tests.deploy.runtime import LISTED, linked, started
from tests.servers import EMULATOR_PYTHON, Aws, free_port, private_directory, running

TIMES_THE_BARE_ONE = 3.0
BARE = """
from fastapi import FastAPI
from mangum import Mangum

app = FastAPI()

@app.get("/backups")
async def backups() -> dict[str, list[str]]:
    return {"items": []}

handler = Mangum(app)
"""


def measure(starts: int) -> Iterator[str]:
    with private_directory() as home, tempfile.TemporaryDirectory() as scratch:
        task, bootstrap = Path(scratch) / "task", Path(scratch) / "bootstrap"
        with zipfile.ZipFile(package.build("local", Path(sys.executable), Path(scratch) / "build").path) as archive:
            archive.extractall(task)
        (task / "bare.py").write_text(BARE)
        bootstrap.mkdir()
        linked(bootstrap)
        port, keys = free_port(), ("AKIAROOTROOTROOTROOT", secrets.token_urlsafe(30))
        with running(emulator.program(EMULATOR_PYTHON, home / "aws", port, *keys), home):
            aws = Aws(emulator.endpoint_url(port), emulator.REGION, *keys)
            boto3.client(
                "s3",
                endpoint_url=aws.endpoint_url,
                region_name=aws.region,
                aws_access_key_id=aws.access_key,
                aws_secret_access_key=aws.secret_key,
            ).create_bucket(Bucket="cold")
            settings = aws.variables | {
                "HOLDFAST_BUCKET": "cold",
                "HOLDFAST_TOPIC_ARN": "arn:aws:sns:us-east-1:000000000000:nobody",
                "HOLDFAST_WORKER_FUNCTION": "worker",
                "HOLDFAST_KEEPER_FUNCTION": "keeper",
            }
            handlers = {"bare": "bare.handler", "ours": "backup_lambda.handler.api"}
            seconds: dict[str, list[float]] = {name: [] for name in handlers}
            for _ in range(starts + 1):  # the first one of each writes bytecode, which Lambda's package has not either
                for name, handler in handlers.items():
                    seconds[name].append(_first_answer(task, handler, settings, bootstrap))
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    ratio = medians["ours"] / medians["bare"]
    yield f"cold start and first answer, median of {starts}: bare {medians['bare']:.2f} s, ours {medians['ours']:.2f} s"
    yield f"{ratio:.2f}x, at most {TIMES_THE_BARE_ONE:.2f}x: {'met' if ratio <= TIMES_THE_BARE_ONE else 'MISSED'}"


def _first_answer(task: Path, handler: str, settings: dict[str, str], bootstrap: Path) -> float:
    begun = time.perf_counter()
    with started(task, handler, settings, bootstrap) as runtime:
        kind, answer = runtime.ask(LISTED)
        seconds = time.perf_counter() - begun
    if (kind, answer.get("statusCode")) != ("response", 200):
        raise RuntimeError(f"{handler} answered {kind}: {answer}")
    return seconds


if __name__ == "__main__":
    for line in measure(int(sys.argv[1])):
        print(line)  # noqa: T201  # it is what it is for
