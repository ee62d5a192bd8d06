"""A package whose functions try what they are told and report: `{"service", "call", "arguments"}`.

It stands for backup_lambda, to show what the functions' roles may do. It runs on the emulator's interpreter.
"""

import io
import json
import os
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
from botocore.exceptions import ClientError


def api(event: dict[str, Any], context: Any) -> dict[str, Any]:
    if "requestContext" in event:
        seen = {name: event[name] for name in ("resource", "pathParameters", "body")}
        return {"statusCode": 200, "body": json.dumps(seen)}
    return worker(event, context)


def worker(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """The error code of the call, `None` when it was allowed."""
    try:
        getattr(_client(event["service"]), event["call"])(**event["arguments"])
    except ClientError as error:
        return {"error": error.response["Error"]["Code"], "version": VERSION}
    return {"error": None, "version": VERSION}


def keeper(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return worker(event, context)


@cache
def _client(service: str) -> Any:
    return botocore.session.get_session().create_client(service, region_name=os.environ["AWS_REGION"])


VERSION = "1"


def package(version: str = VERSION) -> bytes:
    source = Path(__file__).read_text().replace(f'VERSION = "{VERSION}"', f'VERSION = "{version}"')
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("backup_lambda/__init__.py", "")
        archive.writestr("backup_lambda/handler.py", source)
    return content.getvalue()
