"""Keys: the operator's private key in a PEM file on the operator's machine, public keys wherever something is verified.

Ed25519, as PKCS 8 and SubjectPublicKeyInfo: what openssl and imgtool read and write too.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gatewayd.core.image import Keyring, key_hash
from gatewayd.errors import ConfigError


def make(path: Path, passphrase: str = "") -> Path:
    """Write a new private key to `path` (mode 0600) and its public key beside it (`.pub`, returned); overwrites nothing.

    Raises ConfigError.
    """
    key = Ed25519PrivateKey.generate()
    encryption = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    beside = path.with_name(path.name + ".pub")
    for file, content, mode in ((path, private, 0o600), (beside, public, 0o644)):
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(content)
        except OSError as error:
            raise ConfigError(f"key: {error}") from error
    return beside


def encrypted(path: Path) -> bool:
    """Whether the private key in `path` wants a passphrase. Raises ConfigError."""
    return b"ENCRYPTED" in _read(path)


def load_private(path: Path, passphrase: str = "") -> Ed25519PrivateKey:
    """Raises ConfigError."""
    try:
        key = serialization.load_pem_private_key(_read(path), passphrase.encode() or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: a passphrase is missing or not wanted
        raise ConfigError(f"{path}: no private key that can be read (is the passphrase right?): {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key; `gatewayctl keys make` makes one")
    return key


def load_public(path: Path) -> Ed25519PublicKey:
    """The public key in `path`, or that of the private key there, if it has no passphrase. Raises ConfigError."""
    pem = _read(path)
    if b"PRIVATE KEY" in pem:
        return load_private(path).public_key()
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: no public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: not an Ed25519 key; `gatewayctl keys make` makes one")
    return key


def keyring(paths: Iterable[Path]) -> Keyring:
    """The public keys in `paths`. Raises ConfigError."""
    return {key_hash(key): key for key in map(load_public, paths)}


def raw(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes that a node is built with."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"key: {error}") from error
