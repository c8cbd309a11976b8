"""Provisioning: the first bytes of a node's flash, which make a firmware one node (docs/nodelink.md, "Provisioning").

Bytes in, bytes out: nothing here reads or writes a file.
"""

import base64
import struct
import zlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from gatewayd.core import image, wire
from gatewayd.core.types import Provisioning, Security
from gatewayd.errors import ConfigError, DecodeError

SECTOR_BYTES = 4_096
_HEADER = struct.Struct("<4sIII")  # magic, size and CRC-32 of the map, all ones
_MAGIC, _ONES = b"NLPV", 0xFFFFFFFF
_MOST_BYTES = {"host": 63, "user": 63, "password": 63, "ssid": 32, "wifi_password": 64}  # of texts, as UTF-8
_RADIO_BYTES = 575  # of a map: what a node has room for in one message, without its code
_PEM = b"-----BEGIN"
_SECRETS = {Security.PLAIN: (), Security.PSK: ("psk",), Security.X509: ("ca", "certificate", "private_key")}


def write(provisioning: Provisioning) -> bytes:
    """The sector. Raises ConfigError where a node would refuse it, or it does not fit."""
    try:
        data = wire.encode(provisioning)
    except UnicodeEncodeError as error:
        raise ConfigError(f"not UTF-8: {error}") from error
    if len(data) > SECTOR_BYTES - _HEADER.size:
        raise ConfigError(f"{len(data):,} bytes, and a node has {SECTOR_BYTES - _HEADER.size:,} for them: use smaller certificates")
    sector = (_HEADER.pack(_MAGIC, len(data), zlib.crc32(data), _ONES) + data).ljust(SECTOR_BYTES, b"\xff")
    try:
        read(sector)
    except DecodeError as error:
        raise ConfigError(error.detail) from error
    return sector


def message(provisioning: Provisioning) -> bytes:
    """The map alone, for a node that takes it over Bluetooth LE. Raises ConfigError as `write`."""
    write(provisioning)
    data = wire.encode(provisioning)
    if len(data) > _RADIO_BYTES:
        raise ConfigError(f"{len(data):,} bytes, and a node takes {_RADIO_BYTES} over Bluetooth LE")
    return data


def read(flash: bytes) -> Provisioning:
    """What the sector at the start of `flash` says. Raises DecodeError."""
    if len(flash) < SECTOR_BYTES:
        raise DecodeError("truncated", f"{len(flash)} bytes are no sector")
    magic, size, crc, ones = _HEADER.unpack_from(flash)
    data = flash[_HEADER.size : _HEADER.size + size]
    if (magic, ones) != (_MAGIC, _ONES) or _HEADER.size + size > SECTOR_BYTES:
        raise DecodeError("header", "not a node's provisioning")
    if zlib.crc32(data) != crc:
        raise DecodeError("damaged", "wrong CRC-32")
    found: Provisioning = wire.decode_as(Provisioning, data)
    _check(found)
    return found


def _check(provisioning: Provisioning) -> None:
    """What the types do not say. Raises DecodeError."""
    for name, most in _MOST_BYTES.items():
        text = getattr(provisioning, name) or ""
        if len(text.encode()) > most or "\0" in text:
            raise DecodeError("schema", f"{name}: more than {most} bytes, or a zero byte")
    if provisioning.password is not None and provisioning.user is None:
        raise DecodeError("schema", "a password without a user")
    if provisioning.wifi_password is not None and provisioning.ssid is None:
        raise DecodeError("schema", "a Wi-Fi's password without its name")
    needed = _SECRETS[provisioning.security]
    for name in ("psk", "ca", "certificate", "private_key"):
        if (name in needed) != (getattr(provisioning, name) is not None):
            raise DecodeError("schema", f"{name}: needed with {'psk' if name == 'psk' else 'x509'}, and only there")


def flash_image(provisioning: Provisioning, factory: bytes = b"", size_bytes: int = 0) -> bytes:
    """The sector, behind it the factory's image, and up to `size_bytes` erased flash.

    Raises ConfigError, and RefusedError where none of the node's keys has signed the image.
    """
    if factory:
        image.verify(image.parse(factory), keyring(provisioning))
        provisioning = provisioning._replace(image_bytes=len(factory))
    flash = write(provisioning) + factory
    if 0 < size_bytes < len(flash):
        raise ConfigError(f"{len(flash):,} bytes do not fit into {size_bytes:,}")
    return flash.ljust(size_bytes, b"\xff")


def enrolment_code(provisioning: Provisioning) -> str:
    """What a node with a pre-shared key needs beside the public keys, in the few characters that make a small QR code."""
    assert provisioning.psk is not None
    key = base64.b32encode(provisioning.psk).decode().rstrip("=")
    return f"NODELINK:1/{provisioning.id}/{provisioning.host}:{provisioning.port}/{key}".upper()


def keyring(provisioning: Provisioning) -> image.Keyring:
    """The keys of who may sign the node's images."""
    return {image.key_hash(key): key for key in map(Ed25519PublicKey.from_public_bytes, provisioning.keys)}


def x509_credentials(ca: bytes, certificate: bytes, private_key: bytes) -> tuple[bytes, bytes, bytes]:
    """The same in DER, from PEM or DER: whom the node believes of brokers, what it shows, its key. Raises ConfigError.

    The two certificates need not belong together: a broker may have another authority than its nodes.
    """
    authority, own, key = _certificate(ca, "CA"), _certificate(certificate, "certificate"), _private_key(private_key)
    if own.public_key() != key.public_key():
        raise ConfigError("the private key is not that of the certificate")
    der = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())  # RFC 5915, as small as it gets
    return authority.public_bytes(Encoding.DER), own.public_bytes(Encoding.DER), der


def _certificate(data: bytes, name: str) -> x509.Certificate:
    try:
        found = x509.load_pem_x509_certificate(data) if _PEM in data else x509.load_der_x509_certificate(data)
        _require_p256(found.public_key(), name)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{name}: no certificate that can be read: {error}") from error
    return found


def _private_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(data, None) if _PEM in data else load_der_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it wants a passphrase
        raise ConfigError(f"private key: none that can be read, without a passphrase: {error}") from error
    _require_p256(key, "private key")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _require_p256(key: object, name: str) -> None:
    if not isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{name}: nodes know keys on the curve P-256 only: openssl ecparam -name prime256v1 -genkey -noout")
