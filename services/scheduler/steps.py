"""A step of a run: one question, and what its answer means for the run. It takes 30 s at most."""

import logging
import random
from dataclasses import dataclass, field
from time import perf_counter

from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import answers, db, following, logs, outside, proofs, runs, upkeep, watch
from scheduler.answers import Refused, Unavailable
from scheduler.backups import Backups
from scheduler.errors import LeaseLost
from scheduler.metrics import WorkMetrics
from scheduler.outside import Outside
from scheduler.runs import FIRST_STEP, Claim, Ended, Retry, Step, Waiting
from scheduler.traces import Traces

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reach:
    """What a step may ask, and by what it is seen."""

    backups: Backups
    outside: Outside
    metrics: WorkMetrics = field(default_factory=WorkMetrics)
    traces: Traces = field(default_factory=Traces)


async def take(engine: AsyncEngine, reach: Reach, step: Step) -> None:
    """Do the step, unless it was done before. What it came to is in the run when this returns."""
    async with db.transaction(engine) as session:
        claim = await runs.claim(session, step)
    if claim is None:
        log.info("run %s step %d was delivered before", *step)
        return
    kind = str(claim.target.get("kind"))
    entered = logs.IDS.set({"run_id": str(claim.id), "trace_id": claim.id.hex})
    try:
        reach.metrics.late("claimed", claim.late_seconds)
        outcome = await _traced(reach, claim, kind)
        await _write(engine, reach, claim, outcome)
    finally:
        logs.IDS.reset(entered)


async def _traced(reach: Reach, claim: Claim, kind: str) -> Waiting | Ended:
    started = perf_counter()
    with reach.traces.step(claim.id, kind, claim.seq) as traceparent:
        carried = answers.TRACEPARENT.set(traceparent)
        try:
            return await act(reach, claim)
        finally:
            answers.TRACEPARENT.reset(carried)
            reach.metrics.took(kind, started)


async def _write(engine: AsyncEngine, reach: Reach, claim: Claim, outcome: Waiting | Ended) -> None:
    try:
        async with db.transaction(engine) as session:
            late = await runs.note(session, claim, outcome)
            if isinstance(outcome, Ended) and outcome.backup_id:
                await watch.soon(session)
    except LeaseLost:
        log.warning("run %s step %d took longer than its lease; another worker has it now", claim.id, claim.seq)
        return
    reach.metrics.late("accepted", late)
    state = outcome.state if isinstance(outcome, Ended) else "waiting"
    log.info("run %s step %d: %s %s", claim.id, claim.seq, state, outcome.reason or "")


async def act(reach: Reach, claim: Claim) -> Waiting | Ended:
    if claim.overdue and claim.seq == FIRST_STEP and not claim.backup_id:  # later ones may follow a lost answer
        why = "It was not started before its deadline: the workers, or the queue that wakes them, were away."
        return Ended("failed", None, why, announce=True)
    try:
        return await _ask(reach, claim)
    except Refused as error:
        return Ended("failed", claim.backup_id, str(error), announce=True)
    except Unavailable as error:
        return _again(claim, error)


async def _ask(reach: Reach, claim: Claim) -> Waiting | Ended:
    match claim.target.get("kind"):
        case "backup":
            return await following.step(reach.backups, claim)
        case "proof":
            return await proofs.step(reach.backups, claim)
        case "retention":
            return await upkeep.step(reach.backups, claim)
        case "http":
            return await outside.step(reach.outside, claim)
        case kind:
            return Ended("failed", None, f"This release does not know what a {kind!r} is.", announce=True)


def _again(claim: Claim, error: Unavailable) -> Waiting | Ended:
    asked = claim.attempts + 1
    if claim.overdue:
        return Ended("failed", claim.backup_id, f"{error} So it was until the run's deadline.", announce=True)
    if asked == claim.retry.max_attempts:
        times = "once" if asked == 1 else f"{asked} times"
        return Ended("failed", claim.backup_id, f"{error} It was asked {times}, and is not asked again.", announce=True)
    delay = error.retry_after_seconds
    delay = _back_off_seconds(claim.retry, claim.attempts) if delay is None else max(delay, claim.retry.min_seconds)
    return Waiting(delay, claim.backup_id, asked, f"{error} It will be asked again.")


def _back_off_seconds(retry: Retry, attempts: int) -> float:
    """Anything from the least to what doubles: runs that failed together shall not come back together."""
    most = min(retry.max_seconds, retry.min_seconds * 2.0 ** min(attempts + 1, 20))
    return random.uniform(retry.min_seconds, most)  # noqa: S311 - no secret
