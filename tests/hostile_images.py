"""Images that nobody may accept, for the gateway and for the node: each with the reasons for which it may be refused.

They aim at a node that trusts `KEY`, runs the cascade `CASCADE` with security counter `COUNTER`, and has `ARENA_BYTES` for it, slots of
`CAPACITY` bytes, and `RING_BYTES` for its clip.
good() is the image that such a node takes; all others are made from it.
"""

import functools
import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cbor2
import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nn_native import Model
from tflite_builder import Builder, with_metadata

from gatewayd import bundle
from gatewayd.core import image, microfrontend, tflite
from gatewayd.minify import minify

KEY, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (7, 8))
CASCADE, COUNTER, ARENA_BYTES, CAPACITY, RING_BYTES = "vibration", 5, 65_536, 16_384, 32_768
# Of the good image's front end or decision, what no node of this project has.
_BEYOND_A_NODE = (
    ("more bands than bins", "FRONT_END", "front-end", {5: 3_800, 6: 3_900}),
    ("more than half the rate", "FRONT_END", "front-end", {6: 4_001}),
    ("a rate that overflows", "FRONT_END", "front-end", {1: 2**32 - 1}),
    ("another transform", "FRONT_END", "front-end", {2: 1_024}),
    ("too many frames", "FRONT_END", "front-end", {3: 65_536 + 16}),
    ("a probability above 1", "DECISION", "decision", {0: "average", 1: 1.5}),
    ("a clip that does not fit", "DECISION", "decision", {6: 1_000 * RING_BYTES}),
    ("audits once in a century", "DECISION", "decision", {5: 2**32 - 1}),
    ("rows that the model does not take", "FRONT_END", "model", {4: 24, 7: bytes(96)}),
    ("a rule for another output", "DECISION", "model", {0: "average", 1: 0.5}),
)
FLIPPED = frozenset({"size", "header", "tlv", "digest", "key", "signature"})
CUT = frozenset({"size", "tlv"})
_FOLDER = bundle.read(Path(__file__).parent.parent / "cascades" / CASCADE)
_NO_SUCH_OPERATOR = schema.BuiltinOperator.SEGMENT_SUM


_Tlv = tuple[int, bytes]


class Hostile(NamedTuple):
    """One image, and the reasons that fit it: several where readers may look at things in another order."""

    name: str
    data: bytes
    reasons: frozenset[str]
    node_only: bool = False  # a gateway cannot know it


@functools.cache
def good() -> bytes:
    return bundle.node_image(_FOLDER, counter=COUNTER, key=KEY)


def signed(*, payload: bytes | None = None, counter: int = COUNTER, key: Ed25519PrivateKey | None = KEY, **tlvs: bytes | None) -> bytes:
    """The good image with something else in it, or without a TLV that is None, signed all the same."""
    parsed = image.parse(good())
    assert parsed.self_test is not None
    values = {
        "CASCADE": parsed.cascade.encode(),
        "ARENA": struct.pack("<I", parsed.arena_bytes),
        "OPERATORS": parsed.operators,
        "FRONT_END": parsed.front_end,
        "DECISION": parsed.decision,
        "SELF_TEST": image.encode_self_test(parsed.self_test),
        **tlvs,
    }
    numbered = {getattr(image, name): value for name, value in values.items() if value is not None}
    return bundle.make_image(payload or parsed.payload, version=parsed.version, counter=counter, tlvs=numbered, key=key)


def hostile() -> Iterator[Hostile]:
    """All of them; some thousand, most of them flips."""
    yield from _changed()
    yield from _flips()
    yield from _wrong_areas()
    yield from _wrongly_signed()
    yield from _unfit()
    yield from _unfit_settings()
    yield from _lying_models()
    yield from _beyond_limits()
    yield from _lying_plans()
    yield from _wrong_self_tests()


def _changed() -> Iterator[Hostile]:
    data = good()
    for size in (0, 1, 31, 32, 33, len(data) // 2, *range(len(data) - 170, len(data))):
        yield Hostile(f"truncated to {size}", data[:size], CUT)
    for tail in (b"\0", b"\xff" * 16, data):
        yield Hostile(f"extended by {len(tail)}", data + tail, frozenset({"size"}))


def _flips() -> Iterator[Hostile]:
    data, payload = good(), image.parse(good()).payload
    start, end = image.HEADER_BYTES, image.HEADER_BYTES + len(payload)
    for at in (*range(start), *range(start, end, 97), *range(end, len(data))):
        for bit in (0, 7) if at >= end else range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            yield Hostile(f"bit {bit} of byte {at} flipped", bytes(broken), FLIPPED)


def _wrong_areas() -> Iterator[Hostile]:
    protected = protected_tlvs()
    assert assembled(protected) == good()
    self_test, test = dict(protected)[image.SELF_TEST], image.parse(good()).self_test
    assert test is not None
    for kind, value in protected:
        yield Hostile(f"TLV {kind:#x} twice", assembled([*protected, (kind, value)]), frozenset({"tlv"}))
        if kind != image.SELF_TEST:
            yield Hostile(f"without TLV {kind:#x}", assembled([tlv for tlv in protected if tlv[0] != kind]), frozenset({"tlv"}))
    for name, kind, value in (
        ("no name", image.CASCADE, b""),
        ("a capital in its name", image.CASCADE, b"Vibration"),
        ("a hyphen before its name", image.CASCADE, b"-vibration"),
        ("a name that goes on after its end", image.CASCADE, b"vibration\0"),
        ("a name of 32 characters", image.CASCADE, b"v" * 32),
        ("a counter of 3 bytes", image.COUNTER, bytes(3)),
        ("a counter of 8 bytes", image.COUNTER, bytes(8)),
        ("an arena of no bytes", image.ARENA, b""),
        ("a self-test that is none", image.SELF_TEST, b"\xa0"),
        ("a self-test without inputs", image.SELF_TEST, image.encode_self_test(image.SelfTest(b"", test.outputs))),
        ("a self-test without outputs", image.SELF_TEST, image.encode_self_test(image.SelfTest(test.inputs, b""))),
        ("a self-test the other way round", image.SELF_TEST, cbor2.dumps({1: test.outputs, 0: test.inputs})),
        ("a self-test with more in it", image.SELF_TEST, cbor2.dumps({0: test.inputs, 1: test.outputs, 2: 0})),
        ("a self-test with a longer head", image.SELF_TEST, b"\xb8\x02" + self_test[1:]),
        ("a self-test with something behind it", image.SELF_TEST, self_test + b"\0"),
    ):
        yield Hostile(name, assembled([(kind, value) if tlv[0] == kind else tlv for tlv in protected]), frozenset({"tlv"}))
    strange = [(0x7000 + i, b"") for i in range(image.MAX_TLVS + 1 - len(protected))]
    yield Hostile("a gap between the areas", assembled(protected, gap=bytes(4)), frozenset({"tlv"}))
    yield Hostile("too many TLVs", assembled([*protected, *strange]), frozenset({"tlv"}))
    for name, change in (
        ("an unprotected TLV that does not belong", lambda plain: [*plain, (0x22, b"?")]),
        ("an unprotected TLV twice", lambda plain: [*plain, plain[0]]),
        ("a key hash, but no signature", lambda plain: plain[:2]),
        ("a signature, but no key hash", lambda plain: [plain[0], plain[2]]),
        ("no digest", lambda plain: plain[1:]),
        ("no unprotected TLV", lambda _: []),
        ("half a digest", lambda plain: [(plain[0][0], plain[0][1][:16]), *plain[1:]]),
        ("half a signature", lambda plain: [*plain[:2], (plain[2][0], plain[2][1][:32])]),
    ):
        yield Hostile(name, assembled(protected, change), frozenset({"tlv"}))


def _wrongly_signed() -> Iterator[Hostile]:
    yield Hostile("not signed", signed(key=None), frozenset({"key"}))
    yield Hostile("signed by a stranger", signed(key=STRANGER), frozenset({"key"}))
    yield Hostile("a stranger's signature in our name", good()[:-64] + signed(key=STRANGER)[-64:], frozenset({"signature"}))
    yield Hostile("another image's signature", good()[:-64] + signed(counter=COUNTER + 1)[-64:], frozenset({"signature"}))


def _unfit() -> Iterator[Hostile]:
    yield Hostile("old counter", signed(counter=COUNTER - 1), frozenset({"counter"}), node_only=True)
    yield Hostile(
        "larger than its slot", signed(payload=image.parse(good()).payload.ljust(CAPACITY, b"\0")), frozenset({"capacity"}), node_only=True
    )
    yield Hostile("another cascade's", signed(CASCADE=b"elsewhere"), frozenset({"cascade"}), node_only=True)
    without_plan = minify(image.parse(good()).payload)
    for name, arena_bytes in (
        ("too large an arena", ARENA_BYTES + 1),
        ("largest arena", 2**32 - 1),
        ("an arena too small for the model", 256),
    ):
        data = signed(payload=without_plan, ARENA=struct.pack("<I", arena_bytes))
        yield Hostile(name, data, frozenset({"arena"}), node_only=True)
    model = _with_operator(_NO_SUCH_OPERATOR)
    yield Hostile(
        "an operator that no node has", signed(payload=model, OPERATORS=tflite.operators(model)), frozenset({"operators"}), node_only=True
    )
    yield Hostile("an operator that the image conceals", signed(payload=model), frozenset({"operators"}))
    yield Hostile("an operator that the model does not have", signed(OPERATORS=b"\x01\x02"), frozenset({"operators"}))


def _unfit_settings() -> Iterator[Hostile]:
    parsed = image.parse(good())
    for tlv, reason, encoded in (("FRONT_END", "front-end", parsed.front_end), ("DECISION", "decision", parsed.decision)):
        fields = cbor2.loads(encoded)
        for name, data in (
            ("of nothing", b""),
            ("cut short", encoded[:-1]),
            ("with something behind it", encoded + b"\0"),
            ("of an unknown kind", cbor2.dumps({**fields, 0: "unheard-of"})),
            ("with an unknown key", cbor2.dumps({**fields, 8: 0})),
            ("without a key", cbor2.dumps({key: value for key, value in fields.items() if key != 2})),
        ):
            yield Hostile(f"a {reason} {name}", signed(**{tlv: data}), frozenset({reason}))
    yield from _unfit_microphones(cbor2.loads(parsed.front_end))
    for name, tlv, reason, change in _BEYOND_A_NODE:
        fields = {**cbor2.loads(getattr(parsed, tlv.lower())), **change}
        yield Hostile(name, signed(**{tlv: cbor2.dumps(fields)}), frozenset({reason}), node_only=True)


def _unfit_microphones(machine: dict[int, Any]) -> Iterator[Hostile]:
    numbers = dict(enumerate(("audio", 16_000, 30, 20, 40, 125, 7_500)))
    parameters = microfrontend.encode(microfrontend.Parameters(step_ms=20))
    for name, fields in (
        ("a microphone with a machine's numbers", {**machine, 0: "audio"}),
        ("a machine without its normalisation", {key: value for key, value in machine.items() if key != 7}),
        ("a microphone's step without its parameters", numbers),
        ("parameters of another step", {**numbers, 3: 10, 7: parameters}),
        ("parameters of more channels", {**numbers, 4: 39, 7: parameters}),
        ("parameters of another rate", {**numbers, 1: 8_000, 7: parameters}),
        ("parameters cut short", {**numbers, 7: parameters[:-1]}),
        ("parameters with something behind them", {**numbers, 7: parameters + b"\0"}),
        ("no byte of parameters", {**numbers, 3: 10, 7: b""}),
        ("bands beyond the spectrum", {**numbers, 7: parameters[:5] + b"\xff" + parameters[6:]}),
    ):
        yield Hostile(name, signed(FRONT_END=cbor2.dumps(fields)), frozenset({"front-end"}))


def _lying_models() -> Iterator[Hostile]:
    model = image.parse(good()).payload
    root = struct.unpack_from("<I", model)[0]
    table = _fields(model, root)
    reasons = frozenset({"model"})
    far = struct.pack("<I", 0xFFFF_FFF0)
    yield Hostile("root outside", signed(payload=far + model[4:]), reasons)
    yield Hostile("root's vtable outside", signed(payload=_patch(model, root, struct.pack("<i", 0x7FFF_FFFF))), reasons)
    for field, name in ((1, "operator codes"), (2, "graphs"), (4, "buffers")):
        yield Hostile(f"{name} outside", signed(payload=_patch(model, table[field], far)), reasons)
        vector = table[field] + struct.unpack_from("<I", model, table[field])[0]
        yield Hostile(f"{name} without end", signed(payload=_patch(model, vector, b"\xff\xff\xff\x3f")), reasons)
        yield Hostile(f"first of {name} outside", signed(payload=_patch(model, vector + 4, far)), reasons)
    yield Hostile("not a flatbuffer", signed(payload=b"\xff" * len(model)), reasons)
    for name, inputs, node_only in (("no operator at all", 1, False), ("two inputs", 2, True)):
        model = _sum(inputs)
        data = signed(payload=model, OPERATORS=bytes([inputs - 1]), SELF_TEST=image.encode_self_test(image.SelfTest(bytes(32), bytes(32))))
        yield Hostile(name, data, reasons, node_only=node_only)
    yield Hostile("half a model", signed(payload=model[: len(model) // 2]), reasons)


def _beyond_limits() -> Iterator[Hostile]:
    for name, shape in (("a seventh dimension", (1,) * 6 + (32,)), ("more work than a node does", (1 << 14, 1 << 14))):
        model = _sum(2, shape)
        yield Hostile(name, signed(payload=model, OPERATORS=tflite.operators(model)), frozenset({"limits"}), node_only=True)


def _lying_plans() -> Iterator[Hostile]:
    model = image.parse(good()).payload
    at, size_bytes = tflite.buffer_offsets(model)[-1], len(Model(model).plan)
    for name, offset, value, reason in (
        ("longer than it is", 4, size_bytes + 1, "plan"),
        ("shorter than it is", 4, size_bytes - 4, "plan"),
        ("with less memory than it needs", 8, 16, "plan"),
        ("with more memory than there is", 8, ARENA_BYTES + 1, "arena"),
        ("with less work than there is", 12, 1, "plan"),
        ("that ends early", size_bytes - 4, 0, "plan"),
    ):
        data = signed(payload=_patch(model, at + offset, struct.pack("<I", value)))
        yield Hostile(f"a plan {name}", data, frozenset({reason}), node_only="longer" not in name)
    yield Hostile("half a header of a plan", signed(payload=with_metadata(model, ("nn_plan", b"nnp1"))), frozenset({"plan"}))
    metadata = _fields(model, struct.unpack_from("<I", model)[0])[6]
    yield Hostile("metadata outside", signed(payload=_patch(model, metadata, b"\xf0\xff\xff\xff")), frozenset({"model"}))


def _wrong_self_tests() -> Iterator[Hostile]:
    test = image.parse(good()).self_test
    assert test is not None
    wrong = bytearray(test.outputs)
    wrong[-1] ^= 1
    yield Hostile("no self-test", signed(SELF_TEST=None), frozenset({"self-test"}))
    for name, inputs, outputs in (
        ("one bit of the last output", test.inputs, bytes(wrong)),
        ("one output too few", test.inputs, test.outputs[:-1]),
        ("one output too many", test.inputs, test.outputs + b"\0"),
        ("half an input", test.inputs[:-1], test.outputs),
    ):
        data = signed(SELF_TEST=image.encode_self_test(image.SelfTest(inputs, outputs)))
        yield Hostile(f"self-test: {name}", data, frozenset({"self-test"}))


def protected_tlvs() -> list[_Tlv]:
    """Those of the good image."""
    data = good()
    at, found = image.HEADER_BYTES + len(image.parse(data).payload), []
    end = at + struct.unpack_from("<H", data, at + 2)[0]
    at += 4
    while at < end:
        kind, size = struct.unpack_from("<HH", data, at)
        found.append((kind, data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def _area(magic: int, tlvs: list[_Tlv]) -> bytes:
    content = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in tlvs)
    return struct.pack("<HH", magic, 4 + len(content)) + content


def assembled(protected: list[_Tlv], change: Callable[[list[_Tlv]], list[_Tlv]] = list, *, gap: bytes = b"") -> bytes:
    """The good image with these protected TLVs, signed; then its unprotected ones are changed. No tool would make most of it."""
    area = _area(0x6908, protected) + gap
    head = bytearray(good()[: image.HEADER_BYTES + len(image.parse(good()).payload)])
    struct.pack_into("<H", head, 10, len(area))
    digest = hashlib.sha256(head + area).digest()
    plain = [(image.SHA256, digest), (image.KEY_HASH, image.key_hash(KEY.public_key())), (image.ED25519, KEY.sign(digest))]
    return bytes(head) + area + _area(0x6907, change(plain))


def _with_operator(number: int) -> bytes:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(image.parse(good()).payload, 0))
    model.operatorCodes[0].builtinCode, model.operatorCodes[0].deprecatedBuiltinCode = number, min(number, 127)
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _sum(inputs: int, shape: Sequence[int] = (1, 32)) -> bytes:
    """A model that adds two inputs, or gives back the only one."""
    b = Builder()
    tensors = [b.tensor(shape, np.int8, 0.1) for _ in range(2 * inputs - 1)]
    if inputs > 1:
        b.op("ADD", tensors[:2], tensors[2:])
    return b.finish(tensors[:inputs], tensors[-1:])


def _fields(model: bytes, at: int) -> dict[int, int]:
    """Where each field of the table at `at` is."""
    vtable = at - struct.unpack_from("<i", model, at)[0]
    size = struct.unpack_from("<H", model, vtable)[0]
    offsets = [struct.unpack_from("<H", model, vtable + 4 + 2 * i)[0] for i in range((size - 4) // 2)]
    return {field: at + offset for field, offset in enumerate(offsets) if offset}


def _patch(model: bytes, at: int, value: bytes) -> bytes:
    return model[:at] + value + model[at + len(value) :]
