"""Retention: what it plans is applied, in as many rounds as that takes.

The memo holds the `digest` of the plan that is to be applied, and what was done so far.
"""

from typing import Any

from scheduler.answers import Refused, plain
from scheduler.backups import Applied, Backups
from scheduler.runs import Claim, Ended, Waiting

CHANGED_SECONDS = 5.0
NAMED = 5  # of those that were left
CONFLICT = 409


async def step(backups: Backups, claim: Claim) -> Waiting | Ended:
    if claim.cancelling:
        return Ended("cancelled", None, _told("It was cancelled.", claim.memo))
    if claim.overdue:
        return Ended("failed", None, _told("It had not ended at its deadline.", claim.memo), announce=True)
    if "digest" in claim.memo:
        return await _apply(backups, claim)
    plan = await backups.plan()
    if plan.expire + plan.clean == 0:
        why = _told(f"There is nothing to remove: {plan.keep} are kept.", claim.memo)
        return Ended("succeeded", None, why, accepted=True)
    return Waiting(0.0, None, memo=claim.memo | {"digest": plan.digest}, accepted=True)


async def _apply(backups: Backups, claim: Claim) -> Waiting | Ended:
    memo = dict(claim.memo)
    digest = memo.pop("digest")
    try:
        result = await backups.apply(digest)
    except Refused as error:
        if error.status != CONFLICT:
            raise
        # Backups were made or proven meanwhile; or an answer was lost, and what it told of is done.
        memo |= {"lost": True} if claim.attempts else {}
        return Waiting(CHANGED_SECONDS, None, reason="The plan is another one by now.", memo=memo)
    memo = _added(memo, result)
    if not result.complete:
        return Waiting(0.0, None, memo=memo, reason="There is more to do than fits into one request.")
    return Ended("succeeded", None, _told("The plan is applied.", memo), accepted=True)


def _added(memo: dict[str, Any], result: Applied) -> dict[str, Any]:
    return memo | {
        "expired": memo.get("expired", 0) + len(result.expired),
        "cleaned": memo.get("cleaned", 0) + len(result.cleaned),
        "left": result.left,
    }


def _told(what: str, memo: dict[str, Any]) -> str:
    if "expired" in memo:
        what = f"{what} Expired: {memo['expired']}, cleaned: {memo['cleaned']}."
    if memo.get("lost"):
        what = f"{what} An answer was lost, and what it would have told is not counted."
    if left := memo.get("left"):
        named = "; ".join(f"{backup_id} ({why})" for backup_id, why in list(left.items())[:NAMED])
        what = f"{what} Left: {len(left)}: {named}"
    return plain(what)
