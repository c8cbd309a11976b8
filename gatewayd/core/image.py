"""MCUboot images of node models: header, payload, protected TLVs, TLVs (docs/nodelink.md, "Images").

`imgtool` makes them (gatewayd.bundle); this reads them as a node does, and trusts nothing. Whatever is not covered by the digest must be
exactly what it has to be, so that an accepted image has one form only.
"""

import hashlib
import re
import struct
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatewayd.errors import RefusedError

HEADER_BYTES = 32
MAX_TLV_BYTES, MAX_TLVS = 65_535, 32  # of an area, with its header: two bytes hold its size
KEY_HASH, SHA256, ED25519 = 0x01, 0x10, 0x24
COUNTER, CASCADE, ARENA, OPERATORS, FRONT_END, DECISION, SELF_TEST = 0x50, 0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5
_MAGIC, _INFO_MAGIC, _PROTECTED_MAGIC = 0x96F3B83D, 0x6907, 0x6908
_NON_BOOTABLE = 0x10
_NAME = re.compile(rb"[a-z0-9][a-z0-9-]{0,30}")
_PLAIN = {SHA256: 32}  # sizes, bytes
_SIGNED = {SHA256: 32, KEY_HASH: 32, ED25519: 64}
_HEADER = struct.Struct("<IIHHIIBBHI4x")  # magic, load address, header, protected TLVs, payload (bytes), flags, version
_PAIR = struct.Struct("<HH")  # of an info header (magic, total size) and of a TLV (type, length)

Keyring = Mapping[bytes, Ed25519PublicKey]  # by key_hash()


class SelfTest(NamedTuple):
    """What a model must answer: `inputs` are whole inputs one after the other, run from reset; docs/nodelink.cddl `self-test`."""

    inputs: bytes
    outputs: bytes


class Image(NamedTuple):
    """A model as it is installed on a node."""

    payload: bytes
    version: str
    counter: int
    cascade: str
    arena_bytes: int
    operators: bytes
    front_end: bytes
    decision: bytes
    sha256: bytes
    self_test: SelfTest | None
    key_hash: bytes | None  # None: not signed
    signature: bytes | None
    size_bytes: int


def parse(data: bytes) -> Image:
    """The image in `data`, its SHA-256 checked and its signature not. Raises RefusedError: "size", "header", "tlv" or "digest"."""
    if len(data) < HEADER_BYTES:
        _refuse("size", "shorter than an image's header")
    magic, _, header_bytes, protected_bytes, payload_bytes, flags, *numbers = _HEADER.unpack_from(data)
    if magic != _MAGIC or header_bytes != HEADER_BYTES or flags != _NON_BOOTABLE:
        _refuse("header", "not the header of a model's image")
    payload_end = HEADER_BYTES + payload_bytes
    hashed_end = payload_end + protected_bytes
    if hashed_end > len(data):
        _refuse("size", "shorter than its header says")
    protected, end = _parse_tlvs(data, payload_end, _PROTECTED_MAGIC)
    plain, total = _parse_tlvs(data, hashed_end, _INFO_MAGIC)
    if end != hashed_end:
        _refuse("tlv", "header and TLV area differ on the size")
    if total != len(data):
        _refuse("size", f"{len(data) - total} bytes after its end")
    if {kind: len(value) for kind, value in plain.items()} not in (_PLAIN, _SIGNED):
        _refuse("tlv", "an unprotected TLV that does not belong, or one is missing")
    try:
        image = Image(
            payload=data[HEADER_BYTES:payload_end],
            version="{}.{}.{}+{}".format(*numbers).removesuffix("+0"),
            counter=_u32(protected[COUNTER]),
            cascade=_name(protected[CASCADE]),
            arena_bytes=_u32(protected[ARENA]),
            operators=protected[OPERATORS],
            front_end=protected[FRONT_END],
            decision=protected[DECISION],
            sha256=plain[SHA256],
            self_test=_self_test(protected[SELF_TEST]) if SELF_TEST in protected else None,
            key_hash=plain.get(KEY_HASH),
            signature=plain.get(ED25519),
            size_bytes=total,
        )
    except KeyError as error:
        raise RefusedError("tlv", f"no TLV {error.args[0]:#06x}") from error
    except struct.error as error:
        raise RefusedError("tlv", str(error)) from error
    if hashlib.sha256(memoryview(data)[:hashed_end]).digest() != image.sha256:
        _refuse("digest", "wrong SHA-256")
    return image


def verify(image: Image, keys: Keyring) -> None:
    """Check who signed a parsed image. Raises RefusedError: "key" where it is none of `keys`, "signature" where it is wrong."""
    if image.key_hash is None or image.signature is None:
        _refuse("key", "the image is not signed")
    check_signature(keys, image.key_hash, image.signature, image.sha256)


def check_signature(keys: Keyring, key_hash: bytes, signature: bytes, message: bytes) -> None:
    """Ed25519 over `message`. Raises RefusedError: "key" or "signature"."""
    key = keys.get(key_hash)
    if key is None:
        _refuse("key", f"signed with a key that is not trusted here: {key_hash.hex()}")
    try:
        key.verify(signature, message)
    except InvalidSignature as error:
        raise RefusedError("signature", "the signature is wrong") from error


def key_hash(key: Ed25519PublicKey) -> bytes:
    """How images name a key: the SHA-256 of its SubjectPublicKeyInfo, as MCUboot has it."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def encode_self_test(test: SelfTest) -> bytes:
    """The image's TLV 0x00A5."""
    return cbor2.dumps({0: test.inputs, 1: test.outputs})


def _self_test(data: bytes) -> SelfTest:
    try:
        fields = cbor2.loads(data)
    except Exception as error:  # cbor2 raises whatever comes its way
        raise RefusedError("tlv", f"self-test: {error}") from error
    inputs, outputs = (fields.get(0), fields.get(1)) if isinstance(fields, dict) else (None, None)
    if isinstance(inputs, bytes) and isinstance(outputs, bytes) and inputs and outputs:
        test = SelfTest(inputs, outputs)
        if encode_self_test(test) == data:  # no other key, no other form, nothing after the map
            return test
    raise RefusedError("tlv", "self-test: not a map of inputs and outputs")


def _name(value: bytes) -> str:
    if not _NAME.fullmatch(value):
        _refuse("tlv", "not the name of a cascade")
    return value.decode()


def _u32(value: bytes) -> int:
    return int(struct.unpack("<I", value)[0])


def _parse_tlvs(data: bytes, at: int, expected: int) -> tuple[dict[int, bytes], int]:
    """The TLVs of the area at `at`, and where it ends. A type that comes twice is refused: readers would differ on which counts."""
    if at + _PAIR.size > len(data):
        _refuse("size", "cut short")
    magic, total = _PAIR.unpack_from(data, at)
    end = at + total
    if magic != expected or total < _PAIR.size:
        _refuse("tlv", "no TLV area where one belongs")
    if end > len(data):
        _refuse("size", "cut short")
    at += _PAIR.size
    found: dict[int, bytes] = {}
    while at < end:
        if at + _PAIR.size > end:
            _refuse("tlv", "a TLV is cut short")
        kind, size = _PAIR.unpack_from(data, at)
        at += _PAIR.size + size
        if at > end or kind in found or len(found) == MAX_TLVS:
            _refuse("tlv", "a TLV is too long or comes twice, or there are too many")
        found[kind] = data[at - size : at]
    return found, end


def _refuse(reason: str, detail: str) -> NoReturn:
    raise RefusedError(reason, detail)
