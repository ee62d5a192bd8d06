"""Work that is stopped, held up or robbed of its connections at any of its awaits."""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any


class Interrupted:
    """Awaits `work`. Before what it waits for at its await of that number, something else `happens`."""

    def __init__(self, work: Coroutine[Any, Any, Any], number: int, happens: Callable[[], Awaitable[Any]]) -> None:
        self._work, self._number, self._happens = work, number, happens

    def __await__(self) -> Generator[Any, None, Any]:
        steps, number = self._work.__await__(), 0
        error: BaseException | None = None
        while True:
            try:
                waits_for = steps.throw(error) if error else steps.send(None)
            except StopIteration as done:
                return done.value
            error, number = None, number + 1
            try:
                if number == self._number:
                    yield from self._happens().__await__()
                yield waits_for
            except BaseException as raised:  # noqa: BLE001 - the work decides
                error = raised


@dataclass(frozen=True)
class Fault:
    """What happens to a worker or the API, and at which of its awaits."""

    kind: str  # dies, pauses, loses_redis, loses_postgres
    number: int
