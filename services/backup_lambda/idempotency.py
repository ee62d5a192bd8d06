"""What asks twice for the same, and says so by a key, gets it once."""

import hashlib

from pydantic import BaseModel

from backup_lambda import history
from backup_lambda.errors import KeyReused, ObjectChanged
from backup_lambda.lease import Clock
from backup_lambda.store import S3Store


class KeyRecord(BaseModel):
    """`idempotency/{sha256 of the key}.json`: which backup, or which restore, the key made, and of which request."""

    backup_id: str | None = None
    restore_id: str | None = None
    request_sha256: str


async def id_for(store: S3Store, key: str, wanted: BaseModel, now: Clock, *, restored_id: str | None = None) -> str:
    """Of the backup that the key asked for first, or is asking for now; or of the restore of `restored_id`.

    Raises KeyReused when it asked for something else.
    """
    # Defaults are left out, so that a field which a later release adds does not change the digest of an old request.
    asked = wanted.model_dump_json(exclude_defaults=True)
    name = "restore_id" if restored_id else "backup_id"
    digest = hashlib.sha256(f"{restored_id or ''}{asked}".encode()).hexdigest()
    record = KeyRecord.model_validate({name: history.new_id(now()), "request_sha256": digest})
    path = f"idempotency/{hashlib.sha256(key.encode()).hexdigest()}.json"
    try:
        await store.put(path, record.model_dump_json(indent=1, exclude_none=True).encode())
    except ObjectChanged:
        record = KeyRecord.model_validate_json((await store.get(path)).body)
    found: str | None = getattr(record, name)
    if record.request_sha256 != digest or found is None:
        asked_for = f"the backup {record.backup_id}" if record.backup_id else f"the restore {record.restore_id}"
        raise KeyReused(f"It asked for {asked_for}, in other words.")
    return found
