"""The line between a node and its radio chip, docs/radio.md: what is said on it, in frames."""

import enum
import zlib
from collections.abc import Iterator
from typing import NamedTuple

VERSION = 2
MAX_PAYLOAD = 600
_HEAD = 2  # type and number
_BLOCK = 254  # COBS': bytes without a zero


class Host(enum.IntEnum):
    """What the host says."""

    RESET = 0x00
    ADVERTISE = 0x01
    VALUE = 0x02
    NOTIFY = 0x03
    DISCONNECT = 0x04
    SECURITY = 0x05
    CONFIRM = 0x06
    ALIVE = 0x07


class Chip(enum.IntEnum):
    """What the radio says."""

    STARTED = 0x81
    CONNECTED = 0x82
    MTU = 0x83
    SUBSCRIBED = 0x84
    WRITTEN = 0x85
    SENT = 0x86
    DISCONNECTED = 0x87
    SECURED = 0x88
    COMPARE = 0x89
    ALIVE = 0x8A


class Frame(NamedTuple):
    """One frame that held."""

    type: int
    number: int
    payload: bytes


def encode(frame: Frame) -> bytes:
    """As it is on the line."""
    plain = bytes((frame.type, frame.number)) + frame.payload
    line = bytearray()
    for run in (plain + zlib.crc32(plain).to_bytes(4, "little")).split(b"\0"):
        full, rest = divmod(len(run), _BLOCK)
        for block in range(full):
            line += b"\xff" + run[block * _BLOCK : (block + 1) * _BLOCK]
        line.append(rest + 1)
        line += run[full * _BLOCK :]
    return bytes(line) + b"\0"


def decode(line: bytes) -> Frame | None:
    """A frame without its end; None where it does not hold."""
    plain = bytearray()
    at = 0
    while at < len(line):
        code = line[at]
        plain += line[at + 1 : at + code]
        at += code
        if code <= _BLOCK and at < len(line):
            plain.append(0)
    body, crc = plain[:-4], plain[-4:]
    if at != len(line) or not _HEAD <= len(body) <= _HEAD + MAX_PAYLOAD or zlib.crc32(body).to_bytes(4, "little") != crc:
        return None
    return Frame(body[0], body[1], bytes(body[_HEAD:]))


class Reader:
    """Bytes in, frames out; `dropped` counts what did not hold."""

    def __init__(self) -> None:
        self._rest = b""
        self.dropped = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` ends."""
        *lines, self._rest = (self._rest + data).split(b"\0")
        self._rest = self._rest[: 2 * MAX_PAYLOAD]
        for line in filter(None, lines):
            if frame := decode(line):
                yield frame
            else:
                self.dropped += 1
