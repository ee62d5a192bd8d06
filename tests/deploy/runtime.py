"""Lambda's Runtime API, as small as it may be, and Lambda's own bootstrap, which asks it for events.

The API is that of "Using the Lambda runtime API" in Amazon's guide. The bootstrap, awslambdaric, is what AWS runs. It
sees the unpacked package and itself, and no other packages of this machine.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

BOOTSTRAP = ("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py")
WITHIN_SECONDS = 60
# What the gateway sends for `GET /backups`.
LISTED = {
    "resource": "/backups",
    "path": "/backups",
    "httpMethod": "GET",
    "headers": {"host": "api"},
    "multiValueHeaders": {"host": ["api"]},
    "queryStringParameters": None,
    "multiValueQueryStringParameters": None,
    "pathParameters": None,
    "requestContext": {
        "resourcePath": "/backups",
        "httpMethod": "GET",
        "path": "/v1/backups",
        "stage": "v1",
        "requestId": "8476a536",
        "identity": {"sourceIp": "127.0.0.1", "userArn": "arn:aws:iam::123456789012:user/ops"},
    },
    "body": None,
    "isBase64Encoded": False,
}


class Runtime(ThreadingHTTPServer):
    """Hands out events, and takes what becomes of them: `response`, `error` or `init/error`, and its JSON."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.events: Queue[Any] = Queue()
        self.answers: Queue[tuple[str, Any]] = Queue()

    def handle_error(self, *_: object) -> None:
        """Say nothing of a function that is gone."""

    def ask(self, event: Any) -> tuple[str, Any]:
        self.events.put(event)
        return self.answers.get(timeout=WITHIN_SECONDS)


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Runtime

    def do_GET(self) -> None:
        event = self.server.events.get()
        if event is None:  # nobody asks any more
            self.close_connection = True
            return
        ends = int((time.time() + 900) * 1000)
        told = {
            "Lambda-Runtime-Aws-Request-Id": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
            "Lambda-Runtime-Deadline-Ms": str(ends),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:1:function:f",
        }
        self._answer(200, event, told)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        what = "init/error" if "/init/" in self.path else self.path.rsplit("/", 1)[1]
        self._answer(202, {"status": "OK"}, {})
        self.server.answers.put((what, body))

    def _answer(self, status: int, content: Any, headers: Mapping[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@contextmanager
def started(package: Path, handler: str, environment: Mapping[str, str], bootstrap: Path) -> Iterator[Runtime]:
    """A function that Lambda has just started, out of the folder of its package. `bootstrap` is `linked()`."""
    with Runtime() as runtime:
        serving = Thread(target=runtime.serve_forever)
        serving.start()
        process = subprocess.Popen(
            [sys.executable, "-S", "-W", "ignore", "-m", "awslambdaric", handler],
            cwd=package,
            env={
                "PATH": os.defpath,
                **environment,
                "PYTHONPATH": str(bootstrap),
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{runtime.server_port}",
                "LAMBDA_TASK_ROOT": str(package),
                "AWS_LAMBDA_FUNCTION_NAME": "f",
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            },
            stdout=subprocess.DEVNULL,
        )
        try:
            yield runtime
        finally:
            process.kill()
            process.wait()
            runtime.events.put(None)  # for the request that nobody answers any more
            runtime.shutdown()
            serving.join()


def linked(folder: Path) -> Path:
    """A folder with the bootstrap's own modules and nothing else."""
    for name in BOOTSTRAP:
        spec = find_spec(name)
        assert spec
        assert spec.origin
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (folder / source.name).symlink_to(source)
    return folder
