"""The audio front end and its FFT against what the models were trained with."""

import ctypes
import ctypes.util
import hashlib
import io
import shutil
import subprocess
import wave
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from pymicro_features import MicroFrontend

RATE_HZ = 16_000
WINDOW, STEP, CHANNELS, FFT_SIZE = 480, 160, 40, 512
FEATURE_SCALE = 0.0390625  # pymicro-features multiplies its uint16 features by this

Samples = npt.NDArray[np.int16]


class FrontEnd:
    """The C front end."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        self.lib = lib
        self.state = ctypes.create_string_buffer(4096)  # more than its struct
        lib.audio_frontend_feed.restype = ctypes.c_size_t
        lib.audio_frontend_feed.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
        lib.audio_frontend_init(self.state)

    def rows(self, samples: Samples, chunks: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
        """Features of `samples` fed in pieces of the sizes `chunks`, over and over."""
        rows, row, ready, at, turn = [], np.zeros(CHANNELS, np.uint16), ctypes.c_bool(), 0, 0
        while at < len(samples):
            piece = np.ascontiguousarray(samples[at : at + int(chunks[turn % len(chunks)])])
            taken = self.lib.audio_frontend_feed(self.state, piece.ctypes.data, len(piece), row.ctypes.data, ctypes.byref(ready))
            assert taken <= len(piece)
            at += taken
            turn += 1
            if ready:
                rows.append(row.copy())
        return np.array(rows, np.uint16).reshape(-1, CHANNELS)


def oracle(samples: Samples) -> npt.NDArray[np.uint16]:
    reference = MicroFrontend()
    outputs = [reference.process_samples(samples[at : at + STEP].tobytes()).features for at in range(0, len(samples) - STEP + 1, STEP)]
    return np.array([np.round(np.array(row) / FEATURE_SCALE) for row in outputs if row]).astype(np.uint16).reshape(-1, CHANNELS)


def stray_share() -> float:
    """The reference computes its filters with the host's log1pf, and C libraries differ in one ulp that two weights hang on."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    libm.log1pf.restype, libm.log1pf.argtypes = ctypes.c_float, [ctypes.c_float]
    return 0 if libm.log1pf(7500 / 700) == 2.4608092308044434 else 0.001


def int16(values: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> Samples:
    return np.clip(values, -32768, 32767).astype(np.int16)


def speech(voice: str, text: str) -> Samples:
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    done = subprocess.run(["espeak-ng", "-v", voice, "--stdout", text], capture_output=True, check=True)
    with wave.open(io.BytesIO(done.stdout)) as sound:
        samples, rate_hz = np.frombuffer(sound.readframes(2**30), np.int16), sound.getframerate()
    return int16(np.interp(np.arange(0, len(samples), rate_hz / RATE_HZ), np.arange(len(samples)), samples))


def signal(name: str) -> Samples:
    kind, _, argument = name.partition(" ")
    rng, n = np.random.default_rng(7), np.arange(RATE_HZ * 4)
    makers = {
        "speech": lambda: speech(argument, "okay nabu, turn on the light in the kitchen. hey jarvis, what time is it?"),
        "noise": lambda: rng.normal(0, float(argument), 8 * len(n)),
        "white": lambda: rng.integers(-32768, 32768, 2 * len(n)),
        "clipped": lambda: 1e6 * np.sin(0.05 * n),
        "square": lambda: np.where(n // 37 % 2, 32767, -32768),
        "dc": lambda: np.full(len(n), int(argument)),
        "chirp": lambda: 32767 * np.sin(1e-5 * n**2),
        "burst": lambda: np.concatenate([0 * n, rng.integers(-32768, 32768, 3000), 0 * n]),
        "impulses": lambda: np.where(n % 1000, np.where(n % 1777, 0, 32767), -32768),
    }
    return int16(makers[kind]())


@pytest.mark.parametrize(
    "name",
    [
        *("speech en-us", "speech en-gb+f3", "speech de"),
        *("noise 1", "noise 30", "noise 1000", "noise 20000", "white", "clipped", "square"),
        *("dc 0", "dc 1", "dc 32767", "dc -32768", "chirp", "burst", "impulses"),
    ],
)
def test_features_equal_the_reference(libnode, name):
    samples = signal(name)
    chunks = np.random.default_rng(len(name)).integers(1, 700, 97)
    ours, theirs = FrontEnd(libnode).rows(samples, chunks), oracle(samples)
    assert len(ours) == (len(samples) - WINDOW) // STEP + 1
    assert np.mean(ours[: len(theirs)] != theirs) <= stray_share()


@pytest.mark.parametrize("chunk", [1, 159, 160, 161, 480, 4096])
def test_chunks_do_not_matter(libnode, chunk):
    samples = signal("noise 1000")[: STEP * 40]
    whole = FrontEnd(libnode).rows(samples, np.array([len(samples)]))
    assert np.array_equal(FrontEnd(libnode).rows(samples, np.array([chunk])), whole)


def test_init_forgets(libnode):
    front_end, samples = FrontEnd(libnode), signal("white")[: STEP * 20]
    first = front_end.rows(samples, np.array([500]))
    libnode.audio_frontend_init(front_end.state)
    assert np.array_equal(front_end.rows(samples, np.array([500])), first)


def test_quantisation_is_esphomes(libnode):
    values = np.concatenate([np.arange(720), [2000, 65535] + 38 * [0]]).astype(np.uint16)
    out = np.zeros(len(values), np.int8)
    for at in range(0, len(values), CHANNELS):
        row = values[at : at + CHANNELS]
        libnode.audio_frontend_quantize(ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(out[at:].ctypes.data))
    assert out.tolist() == [min((int(v) * 256 + 333) // 666 - 128, 127) for v in values]


def fft(lib: ctypes.CDLL, samples: Samples) -> npt.NDArray[np.int16]:
    out = np.zeros(FFT_SIZE + 2, np.int16)
    samples = np.ascontiguousarray(samples)
    lib.fft_real(ctypes.c_void_p(samples.ctypes.data), 0, ctypes.c_void_p(out.ctypes.data))
    return out


@pytest.mark.parametrize("frequency", [0.0, 1.0, 17.3, 128.0, 255.9, 256.0])
def test_fft_is_a_fourier_transform(libnode, frequency):
    samples = int16(30000 * np.cos(2 * np.pi * frequency * np.arange(FFT_SIZE) / FFT_SIZE))
    ours = fft(libnode, samples).astype(float).view(complex)
    assert np.abs(ours - np.fft.rfft(samples) / FFT_SIZE).max() < 30  # four stages, each scaled by 8191 / 32768


def test_fft_equals_kissfft_even_where_it_wraps(libnode):
    """The sum is that of kissfft's own outputs (pymicro-features 2.0.2 sdist) on the same frames."""
    random = np.frombuffer(hashlib.shake_128(b"fft").digest(64 * FFT_SIZE * 2), "<i2").reshape(64, FFT_SIZE)
    extremes = np.where(random & 1, 32767, -32768).astype(np.int16)
    phase = 2 * np.pi * (np.arange(256)[:, None] * np.arange(256) + 31) / 256 + 0.01
    aligned = np.where(np.stack([np.cos(phase), -np.sin(phase)], 2) > 0, 32767, -32768).astype(np.int16).reshape(256, FFT_SIZE)
    frames = np.concatenate([random, random >> 12, extremes, aligned])
    assert zlib.crc32(b"".join(fft(libnode, frame).tobytes() for frame in frames)) == 0x49DC85C0
