"""What a worker leaves in the bucket, for tests that need a backup in a state and no database."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from backup_lambda.lease import Progress
from backup_lambda.manifest import Manifest, SchemaSql, TableEntry
from backup_lambda.proof import Proof
from backup_lambda.replica import Difference
from tests.backup_lambda.world import World, utc_now

AT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
REASONS = {
    "unfinished": "the proof server is away",
    "broken": "block of notes.notes, block 3: expected f1d2, found 0000",
}
DIFFERENCE = Difference(what="block", where="notes.notes, block 3", expected="f1d2", found="0000")


def a_table(name: str = "notes.notes", rows: int = 12, **changes: Any) -> TableEntry:
    values = {
        "name": name,
        "catalogue": {},
        "primary_key": ["id"],
        "rows": rows,
        "bytes": 100 * rows,
        "stored_bytes": 30 * rows,
        "sha256": "5" * 64,
        "row_hash": "1",
        "object": f"data/{name}.json.gz",
        "index": f"index/{name}.json.gz",
        "index_sha256": "6" * 64,
        "etag": '"0"',
    }
    return TableEntry.model_validate(values | changes)


def a_manifest(request: dict[str, Any], **changes: Any) -> Manifest:
    values = {
        "id": request["id"],
        "created_at": request["created_at"],
        "request": request,
        "started_at": request["created_at"],
        "ended_at": AT + timedelta(minutes=3),
        "duration_seconds": 180.0,
        "database": {"name": "holdfast"},
        "snapshot": {},
        "schema_revision": {},
        "schema_sql": SchemaSql(before_rows=[], after_rows=[]),
        "sequences": [],
        "tables": [a_table()],
        "not_backed_up": [],
        "previous": None,
    }
    return Manifest.model_validate(values | changes)


def a_proof(backup_id: str, number: int = 1, verdict: str = "proven", **changes: Any) -> Proof:
    values = {
        "number": number,
        "backup_id": backup_id,
        "verdict": verdict,
        "reason": REASONS.get(verdict),
        "requested_by": None,
        "accepts_suspect": False,
        "started_at": AT + timedelta(minutes=3),
        "ended_at": AT + timedelta(minutes=5),
        "server": "" if verdict == "unfinished" else "18.1",
        "manifest_sha256": "7" * 64,
        "tables": 1,
        "rows": 12,
        "bytes": 1200,
        "differences": [DIFFERENCE] if verdict == "broken" else [],
        "differences_found": int(verdict == "broken"),
        "app_version": "1",
    }
    return Proof.model_validate(values | changes)


async def have_manifest(world: World, backup_id: str, **changes: Any) -> str:
    """The manifest of a backup that was asked for; its SHA-256."""
    body = a_manifest(await world.read_json(f"backups/{backup_id}/request.json"), **changes).body()
    await world.s3.put_object(Bucket=world.bucket, Key=f"backups/{backup_id}/manifest.json", Body=body)
    return hashlib.sha256(body).hexdigest()


async def have_proof(world: World, backup_id: str, number: int = 1, verdict: str = "proven", **changes: Any) -> None:
    """Of the manifest as it is, if there is one."""
    if "manifest.json" in await world.store.names(f"backups/{backup_id}/"):
        manifest = await world.read(f"backups/{backup_id}/manifest.json")
        changes = {"manifest_sha256": hashlib.sha256(manifest).hexdigest()} | changes
    proof = a_proof(backup_id, number, verdict, **changes)
    await world.write(f"backups/{backup_id}/proof/{number}.json", proof.model_dump(mode="json"))


async def have_failure(world: World, backup_id: str, **changes: Any) -> None:
    request = await world.read_json(f"backups/{backup_id}/request.json")
    failure = {"request": request, "reason": "PostgreSQL: gone", "started_at": AT, "ended_at": AT}
    await world.write(f"backups/{backup_id}/failure.json", failure | changes)


async def have_progress(world: World, backup_id: str, **changes: Any) -> None:
    """That of a worker which is at work."""
    now = utc_now()
    values = {"owner": "a worker", "started_at": now, "updated_at": now, "lease_until": now + timedelta(seconds=40)}
    progress = Progress.model_validate(values | changes)
    await world.write(f"backups/{backup_id}/progress.json", progress.model_dump(mode="json"))


async def a_proven_backup(world: World, **changes: Any) -> str:
    """Its id. Everything about it was announced."""
    backup_id = await world.wish()
    await have_manifest(world, backup_id, **changes)
    await have_proof(world, backup_id)
    await have_progress(world, backup_id, announced=True, passes=4)
    return backup_id
