"""How often the quality gate is wrong: simulated fleets whose new model is as good, 5 or 15 points worse; makes the table of docs/gate.md.

    python benchmarks/gate_simulation.py [REPETITIONS] [--write]

What is simulated is harder than what the gate assumes: nodes differ in use, precision and in how much worse they get; use varies over
the day, from day to day and comes in clumps; precision varies from hour to hour. Seeded: the same command makes the same table.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gatewayd.core.gate import MARGIN, Answer, Baseline, Cell, judge

BASELINE_DAYS, TRIAL_DAYS = 28, 28
FLEETS = (1, 3, 12, 200)
RECALL = 0.9
_EVENTS_PER_DAY, _AUDITS_PER_HOUR, _WINDOW_S = 24.0, 4.0, 2.0
_PROFILE = np.clip(np.cos((np.arange(24) - 15) * np.pi / 12) + 0.6, 0.02, None)  # use over the day: a house
Counts = npt.NDArray[np.int64]  # (..., nodes, 4): the counts of a cell

_DOC = Path(__file__).parents[1] / "docs" / "gate.md"
_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"


class Case(NamedTuple):
    """What the new model is like; points are hundredths of precision or recall."""

    name: str
    precision_points: float = 0.0
    recall_points: float = 0.0
    audit_points: float = 0.0
    false_times: float = 1.0
    used: float = 1.0  # in the trial, times as much as before
    broken_nodes: int = 0  # that fall silent in the trial, whatever the model
    shared_days: bool = False  # of more or less use: all nodes hear one house
    margin: float = MARGIN
    fleets: tuple[int, ...] = FLEETS


CASES = (
    Case("as good"),
    Case("as good, a node breaks", broken_nodes=1, fleets=(12, 200)),
    Case("as good, all nodes in one house", shared_days=True, fleets=(3, 12, 200)),
    Case("as good, used half as much", used=0.5),
    Case("precision 5 points worse", precision_points=5),
    Case("precision 15 points worse", precision_points=15),
    Case("recall 5 points worse", recall_points=5),
    Case("recall 15 points worse", recall_points=15),
    Case("audits 15 points worse", audit_points=15),
    Case("deaf: half of all recall lost", recall_points=45),
    Case("trigger-happy: three false for one", false_times=3),
    Case("as good", margin=0.3, fleets=(1, 3, 12)),
    Case("as good, all nodes in one house", shared_days=True, margin=0.3, fleets=(3, 12)),
    Case("precision 30 points worse", precision_points=30, margin=0.3, fleets=(1, 3, 12)),
    Case("recall 30 % worse", recall_points=27, margin=0.3, fleets=(1, 3, 12)),
    Case("as good", margin=0.5, fleets=(1, 3)),
    Case("precision 50 points worse", precision_points=50, margin=0.5, fleets=(1, 3)),
    Case("recall 50 % worse", recall_points=45, margin=0.5, fleets=(1, 3)),
)


class Outcome(NamedTuple):
    """How one trial ended."""

    answer: Answer  # the first that was not HOLD
    days: float  # and when
    escalated: int
    halted_later: bool = False  # after it had passed


class Fleet:
    """Nodes with their use and precision."""

    def __init__(self, nodes: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._true_per_hour = _EVENTS_PER_DAY / _PROFILE.sum() * np.exp(rng.normal(0, 0.6, nodes))
        self._precision = 1 / (1 + np.exp(-rng.normal(np.log(4), 0.5, nodes)))
        unlike = np.clip(rng.normal(1, 0.3, nodes), 0.1, None)
        self._unlike = unlike / unlike.mean()  # how much of a regression a node suffers
        self.nodes = nodes

    def hours(self, first: int, count: int, case: Case) -> Counts:
        """What the nodes did in `count` hours."""
        rng, n, hours = self._rng, self.nodes, np.arange(first, first + count)
        recall = np.clip(RECALL - case.recall_points / 100 * self._unlike, 0.01, 1)
        precision = np.clip(self._precision - case.precision_points / 100 * self._unlike, 0.01, 1)
        false_per_hour = self._true_per_hour * recall * (1 - precision) / precision * case.false_times
        days = np.exp(rng.normal(0, 0.3, (count // 24 + 2, 1 if case.shared_days else n)))
        use = case.used * _PROFILE[hours % 24, None] * days[hours // 24 - first // 24] * rng.gamma(2, 0.5, (count, n))
        true = rng.poisson(self._true_per_hour * use)
        agreed = rng.binomial(true, recall)
        false = rng.poisson(false_per_hour * use * rng.gamma(3, 1 / 3, (count, n)))
        audits = rng.poisson(_AUDITS_PER_HOUR, (count, n))
        missed = rng.binomial(audits, np.clip((true - agreed) * _WINDOW_S / 3600 + case.audit_points / 100 * self._unlike, 0, 1))
        counts = np.stack([agreed + false, agreed, audits, missed], axis=2)
        counts[:, : case.broken_nodes, [0, 1, 3]] = 0
        return counts


def trial(fleet_size: int, case: Case, seed: int) -> Outcome:
    """One rollout to a whole fleet, looked at every hour for two days and every six hours after that."""
    fleet = Fleet(fleet_size, np.random.default_rng([seed, fleet_size]))
    start = BASELINE_DAYS * 24 + seed % 24
    before = fleet.hours(0, start, Case("before", shared_days=case.shared_days))
    baseline = Baseline(cell for hour, counts in enumerate(before) for cell in _cells(hour, counts, 3600.0))
    sums, listened_s, passed = np.zeros((24, fleet_size, 4), np.int64), np.zeros(24), None
    for hours, counts in enumerate(fleet.hours(start, TRIAL_DAYS * 24, case), 1):
        hour = (start + hours - 1) % 24
        sums[hour] += counts
        listened_s[hour] += 3600
        if hours <= 48 or hours % 6 == 0:
            verdict = judge(baseline, [cell for hour in range(24) for cell in _cells(hour, sums[hour], listened_s[hour])], case.margin)
            outcome = Outcome(verdict.answer, hours / 24, verdict.escalated)
            if verdict.answer is Answer.FAIL:
                return passed._replace(halted_later=True) if passed else outcome
            passed = passed or (outcome if verdict.answer is Answer.PASS else None)
    return passed or outcome


def _cells(hour: int, counts: Counts, listened_s: float) -> list[Cell]:
    return [Cell(f"n{i}", hour, *row, listened_s) for i, row in enumerate(counts.tolist())]


def _run(task: tuple[int, Case, int]) -> Outcome:
    return trial(*task)


def row(fleet_size: int, case: Case, outcomes: list[Outcome]) -> str:
    """One line of the table."""
    total = len(outcomes)
    passed, failed, held = (sum(outcome.answer is answer for outcome in outcomes) for answer in Answer)
    decided = [outcome for outcome in outcomes if outcome.answer is not Answer.HOLD]
    shares = " | ".join(f"{part / total:.1%}" for part in (passed, sum(outcome.halted_later for outcome in outcomes), failed, held))
    if decided:
        days, escalated = (np.median([outcome[i] for outcome in decided]) for i in (1, 2))
        decisions = f"{passed / len(decided):.1%} | {days:.1f} | {escalated:.0f}"
    else:
        decisions = "- | - | -"
    return f"| {fleet_size} | {case.margin} | {case.name} | {shares} | {decisions} | {total} |"


def table(repetitions: int) -> str:
    """The whole table, in Markdown. A fleet of 200 has a quarter of the repetitions; what counts wrong halts has five times as many."""
    lines = [
        "| nodes | margin | new model | passed | halted later | halted | undecided | passed, of the decided | days | triggers | trials |",
        "|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    with ProcessPoolExecutor() as pool:
        for fleet_size in FLEETS:
            for case in CASES:
                if fleet_size in case.fleets:
                    trials = range(repetitions * (5 if case is CASES[0] else 1) // (4 if fleet_size == 200 else 1))
                    outcomes = list(pool.map(_run, [(fleet_size, case, seed) for seed in trials], chunksize=4))
                    lines.append(row(fleet_size, case, outcomes))
                    print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table; with --write, put it into docs/gate.md."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    text = table(numbers[0] if numbers else 200)
    if "--write" in sys.argv:
        document = _DOC.read_text()
        head, rest = document.split(_BEGIN)
        _DOC.write_text(head + _BEGIN + text + _END + rest.split(_END)[1])


if __name__ == "__main__":
    main()
