"""A step of a run: one question to the backup API, and what its answer means for the run. It takes 30 s at most."""

import logging
import random
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import db, runs
from scheduler.backups import Backup, Backups, BackupsRefused, BackupsUnavailable, plain
from scheduler.errors import LeaseLost
from scheduler.runs import FIRST_STEP, Claim, Ended, Step, Waiting

MAX_BACK_OFF_SECONDS = 60.0
MIN_POLL_SECONDS, MAX_POLL_SECONDS = 1.0, 30.0
NOTICE_SECONDS = 10.0  # how long the function may take to announce an end that can be seen already

SUCCEEDED = {"stored", "proven"}
FAILED = {
    "failed": "The backup failed",
    "suspect": "The backup is stored, but suspect",
    "broken": "The backup is stored, but its proof failed",
    "cancelled": "The backup was cancelled",
    "expired": "The backup was removed by retention before its end was seen",
}

log = logging.getLogger(__name__)


async def take(engine: AsyncEngine, backups: Backups, step: Step) -> None:
    """Do the step, unless it was done before. What it came to is in the run when this returns."""
    async with db.transaction(engine) as session:
        claim = await runs.claim(session, step)
    if claim is None:
        log.info("run %s step %d was delivered before", *step)
        return
    outcome = await _ask(backups, claim)
    try:
        async with db.transaction(engine) as session:
            await runs.record(session, claim, outcome)
    except LeaseLost:
        log.warning("run %s step %d took longer than its lease; another worker has it now", *step)
        return
    state = outcome.state if isinstance(outcome, Ended) else "waiting"
    log.info("run %s step %d: %s %s", *step, state, outcome.reason or "")


async def _ask(backups: Backups, claim: Claim) -> Waiting | Ended:
    """The first step starts the backup, with the run's id as the key, so that a lost answer costs no second backup."""
    if claim.overdue and claim.seq == FIRST_STEP:  # later ones may follow an answer that was lost
        why = "It was not started before its deadline: the workers, or the queue that wakes them, were away."
        return Ended("failed", None, why, announce=True)
    try:
        if claim.backup_id:
            return _judge(await backups.show(claim.backup_id), claim)
        return _judge(await backups.start(claim.target["label"], str(claim.id)), claim)
    except BackupsRefused as error:
        return Ended("failed", claim.backup_id, str(error), announce=True)
    except BackupsUnavailable as error:
        if claim.overdue:
            return Ended("failed", claim.backup_id, f"{error} So it was until the run's deadline.", announce=True)
        delay = error.retry_after_seconds
        return Waiting(
            _back_off_seconds(claim.attempts) if delay is None else delay,
            claim.backup_id,
            claim.attempts + 1,
            f"{error} It will be asked again.",
        )


def _judge(backup: Backup, claim: Claim) -> Waiting | Ended:
    if backup.state in SUCCEEDED:
        # That its proof was not finished, say, which the function announces; or that nobody hears what it announces.
        why = plain(backup.reason or backup.unheard or "")
        return Ended("succeeded", backup.id, f"The backup is {backup.state}, but {why}" if why else None)
    if what := FAILED.get(backup.state):
        why = plain(backup.reason or "")
        said = f"{what}: {why}" if why else f"{what}."
        if not (backup.announced or claim.overdue) and _just_ended(backup):
            return Waiting(NOTICE_SECONDS, backup.id, reason=said)
        return Ended("failed", backup.id, said, announce=not backup.announced)
    if claim.overdue:
        why = f"The backup was still {plain(backup.state)} at the run's deadline."
        return Ended("failed", backup.id, why, announce=True)
    # Soon at first, for small backups; later by a tenth of its age.
    return Waiting(min(max(MIN_POLL_SECONDS, claim.age_seconds / 10), MAX_POLL_SECONDS), backup.id)


def _just_ended(backup: Backup) -> bool:
    ended_at = backup.proof.ended_at if backup.proof else backup.ended_at
    return ended_at is not None and datetime.now(UTC) - ended_at < timedelta(seconds=NOTICE_SECONDS)


def _back_off_seconds(attempts: int) -> float:
    """Doubles from 1 s, spread so that runs which failed together do not come back together."""
    return min(MAX_BACK_OFF_SECONDS, 2.0 ** min(attempts, 10)) * random.uniform(0.5, 1)  # noqa: S311 - no secret
