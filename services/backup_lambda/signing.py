"""Signatures, Ed25519, by a key in KMS or one that a secret holds. Any library can check them.

What is signed is `holdfast manifest 1`, `holdfast proof 1` or `holdfast expiry 1`, a newline, and the SHA-256 of
manifest.json, proof/{n}.json or expired.json in hexadecimal digits.
"""

import hashlib
from collections.abc import Collection
from typing import Any, Literal, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key
from pydantic import Base64Bytes, BaseModel, ValidationError

from backup_lambda import aws
from backup_lambda.errors import AwsRefused, SignatureInvalid

MANIFEST, PROOF, EXPIRY = b"holdfast manifest 1\n", b"holdfast proof 1\n", b"holdfast expiry 1\n"


class Signature(BaseModel):
    """What `.sig` holds. `key` is the SHA-256 of the public key's 32 bytes; a reader trusts it because it knows it."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    key: str
    public_key: Base64Bytes
    signature: Base64Bytes


class Signer(Protocol):
    """A private key that may stay where it is. Both methods raise AwsError."""

    async def public_key(self) -> bytes:
        """Its 32 bytes."""

    async def sign(self, message: bytes) -> bytes: ...


class SecretSigner:
    """A key whose PEM a secret holds. The secret is read once: make a new signer where it may have changed."""

    def __init__(self, secrets: Any, arn: str) -> None:
        self._secrets = secrets
        self._arn = arn
        self._read: Ed25519PrivateKey | None = None

    async def public_key(self) -> bytes:
        return (await self._key()).public_key().public_bytes_raw()

    async def sign(self, message: bytes) -> bytes:
        return (await self._key()).sign(message)

    async def _key(self) -> Ed25519PrivateKey:
        if self._read is None:
            with aws.errors_named():
                secret = await self._secrets.get_secret_value(SecretId=self._arn)
            try:
                key = load_pem_private_key(str(secret.get("SecretString", "")).encode(), password=None)
            except (ValueError, TypeError, UnsupportedAlgorithm):
                key = None
            if not isinstance(key, Ed25519PrivateKey):
                raise AwsRefused("the signing secret holds no Ed25519 private key in PEM") from None
            self._read = key
        return self._read


class KmsSigner:
    """A key that KMS never gives away."""

    def __init__(self, kms: Any, arn: str) -> None:
        self._kms = kms
        self._arn = arn
        self._read: bytes | None = None

    async def public_key(self) -> bytes:
        if self._read is None:
            with aws.errors_named():
                answer = await self._kms.get_public_key(KeyId=self._arn)
            key = load_der_public_key(answer["PublicKey"])
            if not isinstance(key, Ed25519PublicKey):
                raise AwsRefused("the signing key is not of the kind ECC_NIST_EDWARDS25519")
            self._read = key.public_bytes_raw()
        return self._read

    async def sign(self, message: bytes) -> bytes:
        with aws.errors_named():
            answer = await self._kms.sign(
                KeyId=self._arn, Message=message, MessageType="RAW", SigningAlgorithm="ED25519_SHA_512"
            )
        return bytes(answer["Signature"])


def signer_of(arn: str, *, kms: Any, secrets: Any) -> Signer:
    """The signer that the ARN of a KMS key or of a secret stands for; nothing is read yet."""
    return KmsSigner(kms, arn) if arn.split(":")[2] == "kms" else SecretSigner(secrets, arn)


async def signature_of(signer: Signer, body: bytes, heading: bytes = MANIFEST) -> bytes:
    """Of the body of a manifest, a PROOF or an EXPIRY: the body of its `.sig`, which was checked. Raises AwsError."""
    public_key = await signer.public_key()
    signed = Signature.model_construct(
        algorithm="Ed25519",
        key=fingerprint(public_key),
        public_key=public_key,
        signature=await signer.sign(_message(body, heading)),
    )
    sig_body = signed.model_dump_json(indent=1).encode() + b"\n"
    try:
        check(body, sig_body, {signed.key}, heading)
    except SignatureInvalid as error:
        raise AwsRefused(f"what the signing key gave is no signature: {error}") from error
    return sig_body


def fingerprint(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()


def check(body: bytes, sig_body: bytes, trusted_keys: Collection[str], heading: bytes = MANIFEST) -> None:
    """Raises SignatureInvalid unless one of the keys with these fingerprints signed this manifest, PROOF or EXPIRY."""
    try:
        signed = Signature.model_validate_json(sig_body)
        public_key = Ed25519PublicKey.from_public_bytes(signed.public_key)
    except (ValidationError, ValueError):
        raise SignatureInvalid("the signature cannot be understood") from None
    key = fingerprint(signed.public_key)
    if key not in trusted_keys or key != signed.key:
        raise SignatureInvalid(f"it is signed by an unknown key, {key}")
    try:
        public_key.verify(signed.signature, _message(body, heading))
    except InvalidSignature:
        raise SignatureInvalid("it is not what was signed") from None


def _message(body: bytes, heading: bytes) -> bytes:
    return heading + hashlib.sha256(body).hexdigest().encode()
