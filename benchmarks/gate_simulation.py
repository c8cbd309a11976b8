"""How often the quality gate is wrong: simulated fleets whose new model is as good, 5 or 15 points worse; makes the table of docs/gate.md.

    python benchmarks/gate_simulation.py [REPETITIONS] [--write]

What is simulated is harder than what the gate assumes: nodes differ in use, precision and in how much worse they get; use varies over
the day, from day to day and comes in clumps; precision varies from hour to hour. Seeded: the same command makes the same table.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gatewayd.core.gate import Answer, Baseline, Cell, judge

BASELINE_DAYS, TRIAL_DAYS = 28, 28
FLEETS = (1, 3, 12, 200)
RECALL = 0.9
_EVENTS_PER_DAY, _AUDITS_PER_HOUR, _WINDOW_S = 24.0, 4.0, 2.0
_PROFILE = np.clip(np.cos((np.arange(24) - 15) * np.pi / 12) + 0.6, 0.02, None)  # use over the day: a house
_DOC = Path(__file__).parents[1] / "docs" / "gate.md"
_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"


class Case(NamedTuple):
    """What the new model is like; points are hundredths of precision or recall."""

    name: str
    precision_points: float = 0.0
    recall_points: float = 0.0
    audit_points: float = 0.0
    false_times: float = 1.0
    broken_nodes: int = 0  # that fall silent in the trial, whatever the model


CASES = (
    Case("as good"),
    Case("as good, a node breaks", broken_nodes=1),
    Case("precision 5 points worse", precision_points=5),
    Case("precision 15 points worse", precision_points=15),
    Case("recall 5 points worse", recall_points=5),
    Case("recall 15 points worse", recall_points=15),
    Case("audits 15 points worse", audit_points=15),
    Case("deaf: half of all recall lost", recall_points=45),
    Case("trigger-happy: three false for one", false_times=3),
)


class Outcome(NamedTuple):
    """How one trial ended."""

    answer: Answer
    days: float
    escalated: int


class Fleet:
    """Nodes with their use and precision."""

    def __init__(self, nodes: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._true_per_hour = _EVENTS_PER_DAY / _PROFILE.sum() * np.exp(rng.normal(0, 0.6, nodes))
        self._precision = 1 / (1 + np.exp(-rng.normal(np.log(4), 0.5, nodes)))
        unlike = np.clip(rng.normal(1, 0.3, nodes), 0.1, None)
        self._unlike = unlike / unlike.mean()  # how much of a regression a node suffers
        self.nodes = nodes

    def hours(self, first: int, count: int, case: Case) -> Iterator[list[Cell]]:
        """The cells of `count` hours, an hour at a time."""
        rng, n = self._rng, self.nodes
        recall = np.clip(RECALL - case.recall_points / 100 * self._unlike, 0.01, 1)
        precision = np.clip(self._precision - case.precision_points / 100 * self._unlike, 0.01, 1)
        false_per_hour = self._true_per_hour * recall * (1 - precision) / precision * case.false_times
        day_use: npt.NDArray[np.float64] = np.ones(n)
        for hour in range(first, first + count):
            if hour == first or hour % 24 == 0:
                day_use = np.exp(rng.normal(0, 0.3, n))
            use = _PROFILE[hour % 24] * day_use * rng.gamma(2, 0.5, n)
            true = rng.poisson(self._true_per_hour * use)
            agreed = rng.binomial(true, recall)
            false = rng.poisson(false_per_hour * use * rng.gamma(3, 1 / 3, n))
            missed_share = np.clip((true - agreed) * _WINDOW_S / 3600 + case.audit_points / 100 * self._unlike, 0, 1)
            audits = rng.poisson(_AUDITS_PER_HOUR, n)
            missed = rng.binomial(audits, missed_share)
            agreed[: case.broken_nodes] = false[: case.broken_nodes] = missed[: case.broken_nodes] = 0
            rows = zip(agreed + false, agreed, audits, missed, strict=True)
            yield [Cell(f"n{i}", hour, *map(int, row), 3600.0) for i, row in enumerate(rows)]


def trial(fleet_size: int, case: Case, seed: int) -> Outcome:
    """One rollout to a whole fleet, looked at every hour for two days and every six hours after that, until the gate answers."""
    fleet = Fleet(fleet_size, np.random.default_rng([seed, fleet_size]))
    start = BASELINE_DAYS * 24 + int(seed % 24)
    baseline = Baseline(cell for cells in fleet.hours(0, start, CASES[0]) for cell in cells)
    new: list[Cell] = []
    for hour, cells in enumerate(fleet.hours(start, TRIAL_DAYS * 24, case), 1):
        new += cells
        if hour <= 48 or hour % 6 == 0:
            verdict = judge(baseline, new)
            if verdict.answer is not Answer.HOLD:
                return Outcome(verdict.answer, hour / 24, verdict.escalated)
    return Outcome(Answer.HOLD, TRIAL_DAYS, sum(cell.escalated for cell in new))


def _run(task: tuple[int, Case, int]) -> Outcome:
    return trial(*task)


def row(fleet_size: int, case: Case, outcomes: list[Outcome]) -> str:
    """One line of the table."""
    total = len(outcomes)
    passed, failed, held = (sum(outcome.answer is answer for outcome in outcomes) for answer in Answer)
    decided = [outcome for outcome in outcomes if outcome.answer is not Answer.HOLD]
    days, escalated = (np.median([o[i] for o in decided]) if decided else float("nan") for i in (1, 2))
    missed = f"{passed / len(decided):.1%}" if decided else "none decided"
    shares = " | ".join(f"{part / total:.1%}" for part in (passed, failed, held))
    return f"| {fleet_size} | {case.name} | {shares} | {missed} | {days:.1f} | {escalated:.0f} | {total} |"


def table(repetitions: int) -> str:
    """The whole table, in Markdown. A fleet of 200 has a quarter of the repetitions."""
    lines = [
        "| nodes | new model | passed | halted | undecided | passed, of the decided | median days | median triggers | trials |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    with ProcessPoolExecutor(2) as pool:
        for fleet_size in FLEETS:
            for case in CASES:
                if case.broken_nodes and fleet_size < 12:
                    continue
                trials = range(repetitions if fleet_size < 200 else max(1, repetitions // 4))
                outcomes = list(pool.map(_run, [(fleet_size, case, seed) for seed in trials], chunksize=4))
                lines.append(row(fleet_size, case, outcomes))
                print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table; with --write, put it into docs/gate.md."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    text = table(numbers[0] if numbers else 1_000)
    if "--write" in sys.argv:
        document = _DOC.read_text()
        head, rest = document.split(_BEGIN)
        _DOC.write_text(head + _BEGIN + text + _END + rest.split(_END)[1])


if __name__ == "__main__":
    main()
