"""A package whose functions try what they are told and report: `{"service", "call", "arguments"}`.

It stands for backup_lambda, to show what the functions' roles may do. It runs on the emulator's interpreter.
"""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import botocore.session
from botocore.exceptions import ClientError


def api(event: dict[str, Any], context: Any) -> dict[str, Any]:
    if "requestContext" in event:
        return {"statusCode": 200, "body": json.dumps({"resource": event["resource"], "body": event["body"]})}
    return worker(event, context)


def worker(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """The error code of the call, `None` when it was allowed."""
    client = botocore.session.get_session().create_client(event["service"], region_name=os.environ["AWS_REGION"])
    try:
        getattr(client, event["call"])(**event["arguments"])
    except ClientError as error:
        return {"error": error.response["Error"]["Code"], "version": VERSION}
    return {"error": None, "version": VERSION}


VERSION = "1"


def package(version: str = VERSION) -> bytes:
    source = Path(__file__).read_text().replace(f'VERSION = "{VERSION}"', f'VERSION = "{version}"')
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("backup_lambda/__init__.py", "")
        archive.writestr("backup_lambda/handler.py", source)
    return content.getvalue()
