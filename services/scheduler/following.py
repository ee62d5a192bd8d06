"""A backup that a run follows to its end: the one that it starts, or one that somebody else asked for (`adopted`)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from scheduler.answers import AnswerError, Refused
from scheduler.backups import Backup, Backups
from scheduler.runs import FIRST_STEP, Claim, Ended, Waiting

MIN_POLL_SECONDS, MAX_POLL_SECONDS = 1.0, 30.0
CANCELLING_POLL_SECONDS = 5.0
NOTICE_SECONDS = 10.0  # how long the function may take to announce an end that can be seen already

SUCCEEDED = {"stored", "proven"}
FAILED = {
    "failed": "The backup failed",
    "suspect": "The backup is stored, but suspect",
    "broken": "The backup is stored, but its proof failed",
    "cancelled": "The backup was cancelled",
    "expired": "The backup was removed by retention before its end was seen",
}


async def step(backups: Backups, claim: Claim) -> Waiting | Ended:
    """The first starts the backup, with the run's id as the key, so that a lost answer costs no second backup."""
    if claim.backup_id is None:
        return await _start(backups, claim)
    # What others asked for is theirs: our time limit does not end it.
    to_end = claim.cancelling or (claim.overdue and not _adopted(claim))
    if to_end and not claim.memo.get("cancel_asked"):
        return await _cancel(backups, claim, claim.backup_id)
    return _judge(await backups.show(claim.backup_id), claim, claim.memo)


async def _start(backups: Backups, claim: Claim) -> Waiting | Ended:
    """Also for a run that is to end: its backup may be there, and only this tells which one it is."""
    if claim.cancelling and claim.seq == FIRST_STEP:
        return Ended("cancelled", None, "It was cancelled before a backup was asked for.")
    try:
        backup = await backups.start(claim.target.get("label"), str(claim.id), claim.target.get("tables"))
    except Refused as error:
        if claim.cancelling:
            return Ended("cancelled", None, f"No backup was started. {error}")
        raise
    return _judge(backup, claim, claim.memo)


async def _cancel(backups: Backups, claim: Claim, backup_id: str) -> Waiting | Ended:
    memo = claim.memo | {"cancel_asked": True}
    try:
        outcome = _judge(await backups.cancel(backup_id), claim, memo)
    except AnswerError as error:
        if isinstance(error, Refused) and error.status == 409:
            return Waiting(0.0, backup_id, memo=memo)
        if claim.overdue:
            why = f"The backup had not ended at the run's deadline, and could not be cancelled. {error}"
            return Ended("failed", backup_id, why, announce=True)
        raise
    return replace(outcome, memo=memo) if isinstance(outcome, Waiting) else outcome


def _judge(backup: Backup, claim: Claim, memo: dict[str, Any]) -> Waiting | Ended:
    if backup.state in SUCCEEDED:
        return Ended("succeeded", backup.id, _but(backup, claim), progress=_whole(backup), accepted=True)
    if backup.state in FAILED:
        return _failed(backup, claim)
    progress = backup.progress.model_dump() if backup.progress else None
    if claim.overdue and (memo.get("cancel_asked") or _adopted(claim)):
        told = "" if _adopted(claim) else " It was asked to end."
        why = f"The backup was still {backup.state} at the run's deadline.{told}"
        return Ended("failed", backup.id, why, announce=True, progress=progress, accepted=True)
    # Soon at first, for small backups; later by a tenth of its age.
    delay = min(max(MIN_POLL_SECONDS, claim.age_seconds / 10), MAX_POLL_SECONDS)
    reason = None
    if claim.cancelling or claim.overdue:  # it is asked to end at once, and then looked at again
        delay = min(delay, CANCELLING_POLL_SECONDS) if memo.get("cancel_asked") else 0.0
        reason = "The backup was asked to end." if memo.get("cancel_asked") else None
    return Waiting(delay, backup.id, reason=reason, progress=progress, accepted=True)


def _but(backup: Backup, claim: Claim) -> str | None:
    """What is to be said of one that succeeded."""
    # That its proof was not finished, say, which the function announces; or that nobody hears what it announces.
    why = backup.reason or backup.unheard
    said = [f"The backup is {backup.state}, but {why}"] if why else []
    if claim.cancelling:
        said.insert(0, "It had ended before it could be cancelled.")
    return " ".join(said) or None


def _failed(backup: Backup, claim: Claim) -> Waiting | Ended:
    what = FAILED[backup.state]
    said = f"{what}: {backup.reason}" if backup.reason else f"{what}."
    if backup.state == "cancelled" and claim.cancelling:
        return Ended("cancelled", backup.id, said, accepted=True)
    if not (backup.announced or claim.overdue) and _just_ended(backup):
        return Waiting(NOTICE_SECONDS, backup.id, reason=said, accepted=True)
    return Ended("failed", backup.id, said, announce=not backup.announced, accepted=True)


def _just_ended(backup: Backup) -> bool:
    ended_at = backup.proof.ended_at if backup.proof else backup.ended_at
    return ended_at is not None and datetime.now(UTC) - ended_at < timedelta(seconds=NOTICE_SECONDS)


def _whole(backup: Backup) -> dict[str, Any]:
    return {"stage": backup.state, "rows": backup.rows, "bytes": backup.bytes, "percent": 100}


def _adopted(claim: Claim) -> bool:
    return bool(claim.target.get("adopted"))
