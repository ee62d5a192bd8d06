"""A backup without a function's limits: made and proven in this process, however long it takes."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Never

from backup_lambda import aws, backups
from backup_lambda.app import utc_now
from backup_lambda.errors import BackupsError
from backup_lambda.guards import unless
from backup_lambda.schemas import Backup, BackupIn
from backup_lambda.settings import WorkerSettings
from backup_lambda.store import S3Store
from backup_lambda.tasks import RestoreTask, Started, Task
from backup_lambda.worker import LEFT_ALONE, Worker, create_worker, no_end

REQUESTED_BY = "python -m backup_lambda run"
LOOK_AGAIN_SECONDS = 2


async def run(settings: WorkerSettings, wanted: BackupIn, tell: Callable[[Backup], None]) -> bool:
    """Whether all is well. SIGTERM and SIGINT end it cleanly, as a backup that failed. Raises BackupsError.

    `tell` hears how far it is.
    """
    async with _worker(settings) as worker:
        store = worker.means.store
        asked = await backups.request(store, _nobody, wanted, key=None, requested_by=REQUESTED_BY, now=utc_now)
        tell(asked)
        task = Task(task="backup", backup_id=asked.id)
        outcome = await unless(worker.insist(task, no_end), _look(store, asked.id, tell))
        await worker.keep_house(no_end)
    return outcome == "proven" or (outcome == "stored" and settings.prove == "on_demand")


async def perform(settings: WorkerSettings, task: Task | RestoreTask) -> bool:
    """What a function has handed on. Whether all is well. SIGTERM and SIGINT end it as above. Raises BackupsError."""
    async with _worker(settings) as worker:
        if isinstance(task, RestoreTask):
            return await worker.restore(task, no_end) in {"completed", LEFT_ALONE}
        outcome = await worker.insist(task, no_end)
        await worker.keep_house(no_end)
    return outcome in {"proven", "stored", LEFT_ALONE}


@asynccontextmanager
async def _worker(settings: WorkerSettings) -> AsyncIterator[Worker]:
    async with aws.clients("s3", "sns", "secretsmanager", "kms") as (s3, sns, secrets, kms):
        worker = create_worker(settings, utc_now, s3=s3, sns=sns, secrets=secrets, kms=kms)
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, worker.stop.set)
        yield worker


async def _nobody(task: Started) -> None:
    """No worker is started: this process is it."""


async def _look(store: S3Store, backup_id: str, tell: Callable[[Backup], None]) -> Never:
    while True:
        with suppress(BackupsError):  # whether the backup suffers from it too, the worker finds out
            tell(await backups.show(store, backup_id, utc_now))
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
