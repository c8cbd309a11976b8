"""The gateway's judge of machine vibration: whether a spectrum is new for the machine, and which part would cause it.

Novelty is measured on a log-spectrum against healthy recordings of the same type of machine: the Mahalanobis distance, and the distance
to the nearest healthy exemplars, which knows loads and speeds that one Gaussian blurs. Both have to exceed what a calibration recording
showed, or one kind of fault has to be evident by itself. Faults are told apart by where the shaft's speed puts them: bearing defects
repeat at an order of the shaft that geometry gives and are looked for in the spectrum of the envelope (Randall & Antoni, "Rolling element
bearing diagnostics - a tutorial", MSSP 25, 2011); imbalance is the shaft's first harmonic, misalignment its second.
"""

import hashlib
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewayd.core.types import Event, Opinion, Window, WindowKind
from gatewayd.errors import CascadeError, EscalationError

Floats = NDArray[np.float64]

FRAME = 1024
BANDS = 64
LOW_HZ = 10.0
ENVELOPE_LOW_HZ = 500.0  # below it are the shaft's harmonics, above it the structure that impacts ring
SLIP = 0.012  # how far rolling elements may be from their kinematic order
NEAREST = 3


class Bearing(NamedTuple):
    """A rolling-element bearing's geometry, from its data sheet."""

    elements: int
    element_mm: float
    pitch_mm: float
    contact_deg: float = 0.0

    def cage_order(self) -> float:
        """FTF: turns of the cage in one of the shaft."""
        return (1 - self._ratio()) / 2

    def orders(self) -> dict[str, float]:
        """How often a turn of the shaft brings an impact: BPFO, BPFI and twice BSF (an element's defect meets both races)."""
        ratio = self._ratio()
        return {
            "outer race": self.elements / 2 * (1 - ratio),
            "inner race": self.elements / 2 * (1 + ratio),
            "rolling element": self.pitch_mm / self.element_mm * (1 - ratio**2),
        }

    def _ratio(self) -> float:
        return self.element_mm / self.pitch_mm * math.cos(math.radians(self.contact_deg))


class Reference(NamedTuple):
    """What is normal: written by a cascade's commissioning, read by `load()`. F kinds of fault in the order of `evidence()`."""

    rate_hz: NDArray[np.int64]  # scalar
    psd: Floats  # [FRAME / 2 + 1] mean healthy power spectrum
    mean: Floats  # [BANDS]
    whiten: Floats  # [BANDS, BANDS]: |(x - mean) @ whiten| is the Mahalanobis distance
    exemplars: Floats  # [n, BANDS], whitened
    evidence_mean: Floats  # [F]
    evidence_std: Floats  # [F]
    cutoff: Floats  # [3] from the calibration recording: Mahalanobis, nearest neighbours, evidence in standard deviations


class Findings(NamedTuple):
    """What one window shows. Distances and evidence are in multiples of their cutoffs."""

    mahalanobis: float
    nearest: float
    evidence: dict[str, float]
    shaft_hz: float


def power_spectrum(x: Floats) -> Floats:
    """Welch's average of half-overlapping Hann frames: [FRAME / 2 + 1]."""
    frames = np.lib.stride_tricks.sliding_window_view(x, FRAME)[:: FRAME // 2]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(FRAME + 1)[:-1]
    return np.asarray((np.abs(np.fft.rfft(frames, axis=1)) ** 2).mean(axis=0)) + 1e-3


def band_edges(rate_hz: int) -> NDArray[np.int64]:
    """The bins at which BANDS log-spaced bands of at least one bin begin, and the end: [BANDS + 1]."""
    at, one_each = np.geomspace(LOW_HZ, 0.49 * rate_hz, BANDS + 1) * FRAME / rate_hz, np.arange(BANDS + 1)
    first = np.maximum.accumulate(np.maximum(np.round(at).astype(np.int64) - one_each, 1)) + one_each
    return np.asarray(np.minimum(first, FRAME // 2 + 1 - BANDS + one_each))


def log_bands(psd: Floats, rate_hz: int) -> Floats:
    """Log2 of the mean power in each band: [BANDS]."""
    first = band_edges(rate_hz)
    return np.log2(np.add.reduceat(psd[: first[-1]], first[:-1]) / np.diff(first))


def band_variance(samples: int, rate_hz: int) -> Floats:
    """How much log_bands() of Gaussian noise scatters by itself in a window of `samples`: [BANDS], log2 squared."""
    return np.asarray(1 / (math.log(2) ** 2 * (2 * samples / FRAME - 1) * np.diff(band_edges(rate_hz))))


def estimate_shaft(x: Floats, rate_hz: int, low_hz: float, high_hz: float) -> tuple[float, Floats]:
    """The speed in [low, high] whose first four harmonics are strongest together, and their log2 amplitudes: [4]."""
    size = 1 << (4 * len(x) - 1).bit_length()
    amplitude = np.abs(np.fft.rfft((x - x.mean()) * np.hanning(len(x)), size)) / len(x) + 1e-9
    candidates = np.linspace(low_hz, high_hz, max(2, round((high_hz - low_hz) / 0.02)))
    bins = np.round(candidates[:, None] * np.arange(1, 5) * size / rate_hz).astype(int)
    harmonics = np.log2(amplitude[bins])
    best = int(np.argmax(harmonics.sum(axis=1)))
    return float(candidates[best]), harmonics[best]


def envelope_spectrum(x: Floats, rate_hz: int, psd: Floats) -> Floats:
    """Amplitude spectrum of the squared envelope above ENVELOPE_LOW_HZ, the healthy machine's colour taken out; a bin is rate / len(x)."""
    spectrum = np.fft.fft(x - x.mean())
    hz = np.arange(len(x)) * rate_hz / len(x)
    colour = np.interp(hz, np.arange(len(psd)) * rate_hz / FRAME, np.sqrt(psd))
    spectrum = np.where((hz >= ENVELOPE_LOW_HZ) & (hz < 0.49 * rate_hz), spectrum / colour, 0)
    squared = np.abs(np.fft.ifft(spectrum)) ** 2
    return np.abs(np.fft.rfft((squared - squared.mean()) * np.hanning(len(x))))


def evidence(x: Floats, rate_hz: int, psd: Floats, bearing: Bearing, shaft: tuple[float, float]) -> tuple[float, dict[str, float]]:
    """The shaft's speed in Hz, and for each kind of fault how strong its signature is (log2 units, any offset)."""
    shaft_hz, harmonics = estimate_shaft(x, rate_hz, *shaft)
    found = {}
    spectrum = envelope_spectrum(x, rate_hz, psd)
    for fault, order in bearing.orders().items():
        ratios = []
        for k in range(1, 4):
            centre = k * order * shaft_hz * len(x) / rate_hz
            reach = math.ceil(SLIP * centre) + 1
            peak = spectrum[round(centre) - reach : round(centre) + reach + 1].max()
            ratios.append(math.log2(peak / np.median(spectrum[round(centre * 0.85) : round(centre * 1.15) + 1])))
        found[fault] = float(np.mean(ratios))
    return shaft_hz, found | {"imbalance": float(harmonics[0]), "misalignment": float(harmonics[1])}


class VibrationModel:
    """A reference with the machine's data: which bearing, and between which speeds its shaft turns."""

    def __init__(self, reference: Reference, bearing: Bearing, shaft_hz: tuple[float, float], name: str) -> None:
        self.reference, self.bearing, self.shaft_hz, self.name = reference, bearing, shaft_hz, name

    def examine(self, samples: NDArray[np.int16]) -> Findings:
        """Measure a window of one axis; at least one second at the reference's rate."""
        r, x = self.reference, samples.astype(np.float64)
        rate_hz = int(r.rate_hz)
        white = (log_bands(power_spectrum(x), rate_hz) - r.mean) @ r.whiten
        distances = np.sort(np.linalg.norm(r.exemplars - white, axis=1))
        shaft_hz, found = evidence(x, rate_hz, r.psd, self.bearing, self.shaft_hz)
        sigmas = (np.array(list(found.values())) - r.evidence_mean) / r.evidence_std / r.cutoff[2]
        return Findings(
            float(np.linalg.norm(white) / r.cutoff[0]),
            float(distances[:NEAREST].mean() / r.cutoff[1]),
            dict(zip(found, sigmas.tolist(), strict=True)),
            shaft_hz,
        )

    def classify(self, event: Event) -> Opinion:
        """Judge an event's window. Raises EscalationError where it is not what the reference is for."""
        samples = samples_of(event.window, int(self.reference.rate_hz))
        if np.ptp(samples) == 0:
            return Opinion(True, "sensor", 1.0, self.name, "the sensor gives a constant")
        f = self.examine(samples)
        fault, strength = max(f.evidence.items(), key=lambda item: item[1])
        ratio = max(min(f.mahalanobis, f.nearest), strength)
        label = "healthy" if ratio <= 1 else fault if strength > 1 else "unknown"
        spectrum = f"spectrum {f.mahalanobis:.2f} and {f.nearest:.2f}"
        text = f"{label}: shaft {f.shaft_hz:.2f} Hz; of their limits: {spectrum}, {fault} {strength:.2f}"
        return Opinion(ratio > 1, label, ratio / (1 + ratio), self.name, text)


def samples_of(window: Window | None, rate_hz: int) -> NDArray[np.int16]:
    """The window's samples, checked."""
    if window is None or window.kind is not WindowKind.VIBRATION or window.channels != 1:
        raise EscalationError("the event has no window of one axis of vibration")
    if window.rate_hz != rate_hz or len(window.data) < 2 * rate_hz or len(window.data) % 2:
        raise EscalationError(f"{len(window.data)} bytes at {window.rate_hz} Hz; the reference wants a second or more at {rate_hz} Hz")
    return np.frombuffer(window.data, "<i2").astype(np.int16)


def load(settings: Mapping[str, Any]) -> VibrationModel:
    """`folder` and `reference`: an .npz of Reference's fields. `bearing`: Bearing's fields. `shaft_hz`: lowest and highest speed.

    Raises CascadeError.
    """
    try:
        path = Path(settings["folder"]) / settings["reference"]
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            reference = Reference(**{name: arrays[name].astype(np.float64) for name in Reference._fields})
        bearing = Bearing(**settings["bearing"])
        low_hz, high_hz = (float(hz) for hz in settings["shaft_hz"])
    except (OSError, KeyError, TypeError, ValueError) as exc:
        raise CascadeError(f"vibration: the settings or the reference cannot be used: {exc!r}") from exc
    return VibrationModel(reference, bearing, (low_hz, high_hz), f"{path.stem} {hashlib.sha256(content).hexdigest()[:8]}")
