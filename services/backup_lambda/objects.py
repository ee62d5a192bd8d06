"""The objects of a backup in the bucket, read."""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from backup_lambda import __version__
from backup_lambda.errors import BackupNotFound, BackupUnreadable, NotYet
from backup_lambda.lease import Progress, understood
from backup_lambda.manifest import Manifest, Request
from backup_lambda.proof import Proof
from backup_lambda.store import S3Store

ROOT = "backups/"
ID = re.compile(r"[2-9][0-9]{7}T[0-9]{6}Z-[0-9a-f]{8}")
LAST_NUMBER = 999_999  # of a proof
_PROOF = re.compile(r"proof/([1-9][0-9]{0,5})\.json")
Read = TypeVar("Read", bound=BaseModel)


class Failure(BaseModel):
    """`failure.json`: the backup has ended without a manifest, and why."""

    request: Request
    outcome: Literal["failed", "cancelled"] = "failed"
    reason: str
    started_at: datetime | None
    ended_at: datetime


class Expiry(BaseModel):
    """`expired.json`: retention removed, or is about to remove, the data of the backup; who asked for that, and why.

    `digest` is of the plan that was applied, `policy` the one that it followed.
    """

    backup_id: str
    expired_at: datetime
    requested_by: str | None
    digest: str
    policy: str
    reasons: list[str]
    app_version: str = __version__


@dataclass(frozen=True)
class Found:
    """What the bucket holds of a backup. `proofs` are the newest ones, newest first, as many as the state needs.

    Those that found another manifest proven are not among them: they say nothing about this one. `progress` is None,
    too, where nobody understands it.
    """

    names: frozenset[str]
    asked: Request
    asked_at: datetime  # as S3 says, if the clock that `asked` has it from ran ahead
    progress: Progress | None
    manifest: Manifest | None = None
    manifest_sha256: str | None = None
    proofs: Sequence[Proof] = ()
    replaced: bool = False  # another manifest than this one was proven
    failure: Failure | None = None

    @property
    def newest_number(self) -> int:
        """Of all its proofs; 0 without one."""
        return max(numbers(self.names), default=0)

    @property
    def at_work(self) -> Progress | None:
        """How far the backup or a proof of it is, unless all that was begun has ended."""
        return self.progress if self.progress and not self.progress.announced else None


def folder(backup_id: str) -> str:
    return f"{ROOT}{backup_id}/"


def numbers(names: frozenset[str]) -> list[int]:
    """Of the proofs, newest first."""
    return sorted((int(each[1]) for name in names if (each := _PROOF.fullmatch(name))), reverse=True)


def next_number(names: frozenset[str]) -> int:
    """Of a proof that is to be made. Raises NotYet when there is none left."""
    number = max(numbers(names), default=0) + 1
    if number > LAST_NUMBER:
        raise NotYet(f"proof/{LAST_NUMBER}.json is there, and no proof can follow it: find out who wrote it.")
    return number


async def names_of(store: S3Store, backup_id: str) -> frozenset[str]:
    """All objects of a backup, in one request for every thousand."""
    prefix = folder(backup_id)
    return frozenset(key.removeprefix(prefix) for key in await store.etags(prefix))


async def written_of(store: S3Store, backup_id: str) -> dict[str, datetime]:
    """All objects of a backup, and when S3 says that each was written."""
    prefix = folder(backup_id)
    return {key.removeprefix(prefix): at async for key, at in store.written(prefix)}


async def read(store: S3Store, backup_id: str, written: Mapping[str, datetime] | None = None) -> Found:
    """Four requests for a proven backup, and one less for whoever has just listed it.

    Raises BackupNotFound, BackupUnreadable and AwsError.
    """
    prefix = folder(backup_id)
    if written is None:
        written = await written_of(store, backup_id) if ID.fullmatch(backup_id) else {}
    names = frozenset(written)
    if not names:
        raise BackupNotFound("No backup has this id.")

    async def body(name: str) -> bytes:
        return (await store.get(prefix + name)).body if name in names else b""

    def asked_at(asked: Request) -> datetime:
        return min(asked.created_at, written.get("request.json", asked.created_at))

    end = next((name for name in ("manifest.json", "failure.json") if name in names), "request.json")
    if end not in names:
        raise BackupUnreadable("request.json is missing")
    progress_body, end_body = await asyncio.gather(body("progress.json"), body(end))
    progress = understood(progress_body) if progress_body else None
    if end == "request.json":
        asked = _parsed(end, end_body, Request)
        return Found(names, asked, asked_at(asked), progress)
    if end == "failure.json":
        failure = _parsed(end, end_body, Failure)
        return Found(names, failure.request, asked_at(failure.request), progress, failure=failure)
    sha256 = hashlib.sha256(end_body).hexdigest()
    try:
        manifest = _parsed(end, end_body, Manifest)
    except BackupUnreadable:
        # Whoever damaged the manifest must not hide that the backup is broken.
        proofs, replaced = await _proofs(store, backup_id, names, sha256, None)
        if "request.json" not in names or not any(proof.verdict == "broken" for proof in proofs):
            raise
        asked = _parsed("request.json", await body("request.json"), Request)
        return Found(names, asked, asked_at(asked), progress, None, sha256, proofs, replaced)
    proofs, replaced = await _proofs(store, backup_id, names, sha256, manifest)
    asked = manifest.request
    return Found(names, asked, asked_at(asked), progress, manifest, sha256, proofs, replaced)


async def read_proof(store: S3Store, backup_id: str, number: int) -> Proof:
    """One that is known to exist. Raises BackupUnreadable and AwsError."""
    name = f"proof/{number}.json"
    return _parsed(name, (await store.get(folder(backup_id) + name)).body, Proof)


def counting(proofs: Sequence[Proof]) -> Proof | None:
    return next((proof for proof in proofs if proof.verdict != "unfinished"), None)


def accepted(proofs: Sequence[Proof]) -> bool:
    return any(proof.verdict == "proven" and proof.accepts_suspect for proof in proofs)


async def _proofs(
    store: S3Store, backup_id: str, names: frozenset[str], sha256: str, manifest: Manifest | None
) -> tuple[Sequence[Proof], bool]:
    """Those that say something about this manifest; and whether there are others."""
    proofs, replaced = list[Proof](), False
    for number in numbers(names):
        proof = await read_proof(store, backup_id, number)
        if (proof.backup_id, proof.number) != (backup_id, number):
            continue  # a copy of another one
        # A broken one counts always: whoever puts an altered manifest back as it was must not hide what was found.
        if proof.verdict == "proven" and proof.manifest_sha256 != sha256:
            replaced = True
        else:
            proofs.append(proof)
        if _decided(manifest, proofs):
            break
    return proofs, replaced


def _decided(manifest: Manifest | None, proofs: Sequence[Proof]) -> bool:
    """Whether older proofs can change nothing: of a suspect backup, an older one may have accepted it."""
    newest, suspect = counting(proofs), manifest and manifest.suspect
    return newest is not None and (newest.verdict == "broken" or not suspect or accepted(proofs))


def _parsed(name: str, body: bytes, kind: type[Read]) -> Read:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise unreadable(name, error) from error


def unreadable(name: str, error: ValidationError) -> BackupUnreadable:
    """It names the format of what a later release wrote."""
    found = next((each["input"] for each in error.errors(include_url=False) if each["loc"] == ("format",)), None)
    told = f": its format is {found}" if isinstance(found, int) else ""
    return BackupUnreadable(f"{name} is not one that this release reads{told}")
