"""As much of Lambda's runtime as tests need: `python lambda_runtime.py backup_lambda.handler.api`.

It calls the handler with each line of standard input, an event as JSON, and prints what came out as a line of JSON.
"""

import importlib
import json
import sys
import time


class Context:
    """An invocation with 900 seconds, like those of the worker function."""

    aws_request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"

    def __init__(self) -> None:
        self._ends = time.monotonic() + 900

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * (self._ends - time.monotonic()))


def main() -> None:
    module, _, name = sys.argv[1].rpartition(".")
    handler = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        try:
            answer = {"result": handler(json.loads(line), Context())}
        except Exception as error:  # noqa: BLE001  # as Lambda does: whatever it is, the invocation failed
            answer = {"error": type(error).__name__, "message": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()
