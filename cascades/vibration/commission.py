r"""Fits the vibration cascade to a type of machine: what its sensor shows when all is well, and how far that may go.

The autoencoder is the same for every machine: it learned on a fleet how the bands of a healthy machine move together with load and speed.
What differs is where the bands lie and how far they move. That comes from `baseline` recordings; every limit comes from separate
`calibration` recordings, because a limit set on the data that the model was fitted to is far too tight. A new machine needs a few
minutes of each, over the loads it will run at:

    python -m cascades.vibration.commission ../pump --baseline mon.wav tue.wav --calibration wed.wav \
        --shaft-hz 24 25 --bearing 9 7.94 39.04

writes the cascade folder `../pump`: this one's policy and model, that machine's normalisation, limits and reference. For one cascade on
several machines of a type, give recordings of several; calibrate with others than those of the baseline, so that the limits know how much
they differ.
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascades.native import Network, VibrationConfig, VibrationFrontEnd
from cascades.vibration.simulator import read_wav
from gatewayd.escalators.vibration import Bearing, Reference, VibrationModel, band_variance, evidence, log_bands, power_spectrum

RATE_HZ, FRAMES, BANDS, LOW_HZ, HIGH_HZ = 8000, 16, 32, 10, 3900
SIGMA = 16  # int8 steps a standard deviation: the model's input and output scale is 1 / SIGMA
SMALLEST_SIGMA_Q8 = 64  # 0.75 dB: no band is held to be steadier, however quiet its baseline was
WINDOW = 8  # rows that the node averages its error over
SUSPICIOUS = 0.95  # quantile of the calibration's errors that is the node's cutoff: sensitive, for the gateway is there to judge
CLIP_MS = 2000
EXEMPLARS = 48

HERE = Path(__file__).parent

Runner = Callable[[NDArray[np.int8]], NDArray[np.int8]]  # the autoencoder, [rows, BANDS] to the same
Samples = NDArray[np.int16]
Floats = NDArray[np.float64]


class Commissioned(NamedTuple):
    """What makes the cascade fit a type of machine."""

    offset: NDArray[np.int16]  # [BANDS]
    gain: NDArray[np.int16]  # [BANDS]
    cutoff: float  # of the node's error: it suspects
    strict: float  # the largest error of the calibration: without a gateway only what exceeds it is believed
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


def node_errors(network: Runner, offset: NDArray[np.int16], gain: NDArray[np.int16], recording: Samples, window: int = WINDOW) -> Floats:
    """What the `error` rule compares to the cutoff, for every row of a recording from the `window`-th on."""
    fe = front_end(offset.tolist(), gain.tolist())
    rows = fe.quantize(fe.feed(recording))
    difference = (rows.astype(float) - network(rows)) / SIGMA
    return np.convolve((difference**2).mean(axis=1), np.ones(window) / window, "valid")


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
    """The gateway's reference: covariance shrunk to its diagonal, exemplars, evidence when healthy, limits from `calibration`."""
    spectra = [power_spectrum(w.astype(float)) for w in windows(baseline)]
    bands = np.array([log_bands(p, RATE_HZ) for p in spectra])
    psd, mean, n = np.mean(spectra, axis=0), bands.mean(axis=0), len(bands)
    shrinkage = max(0.1, min(1.0, bands.shape[1] / n))
    covariance = np.cov(bands.T)
    target = np.diag(np.maximum(np.diag(covariance), band_variance(RATE_HZ * CLIP_MS // 1000, RATE_HZ)))
    covariance = (1 - shrinkage) * covariance + shrinkage * target
    values, vectors = np.linalg.eigh(covariance)
    whiten = vectors / np.sqrt(values)
    found = np.array([list(evidence(w.astype(float), RATE_HZ, psd, bearing, shaft_hz)[1].values()) for w in windows(baseline)])
    spread = found.std(axis=0) + 0.05
    spread[: len(bearing.orders())] = np.sqrt(np.mean(spread[: len(bearing.orders())] ** 2))  # one statistic, so one spread
    white = (bands - mean) @ whiten
    unit = Reference(np.array(RATE_HZ), psd, mean, whiten, exemplars(white), found.mean(axis=0), spread, np.ones(3))
    model = VibrationModel(unit, bearing, shaft_hz, "")
    findings = (model.examine(w) for w in windows(calibration))
    seen = np.array([(f.mahalanobis, f.nearest, max(f.evidence.values())) for f in findings])
    return unit._replace(cutoff=np.maximum(seen.max(axis=0), seen.mean(axis=0) + 4 * seen.std(axis=0)))  # the latter where they are few


def commission(
    network: Runner,
    baseline: Sequence[Samples],
    calibration: Sequence[Samples],
    bearing: Bearing,
    shaft_hz: tuple[float, float],
    *,
    window: int = WINDOW,
) -> Commissioned:
    """Fit to one type of machine; no window of `calibration` may be in `baseline`."""
    offset, gain = normalisation(features(baseline))
    errors = np.concatenate([node_errors(network, offset, gain, x, window) for x in calibration])
    reference = fit_reference(baseline, calibration, bearing, shaft_hz)
    return Commissioned(offset, gain, float(np.quantile(errors, SUSPICIOUS)), float(errors.max()), reference)


def set_values(toml: str, values: dict[str, Any]) -> str:
    """`toml` with the value of each `key = ...` line replaced; comments stay. Raises KeyError where there is no such line."""
    for key, value in values.items():
        text = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) if isinstance(value, dict) else json.dumps(value)
        line = f"{key} = {{ {text} }}" if isinstance(value, dict) else f"{key} = {text}"
        toml, found = re.subn(rf"(?m)^{key} = [^#\n]*?(?=\s*(#.*)?$)", line, toml, count=1)
        if not found:
            raise KeyError(key)
    return toml


def write(folder: Path, fitted: Commissioned, bearing: Bearing, shaft_hz: tuple[float, float], name: str) -> None:
    """Make `folder` the cascade `name` for the fitted machine; what is not there yet comes from this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("cascade.toml", "node.tflite"):
        if not (folder / file).exists():
            shutil.copy(HERE / file, folder / file)
    values = {
        "name": name,
        "cutoff": round(fitted.cutoff, 5),
        "shaft_hz": [round(hz, 3) for hz in shaft_hz],
        "bearing": bearing._asdict(),
        "alone_score": round(fitted.strict / (fitted.strict + fitted.cutoff), 3),  # the `error` rule's score
    }
    toml = folder / "cascade.toml"
    toml.write_text(set_values(toml.read_text(encoding="utf-8"), values), encoding="utf-8")
    (folder / "normalisation.bin").write_bytes(np.stack([fitted.offset, fitted.gain], axis=1).astype("<i2").tobytes())
    arrays = {key: a.astype(np.float32) if a.ndim else a for key, a in fitted.reference._asdict().items()}
    np.savez_compressed(folder / "gateway.npz", **arrays)


def main() -> None:
    """Commission a machine from recordings."""
    parser = argparse.ArgumentParser(description="Fit the vibration cascade to a machine.")
    parser.add_argument("folder", type=Path, help="the cascade folder to write; its name is the cascade's")
    parser.add_argument("--baseline", nargs="+", required=True, help=f"WAV files of the healthy machine, {RATE_HZ} Hz, mono, 16 bits")
    parser.add_argument("--calibration", nargs="+", required=True, help="others, recorded at another time")
    parser.add_argument("--shaft-hz", nargs=2, type=float, required=True, metavar=("LOW", "HIGH"))
    parser.add_argument(
        "--bearing", nargs="+", type=float, required=True, metavar="N", help="elements, element mm, pitch mm[, contact degrees]"
    )
    args: Any = parser.parse_args()

    def recordings(paths: list[str]) -> list[Samples]:
        read = [read_wav(path) for path in paths]
        if any(rate_hz != RATE_HZ for _, rate_hz in read):
            parser.error(f"a recording is not at {RATE_HZ} Hz")
        return [x for x, _ in read]

    bearing, shaft_hz = Bearing(int(args.bearing[0]), *args.bearing[1:]), tuple(args.shaft_hz)
    network = Network((HERE / "node.tflite").read_bytes())
    fitted = commission(network, recordings(args.baseline), recordings(args.calibration), bearing, shaft_hz)
    write(args.folder, fitted, bearing, shaft_hz, args.folder.resolve().name)


if __name__ == "__main__":
    main()
