"""`python -m backup_lambda.openapi` prints the API's OpenAPI document. The functions never import this."""

import json
import sys
from typing import Any

from backup_lambda.app import create_app
from backup_lambda.notices import Topic
from backup_lambda.store import S3Store
from backup_lambda.tasks import Started


async def _never(task: Started) -> None:
    raise NotImplementedError(task)


def document() -> dict[str, Any]:
    spec = create_app(S3Store(None, ""), Topic(None, ""), _never).openapi()
    for operation in (each for path in spec["paths"].values() for each in path.values()):
        for status, response in operation["responses"].items():
            if not status.startswith("2"):  # FastAPI describes every answer of a route as application/json
                response["content"] = {"application/problem+json": response["content"].pop("application/json")}
    return spec


def text() -> str:
    return json.dumps(document(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
