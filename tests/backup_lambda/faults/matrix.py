"""What every test of a fault ends in: the end is looked at from outside, and recorded for the count."""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backup_lambda import backups
from backup_lambda.schemas import Backup
from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_long_time, until, utc_now

Outcome = Literal["proven", "reported", "false success"]
BAD_NEWS = {"failed", "cancelled", "broken", "suspect", "stored"}
LEFT_OVER = """
select (select count(*) from pg_stat_activity where usename in ('notes_backup', 'notes_proof')) as sessions,
       (select count(*) from pg_prepared_xacts) as prepared,
       array(select datname::text from pg_database where datdba = 'notes_proof'::regrole) as scratch
"""


@dataclass(frozen=True)
class Record:
    """How one fault ended."""

    title: str
    outcome: Outcome
    state: str
    reason: str


@dataclass
class End:
    """Of one test. It is called once, at its end."""

    title: str
    world: World
    servers: Sequence[Connection]  # as superuser, on every server that took part
    healthy: Worker  # that nothing is wrong with
    truth: Mapping[str, str]  # the digest of each table's rows
    records: list[Record]
    recorded: bool = False

    async def __call__(
        self,
        backup_id: str,
        *states: str,
        reason: str = "",
        announced: bool = True,
        notices: Sequence[int] = (1,),
        uploads_left: bool = False,
    ) -> Backup:
        """Asserts what is true after every fault, and that the backup is in one of these states for this reason.

        `notices` are the numbers of notices that may have come by now. `uploads_left` is for a worker that was killed,
        and so could abort nothing: the bucket's lifecycle rule does.
        """
        shown = await backups.show(self.world.store, backup_id, utc_now)
        await self._record(shown, states)
        assert shown.state in states, f"{shown.state}: {shown.reason}"
        assert reason in (shown.reason or ""), shown.reason
        assert shown.announced is announced
        await self._nothing_is_left_behind(backup_id, uploads_left=uploads_left)
        await self._it_was_told(shown, notices)
        if announced:
            await self._it_is_the_end(backup_id)
        return shown

    async def _record(self, shown: Backup, states: Sequence[str]) -> None:
        claims = shown.state == "proven" or (shown.state == "stored" and shown.reason is None)
        true = "proven" in states and shown.state == "proven" and await self._is_what_was_there(shown)
        outcome: Outcome = ("proven" if true else "false success") if claims else "reported"
        self.recorded = True
        self.records.append(Record(self.title, outcome, shown.state, shown.reason or ""))
        assert outcome != "false success", "a success was told that is none"
        assert claims or (shown.state in BAD_NEWS and shown.reason), f"{shown.state} without a reason"

    async def _is_what_was_there(self, shown: Backup) -> bool:
        """Read without Holdfast: whoever has only the files and gzip must find all rows."""
        manifest = await self.world.read_json(f"{folder(shown.id)}manifest.json")
        found = {}
        for table in manifest["tables"]:
            rows = gzip.decompress(await self.world.read(folder(shown.id) + table["object"]))
            found[table["name"]] = hashlib.md5(rows, usedforsecurity=False).hexdigest()
        return found == self.truth

    async def _nothing_is_left_behind(self, backup_id: str, *, uploads_left: bool) -> None:
        assert uploads_left or await self.world.open_uploads() == []
        for server in self.servers:

            async def quiet(server: Connection = server) -> bool:
                found = await server.fetchrow(LEFT_OVER)
                assert found is not None
                assert (found["scratch"], found["prepared"]) == ([], 0)
                return bool(found["sessions"] == 0)

            await until(quiet, 10)  # PostgreSQL notices a moment later that a client has gone
        names = {key.removeprefix(folder(backup_id)) for key in await self.world.keys(folder(backup_id))}
        assert not {"manifest.json", "failure.json"} <= names
        if "progress.json" in names:
            progress = await self.world.read_json(f"{folder(backup_id)}progress.json")
            assert progress["announced"] or progress["reason"] or progress["lease_until"] <= utc_now().isoformat()

    async def _it_was_told(self, shown: Backup, notices: Sequence[int]) -> None:
        told = [each for each in await told_of(self.world) if each["subject"] == shown.id]
        assert len(told) in notices, [each["type"] for each in told]
        for event in told[-1:]:
            assert event["type"] == f"backup.{shown.state}"
            assert event["data"]["backup"]["reason"] == shown.reason
            assert "hunter2" not in json.dumps(event)

    async def _it_is_the_end(self, backup_id: str) -> None:
        before = await self.world.store.etags(folder(backup_id))
        assert await self.healthy.back_up(backup_id, a_long_time) == "left alone"
        assert await self.world.store.etags(folder(backup_id)) == before
        assert await self.world.notices() == []


def folder(backup_id: str) -> str:
    return f"backups/{backup_id}/"


async def told_of(world: World) -> list[dict[str, Any]]:
    """The events that SNS delivered since somebody looked."""
    return [json.loads(each["Message"]) for each in await world.notices()]


def summary(records: Sequence[Record]) -> str:
    counts = {outcome: sum(each.outcome == outcome for each in records) for outcome in ("proven", "reported")}
    false = sum(each.outcome == "false success" for each in records)
    return (
        f"fault matrix: {len(records)} faults: {counts['proven']} proven, {counts['reported']} reported,"
        f" {false} false success{'' if false == 1 else 'es'}"
    )
