"""The rota of proofs: each run proves the backup whose last proof was longest ago.

The memo holds, one after the other: where the search is and the `best` so far; the `number` that the proof will have;
and `asked`, the run's age when it was asked for.
"""

from typing import Any

from scheduler.answers import Refused
from scheduler.backups import Backup, Backups, Page
from scheduler.runs import Claim, Ended, Waiting

POLL_SECONDS = 10.0
ASK_AGAIN_SECONDS = 600.0  # of a proof that nobody makes: its worker was lost, or has not begun
GONE, BUSY = {404, 410}, 409
# What has its data and is not being made. A broken one is known to be: proving it each time would tell nothing new.
PROVABLE = {"stored", "proven", "suspect"}


async def step(backups: Backups, claim: Claim) -> Waiting | Ended:
    if claim.cancelling:
        goes_on = f" A proof of {claim.backup_id} that has begun goes on." if claim.backup_id else ""
        return Ended("cancelled", claim.backup_id, f"It was cancelled.{goes_on}")
    if claim.backup_id is None:
        if claim.overdue:
            return Ended("failed", None, "No backup had been chosen at the run's deadline.", announce=True)
        return _choose(await backups.page(claim.memo.get("before")), claim.memo.get("best"))
    if "asked" in claim.memo:
        return _judge(await backups.show(claim.backup_id), claim)
    if claim.overdue:
        return Ended("failed", claim.backup_id, "It was not asked for before its deadline.", announce=True)
    return await _ask(backups, claim, claim.backup_id)


def _choose(page: Page, best: dict[str, Any] | None) -> Waiting | Ended:
    """Never proven ones first. One page a step: each is read from hundreds of objects."""
    found = [_place(each) for each in page.items if each.state in PROVABLE and each.progress is None]
    best = min([*found, *([best] if best else [])], key=lambda one: (one["proven_at"], one["id"]), default=None)
    if page.next_cursor:
        return Waiting(0.0, None, memo={"before": page.next_cursor, "best": best})
    if best is None:
        return Ended("failed", None, "There is no backup to prove.", announce=True)
    return Waiting(0.0, best["id"], memo={"number": best["number"] + 1})


def _place(backup: Backup) -> dict[str, Any]:
    """An unfinished proof counts too, or one that never comes to its end would be the next for ever."""
    ended = max((proof.ended_at.isoformat() for proof in backup.proofs), default="")
    return {"id": backup.id, "proven_at": ended, "number": max((proof.number for proof in backup.proofs), default=0)}


async def _ask(backups: Backups, claim: Claim, backup_id: str) -> Waiting:
    number = claim.memo["number"]
    try:
        number = max(number, await backups.prove(backup_id))
    except Refused as error:
        if error.status in GONE:
            return _another("Retention has removed the backup that was to be proven")
        if error.status != BUSY:
            raise
        # One is being made: ours, whose answer was lost, or somebody else's. That is as good.
    memo = {"number": number, "asked": claim.age_seconds}
    return Waiting(POLL_SECONDS, backup_id, memo=memo, accepted=True)


def _judge(backup: Backup, claim: Claim) -> Waiting | Ended:
    """By the proof's verdict and not by the backup's state: what is suspect stays so."""
    if proof := next((each for each in backup.proofs if each.number >= claim.memo["number"]), None):
        why = proof.reason or backup.reason or ""
        if proof.verdict == "proven":
            reason = f"The backup is proven, and {backup.state}: {why}" if backup.state != "proven" and why else None
            return Ended("succeeded", backup.id, reason, accepted=True)
        what = "The backup is broken" if proof.verdict == "broken" else "The proof was not finished"
        return Ended("failed", backup.id, f"{what}: {why}" if why else f"{what}.", announce=not backup.announced)
    if backup.state not in PROVABLE | {"running", "broken"}:
        return _another(f"The backup that was to be proven is {backup.state}")
    if claim.overdue:
        return Ended("failed", backup.id, "The proof had not ended at the run's deadline.", announce=True)
    if backup.progress is None and claim.age_seconds - claim.memo["asked"] > ASK_AGAIN_SECONDS:
        return Waiting(0.0, backup.id, reason="Nobody makes the proof; it is asked for again.", memo=_unasked(claim))
    return Waiting(POLL_SECONDS, backup.id, progress=backup.progress.model_dump() if backup.progress else None)


def _another(why: str) -> Waiting:
    return Waiting(0.0, None, reason=f"{why}; another one is chosen.", memo={})


def _unasked(claim: Claim) -> dict[str, Any]:
    return {name: value for name, value in claim.memo.items() if name != "asked"}
