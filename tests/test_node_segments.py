"""The segment stream in C against the one in Python: each sends to the other, whatever is lost or comes twice in either direction."""

import ctypes as c
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.core.segments import PATIENCE_MS, Receiver, Sender
from gatewayd.errors import DecodeError, TransportError

MOST, SEGMENT_BYTES = 98_305, 514
NODE_E_TIMEOUT = -4
MESSAGES = st.lists(st.binary(min_size=1, max_size=2_000), min_size=1, max_size=6)
MTUS = st.integers(23, 517)
FATES = st.lists(st.integers(0, 9), max_size=80)  # of packets: 0, 1 it is lost; 2 it comes twice; else it comes


class CSender(c.Structure):
    """segment_sender_t."""

    _fields_ = (
        *(("payload", c.c_char_p), ("size", c.c_uint32), ("code", c.c_uint8), ("first", c.c_uint8), ("returns", c.c_uint8)),
        *(("cut", c.c_uint16), ("count", c.c_uint16), ("acked", c.c_uint16), ("next", c.c_uint16), ("most", c.c_uint16)),
        ("since_ms", c.c_uint32),
    )


class CReceiver(c.Structure):
    """segment_receiver_t."""

    _fields_ = (
        *(("data", c.c_void_p), ("capacity", c.c_uint32), ("size", c.c_uint32), ("expected", c.c_uint8), ("unsaid", c.c_uint8)),
        *(("gap", c.c_bool), ("missing", c.c_bool), ("flow_due", c.c_bool)),
    )


class End(NamedTuple):
    """One end of a connection, in either language; what raises gives the connection up."""

    next: Callable[[int], bytes | None]
    heard: Callable[[bytes, int], object]
    tick: Callable[[int], object]
    take: Callable[[bytes], bytes | None]
    flow: Callable[[], bytes | None]
    idle: Callable[[], bool]


def in_python(messages: list[bytes], mtu: int) -> End:
    sender, receiver = Sender(mtu - 3), Receiver(MOST)
    for message in messages:
        sender.put(message)
    return End(sender.next, sender.heard, sender.tick, receiver.take, receiver.flow, lambda: sender.idle)


def in_c(lib: c.CDLL, messages: list[bytes], mtu: int) -> End:
    lib.segments_next.restype = c.c_size_t
    lib.segments_busy.restype = c.c_bool
    lib.segments_flow.restype = c.c_uint8
    data, segment = c.create_string_buffer(MOST), c.create_string_buffer(SEGMENT_BYTES)
    sender, receiver = CSender(), CReceiver(data=c.addressof(data), capacity=MOST)
    waiting, payloads = list(messages), list[bytes]()

    def checked(status: int) -> int:
        if status < 0:
            raise TransportError(str(status)) if status == NODE_E_TIMEOUT else DecodeError("segment_counter", str(status))
        return status

    def following(now_ms: int) -> bytes | None:
        if waiting and not lib.segments_busy(c.byref(sender)):
            code, payload = waiting[0][0], waiting.pop(0)[1:]
            payloads.append(payload)  # C does not copy it
            lib.segments_begin(c.byref(sender), code, payload, len(payload), mtu - 4, now_ms)
        size = lib.segments_next(c.byref(sender), segment)
        if not size:
            return None
        lib.segments_sent(c.byref(sender), now_ms)
        return segment.raw[:size]

    def take(received: bytes) -> bytes | None:
        size = checked(lib.segments_receive(c.byref(receiver), received, c.c_size_t(len(received))))
        return data.raw[:size] or None

    def flow() -> bytes | None:
        if not receiver.flow_due:
            return None
        byte = lib.segments_flow(c.byref(receiver))
        lib.segments_flow_sent(c.byref(receiver))
        return bytes((byte,))

    return End(
        following,
        lambda byte, now_ms: checked(lib.segments_acknowledged(c.byref(sender), byte[0], now_ms)),
        lambda now_ms: checked(lib.segments_step(c.byref(sender), now_ms)),
        take,
        flow,
        lambda: not waiting and not lib.segments_busy(c.byref(sender)),
    )


def converse(ends: tuple[End, End], fates: list[int]) -> tuple[list[bytes], list[bytes]]:
    """What the second and the first hear from each other until both have said all."""
    heard: tuple[list[bytes], list[bytes]] = ([], [])
    left, now_ms = iter(fates), 0

    def times() -> int:
        fate = next(left, 9)
        return 0 if fate < 2 else 2 if fate == 2 else 1

    while not all(end.idle() for end in ends):
        moved = False
        for here, there, messages in ((ends[0], ends[1], heard[0]), (ends[1], ends[0], heard[1])):
            if (segment := here.next(now_ms)) is not None:
                moved = True
                for _ in range(times()):
                    messages.extend([] if (message := there.take(segment)) is None else [message])
            if (flow := there.flow()) is not None:
                moved = True
                for _ in range(times()):
                    here.heard(flow, now_ms)
        if not moved:
            now_ms += PATIENCE_MS
            for end in ends:
                end.tick(now_ms)
    return heard


@settings(deadline=None)
@given(up=MESSAGES, down=MESSAGES, mtu=MTUS, fates=FATES)
def test_what_one_says_the_other_hears(libnode: c.CDLL, up: list[bytes], down: list[bytes], mtu: int, fates: list[int]) -> None:
    try:
        heard = converse((in_c(libnode, up, mtu), in_python(down, mtu)), fates)
    except TransportError:
        assert sum(fate < 2 for fate in fates) > 5  # only where nothing got through, again and again
    else:
        assert heard == (up, down)


@given(messages=MESSAGES, mtu=MTUS)
def test_both_cut_alike(libnode: c.CDLL, messages: list[bytes], mtu: int) -> None:
    ends = (in_c(libnode, messages, mtu), in_python(messages, mtu))
    peer = Receiver(MOST)
    while (segment := ends[0].next(0)) is not None:
        assert ends[1].next(0) == segment
        peer.take(segment)
        if (flow := peer.flow()) is not None:
            for end in ends:
                end.heard(flow, 0)
    assert ends[0].idle()
    assert ends[1].idle()


@given(segments=st.lists(st.binary(max_size=30), max_size=40))
def test_both_refuse_alike(libnode: c.CDLL, segments: list[bytes]) -> None:
    outcomes = []
    for end in (in_c(libnode, [], 23), in_python([], 23)):
        said: list[bytes | None] = []
        try:
            for segment in segments:
                said += [end.take(segment), end.flow()]
        except DecodeError:
            said.append(b"refused")
        outcomes.append(said)
    assert outcomes[0] == outcomes[1]
