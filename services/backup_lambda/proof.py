"""The proof of a backup: what is stored is read back, restored into a scratch database, and compared.

Three things are compared, as each misses what another finds: the bytes, by the same dump of the scratch database;
PostgreSQL's hashes of the rows, which know types and depend on no JSON; and the catalogue.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from backup_lambda import scratch
from backup_lambda.lease import Progress
from backup_lambda.manifest import Manifest
from backup_lambda.replica import Difference, Replica
from backup_lambda.store import S3Store

NAMED = 20  # differences; the others are counted


class Proof(BaseModel):
    """`proof/{n}.json`. `unfinished` says nothing about the backup: the newest proof with another verdict counts."""

    number: int
    backup_id: str
    verdict: Literal["proven", "broken", "unfinished"]
    reason: str | None  # in words, unless it is proven
    requested_by: str | None
    accepts_suspect: bool  # whoever asked for it said that what made the backup suspect was meant
    started_at: datetime
    ended_at: datetime
    server: str  # the version of PostgreSQL that it was restored into; empty when it did not come so far
    manifest_sha256: str
    tables: int
    rows: int
    bytes: int
    differences: list[Difference]  # the first ones
    differences_found: int
    app_version: str


@dataclass(frozen=True)
class Evidence:
    """What a proof found. No difference: proven."""

    server: str  # the version of PostgreSQL that it was restored into
    rows: int  # compared, and so their bytes
    bytes: int
    differences: list[Difference]  # the first ones
    differences_found: int


async def prove(
    store: S3Store, folder: str, manifest: Manifest, *, url: str, room_bytes: int | None, progress: Progress
) -> Evidence:
    """`url` is of a role that may create databases, on a server of the same major version as the backup's.

    Raises ProofUnfinished and AwsError. What is damaged is not restored, and what could not be restored is not
    compared: the first step that finds a difference is the last.
    """
    proof = Replica(store, folder, manifest, progress)
    async with scratch.database(url, manifest, room_bytes) as database:
        for step in (proof.restore, proof.compare_catalogue, proof.compare_rows):
            if not proof.differences:
                await proof.take(step(database))
    return Evidence(database.server, proof.rows, proof.bytes, proof.differences[:NAMED], len(proof.differences))
