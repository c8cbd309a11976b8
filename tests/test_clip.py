"""The node's clip ring and its ADPCM, and the gateway's decoder, against each other and against sox."""

import ctypes
import shutil
import struct
import subprocess

import numpy as np
import pytest

from gatewayd.core.types import Window
from gatewayd.errors import DecodeError
from gatewayd.escalators import audio

PCM16, ADPCM = 0, 1
BLOCK, BLOCK_SAMPLES = 256, 505
GUARD = b"\xa5" * 64


class Clip:
    """The C ring, between two guards."""

    def __init__(self, lib, kind, capacity):
        self.lib, self.state, self.capacity = lib, ctypes.create_string_buffer(256), capacity
        self.memory = ctypes.create_string_buffer(GUARD + bytes(capacity) + GUARD, capacity + 128)
        lib.clip_init.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32]
        lib.clip_write.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        lib.clip_last.restype = ctypes.c_uint32
        lib.clip_last.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p]
        lib.clip_init(self.state, kind, ctypes.addressof(self.memory) + 64, capacity)

    def write(self, samples):
        samples = np.ascontiguousarray(samples, np.int16)
        self.lib.clip_write(self.state, samples.ctypes.data, len(samples))
        assert self.memory.raw[:64] == self.memory.raw[-64:] == GUARD

    def last(self, size=2**32 - 1):
        pieces, sizes = (ctypes.c_void_p * 2)(), (ctypes.c_uint32 * 2)()
        total = self.lib.clip_last(self.state, size, pieces, sizes)
        assert sum(sizes) == total <= min(size, self.capacity)
        return b"".join(ctypes.string_at(at, count) if count else b"" for at, count in zip(pieces, sizes, strict=True))


def window(data, kind="adpcm", channels=1, shape=None):
    return Window(kind, 16_000, channels, shape or (len(data) // BLOCK, BLOCK), data)


def encode(lib, samples):
    clip = Clip(lib, ADPCM, len(samples) // BLOCK_SAMPLES * BLOCK)
    clip.write(samples[: len(samples) // BLOCK_SAMPLES * BLOCK_SAMPLES])
    return clip.last()


def reference_decode(data):
    """IMA ADPCM as its specification puts it, one sample after the other."""
    steps, out = audio.STEPS.tolist(), []
    for at in range(0, len(data), BLOCK):
        predictor, index, zero = struct.unpack_from("<hBB", data, at)
        assert zero == 0
        out.append(predictor)
        for byte in data[at + 4 : at + BLOCK]:
            for code in (byte & 15, byte >> 4):
                step = steps[index]
                delta = step >> 3
                delta += step if code & 4 else 0
                delta += step >> 1 if code & 2 else 0
                delta += step >> 2 if code & 1 else 0
                predictor = max(-32768, min(32767, predictor - delta if code & 8 else predictor + delta))
                index = max(0, min(88, index + (-1, -1, -1, -1, 2, 4, 6, 8)[code & 7]))
                out.append(predictor)
    return np.array(out, np.int16)


def snr_db(samples, decoded):
    samples = samples[: len(decoded)].astype(float)
    return 10 * np.log10(np.sum(samples**2) / np.sum((samples - decoded) ** 2))


@pytest.fixture(scope="module")
def speech():
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    done = subprocess.run(
        ["espeak-ng", "--stdout", "hey jarvis, turn the heating up to twenty one degrees"], capture_output=True, check=True
    )
    return np.frombuffer(done.stdout[44:], "<i2")


def noise(count, seed=5):
    return np.random.default_rng(seed).integers(-32768, 32768, count).astype(np.int16)


def test_speech_survives(libnode, speech):
    decoded = audio.samples(window(encode(libnode, speech)))
    assert len(decoded) == len(speech) // BLOCK_SAMPLES * BLOCK_SAMPLES
    assert snr_db(speech, decoded) > 20


def test_decoder_equals_the_specification(libnode):
    hostile = bytearray(noise(BLOCK * 20).tobytes())
    for at in range(0, len(hostile), BLOCK):
        hostile[at + 2 : at + 4] = [hostile[at + 2] % 89, 0]
    for data in (bytes(hostile), encode(libnode, noise(20_000))):
        assert np.array_equal(audio.samples(window(data)), reference_decode(data))


def test_sox_decodes_the_same(libnode, speech, tmp_path):
    data = encode(libnode, speech)
    count = len(data) // BLOCK * BLOCK_SAMPLES
    header = struct.pack("<HHIIHHHH", 0x11, 1, 16_000, 16_000 * BLOCK // BLOCK_SAMPLES, BLOCK, 4, 2, BLOCK_SAMPLES)
    body = (
        b"WAVEfmt "
        + struct.pack("<I", len(header))
        + header
        + struct.pack("<4sII", b"fact", 4, count)
        + struct.pack("<4sI", b"data", len(data))
        + data
    )
    (tmp_path / "clip.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    done = subprocess.run(["sox", tmp_path / "clip.wav", "-t", "s16", "-"], capture_output=True, check=True)
    assert np.array_equal(np.frombuffer(done.stdout, "<i2"), audio.samples(window(data)))


@pytest.mark.parametrize("chunk", [1, 160, 505, 7777])
def test_ring_keeps_the_newest_blocks(libnode, chunk):
    samples, blocks = noise(BLOCK_SAMPLES * 12 + 100), 5
    whole = encode(libnode, samples)
    clip = Clip(libnode, ADPCM, blocks * BLOCK + 17)  # 17 bytes that are of no use
    assert clip.last() == b""
    done = 0
    for at in range(0, len(samples), chunk):
        clip.write(samples[at : at + chunk])
        done = min(at + chunk, len(samples))
        full, begun = divmod(done, BLOCK_SAMPLES)
        kept = min(full, blocks - (begun > 0))
        assert clip.last() == whole[(full - kept) * BLOCK : full * BLOCK]
    assert done == len(samples)
    assert clip.last(3 * BLOCK - 1) == whole[10 * BLOCK :]
    assert clip.last(BLOCK - 1) == b""


@pytest.mark.parametrize("chunk", [1, 99, 100, 101, 1000])
def test_pcm_ring_keeps_the_newest_samples(libnode, chunk):
    samples, clip = noise(1000), Clip(libnode, PCM16, 201)
    for at in range(0, len(samples), chunk):
        clip.write(samples[at : at + chunk])
        assert clip.last() == samples[max(0, min(at + chunk, 1000) - 100) : at + chunk].tobytes()
    assert clip.last(51) == samples[-25:].tobytes()


@pytest.mark.parametrize(("kind", "capacity"), [(PCM16, 0), (PCM16, 1), (ADPCM, 255)])
def test_a_ring_without_room_holds_nothing(libnode, kind, capacity):
    clip = Clip(libnode, kind, capacity)
    clip.write(noise(2000))
    assert clip.last() == b""


def test_plain_samples():
    data = noise(60).tobytes()
    assert np.array_equal(audio.samples(window(data, "pcm16", 1, (60,))), np.frombuffer(data, "<i2"))
    assert np.array_equal(audio.samples(window(data, "vibration", 1, (60, 1))), np.frombuffer(data, "<i2"))
    assert audio.samples(window(data, "vibration", 3, (20, 3))).shape == (20, 3)
    assert len(audio.samples(window(b"", "pcm16", 1, (0,)))) == 0
    assert len(audio.samples(window(b"", shape=(0, BLOCK)))) == 0


@pytest.mark.parametrize(
    "lie",
    [
        window(bytes(512), shape=(1, BLOCK)),
        window(bytes(512), shape=(2, 255)),
        window(bytes(512), shape=(2,)),
        window(bytes(512), shape=(512,)),
        window(bytes(512), channels=2),
        window(b"\0\0\x59" + bytes(253)),
        window(bytes(3), "pcm16", 1, (1,)),
        window(bytes(4), "pcm16", 1, (1,)),
        window(bytes(4), "pcm16", 1, (1, 2)),
        window(bytes(4), "pcm16", 2, (2,)),
        window(bytes(12), "vibration", 3, (3, 2)),
        window(bytes(4), "pcm16", 0, (2,)),
        window(bytes(4), "pcm16", 1, (2, 1, 1)),
        window(bytes(4), "pcm16", 2, (2**63, 2)),
        window(bytes(4), "tabular", 1, (4,)),
    ],
)
def test_a_shape_that_lies_is_refused(lie):
    with pytest.raises(DecodeError):
        audio.samples(lie)
