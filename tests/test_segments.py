"""The segment stream of Bluetooth LE: whatever is lost or comes twice, messages arrive once and in order, or the link is dropped."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.core.segments import PATIENCE_MS, WINDOW, Receiver, Sender
from gatewayd.errors import DecodeError, TransportError

MOST = 98_305
MESSAGES = st.lists(st.binary(min_size=1, max_size=3_000), max_size=12)
MTUS = st.integers(23, 517)


def said(receiver: Receiver, segment: bytes) -> tuple[bytes | None, bytes | None]:
    return receiver.take(segment), receiver.flow()


def taken(sender: Sender, now_ms: int = 0) -> list[bytes]:
    return list(iter(lambda: sender.next(now_ms), None))


def carry(messages: list[bytes], sender: Sender, fates: list[tuple[bool, bool]]) -> list[bytes]:
    """What arrives where `fates` says, for each segment and each flow byte in turn, whether it is lost and whether it comes twice."""
    receiver, arrived, fate = Receiver(MOST), list[bytes](), iter(fates)
    segments, flows = deque[bytes](), deque[bytes]()
    for message in messages:
        sender.put(message)

    def through(link: deque[bytes], item: bytes) -> None:
        lost, twice = next(fate, (False, False))
        link.extend([] if lost else [item] * (1 + twice))

    now_ms = 0
    while not sender.idle:
        for segment in taken(sender, now_ms):
            through(segments, segment)
        while segments:
            message, flow = said(receiver, segments.popleft())
            arrived += [message] if message is not None else []
            if flow is not None:
                through(flows, flow)
        if not flows:
            now_ms += PATIENCE_MS
            sender.tick(now_ms)
        while flows:
            sender.heard(flows.popleft(), now_ms)
    return arrived


@given(MESSAGES, MTUS)
def test_messages_arrive_as_they_are(messages: list[bytes], mtu: int) -> None:
    assert carry(messages, Sender(mtu - 3), []) == messages


@given(MESSAGES, MTUS, st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_what_is_lost_or_comes_twice_does_not_matter(messages: list[bytes], mtu: int, fates: list[tuple[bool, bool]]) -> None:
    sender = Sender(mtu - 3)
    try:
        assert carry(messages, sender, fates) == messages
    except TransportError:
        assert sum(lost for lost, _ in fates) > 5


@given(st.binary(min_size=1, max_size=3_000), MTUS, MTUS)
def test_another_mtu_while_a_message_is_under_way(message: bytes, before: int, after: int) -> None:
    sender, receiver = Sender(before - 3), Receiver(MOST)
    sender.put(message)
    arrived = None
    while (segment := sender.next(0)) is not None:
        sender.segment_bytes = after - 3
        arrived, flow = said(receiver, segment)
        if flow is not None:
            sender.heard(flow, 0)
    assert arrived == message
    assert sender.idle


def test_the_window_bounds_what_is_out_and_eight_are_acknowledged_together() -> None:
    sender, receiver = Sender(20), Receiver(MOST)
    sender.put(bytes(10_000))
    out = taken(sender)
    assert len(out) == WINDOW
    assert not sender.ready
    flows = [flow for segment in out if (flow := said(receiver, segment)[1]) is not None]
    assert flows == [b"\x08", b"\x10"]
    sender.heard(flows[0], 0)
    assert [segment[0] & 0x3F for segment in taken(sender)] == list(range(16, 24))


def test_a_missing_segment_is_told_once_and_brings_the_sender_back() -> None:
    sender, receiver = Sender(20), Receiver(MOST)
    sender.put(bytes(100))
    first, lost, *others = taken(sender)
    assert [said(receiver, segment)[1] for segment in (first, *others)] == [None, b"\x81", None, None, None]
    sender.heard(b"\x81", 0)
    assert sender.next(0) == lost


def test_one_that_came_before_is_acknowledged_again() -> None:
    receiver = Receiver(MOST)
    assert said(receiver, b"\xc0a") == (b"a", b"\x01")
    assert said(receiver, b"\xc0a") == (None, b"\x01")


def test_flow_bytes_that_wait_become_one() -> None:
    receiver = Receiver(MOST)
    for segment in (b"\x80a", b"\x02c", b"\x80a"):
        receiver.take(segment)
    assert receiver.flow() == b"\x81"
    assert receiver.flow() is None
    for segment in (b"\x02c", b"\x41b"):
        receiver.take(segment)
    assert receiver.flow() == b"\x02"


def test_silence_brings_the_sender_back_until_it_gives_up() -> None:
    sender = Sender(20)
    sender.put(b"verdict")
    now_ms = 0
    for _ in range(6):
        assert sender.next(now_ms) == b"\xc0verdict"
        assert sender.next(now_ms) is None
        sender.tick(now_ms + PATIENCE_MS - 1)
        assert not sender.ready
        now_ms += PATIENCE_MS
        if sender._returns < 5:
            sender.tick(now_ms)
    with pytest.raises(TransportError):
        sender.tick(now_ms)


def test_progress_forgives() -> None:
    sender = Sender(2)
    sender.put(b"abc")
    for counter in range(3):
        for _ in range(5):
            sender.heard(bytes((0x80 | counter,)), 0)
            assert sender.next(0) is not None
        sender.heard(bytes((counter + 1,)), 0)
    assert sender.idle


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        ([b""], "segment_empty"),
        ([b"\xc0"], "segment_empty"),
        ([b"\x80a", b"\x01"], "segment_empty"),
        ([b"\x00a"], "segment_first"),
        ([b"\x80a", b"\x81b"], "segment_first"),
        ([b"\xc0a", b"\x41b"], "segment_first"),
        ([b"\x90a"], "segment_counter"),
        ([b"\xafa"], "segment_counter"),
        ([b"\x80abc", b"\x01def", b"\x42g"], "segment_oversized"),
    ],
)
def test_what_cannot_be_is_refused(segments: list[bytes], reason: str) -> None:
    receiver = Receiver(6)
    for segment in segments[:-1]:
        receiver.take(segment)
    with pytest.raises(DecodeError) as refused:
        receiver.take(segments[-1])
    assert refused.value.reason == reason


@pytest.mark.parametrize("flow", [b"", b"\x01\x01", b"\x41", b"\x02", b"\x3f"])
def test_a_flow_byte_that_cannot_be_is_refused(flow: bytes) -> None:
    sender = Sender(20)
    sender.put(b"verdict")
    sender.next(0)
    with pytest.raises(DecodeError) as refused:
        sender.heard(flow, 0)
    assert refused.value.reason == "flow"


@given(st.lists(st.binary(max_size=20), max_size=200), st.lists(st.binary(max_size=2), max_size=50))
def test_anything_at_all_is_taken_or_refused(segments: list[bytes], flows: list[bytes]) -> None:
    receiver, sender = Receiver(100), Sender(20)
    sender.put(bytes(500))
    try:
        for segment in segments:
            receiver.take(segment)
            assert len(receiver._message) <= 100
    except DecodeError:
        pass
    try:
        for flow in flows:
            sender.next(0)
            sender.heard(flow, 0)
    except (DecodeError, TransportError):
        pass
