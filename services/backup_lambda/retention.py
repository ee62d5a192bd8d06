"""Which backups are kept: a policy, and the plan that follows from it. Only what is proven fills its places."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Self

from backup_lambda import candidates
from backup_lambda.candidates import Candidate
from backup_lambda.errors import StalePlan
from backup_lambda.history import CLOCKS_DIFFER_BY
from backup_lambda.lease import Clock
from backup_lambda.schemas import RetentionItem, RetentionPlan
from backup_lambda.store import S3Store

UNPROVEN_KEPT = timedelta(days=30)
FAILED_KEPT = timedelta(days=1)  # somebody may want to see what it left
COUNTED = ("last", "daily", "weekly", "monthly")


@dataclass(frozen=True)
class Policy:
    """How many to keep: of all, and of the days, weeks and months (UTC, ISO weeks) that have one, their newest each.

    Never fewer than `proven` proven ones are left, and never not the newest of them.
    """

    last: int = 7
    daily: int = 14
    weekly: int = 8
    monthly: int = 24
    labelled: bool = True
    proven: int = 3

    @classmethod
    def parse(cls, text: Any) -> Self:
        """Of `last 7, daily 14, weekly 8, monthly 24, labelled, proven 3`; what is not named is 0, or not so.

        But for `proven`, which is 3 then. Raises ValueError.
        """
        if isinstance(text, cls):
            return text
        given: dict[str, Any] = {}
        for rule in str(text).split(","):
            found = re.fullmatch(r"\s*(?:(labelled)|(last|daily|weekly|monthly|proven)\s+([0-9]{1,5}))\s*", rule)
            if found is None:
                raise ValueError(
                    f"{rule.strip()!r} is none of: last N, daily N, weekly N, monthly N, labelled, proven N"
                )
            name, value = (found[1], True) if found[1] else (found[2], int(found[3]))
            if name in given:
                raise ValueError(f"{name} is said twice")
            given[name] = value
        if given.get("proven") == 0:
            raise ValueError("proven 0 is refused: at least the newest proven one is kept")
        return cls(**dict.fromkeys(COUNTED, 0) | {"labelled": False} | given)

    def __str__(self) -> str:
        """What `parse` takes."""
        counted = [f"{name} {number}" for name in COUNTED if (number := getattr(self, name))]
        return ", ".join([*counted, *["labelled"][: self.labelled], f"proven {self.proven}"])


class Decision(NamedTuple):
    """What becomes of a backup, and why, in words."""

    candidate: Candidate
    action: Literal["keep", "expire", "clean"]
    reasons: list[str]


def decide(those: Iterable[Candidate], policy: Policy, now: datetime) -> list[Decision]:
    """Newest first.

    Backups of some tables only are a world of their own for each selection: with its own places, its own floors. So
    one of a few tables never takes the place of a whole one, and none of them expires because of another selection;
    the price is that the newest proven one of every selection that was ever asked for stays.

    Relied upon is what is proven, and not being proven again at this moment: that may show it to be broken.
    """
    ordered = sorted(those, key=lambda each: each.id, reverse=True)
    relied = dict[tuple[str, ...] | None, list[Candidate]]()
    for each in ordered:
        if each.state == "proven" and not each.working and not each.unreadable and not _ahead(each, now):
            relied.setdefault(each.selection, []).append(each)
    places = {backup_id: why for group in relied.values() for backup_id, why in _places(group, policy).items()}
    newest = {selection: group[0] for selection, group in relied.items()}
    return [_decided(each, newest.get(each.selection), places.get(each.id, []), policy, now) for each in ordered]


async def plan(store: S3Store, policy: Policy, now: Clock) -> RetentionPlan:
    """A request for every 1,000 objects, and a few for each backup that has data. Raises AwsError."""
    at = now()
    decisions = decide(await candidates.all_of(store, now), policy, at)
    actions = [each.action for each in decisions]
    return RetentionPlan(
        digest=_digest(policy, decisions),
        policy=str(policy),
        made_at=at,
        keep=actions.count("keep"),
        expire=actions.count("expire"),
        clean=actions.count("clean"),
        stored_bytes_freed=sum(each.candidate.stored_bytes for each in decisions if each.action != "keep"),
        items=[
            RetentionItem(
                backup_id=each.candidate.id,
                state=each.candidate.state,
                label=each.candidate.label,
                action=each.action,
                reasons=each.reasons,
                stored_bytes=each.candidate.stored_bytes,
            )
            for each in decisions
        ],
    )


async def checked(store: S3Store, policy: Policy, digest: str, now: Clock) -> RetentionPlan:
    """The plan of now, if it is the one with this digest. Raises StalePlan."""
    found = await plan(store, policy, now)
    if found.digest != digest:
        raise StalePlan("Backups were made, proven or removed since, or the policy is another. GET /retention again.")
    return found


def _decided(
    each: Candidate, newest: Candidate | None, places: Sequence[str], policy: Policy, now: datetime
) -> Decision:
    if each.held:
        return Decision(each, "keep", [each.held])
    if _ahead(each, now):
        return Decision(each, "keep", ["its id is from the future: the clock that made it was wrong"])
    if each.state in ("failed", "cancelled", "expired"):
        return _of_leftovers(each, now)
    labelled = ["labelled"] if policy.labelled and each.label and each.state != "broken" else []
    if each.state == "proven":
        reasons = [*places, *labelled]
        return Decision(each, "keep" if reasons else "expire", reasons or ["no rule keeps it"])
    if newest is None:
        return Decision(each, "keep", ["none is proven that could take its place", *labelled])
    if newest.id < each.id:
        return Decision(each, "keep", [f"newer than the newest proven one, {newest.id}", *labelled])
    if now - each.at < UNPROVEN_KEPT:
        return Decision(each, "keep", [f"{each.state}, and not {UNPROVEN_KEPT.days} days old", *labelled])
    if labelled:
        return Decision(each, "keep", labelled)
    return Decision(each, "expire", [f"{each.state}, {UNPROVEN_KEPT.days} days old, and {newest.id} is proven"])


def _places(relied: Sequence[Candidate], policy: Policy) -> dict[str, list[str]]:
    """Why each stays that does. Of days, weeks and months those are counted that have a proven backup."""
    of = "" if relied[0].selection is None else " of these tables"
    reasons = {each.id: list[str]() for each in relied}
    reasons[relied[0].id].append(f"the newest proven one{of}")
    for each in relied[: policy.last]:
        reasons[each.id].append(f"one of the {policy.last} newest{of}")
    for name, number in (_day, policy.daily), (_week, policy.weekly), (_month, policy.monthly):
        newest = dict[str, Candidate]()
        for each in relied:
            newest.setdefault(name(each.at), each)
        for period, each in list(newest.items())[:number]:
            reasons[each.id].append(f"newest of {period}{of}")
    for each in relied[: policy.proven]:
        if not reasons[each.id]:
            reasons[each.id].append(f"one of the {policy.proven} newest proven ones{of}")
    return reasons


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"


def _week(at: datetime) -> str:
    return f"{at:%G-W%V}"


def _month(at: datetime) -> str:
    return f"{at:%Y-%m}"


def _of_leftovers(each: Candidate, now: datetime) -> Decision:
    if not each.has_data:
        return Decision(each, "keep", ["it has no data"])
    if each.state == "expired":
        return Decision(each, "clean", ["it has expired, and data of it is left"])
    if now - each.written_at < FAILED_KEPT:
        return Decision(each, "keep", [f"{each.state}, and not a day ago"])
    return Decision(each, "clean", [f"{each.state}: what it left is of no use"])


def _ahead(each: Candidate, now: datetime) -> bool:
    return each.at > now + CLOCKS_DIFFER_BY


def _digest(policy: Policy, decisions: Sequence[Decision]) -> str:
    """Of what is done, and not of why: reasons tell ages, and the plan of a minute later is the same plan."""
    done = sorted((each.candidate.id, each.action) for each in decisions if each.action != "keep")
    return hashlib.sha256(json.dumps(["holdfast plan 1", str(policy), done]).encode()).hexdigest()
