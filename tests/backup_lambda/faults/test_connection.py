"""The connection to PostgreSQL is cut, stalls, or gives something else than was sent."""

import asyncio
from collections.abc import Callable

import pytest

from backup_lambda.guards import KEPT_SECONDS
from backup_lambda.worker import Worker, no_end
from tests.backup_lambda.faults import wire
from tests.backup_lambda.faults.invoking import failed
from tests.backup_lambda.faults.matrix import End
from tests.backup_lambda.faults.source import ROWS
from tests.backup_lambda.faults.wire import Wire, wired
from tests.backup_lambda.world import World, a_long_time

MakeWorker = Callable[[str, str], Worker]
LAST_ROW = b'{"id":%d,' % ROWS
TAG = b"COPY %d\0" % ROWS


@pytest.mark.fault("the connection to the database is cut")
@pytest.mark.parametrize(
    ("change", "sent"),
    [
        (wire.cut_at(b"", 0), wire.same),
        (wire.cut_at(b"N", 1), wire.same),
        (wire.same, wire.cut_at(b"begin isolation", 10)),
        (wire.same, wire.cut_at(b"lock table", 4)),
        (wire.cut_at(b'{"id":1,', 0), wire.same),
        (wire.cut_at(b'{"id":1,', 8), wire.same),
        (wire.cut_at(b'{"id":1100,', 300), wire.same),
        (wire.cut_at(LAST_ROW, 500), wire.same),
        (wire.cut_at(TAG, 0), wire.same),
        (wire.cut_at(TAG, 6), wire.same),
    ],
    ids=[
        "at once",
        "after a byte",
        "at begin",
        "at the lock",
        "before the first row",
        "in the first row",
        "in the middle of a row",
        "in the last row",
        "before the tag of COPY",
        "in the tag of COPY",
    ],
)
async def test_it_is_cut(
    gated_worker: MakeWorker, source_url: str, proof_url: str, world: World, ends: End, change: Wire, sent: Wire
) -> None:
    async with wired(source_url, change, sent=sent) as url:
        backup_id = await failed(gated_worker(url, proof_url), world)
    await ends(backup_id, "failed", reason="PostgreSQL: ")


@pytest.mark.fault("the connection to the database stalls")
@pytest.mark.parametrize(
    "mark", [b'{"id":1,', b'{"id":1100,', LAST_ROW, TAG], ids=["first row", "middle", "last", "tag"]
)
async def test_it_stalls(
    gated_worker: MakeWorker, source_url: str, proof_url: str, world: World, ends: End, mark: bytes
) -> None:
    """Until the invocation's time is over."""
    stalled = asyncio.Event()

    def seconds_left() -> float:
        return KEPT_SECONDS - 1.0 if stalled.is_set() else KEPT_SECONDS + 0.5

    async with wired(source_url, wire.at(mark, stalled.set, asyncio.Event().wait)) as url:
        backup_id = await failed(gated_worker(url, proof_url), world, seconds_left)
    assert stalled.is_set()
    await ends(backup_id, "failed", reason="deadline: ")


@pytest.mark.fault("on the way from the database")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wire.altered(TAG, b"COPY %d\0" % (ROWS + 1)), f"copied {ROWS + 1:,}, streamed {ROWS:,}"),
        (wire.lost(b'{"id":1100,'), f"copied {ROWS:,}, streamed {ROWS - 1:,}"),
        (wire.doubled(b'{"id":1100,'), f"copied {ROWS:,}, streamed {ROWS + 1:,}"),
        (
            wire.both(wire.lost(b'{"id":1100,'), wire.altered(TAG, b"COPY %d\0" % (ROWS - 1))),
            f"counted {ROWS:,}, copied {ROWS - 1:,}, streamed {ROWS - 1:,}",
        ),
        (wire.altered(b'{"id":1,', b'{"id":x,'), "a row is not the JSON of a row"),  # where a block begins, it is read
    ],
    ids=[
        "the tag of COPY is altered",
        "a row is lost",
        "a row is doubled",
        "a row is lost, and the tag agrees",
        "the first row is no JSON any more",
    ],
)
async def test_rows_are_not_as_many(
    gated_worker: MakeWorker, source_url: str, proof_url: str, world: World, ends: End, change: Wire, reason: str
) -> None:
    async with wired(source_url, change) as url:
        backup_id = await failed(gated_worker(url, proof_url), world)
    await ends(backup_id, "failed", reason=reason)


@pytest.mark.fault("on the way from the database, and all counts agree")
@pytest.mark.parametrize(
    "change",
    [
        wire.altered(b'{"id":1150,', b'{"id":9150,'),
        wire.altered(b'{"id":1150,', b'{"id":11x0,'),
        wire.altered(b'"exact":12345678901234567990.12', b'"exact":12345678901234567991.12'),
    ],
    ids=["a key is altered", "a row is no JSON any more", "a number is altered"],
)
async def test_bytes_are_altered(
    gated_worker: MakeWorker, source_url: str, proof_url: str, world: World, ends: End, change: Wire
) -> None:
    """What is stored is what arrived; only PostgreSQL's own hash of the rows tells, which the proof asks for."""
    async with wired(source_url, change) as url:
        backup_id = await world.wish()
        assert await gated_worker(url, proof_url).back_up(backup_id, a_long_time) == "broken"
    await ends(backup_id, "broken")


@pytest.mark.fault("the connection to the database is silent for ever, and the process has no end")
@pytest.mark.parametrize(
    ("mark", "stage"), [(b'" as t\0', "counting"), (b'{"id":1100,', "copying")], ids=["counting", "copying"]
)
async def test_it_is_silent_for_ever(
    gated_worker: MakeWorker,
    source_url: str,
    proof_url: str,
    world: World,
    ends: End,
    mark: bytes,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backup_lambda.guards.STALLED_SECONDS", 1.0)
    stall = wire.at(mark, asyncio.Event().wait)
    async with wired(source_url, stall, sent=stall) as url:
        backup_id = await failed(gated_worker(url, proof_url), world, no_end)
    await ends(backup_id, "failed", reason=f"in the stage '{stage}': nothing moved")


@pytest.mark.fault("the connection to the proof server is silent for ever, and the process has no end")
async def test_the_proof_server_is_silent_for_ever(
    gated_worker: MakeWorker,
    source_url: str,
    proof_url: str,
    world: World,
    ends: End,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backup_lambda.guards.STALLED_SECONDS", 2.0)
    backup_id = await world.wish()
    async with wired(proof_url, sent=wire.at(b"insert into", asyncio.Event().wait)) as url:
        assert await gated_worker(source_url, url).back_up(backup_id, no_end) == "stored"
    await ends(backup_id, "stored", reason="not proven: PostgreSQL or S3 was silent for ")
