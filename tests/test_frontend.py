"""The audio front end and its FFT against what the models were trained with."""

import ctypes
import ctypes.util
import hashlib
import io
import random
import shutil
import subprocess
import wave
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pymicro_features import MicroFrontend

from gatewayd.core import microfrontend
from gatewayd.core.microfrontend import Parameters, Tuning, encode

FIRMWARE = Path(__file__).parent.parent / "node_firmware"
FRONT_END = FIRMWARE / "core" / "frontend"
RATE_HZ = 16_000
WINDOW, STEP, CHANNELS, FFT_SIZE = 480, 160, 40, 512
FEATURE_SCALE = 0.0390625  # pymicro-features multiplies its uint16 features by this

Samples = npt.NDArray[np.int16]


class FrontEnd:
    """The C front end; without `parameters`, the standard one."""

    def __init__(self, lib: ctypes.CDLL, parameters: bytes | None = None) -> None:
        """Raises ValueError where it refuses the parameters."""
        self.lib = lib
        self.state, self.parameters = ctypes.create_string_buffer(4096), ctypes.create_string_buffer(256)  # more than their structs
        self.data = None if parameters is None else ctypes.create_string_buffer(b"?" + parameters)
        at = ctypes.addressof(self.data) + 1 if self.data else None  # at an odd address
        if lib.audio_parameters_read(self.parameters, ctypes.c_void_p(at), ctypes.c_size_t(len(parameters or b""))):
            raise ValueError("refused")
        self.channels = microfrontend.check(parameters).channels if parameters else CHANNELS
        lib.audio_frontend_feed.restype = ctypes.c_size_t
        lib.audio_frontend_feed.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
        self.reset()

    def reset(self) -> None:
        self.lib.audio_frontend_init(self.state, self.parameters)

    def rows(self, samples: Samples, chunks: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
        """Features of `samples` fed in pieces of the sizes `chunks`, over and over."""
        rows, row, ready, at, turn = [], np.zeros(self.channels, np.uint16), ctypes.c_bool(), 0, 0
        while at < len(samples):
            piece = np.ascontiguousarray(samples[at : at + int(chunks[turn % len(chunks)])])
            taken = self.lib.audio_frontend_feed(self.state, piece.ctypes.data, len(piece), row.ctypes.data, ctypes.byref(ready))
            assert taken <= len(piece)
            at += taken
            turn += 1
            if ready:
                rows.append(row.copy())
        return np.array(rows, np.uint16).reshape(-1, self.channels)

    def quantize(self, row: npt.NDArray[np.uint16]) -> npt.NDArray[np.int8]:
        out = np.zeros(self.channels, np.int8)
        self.lib.audio_frontend_quantize(self.state, ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(out.ctypes.data))
        return out


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
    front_end.reset()
    assert np.array_equal(front_end.rows(samples, np.array([500])), first)


@pytest.mark.parametrize(("multiplier", "divisor"), [(256, 666), (1, 1), (65_535, 65_535), (65_535, 1), (3, 65_535)])
def test_quantisation_is_esphomes_with_any_gain(libnode, multiplier, divisor):
    parameters = Parameters(tuning=Tuning(multiplier=multiplier, divisor=divisor))
    front_end = FrontEnd(libnode, encode(parameters))
    values = np.concatenate([np.arange(720), [2000, 65535] + 38 * [0]]).astype(np.uint16)
    out = np.concatenate([front_end.quantize(row) for row in values.reshape(-1, CHANNELS)])
    assert out.tolist() == [min((int(v) * multiplier + divisor // 2) // divisor - 128, 127) for v in values]
    if parameters == Parameters():
        assert all(np.array_equal(FrontEnd(libnode).quantize(row), front_end.quantize(row)) for row in values.reshape(-1, CHANNELS))


# Parameters and the sum of the reference's features. Of "shares" one bin's weights add up to more than 1.
OTHERS = {
    "slow": (Parameters(step_ms=20), 0x5D59239E),
    "plain": (Parameters(window_ms=25, channels=32, tuning=Tuning(enable_pcan=False)), 0x6B0E6F27),
    "shares": (Parameters(channels=32, low_hz=750), 0xDB7AA518),
    "telephone": (Parameters(20, 20, channels=16, low_hz=300, high_hz=3400, tuning=Tuning(scale_shift=8)), 0x20B83729),
    "narrow": (Parameters(17, 1, channels=1, low_hz=1000, high_hz=1200), 0xF4B75A96),
    "wide": (Parameters(32, 16, channels=64, low_hz=0, high_hz=7600, tuning=Tuning(strength=0.5, gain_bits=18)), 0xE95376AF),
    "smooth": (Parameters(tuning=Tuning(4, 0.1, 0.3, 0.15, offset=1.5, strength=0.7, gain_bits=24, scale_shift=11)), 0x0AD5131C),
}


def reference_signal() -> Samples:
    """Full scale, then ever quieter, and clipped at the end."""
    noise = np.frombuffer(hashlib.shake_128(b"audio").digest(2 * RATE_HZ), "<i2")
    return np.concatenate([noise >> shift for shift in (0, 3, 7, 11, 14)] + [np.where(noise > 0, 32767, -32768)]).astype(np.int16)


@pytest.mark.parametrize("name", OTHERS)
def test_other_parameters_are_the_references_too(libnode, name):
    """The sums are those of features of the reference's C (pymicro-features 2.0.2 sdist) with these parameters."""
    parameters, sum_of_features = OTHERS[name]
    rows = FrontEnd(libnode, encode(parameters)).rows(reference_signal(), np.array([777]))
    assert zlib.crc32(rows.tobytes()) == sum_of_features


def test_the_standard_parameters_may_be_said(libnode):
    samples = signal("noise 1000")[: STEP * 40]
    said = FrontEnd(libnode, encode(Parameters())).rows(samples, np.array([500]))
    assert np.array_equal(FrontEnd(libnode).rows(samples, np.array([500])), said)


def mutated(draw: random.Random, data: bytearray) -> bytes:
    """Changed where the numbers are that the sizes follow from, now and then cut or extended."""
    edges = (0, 1, 2, 31, 32, 64, 65, 254, 255)
    for _ in range(draw.randrange(3)):
        data[draw.choice((draw.randrange(20), draw.randrange(-65, 0)))] = draw.choice((*edges, draw.randrange(256)))
    return bytes(data[: draw.choice((len(data), len(data), draw.randrange(len(data))))]) + bytes(draw.choice((0, 0, 1)))


def test_a_node_takes_what_the_gateway_takes(libnode):
    draw, taken = random.Random(1), 0
    good = [encode(parameters) for parameters, _ in OTHERS.values()]
    for _ in range(5_000):
        data = mutated(draw, bytearray(draw.choice(good)))
        try:
            microfrontend.check(data)
        except ValueError:
            with pytest.raises(ValueError, match="refused"):
                FrontEnd(libnode, data)
        else:
            FrontEnd(libnode, data)
            taken += 1
    assert 1_000 < taken < 4_000


def test_no_byte_of_the_parameters_is_trusted(host_build, tmp_path):
    """Truncations at every length and random changes, under the address and undefined-behaviour sanitizers."""
    driver, files = tmp_path / "mutate", []
    sources = [*FRONT_END.glob("*.c"), *(FIRMWARE / "tests" / name for name in ("fuzz_frontend.c", "mutate.c"))]
    sanitize = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    include = (f"-I{FIRMWARE / 'include'}", f"-I{FRONT_END}")
    tables = host_build / "core" / "frontend" / "tables.c"
    subprocess.run(["cc", "-std=c99", *sanitize, *include, *sources, tables, "-o", driver], check=True, timeout=120)
    for name, (parameters, _) in OTHERS.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(encode(parameters))
    done = subprocess.run([driver, "1", "400", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


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
