"""MCUboot images of node models: header, payload, protected TLVs, TLVs (docs/nodelink.md, "Images").

What `imgtool sign` makes, with the payload never executed. Signatures are added elsewhere: they cover `Image.sha256`.
"""

import hashlib
import re
import struct
from typing import NamedTuple

from gatewayd.errors import CascadeError

HEADER_BYTES = 32
_MAGIC, _INFO_MAGIC, _PROTECTED_MAGIC = 0x96F3B83D, 0x6907, 0x6908
_NON_BOOTABLE = 0x10
_HEADER = struct.Struct("<IIHHIIBBHI4x")  # magic, load address, header, protected TLVs, payload (bytes), flags, version
_PAIR = struct.Struct("<HH")  # of an info header (magic, total size) and of a TLV (type, length)
_SHA256, _COUNTER, _CASCADE, _ARENA, _OPERATORS, _FRONT_END, _DECISION = 0x10, 0x50, 0xA0, 0xA1, 0xA2, 0xA3, 0xA4
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:\+(\d+))?", re.ASCII)


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


def build(
    payload: bytes, *, version: str, counter: int, cascade: str, arena_bytes: int, operators: bytes, front_end: bytes, decision: bytes
) -> bytes:
    """The image of a `.tflite` model, not signed. Raises CascadeError where a value does not fit its field."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise CascadeError(f"version {version!r} is not MAJOR.MINOR[.REVISION][+BUILD]")
    try:
        values = {
            _COUNTER: struct.pack("<I", counter),
            _CASCADE: cascade.encode(),
            _ARENA: struct.pack("<I", arena_bytes),
            _OPERATORS: operators,
            _FRONT_END: front_end,
            _DECISION: decision,
        }
        protected = _tlvs(_PROTECTED_MAGIC, values)
        numbers = [int(part or 0) for part in match.groups()]
        signed = _HEADER.pack(_MAGIC, 0, HEADER_BYTES, len(protected), len(payload), _NON_BOOTABLE, *numbers) + payload + protected
    except struct.error as error:
        raise CascadeError(f"image of {cascade!r}: {error}") from error
    return signed + _tlvs(_INFO_MAGIC, {_SHA256: hashlib.sha256(signed).digest()})


def parse(data: bytes) -> Image:
    """The image in `data`, its SHA-256 checked. Raises CascadeError."""
    try:
        magic, _, header_bytes, protected_bytes, payload_bytes, flags, *numbers = _HEADER.unpack_from(data)
    except struct.error as error:
        raise CascadeError("image: shorter than its header") from error
    if magic != _MAGIC or header_bytes != HEADER_BYTES or not flags & _NON_BOOTABLE:
        raise CascadeError("image: not the header of a model")
    payload_end = HEADER_BYTES + payload_bytes
    hashed_end = payload_end + protected_bytes
    protected, end = _parse_tlvs(data, payload_end, _PROTECTED_MAGIC)
    plain, total = _parse_tlvs(data, hashed_end, _INFO_MAGIC)
    if end != hashed_end or total != len(data):
        raise CascadeError("image: its sizes contradict each other")
    digest = hashlib.sha256(memoryview(data)[:hashed_end]).digest()
    if plain.get(_SHA256) != digest:
        raise CascadeError("image: wrong SHA-256")
    try:
        return Image(
            payload=data[HEADER_BYTES:payload_end],
            version="{}.{}.{}+{}".format(*numbers).removesuffix("+0"),
            counter=_u32(protected[_COUNTER]),
            cascade=protected[_CASCADE].decode(),
            arena_bytes=_u32(protected[_ARENA]),
            operators=protected[_OPERATORS],
            front_end=protected[_FRONT_END],
            decision=protected[_DECISION],
            sha256=digest,
        )
    except KeyError as error:
        raise CascadeError(f"image: no TLV {error.args[0]:#06x}") from error
    except (struct.error, UnicodeDecodeError) as error:
        raise CascadeError(f"image: {error}") from error


def _u32(value: bytes) -> int:
    return int(struct.unpack("<I", value)[0])


def _tlvs(magic: int, values: dict[int, bytes]) -> bytes:
    body = b"".join(_PAIR.pack(kind, len(value)) + value for kind, value in values.items())
    return _PAIR.pack(magic, _PAIR.size + len(body)) + body


def _parse_tlvs(data: bytes, at: int, expected: int) -> tuple[dict[int, bytes], int]:
    """The TLVs of the area at `at`, and where it ends. A type that comes twice is refused: readers would differ on which counts."""
    try:
        magic, total = _PAIR.unpack_from(data, at)
        end = at + total
        at += _PAIR.size
        if magic != expected or end > len(data) or end < at:
            raise CascadeError("image: no TLV area where one belongs")
        found: dict[int, bytes] = {}
        while at < end:
            kind, size = _PAIR.unpack_from(data, at)
            at += _PAIR.size + size
            if at > end or kind in found:
                raise CascadeError("image: a TLV is too long or comes twice")
            found[kind] = data[at - size : at]
    except struct.error as error:
        raise CascadeError("image: cut short") from error
    return found, end
