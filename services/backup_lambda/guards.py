"""What ends a worker's work early: the invocation's time, a wish to cancel, the end of the process."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Never, TypeVar

from backup_lambda.errors import AwsError, Cancelled, DeadlineReached, Stalled, Stopped
from backup_lambda.lease import Progress
from backup_lambda.manifest import Cancel
from backup_lambda.store import S3Store

# For the end, whose parts have limits of their own: what is under way is stopped (an upload aborted, or a scratch
# database dropped), at most two of manifest, failure and proof are written, and the notice is published.
KEPT_SECONDS = 60
LOOK_AGAIN_SECONDS = 2
# PostgreSQL may sort or count a huge table for long before it says a word; a dead connection is silent for ever.
STALLED_SECONDS = 60 * 60
T = TypeVar("T")
log = logging.getLogger(__name__)


async def unless(work: Coroutine[Any, Any, T], *guards: Coroutine[Any, Any, Never]) -> T:
    """The result of `work`, unless a guard raises first: that error comes out, and the work is cancelled."""
    tasks = [asyncio.create_task(each) for each in (work, *guards)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for guard in tasks[1:]:
            if guard.done():
                guard.result()
        return await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def deadline(seconds_left: Callable[[], float]) -> Never:
    while (left := seconds_left() - KEPT_SECONDS) > 0:  # noqa: ASYNC110  # an invocation's clock rings no event
        await asyncio.sleep(min(left, 1))
    raise DeadlineReached(
        f"deadline: the invocation's time was nearly over (it stops {KEPT_SECONDS} s before the end);"
        " the same code runs without that limit as a task: python -m backup_lambda run"
    )


async def stopped(stop: asyncio.Event) -> Never:
    await stop.wait()
    raise Stopped("the process was told to end")


async def stalled(progress: Progress) -> Never:
    """For as long nothing has moved: no row of any pass, no byte, no stage."""
    time = asyncio.get_running_loop().time
    seen, since = _moved(progress), time()
    while time() - since < STALLED_SECONDS:
        await asyncio.sleep(min(LOOK_AGAIN_SECONDS, STALLED_SECONDS))
        if (now := _moved(progress)) != seen:
            seen, since = now, time()
    raise Stalled(
        f"PostgreSQL or S3 was silent for {STALLED_SECONDS / 60:.0f} minutes in the stage {progress.stage!r}:"
        " nothing moved"
    )


def _moved(progress: Progress) -> tuple[str, int, int, int]:
    return progress.stage, progress.passed, progress.bytes, progress.total_rows


async def cancelled(store: S3Store, folder: str) -> Never:
    """Looks at once, and then again and again. That S3 is away for a moment is not its affair."""
    while True:
        try:
            if "cancel.json" in await store.names(folder):
                wish = Cancel.model_validate_json((await store.get(f"{folder}cancel.json")).body)
                raise Cancelled(f"cancelled by {wish.requested_by or 'a person'}")
        except AwsError as error:
            log.warning("%s: whether to cancel could not be asked: %s", folder, error)
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
