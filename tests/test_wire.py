"""core/wire: every message survives a round trip; no bytes at all make it do anything but return or raise DecodeError."""

import struct

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.core import types, wire
from gatewayd.core.types import (
    CascadeVitals,
    Crash,
    Event,
    GatewayState,
    Info,
    Limits,
    NodeState,
    Reason,
    Slot,
    SlotState,
    State,
    Verdict,
    Vitals,
    Window,
)
from gatewayd.errors import DecodeError

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
f32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
unit = st.floats(0, 1, width=32)
text = st.text(max_size=64)
name = st.from_regex(r"[a-z0-9][a-z0-9-]{0,30}", fullmatch=True)
model = st.binary(min_size=8, max_size=8)


def maybe(strategy):
    return st.none() | strategy


windows = st.builds(
    Window,
    kind=st.sampled_from(types.WindowKind),
    rate_hz=u32,
    channels=u32,
    shape=st.lists(u32, min_size=1, max_size=4).map(tuple),
    data=st.binary(max_size=200),
    scale=maybe(f32),
    zero_point=maybe(st.integers(-(2**31), 2**31 - 1)),
)
messages = st.one_of(
    st.builds(State, st.sampled_from(NodeState), u32),
    st.builds(
        Info,
        session=u32,
        hardware=text,
        board=text,
        firmware=text,
        reset_reason=text,
        operators=st.binary(max_size=64),
        arena_bytes=u32,
        front_ends=st.lists(text, max_size=8).map(tuple),
        vitals_interval_s=st.integers(1, 604_800),
        slots=st.lists(
            st.builds(
                Slot,
                u32,
                u32,
                st.sampled_from(SlotState),
                u32,
                maybe(name),
                maybe(st.binary(min_size=32, max_size=32)),
                maybe(text),
                maybe(u32),
                maybe(u32),
                maybe(text),
            ),
            max_size=4,
        ).map(tuple),
        limits=maybe(st.builds(Limits, u32, u32, u32, u32, u32)),
        crash=maybe(st.builds(Crash, u32, u32, u32, u32)),
    ),
    st.builds(
        Vitals,
        session=u32,
        uptime_s=u32,
        t_ms=u32,
        queued=u32,
        dropped=u32,
        cascades=st.lists(
            st.builds(
                *(CascadeVitals, name, model, u64, u64, u32, u32, f32, f32),
                st.lists(u32, min_size=8, max_size=8).map(tuple),
                maybe(u64),
            ),
            max_size=3,
        ).map(tuple),
        battery=maybe(unit),
        rssi_dbm=maybe(st.integers(-128, 127)),
        heap_free_bytes=maybe(u32),
        stack_free_bytes=maybe(u32),
    ),
    st.builds(
        Event,
        seq=u32,
        session=u32,
        cascade=name,
        model=model,
        score=unit,
        label=u32,
        t_ms=u32,
        reason=st.sampled_from(Reason),
        window=maybe(windows),
        ref=maybe(u32),
    ),
    st.builds(Verdict, u32, u32, st.booleans(), text, unit, text, u32, st.sampled_from(types.Basis)),
    st.builds(GatewayState, st.sampled_from(("online", "offline")), u32),
)
EVENT = Event(5, 3, "wakeword", b"12345678", 0.5, 0, 1234, Reason.TRIGGER)
TAILS = ("state", "info", "vitals", "event")


@given(messages)
def test_every_message_survives_a_round_trip(message):
    assert wire.decode_as(type(message), wire.encode(message)) == message


@given(messages, st.sampled_from(["drop", "rename", "retype", "trail", "cut"]), st.data())
def test_what_the_schema_does_not_allow_is_refused(message, how, data):
    raw = cbor2.loads(wire.encode(message))
    key = data.draw(st.sampled_from(sorted(raw)))
    payload = None
    if how == "drop":
        del raw[key]
    elif how == "rename":
        raw[data.draw(st.sampled_from([99, -1, "seq"]))] = raw.pop(key)
    elif how == "retype":
        raw[key] = data.draw(st.sampled_from([None, {}, {"a": 1}, [[[]]], b"\0" * 70_000, "x" * 70]))
    elif how == "trail":
        payload = wire.encode(message) + data.draw(st.binary(min_size=1, max_size=9))
    else:
        payload = wire.encode(message)[: -data.draw(st.integers(1, 4))]
    if payload is None:
        payload = cbor2.dumps(raw)
    try:
        decoded = wire.decode_as(type(message), payload)
    except DecodeError as error:
        assert error.reason in wire.REASONS
    else:  # an optional key was dropped, or the new value is allowed: then it must mean what it says
        assert how in ("drop", "retype")
        assert cbor2.loads(wire.encode(decoded)) == {k: v for k, v in raw.items() if v is not None}


@given(st.sampled_from(TAILS), st.binary(max_size=300))
@settings(max_examples=2_000)
def test_any_bytes_are_decoded_or_refused(tail, payload):
    try:
        message = wire.decode(tail, payload)
    except DecodeError as error:
        assert error.reason in wire.REASONS
    else:
        assert wire.decode(tail, wire.encode(message)) == message


@given(st.data())
@settings(max_examples=2_000)
def test_damaged_messages_are_decoded_or_refused(data):
    message = data.draw(messages)
    payload = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        wire.decode_as(type(message), bytes(payload))
    except DecodeError as error:
        assert error.reason in wire.REASONS


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "cbor"),
        (b"\xd8\x23\x61a", "cbor"),  # a tag: cbor2 would compile a regular expression
        (b"\xd8\x1c\x81\xd8\x1d\x00", "cbor"),  # a list that contains itself
        (b"\xc2\x41\x01", "cbor"),  # a bignum
        (b"\xbf\x00\x01\xff", "cbor"),  # a map of indefinite length
        (b"\xa2\x00\x01\x00\x02", "cbor"),  # a key twice
        (b"\x81" * 40 + b"\x00", "cbor"),  # nested deeply
        (b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", "cbor"),  # a promise of eight exabytes
        (b"\x80", "schema"),
        (b"\xa1\x80\x00", "schema"),  # a list as a key
        (wire.encode(EVENT).replace(b"\xa8\x00", b"\xa8\xf4", 1), "schema"),  # false as the key 0
        (wire.encode(EVENT).replace(b"\xa8\x00", b"\xa8\xf9\x00\x00", 1), "schema"),  # 0.0 as the key 0
        (b"\0" * (wire.MAX_PAYLOAD_BYTES + 1), "oversized"),
        (wire.encode(EVENT) + b"\0", "trailing"),
    ],
)
def test_hostile_bytes_and_their_reasons(payload, reason):
    with pytest.raises(DecodeError) as caught:
        wire.decode("event", payload)
    assert caught.value.reason == reason


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.1, "0.5", True, None, 2**70])
def test_a_score_is_a_number_from_0_to_1(score):
    raw = cbor2.loads(wire.encode(EVENT))
    raw[4] = score
    with pytest.raises(DecodeError):
        wire.decode("event", cbor2.dumps(raw))


@pytest.mark.parametrize("size", ["e", "f", "d"])
def test_floats_come_in_three_sizes(size):
    head = {"e": b"\xf9", "f": b"\xfa", "d": b"\xfb"}[size]
    payload = wire.encode(EVENT).replace(cbor2.dumps(0.5), head + struct.pack(">" + size, 0.5))
    assert wire.decode("event", payload) == EVENT


def test_an_unknown_tail_is_refused():
    with pytest.raises(DecodeError):
        wire.decode("firmware", b"\xa0")


@pytest.mark.parametrize(
    ("node", "valid"), [("n1", True), ("n", False), ("Kitchen", False), ("a" * 31, True), ("a" * 32, False), ("-a", False)]
)
def test_node_ids(node, valid):
    assert wire.valid_node_id(node) is valid
