"""A worker's memory does not grow with the table."""

import tracemalloc

from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, a_long_time

MEBIBYTE = 1024 * 1024


async def test_twice_the_rows_take_no_more_memory(worker: Worker, world: World, owner: Connection) -> None:
    """The smaller table already fills every queue and every part in flight."""
    await owner.execute(
        "create table notes.notes (id int generated always as identity primary key, body text);"
        "create procedure notes.add(rows int) language sql as"
        " $$ insert into notes.notes (body)"
        " select (select string_agg(md5(i::text || j), '') from generate_series(1, 31) as j)"
        " from generate_series(1, rows) as i $$"
    )
    peaks = []
    for megabytes in (35, 35):
        await owner.execute(f"call notes.add({megabytes * 1000})")
        backup_id = await world.wish()
        tracemalloc.start()
        assert await worker.back_up(backup_id, a_long_time) == "stored"
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 48 * MEBIBYTE
