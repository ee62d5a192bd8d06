"""Manifests are signed by a key in KMS or in a secret, and anybody with the public key can tell."""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from backup_lambda import aws, signing
from backup_lambda.errors import AwsError, AwsRefused, SignatureInvalid
from backup_lambda.signing import Signer, signer_of
from tests.backup_lambda.world import Signing

MANIFEST = b'{"format": 1}\n'
MISSING = "arn:aws:secretsmanager:us-east-1:000000000000:secret:missing-AbCdEf"


@pytest.fixture
async def clients(aws_environment: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
    async with aws.clients("kms", "secretsmanager") as (kms, secrets):
        yield {"kms": kms, "secrets": secrets}


async def in_kms(clients: dict[str, Any], spec: str = "ECC_NIST_EDWARDS25519") -> str:
    made = await clients["kms"].create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")
    return str(made["KeyMetadata"]["Arn"])


async def in_a_secret(clients: dict[str, Any], name: str, text: str) -> str:
    made = await clients["secrets"].create_secret(Name=name, SecretString=text)
    return str(made["ARN"])


def pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


async def trusted(signer: Signer) -> set[str]:
    return {signing.fingerprint(await signer.public_key())}


@pytest.mark.parametrize("where", ["kms", "secret"])
async def test_what_either_kind_of_key_signs_can_be_checked(clients: dict[str, Any], where: str) -> None:
    if where == "kms":
        arn = await in_kms(clients)
    else:
        arn = await in_a_secret(clients, "signing-key", pem(ed25519.Ed25519PrivateKey.generate()))
    signer = signer_of(arn, **clients)
    signature = await signing.signature_of(signer, MANIFEST)
    signing.check(MANIFEST, signature, await trusted(signer))
    with pytest.raises(SignatureInvalid, match="it is not what was signed"):
        signing.check(MANIFEST + b" ", signature, await trusted(signer))


async def test_the_signature_can_be_checked_without_holdfast() -> None:
    """As the documentation says it: these are all the bytes that matter."""
    signed = json.loads(await signing.signature_of(Signing(), MANIFEST))
    public_key = base64.b64decode(signed["public_key"])
    message = b"holdfast manifest 1\n" + hashlib.sha256(MANIFEST).hexdigest().encode()
    ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify(base64.b64decode(signed["signature"]), message)
    assert signed["algorithm"] == "Ed25519"
    assert signed["key"] == hashlib.sha256(public_key).hexdigest()


async def test_a_signature_is_of_a_manifest_or_of_a_proof() -> None:
    signer = Signing()
    signature = await signing.signature_of(signer, MANIFEST, signing.PROOF)
    signing.check(MANIFEST, signature, await trusted(signer), signing.PROOF)
    with pytest.raises(SignatureInvalid, match="it is not what was signed"):
        signing.check(MANIFEST, signature, await trusted(signer))
    signed = json.loads(signature)
    message = b"holdfast proof 1\n" + hashlib.sha256(MANIFEST).hexdigest().encode()
    public_key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(signed["public_key"]))
    public_key.verify(base64.b64decode(signed["signature"]), message)


async def test_a_manifest_signed_by_somebody_else_is_refused() -> None:
    ours, theirs = Signing(), Signing()
    signature = await signing.signature_of(theirs, MANIFEST)
    with pytest.raises(SignatureInvalid, match="unknown key"):
        signing.check(MANIFEST, signature, await trusted(ours))
    # It says that it is ours, or holds our public key, without our signature.
    claims = json.loads(signature) | {"key": next(iter(await trusted(ours)))}
    with pytest.raises(SignatureInvalid, match="unknown key"):
        signing.check(MANIFEST, json.dumps(claims).encode(), await trusted(ours))
    claims["public_key"] = base64.b64encode(await ours.public_key()).decode()
    with pytest.raises(SignatureInvalid, match="it is not what was signed"):
        signing.check(MANIFEST, json.dumps(claims).encode(), await trusted(ours))


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\xff"])
async def test_what_is_no_signature_is_refused(body: bytes) -> None:
    with pytest.raises(SignatureInvalid, match="cannot be understood"):
        signing.check(MANIFEST, body, await trusted(Signing()))


@pytest.mark.parametrize(
    "change", [{"algorithm": "none"}, {"public_key": "AAAA"}, {"signature": 3}, {"signature": "not base64!"}]
)
async def test_a_signature_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    signer = Signing()
    signature = json.loads(await signing.signature_of(signer, MANIFEST)) | change
    with pytest.raises(SignatureInvalid):
        signing.check(MANIFEST, json.dumps(signature).encode(), await trusted(signer))


@pytest.mark.parametrize("text", ["", "hunter2", pem(ec.generate_private_key(ec.SECP256R1()))])
async def test_a_secret_that_is_no_key_is_not_shown(clients: dict[str, Any], text: str) -> None:
    arn = await in_a_secret(clients, f"no-key-{len(text)}", text or " ")
    with pytest.raises(AwsRefused, match="holds no Ed25519 private key in PEM") as raised:
        await signing.signature_of(signer_of(arn, **clients), MANIFEST)
    assert "hunter2" not in str(raised.value)


async def test_another_kind_of_key_in_kms_is_refused(clients: dict[str, Any]) -> None:
    arn = await in_kms(clients, "ECC_NIST_P256")
    with pytest.raises(AwsRefused, match="ECC_NIST_EDWARDS25519"):
        await signing.signature_of(signer_of(arn, **clients), MANIFEST)


@pytest.mark.parametrize(
    "arn", [MISSING, "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000"]
)
async def test_a_key_that_is_not_there_is_an_error_of_aws(clients: dict[str, Any], arn: str) -> None:
    with pytest.raises(AwsError, match=re.compile("NotFound")):
        await signing.signature_of(signer_of(arn, **clients), MANIFEST)


class Deaf(Signing):
    """A key that signs something else."""

    async def sign(self, message: bytes) -> bytes:
        return await super().sign(b"something else")


async def test_what_cannot_be_checked_is_not_written() -> None:
    with pytest.raises(AwsRefused, match="is no signature"):
        await signing.signature_of(Deaf(), MANIFEST)


async def test_the_key_is_read_once(clients: dict[str, Any]) -> None:
    arn = await in_a_secret(clients, "read-once", pem(ed25519.Ed25519PrivateKey.generate()))
    asked = []

    async def count(**_: Any) -> None:
        asked.append(1)

    clients["secrets"].meta.events.register("before-send.secretsmanager.GetSecretValue", count)
    signer = signer_of(arn, **clients)
    for _ in range(3):
        await signing.signature_of(signer, MANIFEST)
    assert len(asked) == 1
