"""Which backups are kept. What is decided is compared with an oracle that was written from the rules alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup_lambda import retention
from backup_lambda.candidates import Candidate
from backup_lambda.retention import Decision, Policy, decide

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
Decide: TypeAlias = Callable[[Sequence[Candidate], Policy, datetime], list[Decision]]
NOTHING = Policy(last=0, daily=0, weekly=0, monthly=0, labelled=False, proven=1)


def a_backup(at: datetime, state: str = "proven", **changes: Any) -> Candidate:
    values: dict[str, Any] = {"id": f"{at:%Y%m%dT%H%M%SZ}-00000000", "state": state, "written_at": at}
    return Candidate(**values | changes)


def days_ago(days: float, state: str = "proven", **changes: Any) -> Candidate:
    return a_backup(NOW - timedelta(days=days), state, **changes)


def why(decisions: Sequence[Decision], candidate: Candidate) -> tuple[str, list[str]]:
    return next((each.action, each.reasons) for each in decisions if each.candidate == candidate)


def removed(decisions: Sequence[Decision]) -> dict[str, str]:
    return {each.candidate.id: each.action for each in decisions if each.action != "keep"}


# The policy as text.


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("last 7, daily 14, weekly 8, monthly 24, labelled, proven 3", Policy()),
        (" monthly   2 ,last 1", Policy(last=1, daily=0, weekly=0, monthly=2, labelled=False, proven=3)),
        ("proven 1", NOTHING),
        ("last 0, daily 0, proven 1", NOTHING),
        ("labelled", replace(NOTHING, labelled=True, proven=3)),
    ],
)
def test_a_policy_is_read(text: str, policy: Policy) -> None:
    assert Policy.parse(text) == policy
    assert Policy.parse(str(policy)) == policy
    assert Policy.parse(policy) is policy


def test_the_default_is_written_as_the_documents_write_it() -> None:
    assert str(Policy()) == "last 7, daily 14, weekly 8, monthly 24, labelled, proven 3"
    assert str(NOTHING) == "proven 1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is none of: last N"),
        ("last", "'last' is none of"),
        ("last -1", "'last -1' is none of"),
        ("last 1.5", "'last 1.5' is none of"),
        ("last ٣", "'last ٣' is none of"),
        ("yearly 5", "'yearly 5' is none of"),
        ("last 7,", "'' is none of"),
        ("labelled 3", "'labelled 3' is none of"),
        ("last 999999", "'last 999999' is none of"),
        ("last 7, last 3", "last is said twice"),
        ("labelled, labelled", "labelled is said twice"),
        ("last 7, proven 0", "at least the newest proven one is kept"),
    ],
)
def test_what_is_no_policy_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Policy.parse(text)


# What the rules say, case by case.


def test_every_place_is_named() -> None:
    backups = [days_ago(each) for each in (0, 0.1, 1, 2, 9, 20, 50, 80, 110)]
    decisions = decide(backups, Policy.parse("last 2, daily 3, weekly 4, monthly 4, proven 1"), NOW)
    assert [(each.action, each.reasons) for each in decisions] == [
        (
            "keep",
            [
                "the newest proven one",
                "one of the 2 newest",
                "newest of 2026-11-22",
                "newest of 2026-W47",
                "newest of 2026-11",
            ],
        ),
        ("keep", ["one of the 2 newest"]),
        ("keep", ["newest of 2026-11-21"]),
        ("keep", ["newest of 2026-11-20"]),
        ("keep", ["newest of 2026-W46"]),
        ("keep", ["newest of 2026-W45"]),
        ("keep", ["newest of 2026-W40", "newest of 2026-10"]),
        ("keep", ["newest of 2026-09"]),
        ("keep", ["newest of 2026-08"]),
    ]


def test_the_weeks_of_a_new_year_are_iso_weeks() -> None:
    """The first of January 2027 is a Friday of week 53 of 2026."""
    friday, sunday, monday = [a_backup(datetime(2027, 1, day, tzinfo=UTC)) for day in (1, 3, 4)]
    decisions = decide([friday, sunday, monday], replace(NOTHING, weekly=2), monday.at)
    assert why(decisions, monday)[1] == ["the newest proven one", "newest of 2027-W01"]
    assert why(decisions, sunday) == ("keep", ["newest of 2026-W53"])
    assert why(decisions, friday) == ("expire", ["no rule keeps it"])


def test_what_is_not_proven_fills_no_place() -> None:
    """All newer ones are broken: the last that is not stays, whatever its age."""
    broken, proven = [days_ago(each, "broken") for each in range(40)], days_ago(300)
    older = days_ago(301)
    decisions = decide([*broken, proven, older], NOTHING, NOW)
    assert why(decisions, proven) == ("keep", ["the newest proven one"])
    assert removed(decisions) == {older.id: "expire"}
    assert why(decisions, broken[39]) == ("keep", [f"newer than the newest proven one, {proven.id}"])


def test_without_a_proven_one_nothing_expires() -> None:
    decisions = decide([days_ago(each, "stored") for each in range(0, 900, 30)], NOTHING, NOW)
    assert removed(decisions) == {}
    assert decisions[0].reasons == ["none is proven that could take its place"]


@pytest.mark.parametrize("state", ["stored", "suspect", "broken"])
def test_what_is_not_proven_expires_after_30_days(state: str) -> None:
    newest, young, old = days_ago(1), days_ago(29.9, state), days_ago(30, state, label="kept")
    decisions = decide([newest, young, old], NOTHING, NOW)
    assert why(decisions, young) == ("keep", [f"{state}, and not 30 days old"])
    assert why(decisions, old) == ("expire", [f"{state}, 30 days old, and {newest.id} is proven"])
    labelled = decide([newest, young, old], replace(NOTHING, labelled=True), NOW)
    assert why(labelled, old)[0] == ("expire" if state == "broken" else "keep")


def test_what_failed_is_cleaned_after_a_day() -> None:
    young, old, empty = [days_ago(each, "failed") for each in (0.9, 1, 400)]
    expired, cancelled = days_ago(500, "expired"), days_ago(2, "cancelled", label="kept")
    decisions = decide([young, old, replace(empty, has_data=False), expired, cancelled], Policy(), NOW)
    assert removed(decisions) == dict.fromkeys([old.id, cancelled.id, expired.id], "clean")
    assert why(decisions, young) == ("keep", ["failed, and not a day ago"])
    assert why(decisions, expired)[1] == ["it has expired, and data of it is left"]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"working": True}, "a worker is busy with it, or due"),
        ({"restored_by": "20261122T110000Z-00000000"}, "20261122T110000Z-00000000 restores it"),
        ({"unreadable": "manifest.json is of another format"}, "manifest.json is of another format"),
    ],
)
@pytest.mark.parametrize("state", ["proven", "broken", "failed", "expired"])
def test_what_somebody_is_at_work_on_is_not_touched(state: str, held: dict[str, Any], said: str) -> None:
    newest, old = days_ago(1), days_ago(400, state)
    assert old.id in removed(decide([newest, old], NOTHING, NOW))
    [reason] = why(decide([newest, replace(old, **held)], NOTHING, NOW), replace(old, **held))[1]
    assert said in reason


def test_what_is_being_proven_again_is_not_relied_upon() -> None:
    newest, older = days_ago(1, working=True), days_ago(2)
    decisions = decide([newest, older], NOTHING, NOW)
    assert removed(decisions) == {}
    assert why(decisions, older) == ("keep", ["the newest proven one"])


def test_an_id_from_the_future_is_kept_and_fills_no_place() -> None:
    ahead, soon, newest = days_ago(-400), days_ago(-1 / 24 / 60), days_ago(1)
    decisions = decide([ahead, newest], NOTHING, NOW)
    assert why(decisions, ahead) == ("keep", ["its id is from the future: the clock that made it was wrong"])
    assert why(decisions, newest) == ("keep", ["the newest proven one"])
    assert why(decide([soon, newest], NOTHING, NOW), newest)[0] == "expire", "clocks differ by some minutes"


def test_backups_of_some_tables_take_no_place_of_whole_ones() -> None:
    some, others, whole = days_ago(1, selection=("notes.tags",)), days_ago(2, selection=("a.b",)), days_ago(300)
    older = [replace(each, id=each.id.replace("2026", "2025")) for each in (some, others)]
    stored = days_ago(200, "stored")
    decisions = decide([some, others, whole, stored, *older], NOTHING, NOW)
    assert removed(decisions) == dict.fromkeys([each.id for each in older], "expire")
    assert why(decisions, some) == ("keep", ["the newest proven one of these tables"])
    assert why(decisions, whole) == ("keep", ["the newest proven one"])
    assert why(decisions, stored)[0] == "keep"


# Years of made-up backups.

STATES = ["proven"] * 6 + ["stored", "suspect", "broken", "failed", "cancelled", "expired", "running", "queued"]
HOURS = st.integers(-20, 24 * 800) | st.integers(-1, 24 * 40) | st.sampled_from([0, 23, 24, 719, 720])
BACKUPS = st.builds(
    lambda hours, state, label, selection, flags: a_backup(
        NOW - timedelta(hours=hours),
        state,
        label=label,
        selection=selection,
        working=flags == "working",
        restored_by="a restore" if flags == "restored" else None,
        unreadable="damaged" if flags == "unreadable" else None,
        has_data=flags != "empty",
    ),
    HOURS,
    st.sampled_from(STATES),
    st.sampled_from([None, None, None, "a label"]),
    st.sampled_from([None, None, None, ("notes.tags",)]),
    st.sampled_from([None] * 12 + ["working", "restored", "unreadable", "empty"]),
)
MANY = st.lists(BACKUPS, min_size=10, max_size=60, unique_by=lambda each: each.id) | st.lists(
    BACKUPS, max_size=3, unique_by=lambda each: each.id
)
NUMBERS = st.integers(0, 6)
POLICIES = st.builds(Policy, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans(), st.integers(1, 4))
QUICK = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def oracle(those: Sequence[Candidate], policy: Policy, now: datetime) -> dict[str, str]:
    """The rules once more, one backup at a time, by how many come before it."""
    fate = dict[str, str]()
    for one in those:
        fill = [
            each
            for each in those
            if each.selection == one.selection
            and each.state == "proven"
            and not (each.working or each.unreadable)
            and each.at - now <= timedelta(minutes=5)
        ]
        if one.working or one.restored_by or one.unreadable or one.at - now > timedelta(minutes=5):
            continue
        if one.state in ("failed", "cancelled", "expired"):
            rested = one.state == "expired" or now - one.written_at >= timedelta(hours=24)
            if one.has_data and rested:
                fate[one.id] = "clean"
        elif one.state == "proven":
            newer = [each for each in fill if each.id > one.id]
            of_age: list[tuple[int, Callable[[datetime], Any]]] = [
                (policy.daily, datetime.date),
                (policy.weekly, lambda at: (at - timedelta(days=at.weekday())).date()),
                (policy.monthly, lambda at: (at.year, at.month)),
            ]
            stays = len(newer) < max(policy.last, policy.proven, 1) or (policy.labelled and one.label)
            for number, period in of_age:
                periods = {period(each.at) for each in newer}
                stays = stays or (period(one.at) not in periods and len(periods) < number)
            if not stays:
                fate[one.id] = "expire"
        elif one.state in ("stored", "suspect", "broken"):
            newer = [each for each in fill if each.id > one.id]
            labelled = policy.labelled and one.label and one.state != "broken"
            if newer and not labelled and now - one.at >= timedelta(days=30):
                fate[one.id] = "expire"
    return fate


@given(MANY, POLICIES)
@QUICK
def test_it_decides_as_the_oracle_does(those: list[Candidate], policy: Policy) -> None:
    decisions = decide(those, policy, NOW)
    assert [each.candidate.id for each in decisions] == sorted((each.id for each in those), reverse=True)
    assert removed(decisions) == oracle(those, policy, NOW)
    assert all(each.reasons and all(each.reasons) for each in decisions)


MUTANTS = {
    "one more of the last": ("relied[: policy.last]", "relied[: policy.last + 1]"),
    "one less of the last": ("relied[: policy.last]", "relied[: max(0, policy.last - 1)]"),
    "no floor": ("in relied[: policy.proven]", "in relied[:0]"),
    "one less than the floor": ("in relied[: policy.proven]", "in relied[: policy.proven - 1]"),
    "the newest proven one is any": ("reasons[relied[0].id].append", "reasons[relied[-1].id].append"),
    "one day more": ("(_day, policy.daily)", "(_day, policy.daily + 1)"),
    "days are weeks": ("(_day, policy.daily)", "(_week, policy.daily)"),
    "no weeks": ("(_week, policy.weekly)", "(_week, 0)"),
    "weeks begin on Sunday": ("{at:%G-W%V}", "{at:%Y-W%U}"),
    "one month more": ("(_month, policy.monthly)", "(_month, policy.monthly + 1)"),
    "months of all years": ("{at:%Y-%m}", "{at:%m}"),
    "oldest of a day": ("newest.setdefault(name(each.at), each)", "newest[name(each.at)] = each"),
    "days in a row": ("list(newest.items())[:number]", "list(newest.items())[:number:2]"),
    "labels are nothing": ("if policy.labelled and each.label", "if False and each.label"),
    "labels are all": ("if policy.labelled and each.label", "if each.label"),
    "labels save what is broken": (' and each.state != "broken"', ""),
    "stored is proven": ('if each.state == "proven" and not', 'if each.state in ("proven", "stored") and not'),
    "broken is proven": ('if each.state == "proven" and not', 'if each.state in ("proven", "broken") and not'),
    "what is being proven is relied upon": ("and not each.working ", ""),
    "what cannot be read is relied upon": ("and not each.unreadable ", ""),
    "the future is relied upon": (" and not _ahead(each, now):", ":"),
    "the future is judged": ("if _ahead(each, now):", "if False:"),
    "what is held is judged": ("if each.held:", "if False:"),
    "selections are one": ("relied.setdefault(each.selection,", "relied.setdefault(None,"),
    "unproven ones go without a proven one": ("if newest is None:", "if False:"),
    "unproven ones go at once": ("now - each.at < UNPROVEN_KEPT", "False"),
    "a day less than 30": ("timedelta(days=30)", "timedelta(days=29)"),
    "30 days and a moment": ("now - each.at < UNPROVEN_KEPT", "now - each.at <= UNPROVEN_KEPT"),
    "newer than the proven one is nothing": ("if newest.id < each.id:", "if False:"),
    "what failed goes at once": ("now - each.written_at < FAILED_KEPT", "False"),
    "what failed stays": ("now - each.written_at < FAILED_KEPT", "True"),
    "a day is more than a day": ("each.written_at < FAILED_KEPT", "each.written_at <= FAILED_KEPT"),
    "what expired is left": ('if each.state == "expired":', "if False:"),
    "what has no data is cleaned": ("if not each.has_data:", "if False:"),
}


def mutant(old: str, new: str) -> Decide:
    """The module with one thing written otherwise."""
    source = Path(retention.__file__).read_text()
    assert source.count(old) == 1, f"{old!r} is not in the source: bring this table into step"
    namespace: dict[str, Any] = {"__name__": "mutant"}
    exec(compile(source.replace(old, new), "mutant", "exec"), namespace)  # noqa: S102  # it is our own source
    found: Decide = namespace["decide"]
    return found


Case: TypeAlias = tuple[list[Candidate], Policy, dict[str, str]]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Years of backups, and what the oracle says of each; made once, as every mutant meets them all."""
    chance = Random(20261122)  # the same cases, always
    return [a_case(chance) for _ in range(400)]


def a_case(chance: Random) -> Case:
    days, proven_before = chance.choice([3, 40, 400, 1200]), chance.choice([0, 0, 0, 35, 60])
    those = dict[str, Candidate]()
    for _ in range(chance.randrange(60)):
        hours = chance.choice([chance.randrange(-1, 24 * days), chance.choice([-1, 0, 23, 24, 719, 720])])
        flag = chance.choice([*[None] * 12, "working", "restored_by", "unreadable", "has_data"])
        each = a_backup(
            NOW - timedelta(hours=hours),
            state := chance.choice(STATES),
            label=chance.choice([None, None, None, "a label"]),
            selection=chance.choice([None, None, None, ("notes.tags",)]),
            **({flag: {"working": True, "has_data": False}.get(flag, "somebody")} if flag else {}),
        )
        recent = state == "proven" and 0 <= hours < 24 * proven_before
        those[each.id] = replace(each, state=chance.choice(["stored", "broken"])) if recent else each
    last, daily, weekly, monthly = [chance.randrange(7) for _ in range(4)]
    policy = Policy(last, daily, weekly, monthly, labelled=chance.random() < 0.5, proven=chance.randrange(1, 5))
    return [*those.values()], policy, oracle([*those.values()], policy, NOW)


def test_the_source_decides_as_the_oracle_does_in_every_case(cases: list[Case]) -> None:
    assert all(removed(decide(those, policy, NOW)) == expected for those, policy, expected in cases)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_oracle_has_teeth(name: str, cases: list[Case]) -> None:
    wrong = mutant(*MUTANTS[name])

    def agrees(those: list[Candidate], policy: Policy, expected: dict[str, str]) -> bool:
        try:
            return removed(wrong(those, policy, NOW)) == expected
        except AttributeError:
            return False  # it asked for the id of nothing

    assert not all(agrees(*case) for case in cases), "nobody noticed"


def after(those: Sequence[Candidate], decisions: Sequence[Decision]) -> list[Candidate]:
    gone = removed(decisions)
    return [each for each in those if each.id not in gone]


@given(MANY, POLICIES)
@QUICK
def test_applied_twice_changes_nothing_and_the_floors_hold(those: list[Candidate], policy: Policy) -> None:
    decisions = decide(those, policy, NOW)
    left = after(those, decisions)
    assert removed(decide(left, policy, NOW)) == {}
    for selection in {each.selection for each in those}:
        usable = [each.id for each in those if each.selection == selection and is_relied_upon(each)]
        assert sorted(usable)[-policy.proven :] == sorted({*usable} & {each.id for each in left})[-policy.proven :]
    assert {each.id for each in those if each.held} <= {each.id for each in left}


def is_relied_upon(each: Candidate) -> bool:
    return each.state == "proven" and not (each.working or each.unreadable) and each.at <= NOW + timedelta(minutes=5)


@given(MANY, POLICIES, st.sampled_from(["last", "daily", "weekly", "monthly", "labelled", "proven"]))
@QUICK
def test_a_policy_that_keeps_more_removes_nothing_else(those: list[Candidate], policy: Policy, name: str) -> None:
    more = replace(policy, **{name: True if name == "labelled" else getattr(policy, name) + 1})
    assert removed(decide(those, more, NOW)).items() <= removed(decide(those, policy, NOW)).items()


@given(MANY, POLICIES, st.integers(0, 40))
@QUICK
def test_what_expires_goes_on_to_expire_while_nothing_new_comes(
    those: list[Candidate], policy: Policy, days: int
) -> None:
    """And no proof: what is late to be applied is no other plan, but for what has grown old since."""
    known = [each for each in those if each.at <= NOW]
    later = decide(known, policy, NOW + timedelta(days=days))
    assert removed(decide(known, policy, NOW)).items() <= removed(later).items()
