"""What is stored is changed, exchanged or removed afterwards: `verify` says so, and so does the next proof."""

import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backup_lambda import signing
from backup_lambda.verify import verify
from backup_lambda.worker import Worker
from tests.backup_lambda.faults import answers
from tests.backup_lambda.faults.gate import Gate
from tests.backup_lambda.faults.invoking import proven_again
from tests.backup_lambda.faults.matrix import End, folder
from tests.backup_lambda.faults.rewriting import put, rewrite, sign_again
from tests.backup_lambda.world import SIGNER, Connection, Signing, World, a_long_time
from tests.servers import Cluster

NOTES, NOTES_INDEX = "data/notes.notes.json.gz", "index/notes.notes.json.gz"
Tamper = Callable[[World, str], Awaitable[None]]


@pytest_asyncio.fixture(loop_scope="session")
async def proven(worker: Worker, world: World) -> str:
    """A proven backup, which everybody was told of."""
    backup_id = await world.wish()
    assert await worker.back_up(backup_id, a_long_time) == "proven"
    await world.notices()
    return backup_id


async def found(world: World, store: Any = None) -> set[str]:
    """The objects that `verify` names."""
    ours = signing.fingerprint(await SIGNER.public_key())
    report = await verify(store or world.store, {ours}, read_data=True)
    return {finding.object for finding in report.findings}


def object_is(name: str, change: Callable[[bytes], bytes]) -> Tamper:
    async def tamper(world: World, backup_id: str) -> None:
        body = await world.read(folder(backup_id) + name)
        changed = change(body)
        assert changed != body
        await put(world, folder(backup_id) + name, changed)

    return tamper


def members(body: bytes) -> list[bytes]:
    """The gzip members of a file of blocks."""
    parts = []
    while body:
        reader = zlib.decompressobj(wbits=31)
        reader.decompress(body)
        parts.append(body[: len(body) - len(reader.unused_data)])
        body = reader.unused_data
    return parts


def a_block_swapped(body: bytes) -> bytes:
    """Another block is in the place of the longest one, made as long by a comment, which gzip allows."""
    parts = members(body)
    place = max(range(len(parts)), key=lambda number: len(parts[number]))
    other = min(parts, key=len)
    comment = b"~" * (len(parts[place]) - len(other) - 1) + b"\0"
    parts[place] = other[:3] + bytes([other[3] | 16]) + other[4:10] + comment + other[10:]
    swapped = b"".join(parts)
    assert len(swapped) == len(body)
    assert len(members(swapped)) == len(parts)
    return swapped


def two_blocks_exchanged(body: bytes) -> bytes:
    first, second, *rest = members(body)
    return b"".join([second, first, *rest])


def the_last_block_cut(body: bytes) -> bytes:
    return b"".join(members(body)[:-1])


async def signed_by_another(world: World, backup_id: str) -> None:
    another = Signing()
    another.key = Ed25519PrivateKey.generate()
    body = await world.read(f"{folder(backup_id)}manifest.json")
    await put(world, f"{folder(backup_id)}manifest.sig", await signing.signature_of(another, body))


def removed(name: str) -> Tamper:
    async def tamper(world: World, backup_id: str) -> None:
        await world.s3.delete_object(Bucket=world.bucket, Key=folder(backup_id) + name)

    return tamper


TAMPERED: dict[str, tuple[Tamper, str]] = {
    "a bit of a table is flipped": (object_is(NOTES, answers.a_bit_turned), NOTES),
    "a block is replaced by another of the same length": (object_is(NOTES, a_block_swapped), NOTES),
    "two blocks are exchanged": (object_is(NOTES, two_blocks_exchanged), NOTES),
    "a table's last block is cut off": (object_is(NOTES, the_last_block_cut), NOTES),
    "a table's last byte is cut off": (object_is(NOTES, lambda body: body[:-1]), NOTES),
    "a table has a byte too many": (object_is(NOTES, lambda body: body + b"\0"), NOTES),
    "a table is empty": (object_is(NOTES, lambda body: b""), NOTES),
    "a bit of an index is flipped": (object_is(NOTES_INDEX, answers.a_bit_turned), NOTES_INDEX),
    "the number of rows is edited": (
        object_is("manifest.json", lambda body: body.replace(b'"rows": 2200', b'"rows": 2201')),
        "manifest.json",
    ),
    "a space is added to the manifest": (object_is("manifest.json", lambda body: body + b" "), "manifest.json"),
    "the manifest is no JSON": (object_is("manifest.json", lambda body: body[:-20]), "manifest.json"),
    "another key signed the manifest": (signed_by_another, "manifest.json"),
    "a bit of the signature is flipped": (
        object_is("manifest.sig", lambda body: body.replace(b'"signature": "', b'"signature": "A', 1)),
        "manifest.json",
    ),
    "the signature is removed": (removed("manifest.sig"), "manifest.sig"),
    "a table is removed": (removed(NOTES), NOTES),
    "an index is removed": (removed(NOTES_INDEX), NOTES_INDEX),
}


@pytest.mark.fault("afterwards")
@pytest.mark.parametrize("what", TAMPERED)
async def test_it_is_found(worker: Worker, world: World, proven: str, ends: End, what: str) -> None:
    tamper, name = TAMPERED[what]
    assert await found(world) == set()
    await tamper(world, proven)
    assert name in await found(world)
    await proven_again(worker, proven)
    await ends(proven, "broken")


@pytest.mark.fault("below S3, under the ETag that it had")
@pytest.mark.parametrize("what", ["a bit of a table is flipped", "a block is replaced by another of the same length"])
async def test_it_rots(worker: Worker, world: World, gate: Gate, proven: str, ends: End, what: str) -> None:
    change = {"a bit of a table is flipped": answers.a_bit_turned}.get(what, a_block_swapped)
    gate.break_("GetObject", NOTES, answers.changed(change))
    assert await found(world, worker.means.store) == {NOTES}
    await proven_again(worker, proven)
    await ends(proven, "broken")


@pytest.mark.fault("afterwards")
@pytest.mark.parametrize(
    "names", [(NOTES, NOTES_INDEX), ("manifest.json", "manifest.sig")], ids=["tables", "manifests"]
)
async def test_two_backups_are_mixed(
    gated_worker: Callable[[str, str], Worker], cluster: Cluster, database: str, owner: Connection, proof_url: str,
    world: World, ends: End, names: tuple[str, ...],
) -> None:  # fmt: skip
    """Objects of an older backup are put in the place of a newer one's."""
    worker = gated_worker(cluster.url("notes_backup", database), proof_url)
    older, newer = await world.wish(), ""
    assert await worker.back_up(older, a_long_time) == "proven"
    await owner.execute("update notes.notes set body = 'other' where id = 7")
    newer = await world.wish()
    assert await worker.back_up(newer, a_long_time) == "proven"
    await world.notices()
    for name in names:
        await put(world, folder(newer) + name, await world.read(folder(older) + name))
    assert names[0] in await found(world)
    await proven_again(worker, newer)
    await ends(newer, "broken")


@pytest.mark.fault("afterwards: the manifest is removed")
async def test_the_manifest_is_removed(worker: Worker, world: World, proven: str, ends: End) -> None:
    """There is nothing left to prove; verify misses it, and so does the next backup's chain."""
    assert await worker.back_up(await world.wish(), a_long_time) == "proven"
    await world.notices()
    await removed("manifest.json")(world, proven)
    assert "manifest.json" in await found(world)
    await ends(proven, "failed", notices=(0,))


@pytest.mark.fault("the rows are others, and their JSON and all digests fit")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"numbers":"[2:3]={7,8}"', b'"numbers":"{7,8}"'),
        (b'"said":"null"', b'"said":null'),
        (b'"said":null', b'"said":"null"'),
        (b'"exact":12345678901234567891.12', b'"exact":12345678901234567891.120'),
        (b"2026-11-22T02:00:01+00:00", b"2026-11-22T02:00:01.000001+00:00"),
    ],
    ids=["bounds of arrays", "JSON null made NULL", "NULL made JSON null", "a zero at the end", "a microsecond"],
)
async def test_rows_are_rewritten(worker: Worker, world: World, proven: str, ends: End, old: bytes, new: bytes) -> None:
    """As if the engine had lost it: only the hash that PostgreSQL gave of the rows in the snapshot tells."""
    await rewrite(world, proven, "notes.oddities", lambda rows: rows.replace(old, new))
    assert await found(world) <= {"manifest.json", "proof/1.json"}
    await proven_again(worker, proven)
    await ends(proven, "broken", reason="row_hash of notes.oddities")


@pytest.mark.fault("the rows are in another order, and all digests fit")
async def test_rows_are_in_another_order(worker: Worker, world: World, proven: str, ends: End) -> None:
    def reversed_rows(rows: bytes) -> bytes:
        return b"".join(reversed(rows.splitlines(keepends=True)))

    await rewrite(world, proven, "scheduler.runs", reversed_rows)
    await proven_again(worker, proven)
    await ends(proven, "broken", reason="scheduler.runs")


def in_sql(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        sql = manifest["schema_sql"]
        before = str(sql)
        for part in ("before_rows", "after_rows"):
            sql[part] = [statement.replace(old, new) for statement in sql[part]]
        assert str(sql) != before

    return change


def without(word: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        sql = manifest["schema_sql"]
        kept = [statement for statement in sql["after_rows"] if word not in statement]
        assert len(kept) < len(sql["after_rows"])
        sql["after_rows"] = kept

    return change


@pytest.mark.fault("the definitions are others, and the rows' JSON is the same")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (in_sql("integer", "bigint"), "catalogue of"),
        (in_sql("'hurried'", "'harried'"), ""),
        (without("FOREIGN KEY"), "catalogue"),
    ],
    ids=["a column's type", "a value of an enum", "a foreign key is missing"],
)
async def test_definitions_differ(
    worker: Worker, world: World, proven: str, ends: End, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    await sign_again(world, proven, change)
    await proven_again(worker, proven)
    await ends(proven, "broken", reason=reason)


@pytest.mark.fault("the backup is of another major version of PostgreSQL")
async def test_another_major_version(worker: Worker, world: World, ends: End) -> None:
    """Nothing is proven, and nothing disproven."""
    means = replace(worker.means, proves_always=False)
    backup_id = await world.wish()
    assert await replace(worker, means=means).back_up(backup_id, a_long_time) == "stored"
    await world.notices()
    await sign_again(world, backup_id, lambda manifest: manifest["database"].update(server_version="16.4"))
    await proven_again(worker, backup_id, number=1)
    await ends(backup_id, "stored", reason="and the backup of 16.4")
