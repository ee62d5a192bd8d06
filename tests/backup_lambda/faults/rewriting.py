"""A stored backup is changed so well that only its content gives it away: all digests fit, and the signature."""

import gzip
import hashlib
from collections.abc import Callable
from typing import Any

from backup_lambda import blocks, signing
from backup_lambda.manifest import Manifest
from tests.backup_lambda.drill import pack_index
from tests.backup_lambda.faults.matrix import folder
from tests.backup_lambda.world import SIGNER, World

Change = Callable[[dict[str, Any]], object]


async def put(world: World, key: str, body: bytes) -> str:
    answer = await world.s3.put_object(Bucket=world.bucket, Key=key, Body=body)
    return str(answer["ETag"])


async def sign_again(world: World, backup_id: str, change: Change) -> None:
    """The manifest is changed, and signed with the right key."""
    values = await world.read_json(f"{folder(backup_id)}manifest.json")
    change(values)
    body = Manifest.model_validate(values).body()
    await put(world, f"{folder(backup_id)}manifest.json", body)
    await put(world, f"{folder(backup_id)}manifest.sig", await signing.signature_of(SIGNER, body))


async def rewrite(world: World, backup_id: str, table: str, rewritten: Callable[[bytes], bytes]) -> None:
    """The table's rows are others now, and everything in the manifest fits them but what PostgreSQL said of its own."""
    manifest = await world.read_json(f"{folder(backup_id)}manifest.json")
    [entry] = [each for each in manifest["tables"] if each["name"] == table]
    before = gzip.decompress(await world.read(folder(backup_id) + entry["object"]))
    rows = rewritten(before)
    assert rows != before
    packed = blocks.pack(rows, entry["primary_key"])
    index = pack_index([packed.block])
    changes = {
        "rows": packed.block.rows,
        "bytes": len(rows),
        "stored_bytes": len(packed.member),
        "sha256": hashlib.sha256(rows).hexdigest(),
        "etag": await put(world, folder(backup_id) + entry["object"], packed.member),
        "index_sha256": hashlib.sha256(index).hexdigest(),
    }
    await put(world, folder(backup_id) + entry["index"], index)

    def change(values: dict[str, Any]) -> None:
        for each in values["tables"]:
            if each["name"] == table:
                each.update(changes)

    await sign_again(world, backup_id, change)
