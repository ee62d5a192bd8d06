"""The state of a backup: which of its objects exist, and what they say. It is stored nowhere else."""

from datetime import datetime, timedelta

from backup_lambda.lease import Progress
from backup_lambda.manifest import Manifest
from backup_lambda.objects import Failure, Found, accepted, counting
from backup_lambda.schemas import Backup, NotBackedUp, ProgressOut, ProofOut, State, TableOut

# Lambda keeps an invocation that it cannot begin for an hour.
STARTED_WITHIN = timedelta(minutes=70)
SILENT = "its worker was not heard of any more"
CANCELLING = "it is being cancelled"
REPLACED = "manifest.json is not the one that was proven"
UNHEARD = "its end was published, and nobody was subscribed who would hear of it: POST /subscriptions"
PASSES_WITHOUT_PROOF = 2  # rows are copied and read back


def shown(found: Found, now: datetime, *, ended: bool = False) -> Backup:
    """The backup in the state that it has, first match wins; with `ended`, in the one that its worker leaves it in."""
    working = None if ended or not found.at_work or found.at_work.lost(now) else found.at_work
    if found.manifest:
        return _with_manifest(found, found.manifest, working, now)
    if deciding := counting(found.proofs):  # a broken one, or the manifest would be needed
        return _with_proofs(found, _backup(found, "broken", deciding.reason, working))
    if working and not found.failure:
        return _backup(found, "running", _why_it_waits(found, working, now), working)
    if failure := found.failure or lost(found, now):
        ended_by = {"started_at": failure.started_at, "ended_at": failure.ended_at}
        return _backup(found, failure.outcome, failure.reason).model_copy(update=ended_by)
    return _backup(found, "queued", CANCELLING if "cancel.json" in found.names else None)


def lost(found: Found, now: datetime) -> Failure | None:
    """The end of a backup that nobody makes any more and nobody has ended."""
    if "manifest.json" in found.names or found.failure:
        return None
    cancelled = "cancel.json" in found.names
    if progress := found.progress:
        if not progress.announced and not progress.lost(now):
            return None
        why = "its manifest is missing" if progress.announced else progress.reason or SILENT
        started_at, ended_at = progress.started_at, progress.lease_until
    else:
        damaged = "progress.json" in found.names
        why = "progress.json cannot be understood" if damaged else "it was never started"
        started_at, ended_at = None, found.asked_at + STARTED_WITHIN
        if now < ended_at:
            return None
    return Failure(
        request=found.asked,
        outcome="cancelled" if cancelled else "failed",
        reason=f"cancelled by a person; {why}" if cancelled else f"lost: {why}",
        started_at=started_at,
        ended_at=ended_at,
    )


def _with_manifest(found: Found, manifest: Manifest, working: Progress | None, now: datetime) -> Backup:
    state, reason = _stored_state(found, manifest)
    if working and found.newest_number and working.task in ("backup", f"proof/{found.newest_number}"):
        working = None  # only the announcement of that proof is left
    elif working and working.task == "backup" and state != "expired":
        state, reason = "running", _why_it_waits(found, working, now)
    tables = [TableOut.model_validate(table, from_attributes=True) for table in manifest.tables]
    return _with_proofs(found, _backup(found, state, reason, working)).model_copy(
        update={
            "started_at": manifest.started_at,
            "ended_at": None if state == "running" else manifest.ended_at,
            "tables": tables,
            "rows": sum(table.rows for table in tables),
            "bytes": sum(table.bytes for table in tables),
            "stored_bytes": sum(table.stored_bytes for table in tables),
            "not_backed_up": [NotBackedUp.model_validate(each) for each in manifest.not_backed_up],
            "suspect": manifest.suspect,
        }
    )


def _with_proofs(found: Found, backup: Backup) -> Backup:
    latest, deciding = (found.proofs[0] if found.proofs else None), counting(found.proofs)
    return backup.model_copy(
        update={
            "proof": ProofOut.of(deciding or latest) if latest else None,
            "unfinished_proof": ProofOut.of(latest) if latest and deciding not in (None, latest) else None,
            "manifest_sha256": found.manifest_sha256,
        }
    )


def _stored_state(found: Found, manifest: Manifest) -> tuple[State, str | None]:
    deciding = counting(found.proofs)
    if "expired.json" in found.names:
        return "expired", "retention removed its data"
    if deciding and deciding.verdict == "broken":
        return "broken", deciding.reason
    if found.replaced and not deciding:
        return "stored", REPLACED
    if manifest.suspect and not accepted(found.proofs):
        return "suspect", manifest.suspect
    if deciding:
        return "proven", None
    if found.proofs:
        return "stored", f"not proven: {found.proofs[0].reason}"
    if (working := found.at_work) and (working.task != "backup" or working.passes > PASSES_WITHOUT_PROOF):
        return "stored", f"not proven: {working.reason or SILENT}"
    return "stored", None


def _why_it_waits(found: Found, progress: Progress, now: datetime) -> str | None:
    if "cancel.json" in found.names:
        return CANCELLING
    if progress.lease_until > now:
        return progress.reason
    silent = f"its worker was not heard of since {progress.updated_at:%H:%M:%S} UTC"
    return f"{progress.reason or silent}; another attempt is due"


def _backup(found: Found, state: State, reason: str | None, working: Progress | None = None) -> Backup:
    asked, progress = found.asked, found.progress
    return Backup(
        id=asked.id,
        state=state,
        label=asked.label,
        selection=asked.tables,
        created_at=asked.created_at,
        requested_by=asked.requested_by,
        started_at=progress.started_at if progress else None,
        progress=ProgressOut.of(working) if working else None,
        reason=reason,
        # A later proof begins only after the end of the backup was announced.
        announced=progress is not None and (progress.announced or progress.task != "backup"),
        unheard=UNHEARD if progress is not None and progress.listeners == 0 else None,
    )
