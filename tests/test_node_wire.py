"""nodelink/1 in C against nodelink/1 in Python: what one encodes the other decodes, what one refuses the other refuses."""

import ctypes as c
import json
from pathlib import Path

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatewayd.core import wire
from gatewayd.core.cascade import NodeDecision, encode_decision
from gatewayd.core.types import (
    Basis,
    CascadeVitals,
    Crash,
    Event,
    GatewayState,
    Info,
    Limits,
    NodeState,
    Provisioning,
    Reason,
    Slot,
    State,
    Stored,
    Verdict,
    Vitals,
    Window,
    WindowKind,
)
from gatewayd.errors import DecodeError

VECTORS = Path(__file__).parent / "vectors"
INDEX = json.loads((VECTORS / "index.json").read_text())
NODE_E_FORMAT = -8
PYTHON = {
    "node-state": State,
    "gateway-state": GatewayState,
    "stored": Stored,
    "info": Info,
    "vitals": Vitals,
    "event": Event,
    "verdict": Verdict,
    "provisioning": Provisioning,
}

u32 = st.integers(0, 2**32 - 1)
u63 = st.integers(0, 2**63 - 1)
i32 = st.integers(-(2**31), 2**31 - 1) | st.integers(-129, 128)  # around what is possible
u64 = st.integers(0, 2**64 - 1)
unit = st.floats(0, 1, width=32)
f32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
# C strings end at NUL, and a name in info or vitals must fit the message's buffer.
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
any_text = st.text(st.characters(codec="utf-8"), max_size=64)
name = st.from_regex(r"[a-z0-9][a-z0-9-]{0,30}", fullmatch=True)
model = st.binary(min_size=8, max_size=8)


class Span(c.Structure):
    _fields_ = (("data", c.c_void_p), ("size", c.c_uint32))

    def bytes(self) -> bytes:
        return c.string_at(self.data, self.size) if self.size else b""


class SlotInfo(c.Structure):
    _fields_ = (
        *((key, c.c_uint32) for key in ("image", "slot", "capacity_bytes")),
        *((key, c.c_char_p) for key in ("state", "cascade", "sha256", "version")),
        *((key, c.c_uint32) for key in ("counter", "size_bytes")),
        ("rejected", c.c_char_p),
    )


class CrashC(c.Structure):
    _fields_ = tuple((key, c.c_uint32) for key in Crash._fields)


class InfoC(c.Structure):
    _fields_ = (
        ("session", c.c_uint32),
        *((key, c.c_char_p) for key in ("hardware", "board", "firmware", "reset_reason", "operators")),
        *((key, c.c_uint32) for key in ("operators_bytes", "arena_bytes", "vitals_interval_s")),
        ("front_ends", c.POINTER(c.c_char_p)),
        ("front_end_count", c.c_uint32),
        ("slot_count", c.c_uint32),
        ("limits", c.c_uint32 * 5),
        ("crash", c.POINTER(CrashC)),
    )


class Scores(c.Structure):
    _fields_ = (("count", c.c_uint32), ("mean", c.c_float), ("m2", c.c_float), ("histogram", c.c_uint32 * 8))


class CascadeVitalsC(c.Structure):
    _fields_ = (
        ("cascade", c.c_char_p),
        ("model", c.c_char_p),
        ("invokes", c.c_uint32),
        ("arena_bytes", c.c_uint32),
        ("invoke_us", c.c_uint64),
        ("listened_ms", c.c_uint64),
        ("scores", Scores),
    )


class VitalsC(c.Structure):
    _fields_ = (
        *((key, c.c_uint32) for key in ("session", "queued", "dropped")),
        *((key, c.c_uint64) for key in ("uptime_s", "t_ms")),
        ("health", c.c_int32 * 4),
        ("cascades", c.POINTER(CascadeVitalsC)),
        ("cascade_count", c.c_uint32),
    )


class Stamp(c.Structure):
    _fields_ = (("seq", c.c_uint32), ("session", c.c_uint32), ("t_ms", c.c_uint64), ("cascade", c.c_char_p), ("model", c.c_char_p))


class WindowC(c.Structure):
    _fields_ = (
        ("kind", c.c_int),
        ("rate_hz", c.c_uint32),
        ("channels", c.c_uint32),
        ("shape", c.c_uint32 * 4),
        ("rank", c.c_uint),
        ("piece", c.c_char_p * 2),
        ("piece_size", c.c_uint32 * 2),
    )


class EventC(c.Structure):
    _fields_ = (
        ("cascade", c.c_uint),
        ("score", c.c_float),
        ("label", c.c_uint32),
        ("reason", c.c_int),
        ("ref", c.c_uint32),
        ("window", c.POINTER(WindowC)),
    )


class StoredC(c.Structure):
    _fields_ = (("session", c.c_uint32), ("seqs", c.c_uint32 * 16), ("count", c.c_uint32))


class VerdictC(c.Structure):
    _fields_ = (
        ("seq", c.c_uint32),
        ("session", c.c_uint32),
        ("accepted", c.c_bool),
        ("label", Span),
        ("action", Span),
        ("score", c.c_float),
        ("ttl_ms", c.c_uint64),
        ("basis", c.c_int),
    )


class FrontEndC(c.Structure):
    _fields_ = (
        ("kind", c.c_int),
        *((key, c.c_uint32) for key in ("rate_hz", "window", "step", "channels", "low_hz", "high_hz")),
        ("parameters", Span),
    )


class DecisionC(c.Structure):
    _fields_ = (
        ("rule", c.c_int),
        ("cutoff", c.c_float),
        ("window", c.c_uint16),
        *((key, c.c_uint32) for key in ("hold_off_ms", "audit_mean_s", "clip_ms", "listen_ms")),
    )


@pytest.fixture(scope="session")
def node(libnode):
    for encoder in (libnode.state_encode, libnode.info_encode_head, libnode.slot_encode, libnode.vitals_encode, libnode.event_encode_head):
        encoder.restype = c.c_size_t
    return libnode


def encode(function, *arguments):
    out = c.create_string_buffer(4096)
    size = function(out, c.c_size_t(len(out)), *arguments)
    assert size
    return out.raw[:size]


def decode(node, kind, payload):
    """The C decoder's view of `payload`, or None where it refuses."""
    if kind == "gateway-state":
        online = c.c_bool()
        status = node.gateway_state_decode(c.byref(online), payload, c.c_size_t(len(payload)))
        result = online.value
    elif kind == "verdict":
        result = VerdictC()
        status = node.verdict_decode(c.byref(result), payload, c.c_size_t(len(payload)))
    elif kind == "stored":
        result = StoredC()
        status = node.stored_decode(c.byref(result), payload, c.c_size_t(len(payload)))
    else:
        result = {"front-end": FrontEndC, "decision": DecisionC}[kind]()
        function = node.front_end_decode if kind == "front-end" else node.decision_decode
        span = Span(c.cast(c.c_char_p(payload), c.c_void_p), len(payload))
        function.argtypes = [c.c_void_p, Span]
        status = function(c.byref(result), span)
    assert status in (0, NODE_E_FORMAT)
    return result if status == 0 else None


def same_verdict(found, expected):
    assert (found.seq, found.session, found.accepted, found.ttl_ms) == (expected.seq, expected.session, expected.accepted, expected.ttl_ms)
    assert (found.label.bytes().decode(), found.action.bytes().decode()) == (expected.label, expected.action)
    assert found.score == c.c_float(expected.score).value
    assert list(Basis)[found.basis] == expected.basis


# ---- golden vectors ----


def plain(value):
    """A vector's JSON to what its CBOR holds."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if "hex" in value else {int(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def close(left, right):
    if isinstance(right, float):
        return left == pytest.approx(right, rel=1e-6)
    if isinstance(right, dict):
        return left.keys() == right.keys() and all(close(left[key], right[key]) for key in right)
    if isinstance(right, list):
        return len(left) == len(right) and all(map(close, left, right))
    return left == right


def test_every_vector_is_in_the_index():
    assert {file.stem for file in VECTORS.glob("*.cbor")} == set(INDEX)


@pytest.fixture(scope="session")
def schema():
    cbor2.CBORDecodeValueError = cbor2.CBORDecodeError  # zcbor 0.9.1 asks for a name that cbor2 6 no longer has
    import zcbor  # noqa: PLC0415

    return zcbor.DataTranslator.from_cddl((VECTORS.parent.parent / "docs" / "nodelink.cddl").read_text(), 3).my_types


@pytest.mark.parametrize("vector", [vector for vector in INDEX if "message" in INDEX[vector]])
def test_vector(node, schema, vector):
    kind, payload = INDEX[vector]["type"], (VECTORS / f"{vector}.cbor").read_bytes()
    raw = cbor2.loads(payload)
    assert close(raw, plain(INDEX[vector]["message"]))
    assert schema[kind].validate_str(cbor2.dumps(dict(sorted(raw.items()))))  # zcbor wants the schema's order of keys
    if kind in PYTHON:
        message = wire.decode_as(PYTHON[kind], payload)
        assert wire.decode_as(PYTHON[kind], wire.encode(message)) == message
    if kind == "verdict":
        same_verdict(decode(node, kind, payload), message)
    elif kind in ("gateway-state", "stored", "front-end", "decision"):
        assert decode(node, kind, payload) is not None


@pytest.mark.parametrize("vector", [vector for vector in INDEX if "refused" in INDEX[vector]])
def test_refused_vector(node, vector):
    kind, payload = INDEX[vector]["type"], (VECTORS / f"{vector}.cbor").read_bytes()
    if kind in PYTHON:
        with pytest.raises(DecodeError):
            wire.decode_as(PYTHON[kind], payload)
    if kind in ("verdict", "gateway-state", "stored", "front-end", "decision"):
        assert decode(node, kind, payload) is None


# ---- C encodes, Python decodes ----


@given(st.sampled_from(NodeState), u32)
def test_state(node, state, session):
    assert wire.decode("state", encode(node.state_encode, state.value.encode(), session)) == State(state, session)


slots = st.builds(
    Slot,
    image=u32,
    slot=st.integers(0, 1),
    state=st.sampled_from(["empty", "confirmed", "rejected"]),
    capacity_bytes=u32,
    cascade=name,
    sha256=st.binary(min_size=32, max_size=32),
    version=text,
    counter=u32,
    size_bytes=u32,
    rejected=st.none() | text,
)
bare_slots = slots.map(lambda slot: slot._replace(cascade=None, sha256=None, version=None, counter=None, size_bytes=None))


def to_slot(slot):
    values = {key: value.encode() if isinstance(value, str) else value for key, value in slot._asdict().items() if value is not None}
    return SlotInfo(**values)


@given(
    u32,
    st.tuples(text, text, text, text),
    st.binary(max_size=32),
    u32,
    st.lists(text, max_size=3),
    st.lists(slots | bare_slots, max_size=4),
    st.builds(Limits, u32, u32, u32, u32, u32),
    st.none() | st.builds(Crash, u32, u32, u32, u32),
)
def test_info(node, session, texts, operators, arena_bytes, front_ends, slot_list, limits, crash):
    info = InfoC(
        session,
        *(word.encode() for word in texts),
        operators,
        len(operators),
        arena_bytes,
        60,
        (c.c_char_p * len(front_ends))(*(word.encode() for word in front_ends)),
        len(front_ends),
        len(slot_list),
        limits,
        c.pointer(CrashC(*crash)) if crash else None,
    )
    expected = Info(session, *texts, operators, arena_bytes, tuple(front_ends), 60, tuple(slot_list), limits, crash)
    payload = encode(node.info_encode_head, c.byref(info))
    payload += b"".join(encode(node.slot_encode, c.byref(to_slot(slot))) for slot in slot_list)
    assert wire.decode("info", payload) == expected


@given(
    u32,
    u32,
    u32,
    u32,
    u63,
    st.tuples(i32, i32, i32, i32),
    st.lists(st.tuples(name, model, u32, u64, u64, u32, u32, f32, st.lists(u32, min_size=8, max_size=8)), max_size=4),
)
def test_vitals(node, session, queued, dropped, uptime_s, t_ms, health, cascades):
    array = (CascadeVitalsC * len(cascades))(
        *(
            CascadeVitalsC(
                cascade.encode(), ident, invokes, arena, us, heard, Scores(count, mean, 2.0 * (count % 1000), (c.c_uint32 * 8)(*bins))
            )
            for cascade, ident, invokes, us, heard, arena, count, mean, bins in cascades
        )
    )
    vitals = VitalsC(session, queued, dropped, uptime_s, t_ms, (c.c_int32 * 4)(*health), array, len(cascades))
    found = wire.decode("vitals", encode(node.vitals_encode, c.byref(vitals)))
    assert found[:5] == (session, uptime_s, t_ms, queued, dropped)
    battery_percent, rssi_dbm, heap_free_bytes, stack_free_bytes = health
    assert found.battery == (pytest.approx(battery_percent / 100) if 0 <= battery_percent <= 100 else None)
    assert found.rssi_dbm == (rssi_dbm if -128 <= rssi_dbm <= 127 else None)
    assert found.heap_free_bytes == (heap_free_bytes if heap_free_bytes >= 0 else None)
    assert found.stack_free_bytes == (stack_free_bytes if stack_free_bytes >= 0 else None)
    for got, (cascade, ident, invokes, us, heard, arena, count, mean, bins) in zip(found.cascades, cascades, strict=True):
        variance = pytest.approx(2.0 * (count % 1000) / count, rel=1e-6) if count else 0
        assert got == CascadeVitals(cascade, ident, invokes, us, arena, count, mean, variance, tuple(bins), heard or None)


windows = st.builds(
    Window,
    kind=st.sampled_from(WindowKind),
    rate_hz=u32,
    channels=u32,
    shape=st.lists(u32, min_size=1, max_size=4).map(tuple),
    data=st.binary(max_size=300) | st.just(bytes(65_536)),
    scale=st.none(),
    zero_point=st.none(),
)
events = st.builds(
    Event,
    seq=u32,
    session=u32,
    cascade=name,
    model=model,
    score=unit,
    label=u32,
    t_ms=u63,
    reason=st.sampled_from(Reason),
    window=st.none() | windows,
    ref=u32,
)


@given(events)
@settings(max_examples=200)
def test_event(node, event):
    window = event.window
    split = len(window.data) // 3 if window else 0
    event = event._replace(ref=event.ref if event.reason == Reason.FOLLOW else None)
    stamp = Stamp(event.seq, event.session, event.t_ms, event.cascade.encode(), event.model)
    raw = EventC(0, event.score, event.label, list(Reason).index(event.reason), event.ref or 0)
    if window:
        shape = (c.c_uint32 * 4)(*window.shape)
        sizes = (c.c_uint32 * 2)(split, len(window.data) - split)
        kind = list(WindowKind).index(window.kind)
        raw.window = c.pointer(WindowC(kind, window.rate_hz, window.channels, shape, len(window.shape), (None, None), sizes))
    payload = encode(node.event_encode_head, c.byref(stamp), c.byref(raw)) + (window.data if window else b"")
    assert len(payload) - (len(window.data) if window else 0) <= 192  # NODE_HEAD_BYTES
    assert wire.decode("event", payload) == event
    session, seq = c.c_uint32(), c.c_uint32()
    assert node.event_decode_name(c.byref(session), c.byref(seq), payload, c.c_size_t(len(payload))) == 0
    assert (session.value, seq.value) == (event.session, event.seq)


# ---- Python encodes, C decodes ----

verdicts = st.builds(Verdict, u32, u32, st.booleans(), any_text, unit, any_text, u32, st.sampled_from(Basis))


@given(verdicts)
def test_verdict(node, verdict):
    payload = wire.encode(verdict)
    assert 1 + len(payload) <= 576  # BLE_DOWN_BYTES
    same_verdict(decode(node, "verdict", payload), verdict)


@given(st.sampled_from(("online", "offline")), u32)
def test_gateway_state(node, state, time_s):
    assert decode(node, "gateway-state", wire.encode(GatewayState(state, time_s))) == (state == "online")


@given(
    st.sampled_from(["audio", "vibration"]),
    st.integers(1, 2**32 - 1),
    st.integers(1, 64),
    st.binary(max_size=300) | st.none(),
)
def test_front_end(node, kind, number, channels, parameters):
    values = (kind, number, number, 1, channels, 0, number, parameters)
    payload = cbor2.dumps({key: value for key, value in enumerate(values) if value is not None})
    found = decode(node, "front-end", payload)
    assert ("audio", "vibration")[found.kind] == kind
    assert (found.rate_hz, found.window, found.step, found.channels, found.low_hz, found.high_hz) == (
        number,
        number,
        1,
        channels,
        0,
        number,
    )
    assert found.parameters.bytes() == (parameters or b"")


@given(
    st.sampled_from(["average", "error"]),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(1, 32),
    st.lists(any_text, min_size=1, max_size=16),
    u32,
)
def test_decision(node, rule, cutoff, window, labels, number):
    settings = NodeDecision(
        rule=rule, cutoff=cutoff, window=window, labels=tuple(labels), hold_off_ms=number, audit_s=1, clip_ms=2, listen_ms=3
    )
    found = decode(node, "decision", encode_decision(settings))
    assert (("average", "error")[found.rule], found.cutoff, found.window) == (rule, cutoff, window)
    assert (found.hold_off_ms, found.audit_mean_s, found.clip_ms, found.listen_ms) == (number, 1, 2, 3)


@given(verdicts, st.data())
@settings(max_examples=1_000)
@example(Verdict(0, 0, True, "", 0.0, "", 0, Basis.NODE), None)
def test_both_refuse_the_same(node, verdict, data):
    payload = bytearray(wire.encode(verdict))
    if data is not None:
        for _ in range(data.draw(st.integers(1, 3))):
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = bytes(payload)
    try:
        expected = wire.decode_as(Verdict, payload)
    except DecodeError as error:
        found = decode(node, "verdict", payload)
        # The gateway also holds itself to what it sends: texts of at most 64 characters, a score from 0 to 1, 32 bits of time.
        assert found is None or "at most 64" in error.detail or "or equal to" in error.detail
    else:
        found = decode(node, "verdict", payload)
        # pydantic takes the integers 0 and 1 for floats.
        assert found is not None or expected.score in (0, 1)
        if found is not None:
            same_verdict(found, expected)


@given(st.builds(Stored, u32, st.lists(u32, min_size=1, max_size=16).map(tuple)))
def test_stored(node, stored):
    found = decode(node, "stored", wire.encode(stored))
    assert (found.session, tuple(found.seqs[: found.count])) == stored
