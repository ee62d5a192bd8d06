"""What the framework would ignore: a client's bug that nobody sees."""

from collections import Counter

from fastapi import Request
from fastapi.exceptions import RequestValidationError


async def repeated_parameters(request: Request) -> None:
    """Of two values the framework takes the last."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    if twice := [name for name, times in given.items() if times > 1]:
        raise RequestValidationError(
            [{"type": "given_twice", "loc": ("query", name), "msg": "Give it once"} for name in twice]
        )


async def body(request: Request) -> None:
    """For a route that takes none. It is refused at its first byte, however long it is."""
    async for chunk in request.stream():
        if chunk:
            raise RequestValidationError([{"type": "body_not_taken", "loc": ("body",), "msg": "Send no body"}])
