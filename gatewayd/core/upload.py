"""An image on its way to a node, as SMP requests with several in flight: which may be sent now, and what an answer means.

The first one names the image and goes alone, for its answer says how much of it the node has. From there on up to `window` pieces are in
flight. The node takes them in order, so an answer also tells that those before it which have none are lost. Every answer names the offset
where the node goes on; where that is not the end of its piece, or the node has not heard it as it was sent, the sending goes back there.
What is in flight by then comes to nothing, but is waited for: never are there more than `window` requests that the node has to keep.
"""

import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import cbor2

from gatewayd.core.update import refusal
from gatewayd.errors import DecodeError, NodeRefusedError

_HEADER = struct.Struct("!BBHHBB")  # version and op, flags, length, group, sequence, command
_SEQUENCE = 6
_VERSION_2, _OP_MASK, _WRITE, _WRITTEN = 1 << 3, 7, 2, 3
_GROUP, _COMMAND, _DIGEST = 1, 1, 24
NOT_HEARD = {3: "malformed", 10: "busy"}  # SMP's own rcs where a request was not heard as it was sent; it may be sent again
_STALE = -1  # where a piece ends that comes to nothing


class Upload:
    """One upload of `data`. `offset` is what the node has of it; `stalls` counts the answers since then that brought it no further."""

    def __init__(self, data: bytes, image: int, *, frame_bytes: int, window: int, sequence: int) -> None:
        self.offset = self.stalls = 0
        self._data = data
        self._first: dict[str, Any] = {"image": image, "len": len(data), "sha": sha256(data).digest(), "upgrade": False}
        self._frame_bytes = frame_bytes
        self._window = window
        self._sequence = sequence % 256
        self._sent = 0
        self._flight: dict[int, int] = {}  # sequence -> where its piece ends, in the order sent
        self._furthest = -1

    @property
    def done(self) -> bool:
        """The node has it all, and has verified it."""
        return self.offset == len(self._data)

    def requests(self) -> Iterator[bytes]:
        """What may be sent now."""
        while self._sent < len(self._data) and len(self._flight) < (self._window if self.offset else 1):
            frame, self._sent = self._request(self._sent)
            self._flight[self._sequence] = self._sent
            self._sequence = (self._sequence + 1) % 256
            yield frame

    def _request(self, start: int) -> tuple[bytes, int]:
        """The largest frame with what follows `start`, and where that ends."""
        fields = {"off": start, "data": b"", **({} if start else self._first)}
        room = self._frame_bytes - _HEADER.size - len(_encode(fields))
        room -= len(_encode(max(0, room))) - 1  # a length takes the room of the number
        end = min(len(self._data), start + max(0, room))
        body = _encode({**fields, "data": self._data[start:end]})
        return _HEADER.pack(_VERSION_2 | _WRITE, 0, len(body), _GROUP, self._sequence, _COMMAND) + body, end

    def answered(self, frame: bytes) -> None:
        """Take in an answer. Raises NodeRefusedError, and DecodeError for what is none."""
        said, match = _answer(frame)
        end = self._landed(frame[_SEQUENCE])
        if end == _STALE:
            return
        offset = self.offset if said is None else said
        if not 0 <= offset <= len(self._data):
            raise DecodeError("schema", f"an upload of {len(self._data)} bytes stands at {offset}")
        if offset != end:
            self._sent = offset
            self._flight = dict.fromkeys(self._flight, _STALE)
        self.stalls = 0 if offset > self._furthest else self.stalls + 1
        self.offset, self._furthest = offset, max(self._furthest, offset)
        if self.done and not match:
            raise NodeRefusedError(refusal(_GROUP, _DIGEST))

    def _landed(self, sequence: int) -> int:
        """Where the piece ends that is answered. Those before it have no answer any more."""
        end = _STALE
        while sequence in self._flight:
            end = self._flight.pop(next(iter(self._flight)))
        return end


def _encode(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


def _answer(frame: bytes) -> tuple[int | None, bool]:
    """Where the node goes on, None where it has not heard the request; and whether the image's digest is right as far as it knows.

    Raises NodeRefusedError, DecodeError.
    """
    try:
        op, _, _, group, _, command = _HEADER.unpack_from(frame)
        answer = cbor2.loads(frame[_HEADER.size :])
    except Exception as error:  # cbor2 lets through what its tags raise
        raise DecodeError("cbor", str(error)) from error
    if (op & _OP_MASK, group, command) != (_WRITTEN, _GROUP, _COMMAND):
        raise DecodeError("schema", "not an answer to an upload")
    match answer:
        case {"err": {"group": int(of), "rc": int(rc)}}:
            raise NodeRefusedError(refusal(of, rc))
        case {"rc": int(rc)} if rc in NOT_HEARD:
            return None, True
        case {"rc": int(rc)} if rc:
            raise NodeRefusedError(f"smp rc {rc}")
        case {"off": int(offset)}:
            return offset, answer.get("match", True) is True
    raise DecodeError("schema", "neither an offset nor a refusal")
