"""The key that signs the manifests of the one-machine stack's backups: made once, and kept in its folder."""

import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from deploy.local.home import Home, HomeError

FILE = "signing-key.pem"


@dataclass(frozen=True)
class SigningKey:
    """`fingerprint` is the SHA-256 of the public key's 32 bytes, by which readers of backups know it."""

    pem: str = field(repr=False)
    fingerprint: str


def kept(home: Home) -> SigningKey:
    """The key of the folder; one is made where there is none. Raises HomeError for one that cannot be read."""
    path = home.path / FILE
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        home.write_private(FILE, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    pem = path.read_text()
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise HomeError(f"{path} is damaged: put it back, or move it away, and old backups are by an unknown key")
    return SigningKey(pem, hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest())
