"""The emulator of AWS without its back doors: `hypercorn guard.py:app`, in the emulator's own environment.

MiniStack answers on paths of its own that ask for no signature, one of which erases everything. It takes requests from
web pages, which could call it in the name of whoever looks at them. And when it cannot write an object to disk, it logs
that and answers 200. Its CloudFormation makes a FIFO topic that is none. AWS does nothing of the kind.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from ministack.app import app as ministack
from ministack.services import sns
from ministack.services.cloudformation import provisioners

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BACK_DOORS = ("/_ministack", "/_localstack")
READY = "/_ministack/ready"


class EndWhenNothingIsKept(logging.Handler):
    """Ends the process before it acknowledges an object that is not on disk."""

    def emit(self, record: logging.LogRecord) -> None:
        if (message := record.getMessage()).startswith("Failed to persist"):
            os.write(2, f"{message}\nAn object could not be kept, so nothing more is taken.\n".encode())
            os._exit(os.EX_IOERR)


logging.getLogger("s3").addHandler(EndWhenNothingIsKept())


def _in_order(make: Callable[..., tuple[str, Any]]) -> Callable[..., tuple[str, Any]]:
    """What makes a topic, for which the template's `FifoTopic` counts."""

    def make_topic(logical_id: str, properties: dict[str, Any], stack: str) -> tuple[str, Any]:
        arn, attributes = make(logical_id, properties, stack)
        if str(properties.get("FifoTopic")).lower() == "true":
            by_content = str(properties.get("ContentBasedDeduplication", False)).lower()
            topic = sns._topics[arn]
            topic["attributes"] |= {"FifoTopic": "true", "ContentBasedDeduplication": by_content}
            topic |= {"dedup_cache": {}, "fifo_seq": 0}
        return arn, attributes

    return make_topic


_topics = provisioners._RESOURCE_HANDLERS["AWS::SNS::Topic"]
_topics["create"] = _in_order(_topics["create"])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan" or not (_is_back_door(scope["path"]) or _is_from_a_web_page(scope)):
        await ministack(scope, receive, send)
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "websocket.close"})


def _is_back_door(path: str) -> bool:
    return path != READY and f"/{path.lstrip('/')}".startswith(BACK_DOORS)


def _is_from_a_web_page(scope: Scope) -> bool:
    """Browsers name the page in `Origin`; the SDKs, curl and our services have none."""
    return any(name == b"origin" for name, _ in scope["headers"])
