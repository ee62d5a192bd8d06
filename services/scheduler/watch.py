"""Backups as the backup API lists them: how old the last proven one is, and those that nobody follows.

A backup that somebody else asked for gets a run of its own, which follows it to its end: one that is killed would be
told to nobody.
"""

import json
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from scheduler import alarms, db, runs
from scheduler.backups import Backup, Backups
from scheduler.runs import New

LOOK_EVERY = timedelta(minutes=5)
# A run of ours may be waiting for the answer that names its backup.
LET_BE = timedelta(minutes=2)

_MINE = text("""
    update scheduler.watch set looked_at = now() where looked_at < now() - cast(:every as interval)
    returning now(), since
""")
_KNOWN = text("select backup_id from scheduler.runs where backup_id = any(:ids) and target->>'kind' = 'backup'")
_PROVEN = text("""
    update scheduler.watch set last_proven_id = :id, last_proven_at = :at, proven_within_seconds = :within_seconds
    returning since, coalesce(last_proven_at, since) as proven_at, now() as now
""")
# What is as it was is not written: a backup of this table would differ from the last one for nothing.
_SEEN = text("""
    insert into scheduler.backups as known (id, state, label, created_at, seconds, rows, bytes, reason)
    select id, state, label, created_at, seconds, rows, bytes, reason
    from jsonb_to_recordset(cast(:seen as jsonb)) as seen (
        id text, state text, label text, created_at timestamptz, seconds float, rows bigint, bytes bigint, reason text
    )
    on conflict (id) do update set
        state = excluded.state, label = excluded.label, seconds = excluded.seconds, rows = excluded.rows,
        bytes = excluded.bytes, reason = excluded.reason
    where known.* is distinct from excluded.*
""")
_SEEN_NOW = text("update scheduler.watch set seen_at = now()")
_SOON = text("""
    update scheduler.watch set looked_at = now() - cast(:every as interval) - interval '1 second'
    where looked_at > now() - cast(:every as interval)
""")
_LAST = text("select last_proven_id as id, last_proven_at as at from scheduler.watch")

log = logging.getLogger(__name__)


async def look(engine: AsyncEngine, backups: Backups, proven_within: timedelta) -> bool:
    """Look, unless somebody did so lately. Raises AnswerError, and the alarm is due then, too."""
    async with db.transaction(engine) as session:
        mine = (await session.execute(_MINE, {"every": LOOK_EVERY})).one_or_none()
    if mine is None:
        return False
    now, since = mine
    listed: list[Backup] | None = None
    try:
        listed = (await backups.page()).items
    finally:
        async with db.transaction(engine) as session:
            await _judge(session, listed, now, proven_within)
            await _adopt(session, listed or [], now, since)
            if listed is not None:
                await note(session, listed)
    return True


async def note(session: AsyncSession, listed: Sequence[Backup]) -> None:
    """Keep them as they are seen now: what is known of backups when nobody can be asked."""
    seen = [
        {
            **each.model_dump(mode="json", include={"id", "state", "label", "created_at", "rows", "bytes", "reason"}),
            "seconds": (each.ended_at - (each.started_at or each.created_at)).total_seconds()
            if each.ended_at
            else None,
        }
        for each in {each.id: each for each in listed}.values()
    ]
    await session.execute(_SEEN, {"seen": json.dumps(seen)})
    await session.execute(_SEEN_NOW)


async def soon(session: AsyncSession) -> None:
    """Have whoever looks next do so at once, since a backup has just ended."""
    await session.execute(_SOON, {"every": LOOK_EVERY})


async def _judge(session: AsyncSession, listed: list[Backup] | None, now: datetime, proven_within: timedelta) -> None:
    """What was proven stays so while it is not among those that are listed: they are the newest hundred.

    One of the future is none: it would hide for as long that others are too old.
    """
    last = (await session.execute(_LAST)).one()
    proven_id, proven_at = last
    if listed is not None:
        if proven_id in {each.id for each in listed}:
            proven_id = proven_at = None
        proven = [each for each in listed if each.state == "proven" and each.created_at <= now]
        if newest := max(proven, key=lambda each: each.created_at, default=None):
            proven_id, proven_at = newest.id, newest.created_at
    within_seconds = int(proven_within.total_seconds())
    found = (await session.execute(_PROVEN, {"id": proven_id, "at": proven_at, "within_seconds": within_seconds})).one()
    if found.now - found.proven_at <= proven_within:
        await alarms.close(session, "stale", "backups", f"Backup {proven_id} is proven.")
        return
    said = f"The newest backup that is proven is of {_readable(proven_at)}" if proven_at else "No backup is proven"
    limit = f"{proven_within / timedelta(hours=1):g} hours"
    await alarms.raise_(session, "stale", "backups", f"{said}: there is to be one within {limit}.")


async def _adopt(session: AsyncSession, listed: list[Backup], now: datetime, since: datetime) -> None:
    """Those that are being made, and those that ended without a word."""
    alone = [each for each in listed if since < each.created_at < now - LET_BE and not each.announced]
    known = set(await session.scalars(_KNOWN, {"ids": [each.id for each in alone]}))
    found = {each.id: each.created_at for each in alone if each.id not in known}
    target = {"kind": "backup", "adopted": True}
    await runs.make(session, [New("adopted", at, None, target, backup_id=one) for one, at in found.items()])
    if found:
        log.info("adopted: %s", ", ".join(found))


def _readable(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
