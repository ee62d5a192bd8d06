"""Whatever is removed, altered or swapped in the bucket is found, and nothing else is."""

import hashlib
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from backup_lambda import signing
from backup_lambda.lease import Lease
from backup_lambda.objects import Expiry
from backup_lambda.tasks import Task
from backup_lambda.verify import Report, verify
from backup_lambda.worker import Worker
from tests.backup_lambda.world import SIGNER, Connection, Signing, World, a_long_time, utc_now, worker_for
from tests.servers import Cluster

DATA, INDEX = "data/notes.notes.json.gz", "index/notes.notes.json.gz"


@pytest.fixture
async def chain(world: World, cluster: Cluster, database: str, owner: Connection) -> list[str]:
    """Three backups, each of which names the one before it."""
    await owner.execute(
        "create table notes.notes as select i as id, md5(i::text) as body from generate_series(1, 500) i;"
        "alter table notes.notes add primary key (id)"
    )
    worker = worker_for(world, cluster.url("notes_backup", database))
    made: list[str] = []
    for _ in range(3):
        await owner.execute("update notes.notes set body = body || '!' where id = 1")
        made.append(await ids_in_order(world, worker, made))
    return made


async def ids_in_order(world: World, worker: Worker, made: list[str]) -> str:
    """Ids of the same second do not sort as they were made."""
    while (backup_id := await world.wish()) < max(made, default=""):
        await forget(world, backup_id)
    assert await worker.back_up(backup_id, a_long_time) == "stored"
    return backup_id


async def forget(world: World, backup_id: str) -> None:
    for key in await world.keys(f"backups/{backup_id}/"):
        await world.s3.delete_object(Bucket=world.bucket, Key=key)


async def ours() -> set[str]:
    return {signing.fingerprint(await SIGNER.public_key())}


async def look(world: World, *, read_data: bool = False) -> Report:
    return await verify(world.store, await ours(), read_data=read_data)


async def found(world: World, *, read_data: bool = False) -> list[tuple[str, str]]:
    return [(each.backup_id, each.object) for each in (await look(world, read_data=read_data)).findings]


async def put(world: World, key: str, body: bytes) -> None:
    await world.s3.put_object(Bucket=world.bucket, Key=key, Body=body)


async def test_nothing_is_found_where_nothing_happened(world: World, chain: list[str]) -> None:
    queued, running = await world.wish(), await world.wish()
    assert await Lease.take(world.store, f"backups/{running}/progress.json", utc_now)
    await world.write(f"backups/{queued}/data/half.json.gz", "what a dead worker left")
    for read_data in (False, True):
        report = await look(world, read_data=read_data)
        assert (report.backups, report.objects, report.findings) == (3, 6, [])
        assert (report.bytes > 0) == read_data


async def test_an_empty_bucket_is_in_order(world: World) -> None:
    assert await look(world) == Report()


async def test_an_object_that_is_gone_is_missed(world: World, chain: list[str]) -> None:
    for backup_id, name in itertools.product(chain, ["manifest.json", "manifest.sig", DATA, INDEX]):
        key = f"backups/{backup_id}/{name}"
        body = await world.read(key)
        await world.s3.delete_object(Bucket=world.bucket, Key=key)
        assert set(await found(world)) == {(backup_id, name)}
        await put(world, key, body)
    assert await found(world, read_data=True) == []


async def test_a_backup_that_is_gone_altogether_is_missed_by_the_next(world: World, chain: list[str]) -> None:
    await forget(world, chain[1])
    [finding] = (await look(world)).findings
    assert (finding.backup_id, finding.object) == (chain[1], "manifest.json")
    assert finding.what == f"is missing: {chain[2]} names it as the one before it"


async def test_the_newest_is_missed_as_long_as_anything_tells_of_it(world: World, chain: list[str]) -> None:
    """Of the whole folder only its announcement would tell: that is a limit of the chain."""
    await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{chain[2]}/manifest.json")
    assert await found(world) == [(chain[2], "manifest.json")]
    await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{chain[2]}/progress.json")
    await world.write(f"backups/{chain[2]}/proof/1.json", {})
    assert await found(world) == [(chain[2], "manifest.json")]
    await forget(world, chain[2])
    assert await found(world) == []


async def test_an_edited_manifest_is_found_twice(world: World, chain: list[str]) -> None:
    key = f"backups/{chain[1]}/manifest.json"
    manifest = await world.read_json(key)
    manifest["tables"][0]["rows"] -= 1
    await world.write(key, manifest)
    whats = [each.what for each in (await look(world)).findings]
    assert len(whats) == 2, "by its signature, and by the one that names it"
    assert any("it is not what was signed" in what for what in whats)
    assert any(f"is not the one that {chain[2]} names" in what for what in whats)


async def test_a_manifest_signed_anew_by_another_key_is_found(world: World, chain: list[str]) -> None:
    """By its signature; and by the chain even if that key were trusted."""
    key = f"backups/{chain[0]}/manifest.json"
    manifest = await world.read_json(key) | {"label": "other"}
    manifest["duration_seconds"] = 0
    body, theirs = json.dumps(manifest).encode(), Signing()
    await put(world, key, body)
    await put(world, f"backups/{chain[0]}/manifest.sig", await signing.signature_of(theirs, body))
    whats = [each.what for each in (await look(world)).findings]
    assert any("unknown key" in what for what in whats)
    trusted = await ours() | {signing.fingerprint(await theirs.public_key())}
    [finding] = (await verify(world.store, trusted, read_data=False)).findings
    assert finding.what == f"is not the one that {chain[1]} names as the one before it"


async def test_a_manifest_of_another_backup_is_found(world: World, chain: list[str]) -> None:
    for name in ("manifest.json", "manifest.sig"):
        await put(world, f"backups/{chain[2]}/{name}", await world.read(f"backups/{chain[0]}/{name}"))
    [finding] = (await look(world)).findings
    assert (finding.backup_id, finding.what) == (chain[2], f"is that of {chain[0]}")


async def test_data_of_another_backup_is_found(world: World, chain: list[str]) -> None:
    await put(world, f"backups/{chain[2]}/{DATA}", await world.read(f"backups/{chain[0]}/{DATA}"))
    assert await found(world) == [(chain[2], DATA)]


def a_bit_flipped(stored: bytes) -> bytes:
    middle = len(stored) // 2
    return stored[:middle] + bytes([stored[middle] ^ 1]) + stored[middle + 1 :]


ALTERED: list[Callable[[bytes], bytes]] = [
    a_bit_flipped,
    lambda body: body[:-1],
    lambda body: body + b"\0",
    lambda body: b"",
]


async def test_altered_data_is_found_by_its_etag(world: World, chain: list[str]) -> None:
    key = f"backups/{chain[1]}/{DATA}"
    stored = await world.read(key)
    for alter in ALTERED:
        await put(world, key, alter(stored))
        assert await found(world) == [(chain[1], DATA)]


async def test_an_altered_index_is_found(world: World, chain: list[str]) -> None:
    key = f"backups/{chain[1]}/{INDEX}"
    stored = await world.read(key)
    for alter in ALTERED:
        await put(world, key, alter(stored))
        for read_data in (False, True):
            assert await found(world, read_data=read_data) == [(chain[1], INDEX)]


async def test_bytes_that_changed_under_the_same_etag_are_found_when_they_are_read(
    world: World, chain: list[str]
) -> None:
    """As if the disk under the bucket had rotted: here the manifest is made to name the new ETag, and signed."""
    folder = f"backups/{chain[2]}/"
    await put(world, folder + DATA, a_bit_flipped(await world.read(folder + DATA)))
    manifest = await world.read_json(f"{folder}manifest.json")
    manifest["tables"][0]["etag"] = (await world.store.etags(folder + DATA))[folder + DATA]
    body = json.dumps(manifest).encode()
    await put(world, f"{folder}manifest.json", body)
    await put(world, f"{folder}manifest.sig", await signing.signature_of(SIGNER, body))
    assert await found(world) == []
    assert await found(world, read_data=True) == [(chain[2], DATA)]


@pytest.fixture
async def proven(world: World, worker: Worker, chain: list[str]) -> str:
    """It has two proofs."""
    for number in (1, 2):
        task = Task(task="proof", backup_id=chain[1], number=number)
        assert await worker.do(task, a_long_time) == "proven"
    return chain[1]


async def test_a_proof_that_was_altered_is_found(world: World, proven: str) -> None:
    report = await look(world, read_data=True)
    assert (report.objects, report.findings) == (8, [])
    first, second, signature = (f"backups/{proven}/proof/{name}" for name in ("1.json", "2.json", "2.sig"))
    body, signed = await world.read(second), await world.read(signature)
    for changed in (body.replace(b'"proven"', b'"broken"'), body + b" ", b"{}", b"\0", b""):
        await put(world, second, changed)
        assert set(await found(world)) == {(proven, "proof/2.json")}
    await put(world, second, await world.read(first))
    await put(world, signature, await world.read(first.replace(".json", ".sig")))
    [finding] = (await look(world)).findings
    assert finding.what == f"is proof 1 of {proven}", "a proof that was signed, in the place of another"
    await put(world, second, body)
    for key, restored, missing in ((signature, signed, "proof/2.sig"), (second, body, "proof/2.json")):
        await world.s3.delete_object(Bucket=world.bucket, Key=key)
        assert set(await found(world)) >= {(proven, missing)}
        await put(world, key, restored)
        await put(world, signature, signed)
    assert await found(world) == []


async def test_a_proof_by_an_unknown_key_is_found(world: World, proven: str) -> None:
    folder = f"backups/{proven}/proof/"
    theirs = await signing.signature_of(Signing(), await world.read(f"{folder}1.json"), signing.PROOF)
    await put(world, f"{folder}1.sig", theirs)
    [finding] = (await look(world)).findings
    assert (finding.object, "unknown key" in finding.what) == ("proof/1.json", True)


async def test_a_proof_of_another_manifest_is_found(world: World, proven: str) -> None:
    """The manifest was replaced so well that its own signature fits, and nobody names it as the one before."""
    key = f"backups/{proven}/manifest.json"
    before, signature = await world.read(key), await world.read(key.replace(".json", ".sig"))
    body = before.replace(b'"duration_seconds": ', b'"duration_seconds": 1')
    await put(world, key, body)
    await put(world, key.replace(".json", ".sig"), await signing.signature_of(SIGNER, body))
    whats = {each.object: each.what for each in (await look(world)).findings}
    assert whats.keys() == {"manifest.json", "proof/1.json", "proof/2.json"}
    assert whats["proof/1.json"] == "is about another manifest.json"
    await put(world, key, before)
    await put(world, key.replace(".json", ".sig"), signature)
    assert await found(world) == []


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "progress.json"])
async def test_what_cannot_be_understood_is_a_finding(world: World, chain: list[str], name: str) -> None:
    await put(world, f"backups/{chain[2]}/{name}", b"\0")
    if name == "progress.json":  # it is read where a manifest is missing
        await world.s3.delete_object(Bucket=world.bucket, Key=f"backups/{chain[2]}/manifest.json")
    assert {backup_id for backup_id, _ in await found(world, read_data=True)} == {chain[2]}


async def expire(world: World, backup_id: str, signer: Signing = SIGNER, **changes: Any) -> None:
    """As the keeper says it."""
    said = {"backup_id": backup_id, "expired_at": utc_now(), "requested_by": None, "digest": "0" * 64}
    expiry = Expiry.model_validate(said | {"policy": "proven 1", "reasons": ["no rule keeps it"]} | changes)
    body = expiry.model_dump_json().encode()
    await put(world, f"backups/{backup_id}/expired.json", body)
    await put(world, f"backups/{backup_id}/expired.sig", await signing.signature_of(signer, body, signing.EXPIRY))


async def test_an_expired_backup_misses_no_data_and_keeps_its_place_in_the_chain(
    world: World, chain: list[str]
) -> None:
    await expire(world, chain[0])
    for gone in ([], [DATA], [INDEX]):  # a keeper that died leaves some
        await world.store.delete([f"backups/{chain[0]}/{name}" for name in gone])
        for read_data in (False, True):
            report = await look(world, read_data=read_data)
            assert (report.backups, report.objects, report.findings) == (3, 5, [])
    key = f"backups/{chain[0]}/manifest.json"
    body = await world.read(key)
    await put(world, key, body + b" ")
    assert set(await found(world)) == {(chain[0], "manifest.json")}
    await world.store.delete([key])
    assert set(await found(world)) == {(chain[0], "manifest.json")}, "the manifest stays for ever"


async def test_what_the_keeper_did_not_sign_excuses_nothing(world: World, chain: list[str]) -> None:
    folder = f"backups/{chain[1]}/"
    await world.store.delete([folder + DATA])
    missing = (chain[1], DATA)
    await expire(world, chain[0])
    for name in ("expired.json", "expired.sig"):
        await put(world, folder + name, await world.read(f"backups/{chain[0]}/{name}"))
    assert await found(world) == [missing, (chain[1], "expired.json")], "it is that of another backup"
    await expire(world, chain[1], Signing())
    assert await found(world) == [missing, (chain[1], "expired.json")], "an unknown key"
    await expire(world, chain[1])
    assert await found(world) == []
    await put(world, f"{folder}expired.json", (await world.read(f"{folder}expired.json")).replace(b"rule", b"body"))
    assert await found(world) == [missing, (chain[1], "expired.json")], "it was edited"
    await world.store.delete([f"{folder}expired.sig"])
    assert await found(world) == [missing, (chain[1], "expired.sig")]
    await world.store.delete([f"{folder}expired.json"])
    assert await found(world) == [missing]
    await put(world, f"{folder}expired.json", b"{}")
    await put(world, f"{folder}expired.sig", await signing.signature_of(SIGNER, b"{}", signing.EXPIRY))
    assert await found(world) == [missing, (chain[1], "expired.json")], "it cannot be understood"


async def test_a_chain_may_fork(world: World, chain: list[str]) -> None:
    """Two workers that began at the same time name the same backup as the one before them."""
    key = f"backups/{chain[2]}/manifest.json"
    manifest = await world.read_json(key)
    before = await world.read(f"backups/{chain[0]}/manifest.json")
    manifest["previous"] = {"id": chain[0], "sha256": hashlib.sha256(before).hexdigest()}
    body = json.dumps(manifest).encode()
    await put(world, key, body)
    await put(world, f"backups/{chain[2]}/manifest.sig", await signing.signature_of(SIGNER, body))
    assert await found(world) == []
