"""Measures the node alone and the cascade on machines that training never saw, and writes the results into CARD.md.

    python -m cascades.vibration.evaluate

A trial is one recording with a load, phases and noise of its own; the node's error at its end decides, and the gateway is given the
last two seconds, as in an event. Limits come from calibration recordings, never from trials.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cascades.native import Network
from cascades.vibration import real, simulator
from cascades.vibration.commission import (
    CLIP_MS,
    HERE,
    RATE_HZ,
    WINDOW,
    Commissioned,
    Runner,
    Samples,
    commission,
    node_errors,
    windows,
)
from cascades.vibration.train import DEMO_KIND, healthy, speed_range
from gatewayd.core.types import Event, Reason, Window, WindowKind
from gatewayd.escalators.vibration import Bearing, VibrationModel

HELD_OUT = range(300, 312)  # machine types; training has 100 to 131, the choice of the model's sizes was made on 200 to 207
SEVERITIES = (0.2, 0.4, 0.6, 1.0)
CARD = HERE / "CARD.md"
MARK = "<!-- Below this line everything is written by evaluate.py. -->\n"
REAL_WINDOW = 3  # rows in two seconds; the real recordings are too short for WINDOW


class Trial(NamedTuple):
    """One decision of each judge."""

    fault: str
    severity: float
    node: bool  # at the sensitive cutoff that ships
    strict: bool  # at the largest error of the calibration recordings
    accepted: bool  # the gateway's opinion, whatever the node said
    label: str

    @property
    def cascade(self) -> bool:
        """What reaches the operator."""
        return self.node and self.accepted


class Site(NamedTuple):
    """A commissioned machine and both its models."""

    network: Runner
    fitted: Commissioned
    model: VibrationModel
    window: int

    def judge(self, fault: str, severity: float, x: Samples, error: float) -> Trial:
        """`x` is an event's clip, `error` what the node's rule saw then."""
        window = Window(WindowKind.VIBRATION, RATE_HZ, 1, (len(x),), x.astype("<i2").tobytes())
        event = Event(0, 0, "vibration", bytes(8), 0.5, 0, 0, Reason.TRIGGER, window)
        opinion = self.model.classify(event)
        return Trial(fault, severity, error > self.fitted.cutoff, error > self.fitted.strict, opinion.accepted, opinion.label)

    def errors(self, x: Samples) -> list[float]:
        """The node's error, row by row."""
        return [float(e) for e in node_errors(self.network, self.fitted.offset, self.fitted.gain, x, self.window)]


def site(
    network: Runner,
    baseline: Sequence[Samples],
    calibration: Sequence[Samples],
    bearing: Bearing,
    shaft_hz: tuple[float, float],
    *,
    window: int = WINDOW,
) -> Site:
    """Commission a machine."""
    fitted = commission(network, baseline, calibration, bearing, shaft_hz, window=window)
    return Site(network, fitted, VibrationModel(fitted.reference, bearing, shaft_hz, ""), window)


def simulated(at: Site, kind: int, units: Sequence[int], n_healthy: int, n_fault: int) -> Iterator[Trial]:
    """Trials on a machine type's `units` in turn: healthy ones, and for every fault and severity."""
    conditions = [("", 0.0, n_healthy), *((f, s, n_fault) for f in simulator.FAULTS for s in SEVERITIES)]
    for c, (fault, severity, count) in enumerate(conditions):
        for i in range(count):
            seed = 10**9 + 10**5 * kind + 1000 * c + i
            x = simulator.record(simulator.machine(kind, units[i % len(units)]), 4.7, seed, fault, severity)
            yield at.judge(fault, severity, x[-RATE_HZ * CLIP_MS // 1000 :], at.errors(x)[-1])


def own_machine(network: Runner) -> Iterator[Trial]:
    """Machine types never seen, each commissioned by 8 + 8 minutes of its own."""
    for kind in HELD_OUT:
        m = simulator.machine(kind)
        baseline, calibration = ([simulator.record(m, 30, 10**6 * kind + 1000 * part + i) for i in range(16)] for part in range(2))
        yield from simulated(site(network, baseline, calibration, m.bearing, speed_range(m)), kind, [0], 40, 4)


def unseen_units(network: Runner) -> Iterator[Trial]:
    """The cascade as it ships: one for a type of machine, on units that neither baseline nor calibration had."""
    m = simulator.machine(DEMO_KIND)
    at = site(network, healthy(DEMO_KIND, range(12), 30, 0), healthy(DEMO_KIND, range(12, 24), 30, 0), m.bearing, speed_range(m))
    yield from simulated(at, DEMO_KIND, range(24, 64), 400, 40)


def real_rig(network: Runner) -> Iterator[Trial]:
    """Every two seconds of the real recordings; each healthy one is baseline, calibration and test in turn."""
    all_recordings = real.recordings()
    normal = [r.samples for r in all_recordings if not r.fault]
    for turn in range(len(normal)):
        baseline, calibration, test = (normal[(turn + i) % len(normal)] for i in range(3))
        at = site(network, [baseline], [calibration], real.BEARING, real.SHAFT_HZ, window=REAL_WINDOW)
        for fault, recording in [("", test), *((r.fault, r.samples) for r in all_recordings if r.fault)]:
            for clip in windows([recording]):
                yield at.judge(fault, 1.0 if fault else 0.0, clip, at.errors(clip)[-1])


def wilson(hits: int, n: int) -> str:
    """A rate with its 95 % Wilson score interval."""
    z, p = 1.96, hits / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = max(0.0, (centre - half) / (1 + z * z / n)), (centre + half) / (1 + z * z / n)
    return f"{p:.3f} ({low:.3f} to {high:.3f}), {hits}/{n}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def report(trials: Sequence[Trial]) -> str:
    """Rates by judge and severity, then what was named."""

    def rates(chosen: Sequence[Trial]) -> list[str]:
        return [wilson(sum(getattr(t, judge) for t in chosen), len(chosen)) for judge in ("node", "strict", "cascade")]

    def row(name: str, chosen: Sequence[Trial]) -> list[list[str]]:
        return [[name, *rates(chosen)]] if chosen else []

    bearing = {"outer race", "inner race", "rolling element"}
    rows = row("healthy (false positives)", [t for t in trials if not t.fault])
    for severity in sorted({t.severity for t in trials if t.fault}):
        for name, faults in (("bearing", bearing), ("imbalance, misalignment", {"imbalance", "misalignment"})):
            rows += row(f"{name}, severity {severity:g}", [t for t in trials if t.severity == severity and t.fault in faults])
    found = [t for t in trials if t.cascade]
    labels = sorted({t.label for t in found})
    counts = Counter((t.fault or "healthy", t.label) for t in found)
    named = [[f, *(counts[f, label] for label in labels)] for f in dict.fromkeys(t.fault or "healthy" for t in trials)]
    rates_table = table(["", "node alone, as it ships", "node alone, strict", "cascade"], rows)
    return (
        rates_table
        + "\nWhat the cascade accepted, by true cause (rows) and by the name it gave (columns):\n\n"
        + table(["", *labels], named)
    )


def main() -> None:
    """Evaluate everything and write the card."""
    network = Network((HERE / "node.tflite").read_bytes())
    parts = [
        ("Held-out simulated machines, each commissioned by its own recordings", own_machine),
        ("The cascade as it ships, on units of its machine type that it never saw", unseen_units),
        ("A real test rig (MFPT), two-second clips", real_rig),
    ]
    results = ""
    for title, trials in parts:
        print(title, flush=True)
        try:
            text = report(list(trials(network)))
        except OSError as error:
            text = f"Not measured: {error}.\n"
        print(text, flush=True)
        results += f"\n### {title}\n\n{text}"
    CARD.write_text(CARD.read_text(encoding="utf-8").partition(MARK)[0] + MARK + results, encoding="utf-8")


if __name__ == "__main__":
    main()
