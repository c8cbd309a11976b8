"""Trains the node's autoencoder on a fleet of simulated machines and commissions the cascade for the first type of them.

    python -m cascades.vibration.train

writes node.tflite, normalisation.bin, gateway.npz and the machine's part of cascade.toml. Everything follows from the seeds below.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cascades.native import Network
from cascades.tflite import calibrate, fully_connected
from cascades.vibration import simulator
from cascades.vibration.commission import BANDS, HERE, SIGMA, commission, features, front_end, normalisation, write

Floats = NDArray[np.float64]
Weights = list[tuple[Floats, Floats]]

TRAIN_KINDS = range(100, 132)
DEMO_KIND = 0  # the type that cascade.toml is for
LAYERS = (BANDS, 24, 8, 24, BANDS)


def speed_range(m: simulator.Machine) -> tuple[float, float]:
    """What a motor's plate says: between full load and none, with half a percent of margin."""
    return m.shaft_hz * (1 - m.slip) * 0.995, m.shaft_hz * 1.005


def healthy(kind: int, units: range, seconds: float, first_seed: int) -> list[NDArray[np.int16]]:
    """Four recordings of each unit, each at a load of its own."""
    return [
        simulator.record(simulator.machine(kind, u), seconds, first_seed + 100 * (1000 * kind + u) + i) for u in units for i in range(4)
    ]


def training_rows() -> Floats:
    """Normalised rows of all training machines, each type by its own baseline: [n, BANDS], in standard deviations."""
    out = []
    for kind in TRAIN_KINDS:
        rows = features(healthy(kind, range(4), 30, 0))
        fe = front_end(*(x.tolist() for x in normalisation(rows)))
        out.append(fe.quantize(rows) / SIGMA)
    return np.concatenate(out)


def fit(rows: Floats, epochs: int = 60) -> Weights:
    """Adam on the mean squared reconstruction error; ReLU between the layers."""
    rng = np.random.default_rng(1)
    params = [p for n, m in pairwise(LAYERS) for p in (rng.normal(0, np.sqrt(2 / n), (m, n)), np.zeros(m))]
    first, second = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    step, batch = 0, 128
    for epoch in range(epochs):
        rate = 3e-3 * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        for index in np.array_split(rng.permutation(len(rows)), len(rows) // batch):
            step += 1
            for i, g in enumerate(gradients(params, rows[index])):
                first[i] += 0.1 * (g - first[i])
                second[i] += 0.001 * (g * g - second[i])
                params[i] -= rate * (first[i] / (1 - 0.9**step)) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
    return [(params[i], params[i + 1]) for i in range(0, len(params), 2)]


def gradients(params: list[Floats], x: Floats) -> list[Floats]:
    """Of the mean squared error of x's reconstruction."""
    activations = [x]
    for i in range(0, len(params), 2):
        y = activations[-1] @ params[i].T + params[i + 1]
        activations.append(y if i == len(params) - 2 else np.maximum(y, 0))
    delta = 2 * (activations[-1] - x) / x.size
    out: list[Floats] = []
    for i in range(len(params) - 2, -1, -2):
        out = [delta.T @ activations[i // 2], delta.sum(axis=0), *out]
        delta = (delta @ params[i]) * (activations[i // 2] > 0)
    return out


def train_node() -> bytes:
    """The quantised autoencoder."""
    rows = training_rows()
    return fully_connected(calibrate(fit(rows), rows, 1 / SIGMA), 1 / SIGMA, 0)


def main() -> None:
    """Train, write the node's model, and commission the cascade for units 0 to 23 of machine type 0."""
    model = train_node()
    (HERE / "node.tflite").write_bytes(model)
    kind = simulator.machine(DEMO_KIND)
    shaft_hz = speed_range(kind)
    baseline, calibration = healthy(DEMO_KIND, range(12), 30, 0), healthy(DEMO_KIND, range(12, 24), 30, 0)
    fitted = commission(Network(model), baseline, calibration, kind.bearing, shaft_hz)
    write(HERE, fitted, kind.bearing, shaft_hz, "vibration")
    print(f"node.tflite {len(model)} bytes, cutoff {fitted.cutoff:.4f}, reference's limits {fitted.reference.cutoff.round(2)}")


if __name__ == "__main__":
    main()
