"""What the node says of an image: its core, through ctypes."""

import ctypes as c
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nn_native import aligned

from gatewayd.core import image


class Span(c.Structure):
    """`span_t`."""

    _fields_ = (("data", c.c_void_p), ("size", c.c_uint32))

    def bytes(self) -> bytes:
        """What it points to."""
        return c.string_at(self.data, self.size) if self.size else b""


class _Settings(c.Structure):
    """`front_end_t` and `decision_t`, which these tests do not look into."""

    _fields_ = (("front_end", c.c_uint32 * 7), ("parameters", Span), ("decision", c.c_uint32 * 7))


class _Image(c.Structure):
    _fields_ = (
        ("payload", Span),
        ("size", c.c_uint32),
        ("cascade", c.c_char * 32),
        ("version", c.c_char * 25),
        ("counter", c.c_uint32),
        ("arena_bytes", c.c_uint32),
        ("operators", Span),
        ("settings", _Settings),
        ("inputs", Span),
        ("outputs", Span),
        ("sha256", c.c_void_p),
        ("key_hash", c.c_void_p),
        ("signature", c.c_void_p),
    )


class _Policy(c.Structure):
    _fields_ = (
        ("keys", c.c_char_p),
        ("key_count", c.c_uint),
        ("cascade", c.c_char_p),
        ("counter", c.c_uint32),
        ("capacity", c.c_uint32),
        ("ring_bytes", c.c_uint32),
        ("arena", c.c_void_p),
        ("arena_bytes", c.c_uint32),
    )


class Node(NamedTuple):
    """A node and what it demands of images."""

    library: c.CDLL
    key: Ed25519PublicKey
    cascade: str
    counter: int
    arena_bytes: int
    capacity: int
    ring_bytes: int

    def parse(self, data: bytes) -> tuple[str | None, _Image]:
        """The reason for which `data` is no image, or None and what it holds; it points into memory that only lives on in it."""
        memory, parsed = aligned(data), _Image()
        parsed.memory = memory
        fault = self.library.image_parse(c.byref(parsed), c.c_void_p(memory.ctypes.data), c.c_uint32(len(data)))
        return self._name(fault), parsed

    def judge(self, data: bytes) -> str | None:
        """The reason for which an image may not run here, or None."""
        arena = aligned(self.arena_bytes)
        policy = _Policy(
            keys=self.key.public_bytes_raw(),
            key_count=1,
            cascade=self.cascade.encode(),
            counter=self.counter,
            capacity=self.capacity,
            ring_bytes=self.ring_bytes,
            arena=arena.ctypes.data,
            arena_bytes=self.arena_bytes,
        )
        reason, parsed = self.parse(data)
        for step in (self.library.verify_image, self.library.verify_model):
            reason = reason or self._name(step(c.byref(parsed), c.byref(policy)))
        return reason

    def _name(self, fault: int) -> str | None:
        name = self.library.image_fault_name
        name.restype = c.c_char_p
        found = name(fault)
        assert (found is None) == (fault == 0)
        return found.decode() if found else None


def content(parsed: _Image) -> image.Image:
    """What the node found, as the gateway has it; front end and decision are not compared, nor what the digest covers."""

    def at(pointer: int | None, size: int) -> bytes | None:
        return c.string_at(pointer, size) if pointer else None

    return image.Image(
        payload=parsed.payload.bytes(),
        version=parsed.version.decode(),
        counter=parsed.counter,
        cascade=parsed.cascade.decode(),
        arena_bytes=parsed.arena_bytes,
        operators=parsed.operators.bytes(),
        front_end=b"",
        decision=b"",
        sha256=at(parsed.sha256, 32) or b"",
        self_test=image.SelfTest(parsed.inputs.bytes(), parsed.outputs.bytes()) if parsed.inputs.size else None,
        key_hash=at(parsed.key_hash, 32),
        signature=at(parsed.signature, 64),
        size_bytes=parsed.size,
    )
