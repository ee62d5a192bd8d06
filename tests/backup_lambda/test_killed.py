"""A worker that dies between any two of its writes, and what comes after it: one end, announced, nothing left behind.

In place of SIGKILL a write raises what nothing catches, and so does every call after it: before the write arrives, or
after it arrived and before its answer does.
"""

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from backup_lambda import backups, signing
from backup_lambda.schemas import Backup
from backup_lambda.verify import verify
from backup_lambda.worker import Worker
from tests.backup_lambda.world import SIGNER, Connection, World, a_long_time, utc_now, worker_for
from tests.servers import Cluster

When = Literal["before", "after"]
FIRST_AFTER_THE_LEASE = 3  # which is tried to be made, and then taken over
WRITES = {"s3": ("PutObject", "CompleteMultipartUpload"), "sns": ("Publish",)}


class Killed(BaseException):
    """The process is dead."""


class Death:
    """Strikes at the n-th write."""

    def __init__(self, world: World, when: When) -> None:
        self._left = 0
        self.dead = self.struck = self.near_the_notice = False
        event = {"before": "before-send", "after": "response-received"}[when]
        for name, client in (("s3", world.s3), ("sns", world.sns)):
            client.meta.events.register_first(f"before-send.{name}", self._refuse)
            for operation in WRITES[name]:
                client.meta.events.register_last(f"{event}.{name}.{operation}", self._strike)

    @contextmanager
    def at_write(self, number: int) -> Iterator[None]:
        self._left, self.dead, self.struck, self.near_the_notice = number, False, False, False
        try:
            yield
        except Killed:
            assert self.dead
        finally:
            self._left, self.dead = 0, False

    async def _refuse(self, **_: Any) -> None:
        if self.dead:
            raise Killed

    async def _strike(self, event_name: str, **_: Any) -> None:
        self._left -= 1
        if event_name.endswith("Publish") and self._left in {0, 1}:
            self.near_the_notice = True  # it is published, or the next write is to say so
        if self._left == 0:
            self.dead = self.struck = True
            raise Killed


@pytest.fixture(autouse=True)
async def notes(owner: Connection) -> None:
    await owner.execute(
        "create table notes.notes as select i as id, 'text' as body from generate_series(1, 3) i;"
        "alter table notes.notes add primary key (id)"
    )


@pytest.fixture
async def scratch(cluster: Cluster, owner: Connection) -> AsyncIterator[None]:
    """The databases of the server are the same afterwards."""
    before = await owner.fetch("select datname from pg_database order by 1")
    yield
    assert await owner.fetch("select datname from pg_database order by 1") == before


async def the_one_end(world: World, backup_id: str, notices: list[dict[str, Any]]) -> Backup:
    """What is true of every end: it is shown, was announced, and nothing is left open."""
    shown = await backups.show(world.store, backup_id, utc_now)
    assert (shown.announced, shown.progress) == (True, None)
    events = [json.loads(each["Message"]) for each in notices]
    assert {each["subject"] for each in events} == {backup_id}
    assert len({each["id"] for each in events}) == 1, "whoever is told twice can tell"
    assert await world.open_uploads() == []
    names = await world.store.names(f"backups/{backup_id}/")
    assert len(names & {"manifest.json", "failure.json"}) == 1
    return shown


async def nothing_is_amiss(world: World) -> None:
    """In all of the bucket."""
    report = await verify(world.store, {signing.fingerprint(await SIGNER.public_key())}, read_data=True)
    assert report.findings == []


async def made_by_two(
    world: World, worker: Worker, death: Death, number: int, outcome: str = ""
) -> tuple[str, list[dict[str, Any]]]:
    """A backup whose first worker dies at this write, and whose second one lives; its id, and what was published."""
    backup_id = await world.wish()
    if outcome == "cancelled":
        cancel = {"requested_by": "ops", "requested_at": utc_now()}
        await world.write(f"backups/{backup_id}/cancel.json", cancel)
    with death.at_write(number):
        await worker.back_up(backup_id, a_long_time)
    notices = await world.notices()
    if death.struck:
        if "progress.json" in await world.store.names(f"backups/{backup_id}/"):
            await world.let_die(backup_id)
        await worker.back_up(backup_id, a_long_time)
        again = await world.notices()
        assert len(notices + again) == 1 or death.near_the_notice
        notices += again
    return backup_id, notices


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("proves", [False, True], ids=["stores", "proves"])
@pytest.mark.usefixtures("scratch")
async def test_another_attempt_ends_what_a_dead_worker_began(
    world: World, cluster: Cluster, database: str, when: When, proves: bool
) -> None:
    proof_url = cluster.url("notes_proof", "postgres") if proves else ""
    worker, death = worker_for(world, cluster.url("notes_backup", database), proof_url), Death(world, when)
    for number in itertools.count(1):
        backup_id, notices = await made_by_two(world, worker, death, number)
        shown = await the_one_end(world, backup_id, notices)
        assert shown.state == ("proven" if proves else "stored")
        assert len(await world.keys(f"backups/{backup_id}/proof/")) == 2 * proves, "a record, and its signature"
        if not death.struck:
            break
    assert number > (11 if proves else 7), "it died at every write"
    await nothing_is_amiss(world)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
async def test_a_backup_without_a_manifest_ends_once_too(
    world: World, cluster: Cluster, database: str, when: When, outcome: str
) -> None:
    url = "nonsense" if outcome == "failed" else cluster.url("notes_backup", database)
    worker, death = worker_for(world, url), Death(world, when)
    for number in itertools.count(1):
        backup_id, notices = await made_by_two(world, worker, death, number, outcome)
        assert (await the_one_end(world, backup_id, notices)).state == outcome
        if not death.struck:
            break
    assert number > 4, "it died at every write"


@pytest.mark.parametrize("proves", [False, True], ids=["stores", "proves"])
@pytest.mark.usefixtures("scratch")
async def test_the_next_worker_ends_what_two_dead_ones_left(
    world: World, cluster: Cluster, database: str, proves: bool
) -> None:
    proof_url = cluster.url("notes_proof", "postgres") if proves else ""
    worker, death = worker_for(world, cluster.url("notes_backup", database), proof_url), Death(world, "before")
    states = []
    for number in itertools.count(2):  # without the first write nobody ever came
        backup_id = await world.wish()
        with death.at_write(number):
            await worker.back_up(backup_id, a_long_time)
        notices = await world.notices()
        if not death.struck:
            break
        await world.lose(backup_id)
        with death.at_write(FIRST_AFTER_THE_LEASE):
            await worker.back_up(backup_id, a_long_time)
        await world.lose(backup_id)
        await worker.keep_house(a_long_time)
        notices += await world.notices()
        states.append((await the_one_end(world, backup_id, notices)).state)
    ends = {"failed", "stored", "proven"} if proves else {"failed", "stored"}
    assert set(states) == ends
    assert states == sorted(states, key=sorted(ends, key="failed stored proven".index).index), "nothing gets worse"
    await nothing_is_amiss(world)
