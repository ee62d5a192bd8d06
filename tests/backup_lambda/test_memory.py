"""A worker's memory does not grow with the table."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_long_time, worker_for
from tests.servers import Aws, Cluster

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1024 * 1024
ROWS = """
create table notes.notes (id int generated always as identity primary key, body text);
create procedure notes.add(rows int) language sql as
 $$ insert into notes.notes (body)
 select (select string_agg(md5(i::text || j), '') from generate_series(1, 31) as j)
 from generate_series(1, rows) as i $$
"""


async def test_twice_the_rows_take_no_more_memory(
    cluster: Cluster, database: str, world: World, owner: Connection
) -> None:
    """The smaller table already fills every queue and every part in flight, or nearly: how full they get varies."""
    worker = worker_for(world, cluster.url("notes_backup", database))
    await owner.execute(ROWS)
    peaks = []
    for megabytes in (70, 70):
        await owner.execute(f"call notes.add({megabytes * 1000})")
        backup_id = await world.wish()
        tracemalloc.start()
        assert await worker.back_up(backup_id, a_long_time) == "stored"
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 10 * MEBIBYTE
    assert peaks[1] < 48 * MEBIBYTE


def test_a_process_with_256_mebibytes_is_enough(aws: Aws, cluster: Cluster, database: str) -> None:
    """Its proof included, and all that the system counts: the interpreter, its modules, what was freed and is kept."""
    rows = [ROWS, "call notes.add(100000)", "grant select on all tables in schema notes to notes_backup"]
    rows.append("grant select on all sequences in schema notes to notes_backup")
    cluster.server.psql(database, rows)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.measured", "dump_and_proof"],
        check=True,
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "services")]),
            "BENCH_URL": cluster.url("notes_backup", database),
            "BENCH_PROOF_URL": cluster.url("notes_proof", "postgres"),
            **aws.variables,
        },
        stdout=subprocess.PIPE,
    )
    assert json.loads(done.stdout)["peak_bytes"] < 200 * MEBIBYTE  # the rest is for the runtime around it


async def test_a_row_of_100_megabytes_comes_back(worker: Worker, world: World, owner: Connection) -> None:
    await owner.execute(
        "create table notes.huge (body text, id int primary key);"  # the key comes last: all of the row is looked at
        r"""insert into notes.huge values (repeat(E'a \\ "quoted" line\n', 6000000), 2), ('small', 1), ('small', 3)"""
    )
    assert await owner.fetchval("select max(octet_length(body)) from notes.huge") > 100_000_000
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    [entry] = (await world.read_json(f"backups/{backup_id}/manifest.json"))["tables"]
    assert entry["rows"] == 3
    wanted = await owner.fetchval("select sum(octet_length(row_to_json(h)::text) + 1) from notes.huge h")
    assert entry["bytes"] == wanted
