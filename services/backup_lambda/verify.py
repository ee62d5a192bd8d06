"""Whether the bucket still holds what was stored: follows the chain of manifests, and checks what they name.

Every manifest names the one before it, with its digest. So one that was removed, or replaced, is missed by the next
one, whoever did it and however well; only the newest of the chain is named by nobody but its announcement. Proofs are
in no chain: the newest of a backup can be removed, with its signature, and nothing tells of it.

Retention removes the data of a backup, says so in expired.json, and signs that: then nobody misses the data, and
everybody the manifest.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from backup_lambda import blocks, signing
from backup_lambda.errors import ObjectChanged, SignatureInvalid, StoredDiffers
from backup_lambda.lease import Progress
from backup_lambda.manifest import Manifest, TableEntry
from backup_lambda.objects import ID, ROOT, Expiry, folder, numbers
from backup_lambda.proof import Proof
from backup_lambda.store import S3Store

LOOKED_AT_ONCE = 8
STORED = {"proven", "stored", "suspect", "broken"}  # outcomes of a backup that has a manifest


@dataclass(frozen=True, order=True)
class Finding:
    """Something of a backup that is not as it was."""

    backup_id: str
    object: str
    what: str


@dataclass
class Report:
    """What was looked at, and everything that is missing, altered or swapped."""

    backups: int = 0
    objects: int = 0
    bytes: int = 0  # that were read back, uncompressed
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Link:
    """A manifest as it is now; None where it cannot be read."""

    sha256: str
    manifest: Manifest | None


async def verify(store: S3Store, trusted_keys: Collection[str], *, read_data: bool) -> Report:
    """Of all backups. Without `read_data`, of the rows only the index is read, and the ETag known. Raises AwsError.

    What a worker or retention does meanwhile may be found too: look again before you believe a finding.
    """
    report, links, gate = Report(), dict[str, Link](), asyncio.Semaphore(LOOKED_AT_ONCE)

    async def look(backup_id: str) -> None:
        async with gate:
            one = _Backup(store, backup_id, await _names(store, backup_id), report)
            if link := await one.link(trusted_keys):
                links[backup_id] = link
                await one.check_objects(link, trusted_keys, read_data=read_data)
                await one.check_proofs(link, trusted_keys)

    await asyncio.gather(*[look(each) async for each in _ids(store)])
    for backup_id, link in links.items():
        if link.manifest and (previous := link.manifest.previous):
            found = links.get(previous.id)
            if found is None:
                missing = Finding(
                    previous.id, "manifest.json", f"is missing: {backup_id} names it as the one before it"
                )
                report.findings.append(missing)
            elif found.sha256 != previous.sha256:
                what = f"is not the one that {backup_id} names as the one before it"
                report.findings.append(Finding(previous.id, "manifest.json", what))
    report.findings = sorted(set(report.findings))
    return report


@dataclass(frozen=True)
class _Backup:
    store: S3Store
    id: str
    etags: Mapping[str, str]  # by name, of the objects that are there
    report: Report

    async def link(self, trusted_keys: Collection[str]) -> Link | None:
        """The manifest, if there is one or should be one."""
        if "manifest.json" not in self.etags:
            if await self._was_stored():
                self._find("manifest.json", "is missing: the backup was stored")
            return None
        self.report.backups += 1
        body = (await self.store.get(f"{folder(self.id)}manifest.json")).body
        await self._check_signature("manifest", body, trusted_keys, signing.MANIFEST)
        try:
            manifest = Manifest.model_validate_json(body)
        except ValidationError:
            self._find("manifest.json", "cannot be understood")
            manifest = None
        return Link(hashlib.sha256(body).hexdigest(), manifest)

    async def check_objects(self, link: Link, trusted_keys: Collection[str], *, read_data: bool) -> None:
        manifest = link.manifest
        if manifest is None:
            return
        if manifest.id != self.id:
            self._find("manifest.json", f"is that of {manifest.id}")
            return
        if "expired.json" in self.etags and await self._has_expired(trusted_keys):
            return  # its data is gone, or soon will be
        for table in manifest.tables:
            data, index = self._is_there(table.object), self._is_there(table.index)
            index_body = await self._index(table) if index else None
            if data and self.etags[table.object] != table.etag:
                self._find(table.object, "has other bytes than were stored, by its ETag")
            elif data and index_body and read_data:
                await self._read(table, index_body)

    async def check_proofs(self, link: Link, trusted_keys: Collection[str]) -> None:
        for number in numbers(frozenset(self.etags)):
            name = f"proof/{number}.json"
            self.report.objects += 1
            body = (await self.store.get(folder(self.id) + name)).body
            await self._check_signature(f"proof/{number}", body, trusted_keys, signing.PROOF)
            try:
                proof = Proof.model_validate_json(body)
            except ValidationError:
                self._find(name, "cannot be understood")
                continue
            if (proof.backup_id, proof.number) != (self.id, number):
                self._find(name, f"is proof {proof.number} of {proof.backup_id}")
            # What a broken one found may have been put right since.
            elif proof.verdict != "broken" and proof.manifest_sha256 != link.sha256:
                self._find(name, "is about another manifest.json")
        for name in self.etags:
            record = name.removesuffix(".sig") + ".json"
            if name.startswith("proof/") and name.endswith(".sig") and record not in self.etags:
                self._find(record, "is missing: its signature is there")

    async def _has_expired(self, trusted_keys: Collection[str]) -> bool:
        """Whether our keeper says so; what anybody else wrote excuses nothing."""
        self.report.objects += 1
        body = (await self.store.get(f"{folder(self.id)}expired.json")).body
        if not await self._check_signature("expired", body, trusted_keys, signing.EXPIRY):
            return False
        try:
            backup_id = Expiry.model_validate_json(body).backup_id
        except ValidationError:
            self._find("expired.json", "cannot be understood")
            return False
        if backup_id != self.id:
            self._find("expired.json", f"is that of {backup_id}")
        return backup_id == self.id

    async def _was_stored(self) -> bool:
        if any(name.startswith("proof/") or name == "expired.json" for name in self.etags):
            return True
        if "progress.json" not in self.etags:
            return False
        body = (await self.store.get(f"{folder(self.id)}progress.json")).body
        try:
            return Progress.model_validate_json(body).outcome in STORED
        except ValidationError:
            self._find("progress.json", "cannot be understood")
            return False

    async def _check_signature(self, stem: str, body: bytes, trusted_keys: Collection[str], heading: bytes) -> bool:
        if f"{stem}.sig" not in self.etags:
            self._find(f"{stem}.sig", "is missing")
            return False
        try:
            sig_body = (await self.store.get(f"{folder(self.id)}{stem}.sig")).body
            signing.check(body, sig_body, trusted_keys, heading)
        except SignatureInvalid as error:
            self._find(f"{stem}.json", f"is not what was signed by a key that is known: {error}")
            return False
        return True

    def _is_there(self, name: str) -> bool:
        self.report.objects += 1
        if name in self.etags:
            return True
        self._find(name, "is missing")
        return False

    async def _index(self, table: TableEntry) -> bytes | None:
        body = (await self.store.get(folder(self.id) + table.index)).body
        if hashlib.sha256(body).hexdigest() == table.index_sha256:
            return body
        self._find(table.index, "has other bytes than were stored")
        return None

    async def _read(self, table: TableEntry, index_body: bytes) -> None:
        try:
            stored = self.store.stream(folder(self.id) + table.object, table.etag)
            rows = await blocks.check(blocks.unpack_index(index_body), stored, lambda _: None)
        except (StoredDiffers, ObjectChanged) as error:
            self._find(table.object, str(error))
            return
        if rows != table.rows:
            self._find(table.object, f"has {rows:,} rows, and {table.rows:,} in the manifest")
        self.report.bytes += table.bytes

    def _find(self, name: str, what: str) -> None:
        self.report.findings.append(Finding(self.id, name, what))


async def _ids(store: S3Store) -> AsyncIterator[str]:
    async for name in store.folders(ROOT):
        if ID.fullmatch(name):
            yield name


async def _names(store: S3Store, backup_id: str) -> dict[str, str]:
    prefix = folder(backup_id)
    return {key.removeprefix(prefix): etag for key, etag in (await store.etags(prefix)).items()}
