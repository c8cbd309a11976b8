"""The gateway and images that nobody may accept: each is refused with a reason that fits it. The node's half is tested against the node."""

import pytest
from hostile_images import ARENA_BYTES, CASCADE, COUNTER, KEY, good, hostile, signed

from gatewayd import bundle
from gatewayd.core import image
from gatewayd.errors import RefusedError

KEYS = {image.key_hash(KEY.public_key()): KEY.public_key()}
AT_THE_NODE = {"counter", "cascade", "arena"}  # nothing is wrong with these but the node for which they are meant


def accept(data):
    parsed = image.parse(data)
    image.verify(parsed, KEYS)
    bundle.check_model(parsed)
    return parsed


def test_the_good_one_is_accepted():
    assert accept(good()).cascade == CASCADE
    assert signed() == good()


def test_each_is_refused_with_its_reason():
    seen, names = set(), set()
    for one in hostile():
        if one.reasons & AT_THE_NODE or one.name == "an operator that no node has":
            continue
        with pytest.raises(RefusedError) as caught:
            accept(one.data)
        assert caught.value.reason in one.reasons, one.name
        seen.add(caught.value.reason)
        assert one.name not in names
        names.add(one.name)
    assert seen == {"size", "header", "tlv", "digest", "key", "signature", "model", "operators", "self-test"}


def test_what_only_its_node_can_refuse_says_so():
    fit = {one.name: image.parse(one.data) for one in hostile() if one.reasons & AT_THE_NODE}
    for parsed in fit.values():
        image.verify(parsed, KEYS)
        assert (parsed.counter < COUNTER) + (parsed.cascade != CASCADE) + (parsed.arena_bytes > ARENA_BYTES) == 1
    assert len(fit) == 4
