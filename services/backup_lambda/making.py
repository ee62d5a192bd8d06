"""A backup is made: everything that must be known before its manifest may be written."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from backup_lambda import changes, history, signing, snapshot, suspect
from backup_lambda.catalogue import Selection
from backup_lambda.dump import Dump
from backup_lambda.lease import Clock, Progress
from backup_lambda.manifest import Manifest, Request
from backup_lambda.objects import folder
from backup_lambda.signing import Signer
from backup_lambda.store import S3Store


@dataclass(frozen=True)
class Means:
    """What backups are made and proven with. `database_url` and `proof_url` ask for a URL anew: passwords change."""

    store: S3Store
    database_url: Callable[[], Awaitable[str]]
    proof_url: Callable[[], Awaitable[str]]
    signer: Signer
    now: Clock
    schemas: Sequence[str]
    include_tables: Sequence[str] = ("*",)
    exclude_tables: Sequence[str] = ()
    suspect_fall_percent: int = 50
    changed_percent: int = 50
    proves_always: bool = True
    proof_room_bytes: int | None = None
    restore_url: Callable[[], Awaitable[str]] | None = None  # of the role that writes into the live database
    former_keys: Sequence[str] = ()  # fingerprints of keys that signed earlier backups


async def manifest_of(means: Means, request: Request, progress: Progress) -> tuple[bytes, bytes]:
    """The bodies of the manifest and its signature; all else is in the store, and was read back.

    Raises BackupFailed and AwsError.
    """
    previous = await history.newest_stored(means.store, means.now)
    proven = await history.newest_proven(
        means.store, means.now, lambda each: suspect.comparable(each.request, request.tables)
    )
    dump = Dump(means.store, folder(request.id), progress)
    selection = Selection(means.include_tables, means.exclude_tables, request.tables)
    async with snapshot.opened(await means.database_url(), means.schemas, selection) as source:
        copied = await dump.copy(source)
    await dump.read_back(copied)
    tables = [table.entry for table in copied]
    left_out = [each["name"] for each in source.not_backed_up]
    strange = suspect.why(
        tables, left_out, asked=request.tables, proven=proven, fall_percent=means.suspect_fall_percent
    )
    changed = None  # to tell of what has alarmed already would be noise
    if not strange:
        changed = await changes.why(means.store, tables, request.id, proven=proven, percent=means.changed_percent)
    ended_at = max(means.now(), progress.started_at)  # a clock may have been set back
    body = Manifest(
        id=request.id,
        created_at=request.created_at,
        request=request,
        started_at=progress.started_at,
        ended_at=ended_at,
        duration_seconds=(ended_at - progress.started_at).total_seconds(),
        database=source.database,
        snapshot=source.taken,
        schema_revision=source.schema_revision,
        schema_sql=source.schema_sql,
        sequences=source.sequences,
        tables=tables,
        not_backed_up=source.not_backed_up,
        suspect=strange,
        changed=changed,
        previous=previous,
    ).body()
    return body, await signing.signature_of(means.signer, body)
