"""The quality gate: whether a new node model is worse in the field than the one it replaces (docs/gate.md has the method).

Each question is a test of "as good as before" against "worse by the margin", per node with what that node did under the old model,
as a likelihood ratio with the node's own level integrated out. Such a ratio is an e-value: however often one looks, it ever reaches
1/alpha under "as good" with probability alpha at most (Ville's inequality), and its inverse under "worse by the margin". So the gate
may be asked at any time. Counts are divided by their dispersion first: events that come in clumps count for what they are worth.
"""

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

MARGIN = 0.15  # agreement lost, on triggers and on audits; share of the detections lost, where twelve nodes or more can show it
LOAD = 3.0  # times as many triggers per hour: more use of a node is no fault
WRONG_HALT, MISSED = 0.01, 0.05  # of the models as good, and of those worse by the margin; the promise is 0.02 and 0.05
_SEVERITIES = ((0.5, 1.0), (0.25, 2.0), (0.25, 4.0))  # (weight, margins): what is much worse is found much sooner
_DAY_HOURS = 24
_PRIOR_DAYS = 5.0  # what the expected dispersion is worth
_RATE_DISPERSION, _SHARE_DISPERSION = 2.0, 1.2  # expected before there is a baseline of several days
_GRID = np.linspace(0.01, 0.99, 99)  # of a node's unknown precision
_ESCALATED, _AGREED, _AUDITS, _MISSED, _SECONDS = range(5)


class Cell(NamedTuple):
    """What one model did on one node in one hour."""

    node: str
    hour: int  # since the Unix epoch
    escalated: int  # triggers that the gateway's model judged
    agreed: int  # those it agreed with
    audits: int  # windows without a trigger that it judged
    missed: int  # those that held what the node should have noticed
    listened_s: float  # the time that the node's inferences cover


class Answer(StrEnum):
    """What the gate says."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    HOLD = "hold"  # not enough evidence


class Question(NamedTuple):
    """One comparison of new and old over the nodes and hours of the day that both know."""

    name: str
    old: float  # precision, audits: share of agreement; detections, load: per hour
    new: float
    worse: float  # e-value against "as good as before"
    fine: float  # e-value against "worse by the margin"


class Verdict(NamedTuple):
    """The gate's answer with its reasons."""

    answer: Answer
    nodes: int  # that could be compared with themselves
    escalated: int  # by the new model on those
    worse: float  # e-value against "as good in every respect"; the gate fails at 1 / WRONG_HALT
    questions: tuple[Question, ...]


NO_EVIDENCE = Verdict(Answer.HOLD, 0, 0, 1.0, ())


class _Table:
    """Cells as arrays."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        rows = list(cells)
        self.nodes = {node: index for index, node in enumerate(dict.fromkeys(row.node for row in rows))}
        self.node: Index = np.array([self.nodes[row.node] for row in rows], np.int64)
        self.hour: Index = np.array([row.hour for row in rows], np.int64)
        self.counts: Array = np.array([row[2:] for row in rows], np.float64).reshape(-1, 5)

    def by_hour_of_day(self) -> Array:
        """Sums, (nodes, 24, 5)."""
        sums = np.zeros((len(self.nodes), _DAY_HOURS, 5))
        np.add.at(sums, (self.node, self.hour % _DAY_HOURS), self.counts)
        return sums


class Baseline:
    """What the old model did before the rollout, by node and hour of the day, and how much that varies from day to day."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        table = _Table(cell for cell in cells if cell.listened_s > 0)
        self._nodes = table.nodes
        self._sums = table.by_hour_of_day()
        overall = self._sums.sum(axis=1, keepdims=True)
        seconds = self._sums[:, :, _SECONDS:]
        # An hour of the day that the old model never saw counts as an average hour of its node.
        self._rates = np.where(seconds > 0, self._sums / np.maximum(seconds, 1), overall / overall[:, :, _SECONDS:])
        self._estimate_dispersion(table)

    def _estimate_dispersion(self, table: _Table) -> None:
        expected = self._rates[table.node, table.hour % _DAY_HOURS] * table.counts[:, _SECONDS:]
        keys, day = np.unique(np.stack([table.node, table.hour // _DAY_HOURS], axis=1), axis=0, return_inverse=True)
        observed_days, expected_days = np.zeros((2, len(keys), 5))
        np.add.at(observed_days, day.ravel(), table.counts)
        np.add.at(expected_days, day.ravel(), expected)
        df = max(0, len(keys) - len(self._nodes))

        def dispersion(residual: Array, variance: Array, usual: float) -> float:
            chi2 = float((residual**2 / np.maximum(variance, 1e-9))[variance > 0].sum())
            return max(1.0, (chi2 + _PRIOR_DAYS * usual) / (df + _PRIOR_DAYS))

        self.dispersion = [dispersion(observed_days[:, c] - expected_days[:, c], expected_days[:, c], _RATE_DISPERSION) for c in range(4)]

        def share_dispersion(count: int, per: int) -> float:
            sums = self._sums.sum(axis=1)[keys[:, 0]]
            share, n = sums[:, count] / np.maximum(sums[:, per], 1), observed_days[:, per]
            return dispersion(observed_days[:, count] - n * share, n * share * (1 - share), _SHARE_DISPERSION)

        self.precision_dispersion = share_dispersion(_AGREED, _ESCALATED)
        self.audit_dispersion = share_dispersion(_MISSED, _AUDITS)

    def pair(self, table: _Table) -> tuple[Array, Array]:
        """Old and new totals, (nodes, 5) each, of the nodes that have both; the old hours of the day are weighted as the new."""
        known = [(self._nodes[node], index) for node, index in table.nodes.items() if node in self._nodes]
        old_index, new_index = np.array(known, np.int64).reshape(-1, 2).T
        new = table.by_hour_of_day()[new_index]
        heard = new[:, :, _SECONDS] > 0
        expected = (self._rates[old_index] * new[:, :, _SECONDS:]).sum(axis=1)
        old_seconds = self._sums[old_index, :, _SECONDS]
        unknown_hour = (heard & (old_seconds == 0)).any(axis=1)
        seconds = (old_seconds * (heard | unknown_hour[:, None])).sum(axis=1)
        used = expected[:, _SECONDS] > 0
        old = expected[used] * (seconds[used] / expected[used, _SECONDS])[:, None]
        return old, new[used].sum(axis=1)


def judge(baseline: Baseline, cells: Iterable[Cell]) -> Verdict:
    """Compare with the baseline what the new model did since the rollout began: `cells` of every node that has run it."""
    old, new = baseline.pair(_Table(cells))
    if not len(new):
        return NO_EVIDENCE
    questions = (
        _precision(old, new, baseline),
        _rate("detections", old, new, _AGREED, baseline, [1 - MARGIN * s for _, s in _SEVERITIES], 1 - detection_margin(len(new))),
        _rate("load", old, new, _ESCALATED, baseline, [LOAD**s for _, s in _SEVERITIES], LOAD),
        *([_audits(old, new, baseline)] if old[:, _AUDITS].any() else []),  # a cascade may have none
    )
    worse = sum(question.worse for question in questions) / len(questions)  # a mean of e-values is an e-value
    if worse >= 1 / WRONG_HALT:
        answer = Answer.FAIL
    elif all(question.fine >= 1 / MISSED for question in questions):
        answer = Answer.PASS
    else:
        answer = Answer.HOLD
    return Verdict(answer, len(new), int(new[:, _ESCALATED].sum()), worse, questions)


def detection_margin(nodes: int) -> float:
    """The share of detections whose loss must be excluded: what so many nodes can show in the same time. 0.5 for one, 0.15 from 12 on."""
    return max(MARGIN, 0.5 / math.sqrt(nodes))


def _precision(old: Array, new: Array, baseline: Baseline) -> Question:
    sides = [np.stack([side[:, _AGREED], side[:, _ESCALATED] - side[:, _AGREED]], axis=1) for side in (old, new)]
    worse = [_share_ratio(sides[0], sides[1], s, baseline.precision_dispersion) for _, s in _SEVERITIES]
    return Question("precision", _share(sides[0]), _share(sides[1]), _mixture(worse), _combine(-worse[0], 1 / MISSED))


def _audits(old: Array, new: Array, baseline: Baseline) -> Question:
    """Audits accuse in two ways: by points of agreement, and, where what they look for is rare, by how many times as often they find it."""
    sides = [np.stack([side[:, _AUDITS] - side[:, _MISSED], side[:, _MISSED]], axis=1) for side in (old, new)]
    points = [_share_ratio(sides[0], sides[1], s, baseline.audit_dispersion) for _, s in _SEVERITIES]
    times = [_rate_ratio(old, new, (_MISSED, _AUDITS), 2.0**s, baseline.dispersion[_MISSED]) for _, s in _SEVERITIES]
    return Question(
        "audits", _share(sides[0]), _share(sides[1]), (_mixture(points) + _mixture(times)) / 2, _combine(-points[0], 1 / MISSED)
    )


def _rate(name: str, old: Array, new: Array, count: int, baseline: Baseline, ratios: list[float], excluded: float) -> Question:
    spread, columns = baseline.dispersion[count], (count, _SECONDS)
    before, now = (float(3600 * side[:, count].sum() / side[:, _SECONDS].sum()) for side in (old, new))
    fine = _combine(-_rate_ratio(old, new, columns, excluded, spread), 1 / MISSED)
    return Question(name, before, now, _mixture([_rate_ratio(old, new, columns, ratio, spread) for ratio in ratios]), fine)


def _share(side: Array) -> float:
    return float(side[:, 0].sum() / max(side.sum(), 1e-9))


def _mixture(severities: list[Array]) -> float:
    """One e-value against "as good" from the log likelihood ratios of each severity and node."""
    return sum(weight * _combine(logs, 8 / WRONG_HALT) for (weight, _), logs in zip(_SEVERITIES, severities, strict=True))


def _combine(logs: Array, evidence: float) -> float:
    """The nodes' log e-values as one e-value, to which of five nodes or more none adds or takes more than half of `evidence`.

    So an outlier is cut to size. Cutting what speaks for the e-value keeps it one; docs/gate.md measures what cutting the rest does.
    """
    if len(logs) > 4:  # noqa: PLR2004 - see above
        limit = np.log(evidence) / 2
        logs = np.clip(logs, -limit, limit)
    return float(np.exp(min(logs.sum(), 700.0)))


def _share_ratio(old: Array, new: Array, severity: float, dispersion: float) -> Array:
    """Log likelihood ratio for each node: agreement worse by `severity` margins, or as before. Columns are (agreed, not).

    The node's agreement under the old model is uniform a priori and integrated out. Where it is small, half of it is the margin.
    """
    worse = np.maximum(_GRID - severity * MARGIN, _GRID / 2**severity)
    before = old / dispersion @ np.log([_GRID, 1 - _GRID])
    as_good, as_bad = (before + new / dispersion @ np.log([share, 1 - share]) for share in (_GRID, worse))
    return np.asarray(np.logaddexp.reduce(as_bad, axis=1) - np.logaddexp.reduce(as_good, axis=1))


def _rate_ratio(old: Array, new: Array, columns: tuple[int, int], ratio: float, dispersion: float) -> Array:
    """Log likelihood ratio for each node: events come `ratio` times as often, or as often as before. Columns are (events, exposure).

    The node's rate under the old model has Jeffreys' prior Gamma(1/2, 0) and is integrated out: negative binomial in closed form.
    """
    count, per = columns
    came, total = new[:, count] / dispersion, (old[:, count] + new[:, count]) / dispersion
    exposure = np.maximum(old[:, per], 1e-9)
    return np.asarray(came * np.log(ratio) - (0.5 + total) * np.log((exposure + ratio * new[:, per]) / (exposure + new[:, per])))
