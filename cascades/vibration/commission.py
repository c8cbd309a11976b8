"""Fits the vibration cascade to a type of machine: what its sensor shows when all is well, and how far that may go.

The autoencoder is the same for every machine: it learned on a fleet how the bands of a healthy machine move together with load and speed.
What differs is where the bands lie and how far they move. That comes from a `baseline` recording; every limit comes from a separate
`calibration` recording, because a limit set on the data that the model was fitted to is far too tight. A new machine needs a few
minutes of each, over the loads it will run at:

    python -m cascades.vibration.commission pump --baseline mon.wav tue.wav --calibration wed.wav --shaft-hz 24 25 --bearing 9 7.94 39.04

writes a cascade folder `pump` next to this one's template.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascades.native import Network, VibrationConfig, VibrationFrontEnd
from gatewayd.escalators.vibration import Bearing, Reference, VibrationModel, evidence, log_bands, power_spectrum

RATE_HZ, FRAMES, BANDS, LOW_HZ, HIGH_HZ = 8000, 16, 32, 10, 3900
SIGMA = 16  # int8 steps a standard deviation: the model's input and output scale is 1 / SIGMA
SMALLEST_SIGMA_Q8 = 64  # 0.75 dB: no band is held to be steadier, however quiet its baseline was
WINDOW = 4  # rows that the node averages its error over
CLIP_MS = 2000
EXEMPLARS = 48

Samples = NDArray[np.int16]
Floats = NDArray[np.float64]


class Commissioned(NamedTuple):
    """What makes the cascade fit a type of machine."""

    offset: NDArray[np.int16]  # [BANDS]
    gain: NDArray[np.int16]  # [BANDS]
    cutoff: float
    reference: Reference


def front_end(offset: Sequence[int] = (), gain: Sequence[int] = ()) -> VibrationFrontEnd:
    """The node's front end in this cascade's setting."""
    config = VibrationConfig(RATE_HZ, FRAMES, BANDS, LOW_HZ, HIGH_HZ)
    config.offset[: len(offset)] = [int(x) for x in offset]
    config.gain[: len(gain)] = [int(x) for x in gain]
    return VibrationFrontEnd(config)


def features(recordings: Sequence[Samples]) -> NDArray[np.int16]:
    """Feature rows before normalisation: [rows, BANDS]."""
    return np.concatenate([front_end().feed(x) for x in recordings])


def normalisation(rows: NDArray[np.int16]) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """(offset, gain) that make a baseline's rows zero mean and SIGMA steps standard deviation."""
    sigma = np.maximum(rows.std(axis=0), SMALLEST_SIGMA_Q8)
    return np.round(rows.mean(axis=0)).astype(np.int16), np.round(256 * SIGMA / sigma).astype(np.int16)


def node_errors(network: Network, offset: NDArray[np.int16], gain: NDArray[np.int16], recording: Samples) -> Floats:
    """What the `error` rule compares to the cutoff, for every row of a recording from the WINDOW-th on."""
    fe = front_end(offset.tolist(), gain.tolist())
    rows = fe.quantize(fe.feed(recording))
    difference = (rows.astype(float) - network(rows)) / SIGMA
    return np.convolve((difference**2).mean(axis=1), np.ones(WINDOW) / WINDOW, "valid")


def windows(recordings: Sequence[Samples]) -> Iterator[Samples]:
    """Half-overlapping windows as long as an event's."""
    size = RATE_HZ * CLIP_MS // 1000
    for x in recordings:
        for at in range(0, len(x) - size + 1, size // 2):
            yield x[at : at + size]


def exemplars(white: Floats) -> Floats:
    """EXEMPLARS rows that cover all others: each next one is the farthest from those chosen."""
    chosen = [int(np.argmin(np.linalg.norm(white, axis=1)))]
    distance = np.full(len(white), np.inf)
    while len(chosen) < min(EXEMPLARS, len(white)):
        distance = np.minimum(distance, np.linalg.norm(white - white[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return white[chosen]


def fit_reference(
    baseline: Sequence[Samples], calibration: Sequence[Samples], bearing: Bearing, shaft_hz: tuple[float, float]
) -> Reference:
    """The gateway's reference: covariance with shrinkage to its diagonal, exemplars, evidence when healthy, limits from `calibration`."""
    spectra = [power_spectrum(w.astype(float)) for w in windows(baseline)]
    bands = np.array([log_bands(p, RATE_HZ) for p in spectra])
    psd, mean, n = np.mean(spectra, axis=0), bands.mean(axis=0), len(bands)
    shrinkage = max(0.1, min(1.0, bands.shape[1] / n))
    covariance = np.cov(bands.T)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance)) + 0.1**2 * np.eye(len(mean))
    values, vectors = np.linalg.eigh(covariance)
    whiten = vectors / np.sqrt(values)
    found = np.array([list(evidence(w.astype(float), RATE_HZ, psd, bearing, shaft_hz)[1].values()) for w in windows(baseline)])
    unit = Reference(
        np.array(RATE_HZ), psd, mean, whiten, exemplars((bands - mean) @ whiten), found.mean(axis=0), found.std(axis=0) + 0.05, np.ones(3)
    )
    model = VibrationModel(unit, bearing, shaft_hz, "")
    seen = [model.examine(w) for w in windows(calibration)]
    cutoff = np.max([(f.mahalanobis, f.nearest, max(f.evidence.values())) for f in seen], axis=0)
    return unit._replace(cutoff=cutoff)


def commission(
    network: Network, baseline: Sequence[Samples], calibration: Sequence[Samples], bearing: Bearing, shaft_hz: tuple[float, float]
) -> Commissioned:
    """Fit to one type of machine; no window of `calibration` may be in `baseline`."""
    offset, gain = normalisation(features(baseline))
    errors = np.concatenate([node_errors(network, offset, gain, x) for x in calibration])
    reference = fit_reference(baseline, calibration, bearing, shaft_hz)
    return Commissioned(offset, gain, float(np.quantile(errors, 0.98)), reference)
