"""Images of models, as imgtool makes them: our reader against flips, cuts, noise, and against smpclient's reader."""

import functools
import struct
import subprocess
import sys
from pathlib import Path

import cbor2
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tflite_builder import Builder

from gatewayd import bundle, selftest
from gatewayd.core import image, tflite
from gatewayd.errors import CascadeError, RefusedError

FRONT_END = cbor2.dumps({0: "audio", 1: 16000, 2: 30, 3: 10, 4: 40, 5: 125, 6: 7500})
DECISION = cbor2.dumps({0: "average", 1: 0.5, 2: 5, 3: ["yes"], 4: 1000, 5: 0, 6: 1000, 7: 2000})
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
KEYS = {image.key_hash(KEY.public_key()): KEY.public_key()}
TLVS = {
    image.CASCADE: b"wakeword",
    image.ARENA: struct.pack("<I", 20_868),
    image.OPERATORS: b"\x08\x01",
    image.FRONT_END: FRONT_END,
    image.DECISION: DECISION,
    image.SELF_TEST: image.encode_self_test(image.SelfTest(b"in", b"out")),
}


@functools.cache
def make(payload: bytes = b"x" * 40, key: Ed25519PrivateKey | None = KEY, version: str = "1.2.3+4", counter: int = 7) -> bytes:
    return bundle.make_image(payload, version=version, counter=counter, tlvs=TLVS, key=key)


def accept(data: bytes) -> image.Image:
    parsed = image.parse(data)
    image.verify(parsed, KEYS)
    return parsed


def refused(data: bytes) -> str:
    with pytest.raises(RefusedError) as caught:
        accept(data)
    return caught.value.reason


def test_what_imgtool_made_is_read_back():
    parsed = accept(make(bytes(range(256)) * 5))
    assert parsed.payload == bytes(range(256)) * 5
    assert (parsed.version, parsed.counter, parsed.cascade, parsed.arena_bytes) == ("1.2.3+4", 7, "wakeword", 20_868)
    assert (parsed.operators, parsed.front_end, parsed.decision) == (b"\x08\x01", FRONT_END, DECISION)
    assert parsed.self_test == (b"in", b"out")
    assert parsed.size_bytes == len(make(bytes(range(256)) * 5))


def test_who_signed_it_is_told_from_whether_the_signature_is_right():
    assert refused(make(key=None)) == "key"
    assert refused(make(key=OTHER)) == "key"
    mine, other = make(), make(key=OTHER)
    assert refused(mine[:-64] + other[-64:]) == "signature"
    assert image.parse(make(key=None)).sha256 == image.parse(mine).sha256  # the signature is not part of what names a model


def test_every_flipped_bit_is_noticed():
    data, reasons = make(), set()
    for at in range(8 * len(data)):
        broken = bytearray(data)
        broken[at // 8] ^= 1 << at % 8
        reasons.add(refused(bytes(broken)))
    assert reasons == {"size", "header", "tlv", "digest", "key", "signature"}


def test_every_cut_and_every_tail_is_noticed():
    for data in (make(), make(key=None)):
        for size in range(len(data)):
            assert refused(data[:size]) in {"size", "tlv"}
        assert refused(data + b"\0") == "size"


@given(st.binary(max_size=200), st.integers(0, 600))
def test_anything_else_is_refused(noise, at):
    data = make()
    spliced = data[:at] + noise + data[at + len(noise) :]
    try:
        accept(spliced)
    except RefusedError:
        return
    assert spliced == data


@pytest.mark.parametrize(
    "area",
    [
        {**TLVS, image.SELF_TEST: b"\xff"},
        {**TLVS, image.SELF_TEST: cbor2.dumps({0: b"in", 1: b""})},
        {**TLVS, image.SELF_TEST: cbor2.dumps({0: b"in", 1: "out"})},
        {**TLVS, image.SELF_TEST: cbor2.dumps({0: b"in", 1: b"out", 2: 0})},
        {**TLVS, image.SELF_TEST: cbor2.dumps([b"in", b"out"])},
        {**TLVS, image.SELF_TEST: TLVS[image.SELF_TEST] + b"\0"},
        {**TLVS, image.ARENA: b"\0\0\0"},
        {**TLVS, image.CASCADE: b"\xff"},
        {kind: value for kind, value in TLVS.items() if kind != image.OPERATORS},
    ],
)
def test_signed_nonsense_is_still_nonsense(area):
    with pytest.raises(RefusedError, match="tlv"):
        bundle.make_image(b"x", version="1.0.0", counter=1, tlvs=area, key=KEY)


def test_what_no_signature_covers_is_exactly_what_it_must_be():
    data = make()
    plain = len(data) - (4 + 36 + 36 + 68)
    extra = struct.pack("<HH", 0x22, 1) + b"?"
    assert refused(data[: plain + 2] + struct.pack("<H", len(data) - plain + 5) + data[plain + 4 :] + extra) == "tlv"


@pytest.mark.parametrize("change", [{"version": "one"}, {"version": "256.0.0"}, {"counter": -1}])
def test_what_does_not_fit_is_not_made(change):
    with pytest.raises(CascadeError):
        make(**change)


def test_too_much_for_a_tlv_is_not_made():
    with pytest.raises(CascadeError):
        bundle.make_image(b"x", version="1.0.0", counter=1, tlvs={**TLVS, image.FRONT_END: bytes(70_000)})


def test_imgtool_verifies_it(tmp_path):
    file, key = tmp_path / "model.img", tmp_path / "key.pem"
    file.write_bytes(make())
    key.write_bytes(KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    tool = Path(sys.executable).with_name("imgtool")
    done = subprocess.run([tool, "verify", "-k", key, file], check=True, capture_output=True, text=True, timeout=60)
    assert "Image was correctly validated" in done.stdout


def test_its_cbor_is_what_the_schema_says(monkeypatch):
    monkeypatch.setattr(cbor2, "CBORDecodeValueError", cbor2.CBORDecodeError, raising=False)  # zcbor 0.9.1 wants cbor2 5's name for it
    zcbor = pytest.importorskip("zcbor")
    root = Path(__file__).parent.parent
    schema = zcbor.DataTranslator.from_cddl((root / "docs" / "nodelink.cddl").read_text(), 16).my_types
    parsed = image.parse(bundle.node_image(bundle.read(root / "cascades" / "vibration")))
    assert schema["front-end"].validate_str(parsed.front_end)
    assert schema["decision"].validate_str(parsed.decision)
    assert schema["self-test"].validate_str(image.encode_self_test(parsed.self_test))


def test_smpclient_reads_it(tmp_path):
    mcuboot = pytest.importorskip("smpclient.mcuboot", exc_type=ImportError)
    file = tmp_path / "model.img"
    file.write_bytes(make())
    info = mcuboot.ImageInfo.load_file(str(file))
    assert info.header.img_size == 40
    assert info.get_tlv(mcuboot.IMAGE_TLV.SHA256).value == image.parse(make()).sha256


def vector() -> bytes:
    """tests/vectors/model.img: all of an image, and a model small enough for the tests in C and for a fuzzer."""
    b = Builder()
    weights = np.array([[90, -20, 5, 0], [-30, 70, 10, 4], [0, 25, -80, 33], [9, 0, 40, -100]])
    b.tensor([1, 4], np.int8, 0.05, 3)
    b.tensor([4, 4], np.int8, 0.02, data=weights)
    b.tensor([4], np.int32, 0.001, data=[500, -700, 0, 300])
    b.tensor([1, 4], np.int8, 0.1, -4)
    b.op("FULLY_CONNECTED", [0, 1, 2], [3])
    model = b.finish([0], [3])
    tlvs = {
        image.CASCADE: b"vibration",
        image.ARENA: struct.pack("<I", 1024),
        image.OPERATORS: tflite.operators(model),
        image.FRONT_END: cbor2.dumps(
            {0: "vibration", 1: 8000, 2: 512, 3: 16, 4: 4, 5: 10, 6: 3900, 7: struct.pack("<8h", *[2500, 300] * 4)}
        ),
        image.DECISION: cbor2.dumps({0: "error", 1: 0.25, 2: 8, 3: ["anomaly"], 4: 10_000, 5: 900, 6: 2_000, 7: 0}),
        image.SELF_TEST: image.encode_self_test(selftest.make(model, 1024)),
    }
    return bundle.make_image(model, version="255.255.65535+4294967295", counter=7, tlvs=tlvs, key=KEY)


def test_the_vector_is_still_what_is_made():
    data = (Path(__file__).parent / "vectors" / "model.img").read_bytes()
    assert data == vector()
    parsed = accept(data)
    bundle.check_model(parsed)
    assert len(set(parsed.self_test.outputs)) > 50
