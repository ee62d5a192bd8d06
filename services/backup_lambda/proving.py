"""A proof is made and recorded: of a backup whose manifest is what we signed, and of no other."""

import hashlib
from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from backup_lambda import __version__, objects, proof, signing
from backup_lambda.errors import ProofUnfinished, SignatureInvalid
from backup_lambda.lease import Lease
from backup_lambda.making import Means
from backup_lambda.manifest import Manifest
from backup_lambda.objects import folder
from backup_lambda.proof import Evidence, Proof
from backup_lambda.replica import Difference, in_words
from backup_lambda.tasks import Task

NOTHING = Evidence(server="", rows=0, bytes=0, differences=[], differences_found=0)
Verdict = Literal["proven", "broken", "unfinished"]


async def proof_of(means: Means, task: Task, number: int, lease: Lease) -> Proof:
    """Raises ProofUnfinished and AwsError."""
    started_at = means.now()
    body = await manifest_body(means, task.backup_id)
    try:
        evidence = await _evidence(means, await signed(means, task.backup_id, body), task, lease)
    except SignatureInvalid as error:
        # It is not restored: what somebody else may have written is not executed.
        forged = Difference(
            what="signature", where="manifest.json", expected="the manifest that we signed", found=str(error)
        )
        evidence = Evidence(server="", rows=0, bytes=0, differences=[forged], differences_found=1)
    reason = in_words(evidence.differences, evidence.differences_found) if evidence.differences else None
    verdict: Verdict = "broken" if evidence.differences else "proven"
    return _record(means, task, number, evidence, verdict=verdict, reason=reason, started_at=started_at, body=body)


async def unfinished(means: Means, task: Task, number: int, reason: str, started_at: datetime) -> Proof:
    """The record of a proof that did not come to its end. Raises AwsError."""
    body = await manifest_body(means, task.backup_id)
    return _record(means, task, number, NOTHING, verdict="unfinished", reason=reason, started_at=started_at, body=body)


async def manifest_body(means: Means, backup_id: str) -> bytes:
    return (await means.store.get(f"{folder(backup_id)}manifest.json")).body


async def signed(means: Means, backup_id: str, body: bytes) -> Manifest:
    """The manifest, if it is what we signed. Raises SignatureInvalid, ProofUnfinished and AwsError."""
    if "manifest.sig" not in await objects.names_of(means.store, backup_id):
        raise SignatureInvalid("manifest.sig is missing")
    signature = (await means.store.get(f"{folder(backup_id)}manifest.sig")).body
    ours = signing.fingerprint(await means.signer.public_key())
    signing.check(body, signature, {ours, *means.former_keys})
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError:
        raise ProofUnfinished("the manifest is of a format that this release does not read") from None
    if manifest.id != backup_id:
        raise SignatureInvalid(f"it is the manifest of {manifest.id}")
    return manifest


async def _evidence(means: Means, manifest: Manifest, task: Task, lease: Lease) -> Evidence:
    if lease.progress.total_rows == 0:
        # Another attempt made the backup: what it counted is not to be done again.
        rows, size = sum(table.rows for table in manifest.tables), sum(table.bytes for table in manifest.tables)
        lease.progress.total_rows = rows
        if task.task == "backup":
            lease.progress.count_as_made(rows, size)
        await lease.renew()
    return await proof.prove(
        means.store,
        folder(task.backup_id),
        manifest,
        url=await means.proof_url(),
        room_bytes=means.proof_room_bytes,
        progress=lease.progress,
    )


def _record(
    means: Means,
    task: Task,
    number: int,
    evidence: Evidence,
    *,
    verdict: Verdict,
    reason: str | None,
    started_at: datetime,
    body: bytes,
) -> Proof:
    try:
        tables = len(Manifest.model_validate_json(body).tables)
    except ValidationError:
        tables = 0  # it was altered
    return Proof(
        number=number,
        backup_id=task.backup_id,
        verdict=verdict,
        reason=reason,
        requested_by=task.requested_by,
        accepts_suspect=task.accept_suspect,
        started_at=started_at,
        ended_at=max(means.now(), started_at),
        server=evidence.server,
        manifest_sha256=hashlib.sha256(body).hexdigest(),
        tables=tables,
        rows=evidence.rows,
        bytes=evidence.bytes,
        differences=evidence.differences,
        differences_found=evidence.differences_found,
        app_version=__version__,
    )
