"""The worker is invoked as Lambda invokes it."""

from collections.abc import Callable
from datetime import datetime, timedelta

from backup_lambda import backups
from backup_lambda.lease import LAST_ATTEMPT
from backup_lambda.tasks import Task
from backup_lambda.worker import Worker
from tests.backup_lambda.world import World, a_long_time, utc_now


async def invoked(worker: Worker, backup_id: str, times: int = LAST_ATTEMPT) -> None:
    """Once more after an error, whatever it is."""
    for _ in range(times):
        try:
            await worker.back_up(backup_id, a_long_time)
        except Exception:  # noqa: BLE001, S112  # Lambda does not look at it either
            continue
        return


async def failed(worker: Worker, world: World, seconds_left: Callable[[], float] = a_long_time) -> str:
    """The id of a backup that failed at its first attempt."""
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, seconds_left) == "failed"
    return backup_id


async def looked_after(worker: Worker, world: World, backup_id: str) -> None:
    """Unless its end was told, another backup's worker comes by, and tells it."""
    if not (await backups.show(world.store, backup_id, worker.means.now)).announced:
        assert await worker.back_up(await world.wish(), a_long_time) == "proven"


async def proven_again(worker: Worker, backup_id: str, number: int = 2) -> None:
    task = Task(task="proof", backup_id=backup_id, number=number)
    await worker.do(task, a_long_time)


def in_two_hours() -> datetime:
    return utc_now() + timedelta(hours=2)
