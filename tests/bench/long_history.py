"""A year of runs, as the scheduler would have left them: of 200 schedules, one of which is due every minute."""

from datetime import datetime, timedelta

import asyncpg

SCHEDULES = 200
EVERY_SECONDS = 13_200  # of all but the one
RUNS_A_DAY = 1440 + (SCHEDULES - 1) * 86_400 / EVERY_SECONDS
EVERY_MINUTE = "every minute"

_SCHEDULES = f"""
    insert into scheduler.schedules (
        name, cron, every_seconds, timezone, target, anchor_at, next_due_at, accounted_from, audited_until, created_at
    )
    select
        case n when 0 then '{EVERY_MINUTE}' else 'schedule ' || n end, case n when 0 then '* * * * *' end,
        case when n > 0 then {EVERY_SECONDS} end, 'UTC', '{{"kind": "backup"}}',
        cast($1 as timestamptz) + n * interval '1 minute', now() + interval '1 day', $1, now(), $1
    from generate_series(0, {SCHEDULES - 1}) as n
"""
_REVISIONS = """
    insert into scheduler.schedule_revisions (schedule_id, revision, since, change, live, definition)
    select id, 1, created_at, 'created', true, jsonb_build_object(
        'cron', cron, 'every_seconds', every_seconds, 'timezone', timezone, 'anchor_at', anchor_at)
    from scheduler.schedules
"""
# Rows of a size that real ones have; in a hundred of them, one failed, one was skipped and one missed.
_RUNS = """
    insert into scheduler.runs (
        id, schedule_id, trigger, due_at, revision, target, retry, state, reason, backup_id, progress, events,
        exclusive, wake_at, deadline_at, overdue_at, too_long_at, created_at, dispatched_at, started_at, accepted_at,
        ended_at
    )
    select
        uuidv7(due_at - now()), s.id, 'schedule', due_at, 1, s.target, s.retry, state,
        case when state <> 'succeeded' then 'Something that takes a sentence or two to say, as reasons do.' end,
        case when state = 'succeeded' then to_char(due_at, 'YYYYMMDD"T"HH24MISS"Z-"') || left(md5(s.id::text), 8) end,
        '{"stage": "stored", "rows": 123456, "bytes": 123456789, "percent": 100}',
        (select jsonb_agg(jsonb_build_object('at', due_at, 'event', name))
         from unnest(array['recorded', 'dispatched', 'claimed', 'accepted', 'succeeded']) as name),
        true, due_at, due_at + interval '6 hours', due_at + interval '5 minutes', due_at + interval '3 hours',
        due_at, due_at, due_at, due_at, due_at + interval '40 seconds'
    from scheduler.schedules s
    cross join lateral generate_series(
        date_bin(make_interval(secs => coalesce(every_seconds, 60)), $1, anchor_at)
            + make_interval(secs => coalesce(every_seconds, 60)),
        $2, make_interval(secs => coalesce(every_seconds, 60))
    ) as due_at
    cross join lateral (
        select coalesce(
            (array['failed', 'skipped', 'missed'])[1 + abs(hashtext(s.name || due_at::text)) % 100], 'succeeded'
        )
    ) as chosen (state)
    order by due_at
"""


async def fill(url: str, count: int) -> datetime:
    """About so many runs, the last of which were due at the moment that is returned."""
    connection = await asyncpg.connect(url)
    try:
        until: datetime = await connection.fetchval("select date_trunc('minute', now() - interval '1 minute')")
        since = until.replace(second=0) - timedelta(minutes=int(count / RUNS_A_DAY * 1440))
        await connection.execute(_SCHEDULES, since)
        await connection.execute(_REVISIONS)
        day = since
        while day < until:  # a statement for each month, so that none takes minutes
            next_day = min(day + timedelta(days=30), until)
            await connection.execute(_RUNS, day, next_day)
            day = next_day
        await connection.execute("vacuum (analyze) scheduler.runs")
        await connection.execute("vacuum (analyze) scheduler.schedules")
        await connection.execute("checkpoint")
        return until
    finally:
        await connection.close()
