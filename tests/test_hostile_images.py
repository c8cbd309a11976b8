"""Images that nobody may accept, before the gateway and before the node: each is refused with a reason that fits it."""

import hashlib
import itertools
import random
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hostile_images import (
    ARENA_BYTES,
    CAPACITY,
    CASCADE,
    COUNTER,
    KEY,
    RING_BYTES,
    assembled,
    good,
    hostile,
    protected_tlvs,
    signed,
)
from node_image import Node, content

from gatewayd import bundle
from gatewayd.core import image
from gatewayd.errors import RefusedError
from gatewayd.minify import minify

KEYS = {image.key_hash(KEY.public_key()): KEY.public_key()}
BOTH = {"size", "header", "tlv", "digest", "key", "signature", "operators", "front-end", "decision", "plan", "model", "self-test"}


@pytest.fixture
def node(libnode):
    return Node(libnode, KEY.public_key(), CASCADE, COUNTER, ARENA_BYTES, CAPACITY, RING_BYTES)


def accept(data):
    parsed = image.parse(data)
    image.verify(parsed, KEYS)
    bundle.check_model(parsed)
    return parsed


def test_the_good_one_is_accepted(node):
    assert accept(good()).cascade == CASCADE
    assert signed() == good()
    assert node.judge(good()) is None


def test_a_protected_tlv_that_nobody_knows_means_nothing(node):
    known = protected_tlvs()
    data = assembled([*known, *((0x7000 + i, b"?") for i in range(image.MAX_TLVS - len(known)))])
    assert accept(data)._replace(sha256=b"", signature=b"", size_bytes=0) == accept(good())._replace(
        sha256=b"", signature=b"", size_bytes=0
    )
    assert node.judge(data) is None


def test_a_plan_says_what_its_model_wants(node):
    more = struct.pack("<I", ARENA_BYTES + 1)  # without the plan
    data = signed(ARENA=more)
    assert accept(data).arena_bytes == ARENA_BYTES + 1
    assert node.judge(data) is None
    assert node.judge(signed(payload=minify(image.parse(good()).payload), ARENA=more)) == "arena"


def test_a_gateway_refuses_each_with_its_reason():
    seen, names = set(), set()
    for one in hostile():
        assert one.name not in names
        names.add(one.name)
        if one.node_only:
            image.verify(image.parse(one.data), KEYS)
            continue
        with pytest.raises(RefusedError) as caught:
            accept(one.data)
        assert caught.value.reason in one.reasons, one.name
        seen.add(caught.value.reason)
    assert seen == BOTH


def test_a_node_refuses_each_with_its_reason(node):
    seen = set()
    for one in hostile():
        reason = node.judge(one.data)
        assert reason in one.reasons, one.name
        seen.add(reason)
    assert seen == BOTH | {"cascade", "capacity", "counter", "arena", "limits"}


def test_a_node_that_trusts_nobody_takes_nothing(node):
    assert node._replace(key=Ed25519PublicKey.from_public_bytes(bytes(32))).judge(good()) == "key"


# ---- node and gateway, on images of which nobody knows what they are


def mutated(draw: random.Random) -> bytes:
    """A good image with a few changes, most of them where its structure is; half of them with the digest that it then should have."""
    data, payload = bytearray(draw.choice((good(), signed(key=None)))), len(image.parse(good()).payload)
    for _ in range(draw.randrange(3)):
        at = draw.choice((draw.randrange(32), draw.randrange(32 + payload, len(data)), draw.randrange(len(data))))
        data[at] = draw.choice((data[at] ^ 1 << draw.randrange(8), draw.randrange(256), data[draw.randrange(len(data))]))
    for _ in range(draw.randrange(2)):  # a TLV, or anything, is moved, doubled or left out
        start, stop = sorted(draw.randrange(32 + payload, len(data)) for _ in range(2))
        piece, at = data[start:stop], draw.randrange(32 + payload, len(data))
        if draw.random() < 0.5:
            del data[start:stop]
        data[at:at] = piece[: draw.randrange(len(piece) + 1)]
    if draw.random() < 0.5:
        resize(data, payload)
    if draw.random() < 0.5:
        rehash(data)
    return bytes(data)


def resize(data: bytearray, payload: int) -> None:
    """Let the sizes of the areas agree with what is there."""
    plain = data.rfind(struct.pack("<H", 0x6907))
    if plain > 32 + payload:
        struct.pack_into("<H", data, 10, (plain - 32 - payload) & 0xFFFF)
        struct.pack_into("<H", data, 32 + payload + 2, (plain - 32 - payload) & 0xFFFF)
        data[plain + 2 : plain + 4] = struct.pack("<H", (len(data) - plain) & 0xFFFF)


def rehash(data: bytearray) -> None:
    """Put the right SHA-256 where TLV 0x10 is at its usual place."""
    sizes = struct.unpack_from("<HI", data, 10)
    end = 32 + sum(sizes)
    if data[end + 4 : end + 8] == struct.pack("<HH", image.SHA256, 32) and len(data) >= end + 40:
        data[end + 8 : end + 40] = hashlib.sha256(data[:end]).digest()


def test_node_and_gateway_agree(node):
    draw, seen = random.Random(1), set()
    for data in itertools.chain((mutated(draw) for _ in range(8_000)), (one.data for one in hostile())):
        reason, parsed = node.parse(data)
        try:
            expected = image.parse(data)
        except RefusedError as error:
            assert reason == error.reason, (error, data.hex())
            seen.add(reason)
            continue
        if reason in {"front-end", "decision"}:  # the gateway looks into these later
            with pytest.raises(RefusedError, match=reason):
                bundle.check_model(expected)
        else:
            assert reason is None, data.hex()
            assert content(parsed) == expected._replace(front_end=b"", decision=b"")
        seen.add(reason)
    assert seen == {None, "size", "header", "tlv", "digest", "front-end", "decision"}
