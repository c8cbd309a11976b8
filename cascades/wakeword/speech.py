"""Speech made on the spot by free synthesisers, for training, evaluation, tests and the demo. All audio is int16, mono, 16 kHz."""

import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
Samples = NDArray[np.int16]


def say(text: str, voice: str, speed: float = 1.0, pitch: int = 50) -> Samples:
    """Speak `text`; `voice` is `espeak-ng:<language>[+<variant>]` or `flite:<name>`, `pitch` is 0 to 99 (espeak-ng only).

    The same arguments give the same samples. Raises FileNotFoundError where the synthesiser is not installed.
    """
    engine, _, name = voice.partition(":")
    with tempfile.TemporaryDirectory(prefix="speech-") as folder:
        path = Path(folder, "out.wav")
        if engine == "espeak-ng":
            command = ["espeak-ng", "-v", name, "-s", str(round(160 * speed)), "-p", str(pitch), "-w", str(path), "--", text]
        else:
            command = ["flite", "-voice", name, "--setf", f"duration_stretch={1 / speed:.3f}", "-t", text, "-o", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read_wav(path)


def read_wav(path: Path) -> Samples:
    """Read a mono 16-bit WAV file of any rate."""
    with wave.open(str(path)) as file:
        if file.getnchannels() != 1 or file.getsampwidth() != 2:
            raise ValueError(f"{path}: not mono 16-bit")
        return resample(np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate())


def write_wav(path: Path, samples: Samples) -> None:
    """Write a mono 16-bit WAV file at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.astype("<i2").tobytes())


def resample(samples: Samples, rate_hz: int) -> Samples:
    """Bring `samples` from `rate_hz` to 16 kHz by cutting or padding the spectrum."""
    if rate_hz == RATE_HZ:
        return samples.astype(np.int16)
    step = rate_hz // np.gcd(rate_hz, RATE_HZ)  # whole periods of both rates, so that lengths divide
    padded = np.pad(samples.astype(float), (0, -len(samples) % step + step))
    count = len(padded) * RATE_HZ // rate_hz
    return to_int16(np.fft.irfft(np.fft.rfft(padded), count) * (count / len(padded)))


def to_int16(samples: NDArray[np.float64]) -> Samples:
    """Round and saturate."""
    return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)


def noise(kind: str, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`count` samples of unit power: `white`, `pink` (fans, rain), `hum` (mains and its harmonics), `clicks` (cutlery, keys)."""
    if kind == "hum":
        t, base = np.arange(count) / RATE_HZ, rng.choice([50, 60, 100, 120])
        x = sum(np.sin(2 * np.pi * (base * k * t + rng.random())) / k for k in range(1, 9)) + 0.1 * rng.normal(size=count)
    elif kind == "clicks":
        x = np.convolve(rng.normal(size=count) * (rng.random(count) < 4 / RATE_HZ), np.exp(-np.arange(400) / 60) * rng.normal(size=400))[
            :count
        ]
        x = x + 0.02 * rng.normal(size=count)
    else:
        spectrum = np.fft.rfft(rng.normal(size=count))
        if kind == "pink":
            spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20 * count / RATE_HZ))
        x = np.fft.irfft(spectrum, count)
    return np.asarray(x / np.sqrt(np.mean(np.square(x))))


def in_room(speech: Samples, rng: np.random.Generator, background: Samples | None = None) -> Samples:
    """`speech` as a microphone in a room hears it: 2 s before it and 1 s after, echoes, noise of some kind and level, some gain.

    `background` is talk of others, which takes the place of the noise.
    """
    x = np.pad(speech.astype(float), (2 * RATE_HZ, RATE_HZ))
    tail = rng.normal(size=RATE_HZ // 4) * np.exp(-np.arange(RATE_HZ // 4) / RATE_HZ * rng.uniform(15, 60))
    response = np.concatenate([[1], np.zeros(rng.integers(30, 200)), tail * rng.uniform(0, 0.05)])
    echo = np.fft.irfft(np.fft.rfft(x, len(x) + RATE_HZ) * np.fft.rfft(response, len(x) + RATE_HZ), len(x) + RATE_HZ)[: len(x)]
    level = np.sqrt(np.mean(np.square(speech.astype(float)))) * 10 ** (-rng.uniform(5, 30) / 20)
    if background is None:
        disturbance = noise(str(rng.choice(["white", "pink", "hum", "clicks"])), len(x), rng)
    else:
        talk = np.resize(background.astype(float), len(x))
        disturbance = talk / np.sqrt(np.mean(np.square(talk)))
    return to_int16((echo + level * disturbance) * 10 ** rng.uniform(-1, 0.1))
