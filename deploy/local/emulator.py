"""The emulator of AWS, MiniStack: API Gateway, Lambda, S3, SNS, SQS, IAM, Secrets Manager, CloudFormation.

It listens on the loopback address only and enforces signatures and policies. It lives in an environment of its own,
because it pins another botocore than the services do. Functions run on its interpreter, as its child processes.
"""

import os
import shutil
from pathlib import Path

from deploy.local.process import Program, http_ok

REGION = "us-east-1"
# A failed asynchronous invocation is tried again after a minute, as on AWS; less would be sooner than a lease ends.
RETRY_AFTER_SECONDS = 60
GUARD = Path(__file__).parents[1] / "emulator" / "guard.py"


def endpoint_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def program(python: Path, home: Path, port: int, root_access_key: str, root_secret_key: str) -> Program:
    """`python` is the interpreter of the emulator's environment; `home` keeps objects, and state between clean stops.

    The root keys may do anything, as an AWS account's may: only what deploys the stacks gets them.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(home / "tmp", ignore_errors=True)  # unpacked functions, which a kill leaves behind
    return Program(
        name="emulator",
        command=[str(python), "-m", "hypercorn", f"{GUARD}:app", "--workers", "0", "--bind", f"127.0.0.1:{port}"],
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "TMPDIR": _made(home / "tmp"),
            "AUTH": "true",
            "AWS_ACCESS_KEY_ID": root_access_key,
            "AWS_SECRET_ACCESS_KEY": root_secret_key,
            "MINISTACK_REGION": REGION,
            "MINISTACK_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),  # functions reach AWS by it: it must be the port that we bind
            "S3_PERSIST": "1",
            "S3_DATA_DIR": _made(home / "s3"),
            "PERSIST_STATE": "1",
            "STATE_DIR": _made(home / "state"),
            "LAMBDA_ASYNC_RETRY_BASE_SECONDS": str(RETRY_AFTER_SECONDS),
            "LAMBDA_ASYNC_RETRY_MAX_SECONDS": str(2 * RETRY_AFTER_SECONDS),
            "IOT_MTLS_ENABLED": "0",  # these two would open ports of their own
            "SFTP_ENABLED": "0",
        },
        cwd=home,
        answers=lambda: http_ok(f"{endpoint_url(port)}/_ministack/ready"),
    )


def forget_saved_state(home: Path) -> None:
    """Called once the emulator has read it, so that what is on disk is always of the last stop, if that was clean.

    State of an earlier stop would bring back queues whose messages were handled, and users and subscriptions as they
    were then. The emulator saves all of it anew when it stops cleanly.
    """
    for file in (home / "state").glob("*.json"):
        file.unlink()


def _made(directory: Path) -> str:
    directory.mkdir(mode=0o700, exist_ok=True)
    return str(directory)
