"""core/upload: the frames are smpclient's, and whatever is lost on the way, the image arrives."""

import asyncio
from collections import deque

import cbor2
import hostile_images
import pytest
from hypothesis import given
from hypothesis import strategies as st
from smp import header as smp
from smp_node import SmpNode, answer
from smpclient import SMPClient

from gatewayd.core.types import SlotState
from gatewayd.core.upload import Upload
from gatewayd.errors import DecodeError, NodeRefusedError

IMAGE = hostile_images.good()
FRAME_BYTES = 512


def begin(window=4, frame_bytes=FRAME_BYTES, sequence=250):
    return Upload(IMAGE, 1, frame_bytes=frame_bytes, window=window, sequence=sequence)


def say(frame, **fields):
    return answer(smp.Header.loads(frame[:8]), fields)


class Oracle:
    """The transport of an smpclient whose node takes everything; `frames` are what it sent."""

    _smp_server_transport_buffer_size = None

    def __init__(self, node, mtu):
        self.node, self.mtu, self.max_unencoded_size, self.frames = node, mtu, mtu, []

    async def send_and_receive(self, frame):
        self.frames.append(frame)
        return self.node.handle(frame)


def unnumbered(frame):
    return frame[:6] + frame[7:]


@pytest.mark.parametrize("frame_bytes", [128, 151, 152, 153, 384, 405, 4_352, 16_384])
def test_the_frames_are_those_of_smpclient_to_the_byte(frame_bytes):
    oracle = Oracle(SmpNode(), frame_bytes)

    async def bring():
        return [offset async for offset in SMPClient(oracle, "n1").upload(IMAGE, slot=1)]

    assert asyncio.run(bring())[-1] == len(IMAGE)
    node, upload, frames = SmpNode(), begin(frame_bytes=frame_bytes), []
    while not upload.done:
        sent = [*upload.requests()]
        frames += sent
        for frame in sent:
            upload.answered(node.handle(frame))
    assert node.data == oracle.node.data == IMAGE
    assert [*map(unnumbered, frames)] == [*map(unnumbered, oracle.frames)]
    assert max(map(len, frames)) <= frame_bytes


def test_the_first_goes_alone_and_then_as_many_as_the_window_holds():
    upload, node = begin(window=3), SmpNode()
    (first,) = upload.requests()
    assert [*upload.requests()] == []
    upload.answered(node.handle(first))
    flight = [*upload.requests()]
    assert len(flight) == 3
    upload.answered(node.handle(flight[0]))
    assert len([*upload.requests()]) == 1
    assert len({frame[6] for frame in (first, *flight)}) == 4  # each its own sequence, over the end of a byte


def test_it_goes_on_where_the_node_has_it():
    upload = begin()
    (first,) = upload.requests()
    upload.answered(say(first, off=1_000))
    assert cbor2.loads(next(upload.requests())[8:])["off"] == upload.offset == 1_000
    upload = begin()
    (first,) = upload.requests()
    upload.answered(say(first, off=len(IMAGE), match=True))
    assert upload.done


def test_it_goes_back_where_the_node_says_and_never_has_more_in_flight():
    upload = begin(window=3)
    (first,) = upload.requests()
    upload.answered(say(first, off=400))
    flight = [*upload.requests()]
    upload.answered(say(flight[0], off=200))
    again = [*upload.requests()]
    assert [cbor2.loads(frame[8:])["off"] for frame in again] == [200]
    for frame in flight[1:]:
        upload.answered(say(frame, off=200))  # of no interest any more
    assert (upload.offset, upload.stalls) == (200, 1)
    assert len([*upload.requests()]) == 2
    upload.answered(say(again[0], off=600))
    assert (upload.offset, upload.stalls) == (600, 0)


def test_from_the_beginning_it_names_itself_again():
    upload = begin()
    (first,) = upload.requests()
    upload.answered(say(first, off=400))
    flight = [*upload.requests()]
    for frame in flight:
        upload.answered(say(frame, off=0))
    (again,) = upload.requests()
    assert unnumbered(again) == unnumbered(first)


@pytest.mark.parametrize("rc", [3, 10])
def test_what_was_not_heard_is_sent_again(rc):
    upload = begin(window=2)
    (first,) = upload.requests()
    upload.answered(say(first, off=400))
    flight = [*upload.requests()]
    for frame in flight:
        upload.answered(say(frame, rc=rc))
    assert [unnumbered(frame) for frame in upload.requests()] == [unnumbered(frame) for frame in flight]
    assert upload.stalls == 1


def test_a_digest_that_does_not_match_is_a_refusal():
    upload = begin()
    (first,) = upload.requests()
    with pytest.raises(NodeRefusedError) as refused:
        upload.answered(say(first, off=len(IMAGE), match=False))
    assert refused.value.reason == "digest"


@pytest.mark.parametrize(
    ("fields", "reason"), [({"err": {"group": 1, "rc": 30}}, "capacity"), ({"err": {"group": 2, "rc": 1}}, "smp"), ({"rc": 8}, "smp rc 8")]
)
def test_a_refusal_has_its_reason(fields, reason):
    upload = begin()
    (first,) = upload.requests()
    with pytest.raises(NodeRefusedError) as refused:
        upload.answered(say(first, **fields))
    assert refused.value.reason.startswith(reason)


@given(st.data())
def test_whatever_is_lost_the_image_arrives(data):
    """Requests and answers are lost at random, each side keeps the order; a node may forget that it was ever asked."""
    upload, node = begin(window=data.draw(st.integers(1, 6))), SmpNode()
    down, up = deque(), deque()
    losses = data.draw(st.lists(st.booleans(), max_size=60))
    lost = iter(losses)
    for _ in range(2_000):
        for frame in upload.requests():
            if not next(lost, False):
                down.append(frame)
        while down:
            frame = node.handle(down.popleft())
            if not next(lost, False):
                up.append(frame)
        if not up:  # silence: the next conversation begins anew
            upload = begin()
        while up:
            upload.answered(up.popleft())
        if upload.done:
            break
    assert node.data == IMAGE
    assert node.state is SlotState.VERIFIED
    assert node.asked == ["upload"]


@given(st.binary(max_size=64), st.booleans())
def test_any_bytes_are_an_answer_or_an_error(noise, headed):
    upload = begin()
    (first,) = upload.requests()
    frame = say(first)[:8] + noise if headed else noise
    try:
        upload.answered(frame)
    except (DecodeError, NodeRefusedError):
        pass
    else:
        assert 0 <= upload.offset <= len(IMAGE)
