"""Images of models: against our own reader, imgtool and smpclient."""

import struct
import subprocess
import sys
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.core import image
from gatewayd.errors import CascadeError

FRONT_END = cbor2.dumps({0: "audio", 1: 16000, 2: 30, 3: 10, 4: 40, 5: 125, 6: 7500})
DECISION = cbor2.dumps({0: "average", 1: 0.5, 2: 5, 3: ["yes"], 4: 1000, 5: 0, 6: 1000, 7: 2000})


def make(payload: bytes = bytes(range(256)) * 5, **changes) -> bytes:
    settings = {
        "version": "1.2.3+4",
        "counter": 7,
        "cascade": "wakeword",
        "arena_bytes": 20_868,
        "operators": b"\x08\x01",
        "front_end": FRONT_END,
        "decision": DECISION,
    }
    return image.build(payload, **{**settings, **changes})


def test_a_built_image_is_read_back():
    data = make()
    parsed = image.parse(data)
    assert parsed.payload == bytes(range(256)) * 5
    assert (parsed.version, parsed.counter, parsed.cascade, parsed.arena_bytes) == ("1.2.3+4", 7, "wakeword", 20_868)
    assert (parsed.operators, parsed.front_end, parsed.decision) == (b"\x08\x01", FRONT_END, DECISION)
    assert (
        image.build(
            parsed.payload,
            version=parsed.version,
            counter=7,
            cascade="wakeword",
            arena_bytes=20_868,
            operators=parsed.operators,
            front_end=FRONT_END,
            decision=DECISION,
        )
        == data
    )


def test_every_flipped_byte_is_noticed():
    data = make(b"x" * 40)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x01
        with pytest.raises(CascadeError):
            image.parse(bytes(broken))


def test_every_cut_is_noticed():
    data = make(b"x" * 40)
    for size in range(len(data)):
        with pytest.raises(CascadeError):
            image.parse(data[:size])
    with pytest.raises(CascadeError):
        image.parse(data + b"\0")


@given(st.binary(max_size=200), st.integers(0, 400))
def test_anything_else_is_a_cascade_error(noise, at):
    data = make(b"x" * 40)
    spliced = data[:at] + noise + data[at + len(noise) :]
    try:
        image.parse(spliced)
    except CascadeError:
        return
    assert spliced == data


@pytest.mark.parametrize(
    "change", [{"version": "one"}, {"version": "256.0.0"}, {"counter": -1}, {"arena_bytes": 1 << 32}, {"front_end": bytes(70_000)}]
)
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(CascadeError):
        make(**change)


def test_imgtool_reads_it(tmp_path):
    file = tmp_path / "model.img"
    file.write_bytes(make())

    def imgtool(command: str) -> str:
        return subprocess.run(
            [Path(sys.executable).with_name("imgtool"), command, file], check=True, capture_output=True, text=True, timeout=60
        ).stdout

    assert "Image was correctly validated" in imgtool("verify")
    dump = imgtool("dumpinfo")
    assert "1.2.3+4" in dump
    assert "NON_BOOTABLE" in dump


def test_smpclient_reads_it(tmp_path):
    mcuboot = pytest.importorskip("smpclient.mcuboot", exc_type=ImportError)
    file = tmp_path / "model.img"
    file.write_bytes(make())
    info = mcuboot.ImageInfo.load_file(str(file))
    assert info.header.img_size == 1280
    assert info.get_tlv(mcuboot.IMAGE_TLV.SHA256).value == image.parse(make()).sha256
    assert struct.unpack("<I", file.read_bytes()[:4])[0] == 0x96F3B83D
