"""Motors whose faults are known: the accelerometer of a rotating machine, sample by sample, healthy or not.

Theory of operation. Everything is driven by the shaft's angle, which turns with slow jitter and slips under load. The angle gives the
shaft's harmonics (imbalance is order 1, misalignment mostly order 2) and the instants at which a rolling element passes a defect (bearing
orders after Randall & Antoni, "Rolling element bearing diagnostics - a tutorial", MSSP 25, 2011, equations 1-4), with the slip of the
elements as jitter. Impacts and the broadband forces of a running machine go through the same structure, a sum of decaying modes, which is
what makes one machine sound unlike another. The sensor adds gravity, noise and its gain. A fault's severity is the RMS of its response
relative to the healthy machine's broadband RMS, whatever the machine: 0.5 is buried 6 dB below the noise.

    python -m cascades.vibration.simulator motor.wav --seconds 120 --fault "outer race" --onset 60
"""

import argparse
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewayd.escalators.vibration import Bearing

RATE_HZ = 8000
FAULTS = ("outer race", "inner race", "rolling element", "imbalance", "misalignment")
GRAVITY_MPS2 = 9.81
FULL_SCALE_MPS2 = 156.9  # a 16 g part

# Catalogue geometry: rolling elements, their diameter and the pitch diameter in mm.
BEARINGS = {
    "6203": Bearing(8, 6.746, 28.5),
    "6204": Bearing(8, 7.938, 33.5),
    "6205": Bearing(9, 7.94, 39.04),
    "6206": Bearing(9, 9.525, 46.0),
}

Floats = NDArray[np.float64]
Samples = NDArray[np.int16]


@dataclass(frozen=True)
class Machine:
    """One motor. Modes are rows of (frequency in Hz, damping ratio, gain)."""

    bearing: Bearing
    shaft_hz: float
    slip: float  # share of the speed that full load takes
    modes: Floats
    orders_mps2: Floats  # amplitudes of the shaft's harmonics 1, 2, ...
    hum_mps2: float  # twice the 50 Hz mains
    noise_mps2: float  # broadband RMS at half load
    sensor_mps2: float  # the sensor's own noise, RMS
    lsb_mps2: float


def machine(kind: int, unit: int = 0) -> Machine:
    """The `unit`-th motor off the line of type `kind`. Types differ in everything; units of one type by a few percent."""
    rng = np.random.default_rng([kind, 0x6D6F746F])
    n_modes = int(rng.integers(4, 7))
    modes = np.stack(
        [
            np.exp(rng.uniform(np.log(300.0), np.log(3800.0), n_modes)),
            rng.uniform(0.01, 0.05, n_modes),
            rng.uniform(0.3, 1.0, n_modes),
        ],
        axis=1,
    )
    noise = np.exp(rng.uniform(np.log(0.3), np.log(3.0)))
    orders = noise * np.exp(rng.normal(-0.7, 0.6, 6)) / np.arange(1, 7)
    bearing = BEARINGS[sorted(BEARINGS)[int(rng.integers(len(BEARINGS)))]]
    shaft_hz, slip, hum = rng.choice([24.6, 29.5, 48.5]), rng.uniform(0.01, 0.04), noise * rng.uniform(0.05, 0.4)
    own = np.random.default_rng([kind, unit, 0x756E6974])
    return Machine(
        bearing=bearing,
        shaft_hz=float(shaft_hz),
        slip=float(slip),
        modes=modes * np.stack([own.normal(1, 0.01, n_modes), own.normal(1, 0.05, n_modes), own.normal(1, 0.05, n_modes)], axis=1),
        orders_mps2=orders * np.exp(own.normal(0, 0.15, 6)),
        hum_mps2=float(hum * own.uniform(0.9, 1.1)),
        noise_mps2=float(noise * np.exp(own.normal(0, 0.06))),
        sensor_mps2=0.03,
        lsb_mps2=float(FULL_SCALE_MPS2 / 32768 * own.normal(1, 0.01)),
    )


def drift(rng: np.random.Generator, samples: int, time_s: float) -> Floats:
    """A slow random walk around 0 with unit variance and the given correlation time, interpolated from ten points a second."""
    points = samples * 10 // RATE_HZ + 3
    keep = np.exp(-0.1 / time_s)
    walk = rng.normal(0, np.sqrt(1 - keep**2), points)
    walk[0] = rng.normal()
    for i in range(1, points):
        walk[i] += keep * walk[i - 1]
    return np.interp(np.arange(samples) * 10 / RATE_HZ, np.arange(points), walk)


def through_structure(force: Floats, m: Machine) -> Floats:
    """The acceleration that `force` (modes' gains are relative) causes: every mode is a second-order resonance."""
    size = len(force) + RATE_HZ // 4  # room for the tail, so that nothing wraps round
    f = np.fft.rfftfreq(size, 1 / RATE_HZ)[:, None]
    f0, damping, gain = m.modes.T
    response = (gain * f**2 / (f0**2 - f**2 + 2j * damping * f0 * f)).sum(axis=1)
    return np.asarray(np.fft.irfft(np.fft.rfft(force, size) * response, size)[: len(force)])


def impacts(rng: np.random.Generator, angle: Floats, order: float) -> Floats:
    """A train of unit impulses, one each time the shaft turns by 1/order (`angle` is in revolutions), with 1 % slip."""
    steps = rng.normal(1, 0.01, int(angle[-1] * order) + 2) / order
    hits = rng.uniform(0, 1 / order) + np.cumsum(steps)
    at = np.interp(hits[hits < angle[-1]], angle, np.arange(len(angle)))
    index = at.astype(np.int64)
    train = np.zeros(len(angle) + 1)
    np.add.at(train, index, 1 - (at - index))  # an impact between two samples is shared by them
    np.add.at(train, index + 1, at - index)
    return train[:-1]


def defect(rng: np.random.Generator, m: Machine, fault: str, angle: Floats) -> Floats:
    """The response to a bearing defect with RMS 1. The load is heaviest at one place, where an inner-race defect comes by
    with the shaft and an element's with the cage.
    """
    train = impacts(rng, angle, m.bearing.orders()[fault]) * rng.normal(1, 0.1, len(angle))
    if fault == "inner race":
        train *= np.maximum(0.1, np.cos(2 * np.pi * angle)) ** 1.5
    elif fault == "rolling element":
        train *= np.maximum(0.1, np.cos(2 * np.pi * angle * m.bearing.cage_order())) ** 1.5
    response = through_structure(train, m)
    return np.asarray(response / np.sqrt(np.mean(response**2)))


def record(m: Machine, seconds: float, seed: int, fault: str = "", severity: float | Floats = 0.0) -> Samples:
    """`seconds` of the accelerometer at RATE_HZ. `severity` may be an array with a value for each sample.

    Load, phases and noise are the seed's.
    """
    rng = np.random.default_rng([seed, 0x72756E])
    n = round(seconds * RATE_HZ)
    load = np.clip(rng.uniform(0.2, 0.9) + 0.05 * drift(rng, n, 5.0), 0, 1)
    speed = m.shaft_hz * (1 - m.slip * load) * (1 + 0.001 * drift(rng, n, 0.5))
    angle = np.cumsum(speed) / RATE_HZ
    phases = rng.uniform(0, 2 * np.pi, len(m.orders_mps2))
    amplitudes = [a * (0.8 + 0.4 * load) for a in m.orders_mps2]
    for name, order, share in (("imbalance", 1, 1.0), ("misalignment", 2, 0.9), ("misalignment", 3, 0.4)):
        if fault == name:
            amplitudes[order - 1] = amplitudes[order - 1] + np.sqrt(2) * share * m.noise_mps2 * np.asarray(severity)
    x = sum(a * np.sin(2 * np.pi * (i + 1) * angle + phases[i]) for i, a in enumerate(amplitudes))
    x = x + m.hum_mps2 * np.sin(2 * np.pi * 100 * np.arange(n) / RATE_HZ + rng.uniform(0, 6.28))
    broadband = through_structure(rng.normal(0, 1, n), m)
    broadband = broadband / np.sqrt(np.mean(broadband**2)) + rng.normal(0, 0.2, n)
    x = x + m.noise_mps2 * np.sqrt(0.6 + 0.8 * load) * broadband
    x = x + GRAVITY_MPS2 + rng.normal(0, m.sensor_mps2, n)
    if fault in m.bearing.orders():  # last, so that the rest of the recording is the healthy machine's
        x = x + m.noise_mps2 * np.asarray(severity) * defect(rng, m, fault, angle)
    elif fault and fault not in FAULTS:
        raise ValueError(f"no fault {fault!r}; there are {', '.join(FAULTS)}")
    counts: Samples = np.clip(np.round(x / m.lsb_mps2), -32768, 32767).astype(np.int16)
    return counts


def run_to_failure(m: Machine, seconds: float, onset_s: float, seed: int, fault: str = "outer race") -> Samples:
    """Healthy until `onset_s`; then a defect grows exponentially, tenfold to severity 2 at the end."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    severity = np.where(t < onset_s, 0.0, 0.2 * 10 ** ((t - onset_s) / max(seconds - onset_s, 1e-9)))
    return record(m, seconds, seed, fault, severity)


def write_wav(path: str | Path, samples: Samples, rate_hz: int = RATE_HZ) -> None:
    """Mono, 16 bits."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(samples.astype("<i2").tobytes())


def read_wav(path: str | Path) -> tuple[Samples, int]:
    """(samples, rate in Hz) of a mono 16-bit WAV file."""
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            raise ValueError(f"{path}: not mono 16-bit")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def main() -> None:
    """Write one recording."""
    parser = argparse.ArgumentParser(description="Write an accelerometer recording of a simulated motor.")
    parser.add_argument("output", type=Path, help=".wav, or .raw for little-endian int16")
    parser.add_argument("--kind", type=int, default=0, help="machine type (default: %(default)s, the one cascade.toml is for)")
    parser.add_argument("--unit", type=int, default=0, help="which motor of that type")
    parser.add_argument("--seed", type=int, default=0, help="which recording of that motor")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--fault", choices=FAULTS, help="begins at --onset and grows until the end")
    parser.add_argument("--onset", type=float, default=0, help="seconds")
    args: Any = parser.parse_args()
    m = machine(args.kind, args.unit)
    samples = run_to_failure(m, args.seconds, args.onset, args.seed, args.fault) if args.fault else record(m, args.seconds, args.seed)
    if args.output.suffix == ".raw":
        args.output.write_bytes(samples.astype("<i2").tobytes())
    else:
        write_wav(args.output, samples)


if __name__ == "__main__":
    main()
