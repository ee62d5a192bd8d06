"""The emulator of AWS without its back doors: `hypercorn guard.py:app`, in the emulator's own environment.

MiniStack answers on paths of its own that ask for no signature, one of which erases everything. And it takes requests
from web pages, which could call it in the name of whoever looks at them. AWS has neither.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from ministack.app import app as ministack

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BACK_DOORS = ("/_ministack", "/_localstack")
READY = "/_ministack/ready"


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
