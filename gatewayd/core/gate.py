"""The quality gate: whether a new node model is worse in the field than the one it replaces (docs/gate.md has the method).

Each question is a test of "as good as before" against "worse by the margin", per node with what that node did under the old model,
as a likelihood ratio without the node's own level. Such a ratio is an e-value: however often one looks, it ever reaches 1/alpha
under "as good" with probability alpha at most (Ville's inequality), and its inverse under "worse by the margin". So the gate may be
asked at any time. Counts are divided by their dispersion first: events that come in clumps count for what they are worth.
"""

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

MARGIN = 0.15  # agreement lost, on triggers and on audits; share of the detections lost
LOAD = 3.0  # times as many triggers per hour: more use of a node is no fault
WRONG_HALT, MISSED = 0.01, 0.02  # of the models as good, and of those worse by the margin; what is promised is 0.02 and 0.05
_SEVERITIES = ((0.5, 1.0), (0.25, 2.0), (0.25, 4.0))  # (weight, margins): what is much worse is found much sooner
_DAY_HOURS = 24
_PRIOR_DAYS = 5.0  # what the expected dispersion is worth
_RATE_DISPERSION, _SHARE_DISPERSION = 2.0, 1.2  # expected before there is a baseline of several days
_KNOWN_S = 1_800.0  # the old model's time in an hour of the day, for that to be compared with itself
_KNOWN_JUDGED = 20.0  # the old model's triggers or audits on a node, for its agreement to be compared with itself
_GRID = np.linspace(0.01, 0.99, 99)  # of a node's unknown precision
_ESCALATED, _AGREED, _AUDITS, _MISSED, _SECONDS = range(5)
_PRECISION, _AUDIT_SHARE = 4, 5  # dispersions after those of the counts


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
    old: float  # precision, audits: share of agreement, nan while there is none; detections, load: per hour
    new: float
    worse: float  # e-value against "as good as before"
    fine: float  # e-value against "worse by the margin"; the gate passes when that of every question is 1 / MISSED


class Verdict(NamedTuple):
    """The gate's answer with its reasons."""

    answer: Answer
    nodes: int  # that could be compared with themselves
    escalated: int  # by the new model on those
    worse: float  # e-value against "as good in every respect"; the gate fails at 1 / WRONG_HALT
    questions: tuple[Question, ...]


NO_EVIDENCE = Verdict(Answer.HOLD, 0, 0, 1.0, ())


class _Table:
    """Cells as arrays; what happened in time not yet covered by a report waits for it."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        rows = [cell for cell in cells if cell.listened_s > 0]
        self.nodes = {node: index for index, node in enumerate(dict.fromkeys(row.node for row in rows))}
        self.node: Index = np.array([self.nodes[row.node] for row in rows], np.int64)
        self.hour: Index = np.array([row.hour for row in rows], np.int64)
        self.counts: Array = np.array([row[2:] for row in rows], np.float64).reshape(-1, 5)

    def by_hour_of_day(self) -> Array:
        """Sums, (nodes, 24, 5)."""
        sums = np.zeros((len(self.nodes), _DAY_HOURS, 5))
        np.add.at(sums, (self.node, self.hour % _DAY_HOURS), self.counts)
        return sums


class _Pairs(NamedTuple):
    """What is compared, of the nodes that have run both models."""

    old: Array  # (nodes, 5), as if it had listened to the hours of the day as the new one did
    new: Array  # (nodes, 5)
    dispersion: list[float]  # of the four counts, of precision and of audits


class Baseline:
    """What the old model did before the rollout, by node and hour of the day, and how much that varies from day to day."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        table = _Table(cells)
        self._nodes = table.nodes
        sums = table.by_hour_of_day()
        overall = sums.sum(axis=1)
        # An hour of the day that the old model hardly saw counts as an average hour of its node.
        self._hours = np.where(sums[:, :, _SECONDS:] >= _KNOWN_S, sums, overall[:, None])
        self._seconds = overall[:, _SECONDS]
        rates = self._hours / self._hours[:, :, _SECONDS:]
        days, day = np.unique(table.hour // _DAY_HOURS, return_inverse=True)
        observed, expected = np.zeros((2, len(self._nodes), len(days), 5))
        np.add.at(observed, (table.node, day), table.counts)
        np.add.at(expected, (table.node, day), rates[table.node, table.hour % _DAY_HOURS] * table.counts[:, _SECONDS:])
        # Of the four counts, of precision, of audits: what was not expected, its variance by chance, (nodes, days); the usual dispersion.
        self._chance = [(observed[:, :, count] - expected[:, :, count], expected[:, :, count], _RATE_DISPERSION) for count in range(4)]
        for count, per in ((_AGREED, _ESCALATED), (_MISSED, _AUDITS)):
            share, n = (overall[:, count] / np.maximum(overall[:, per], 1))[:, None], observed[:, :, per]
            self._chance.append((observed[:, :, count] - n * share, n * share * (1 - share), _SHARE_DISPERSION))

    def pair(self, cells: Iterable[Cell]) -> _Pairs:
        """Put what the new model did beside what the old one did on the same nodes in the same hours of the day."""
        table = _Table(cells)
        known = [(self._nodes[node], index) for node, index in table.nodes.items() if node in self._nodes]
        old_index, new_index = np.array(known, np.int64).reshape(-1, 2).T
        new = table.by_hour_of_day()[new_index]
        old = _weighted(self._hours[old_index], new)
        old *= np.minimum(1, self._seconds[old_index] / old[:, _SECONDS])[:, None]  # average hours, however many, are known once
        dispersion = [_dispersion(residual[old_index], chance[old_index], usual) for residual, chance, usual in self._chance]
        return _Pairs(old, new.sum(axis=1), dispersion)


def _weighted(old: Array, new: Array) -> Array:
    """Old counts, (..., n, 5), summed over n hours or nodes, each weighted by how long the new model listened there.

    The sum is scaled to what it is worth: to as much listening as would know its rates as well.
    """
    listened = new[..., _SECONDS:]
    weight = listened / old[..., _SECONDS:]
    return np.asarray((old * weight).sum(axis=-2) * (listened.sum(axis=-2) / (listened * weight).sum(axis=-2)))


def _dispersion(residual: Array, chance: Array, usual: float) -> float:
    """How many times the variance of nodes' days, (nodes, days), is that of chance; at least 1.

    Where nodes share their days (one house, one holiday) the days' sums vary more than the nodes do: then it is that of the sums.
    """

    def estimate(residual: Array, chance: Array, levels: int, usual: float) -> float:
        days = int(np.count_nonzero(chance))
        chi2 = days * float((residual**2).sum()) / max(float(chance.sum()), 1e-9)
        return (chi2 + _PRIOR_DAYS * usual) / (max(0, days - levels) + _PRIOR_DAYS)

    apart = max(1.0, estimate(residual, chance, len(residual), usual))
    return max(apart, estimate(residual.sum(axis=0), chance.sum(axis=0), 1, apart))


def judge(baseline: Baseline, cells: Iterable[Cell], margin: float = MARGIN) -> Verdict:
    """Compare with the baseline what the new model did since the rollout began: `cells` of every node that has run it.

    It passes once a loss of `margin` is excluded: points of agreement, share of the detections; between 0 and 1. Of a cell's hour only
    the hour of the day counts here: many days may come as 24 sums for each node.
    """
    pairs = baseline.pair(cells)
    if not len(pairs.new):
        return NO_EVIDENCE
    questions = (
        _precision(pairs, margin),
        _rate("detections", pairs, _AGREED, [1 - MARGIN * s for _, s in _SEVERITIES], 1 - margin),
        _rate("load", pairs, _ESCALATED, [LOAD**s for _, s in _SEVERITIES], LOAD),
        *([_audits(pairs, margin)] if pairs.old[:, _AUDITS].any() else []),  # a cascade may have none
    )
    worse = sum(question.worse for question in questions) / len(questions)  # a mean of e-values is an e-value
    if worse >= 1 / WRONG_HALT:
        answer = Answer.FAIL
    elif all(question.fine >= 1 / MISSED for question in questions):
        answer = Answer.PASS
    else:
        answer = Answer.HOLD
    return Verdict(answer, len(pairs.new), int(pairs.new[:, _ESCALATED].sum()), worse, questions)


def _precision(pairs: _Pairs, margin: float) -> Question:
    old, new = (np.stack([side[:, _AGREED], side[:, _ESCALATED] - side[:, _AGREED]], axis=1) for side in _few_as_one(pairs, _ESCALATED))
    return _share("precision", old, new, pairs.dispersion[_PRECISION], margin)


def _audits(pairs: _Pairs, margin: float) -> Question:
    """Audits accuse in two ways: by points of agreement, and, where what they look for is rare, by how many times as often they find it."""
    old, new = (np.stack([side[:, _AUDITS] - side[:, _MISSED], side[:, _MISSED]], axis=1) for side in _few_as_one(pairs, _AUDITS))
    points = _share("audits", old, new, pairs.dispersion[_AUDIT_SHARE], margin)
    times = _mixture([_rate_ratio(pairs, (_MISSED, _AUDITS), 2.0**s) for _, s in _SEVERITIES])
    return points._replace(worse=(points.worse + times) / 2)


def _few_as_one(pairs: _Pairs, judged: int) -> tuple[Array, Array]:
    """Old and new counts; the nodes of which too little was judged to know what each was like are taken as one."""
    old, new, few = pairs.old, pairs.new, pairs.old[:, judged] < _KNOWN_JUDGED
    if not few.any():
        return old, new
    return np.vstack([old[~few], _weighted(old[few], new[few])]), np.vstack([new[~few], new[few].sum(axis=0)])


def _share(name: str, old: Array, new: Array, dispersion: float, margin: float) -> Question:
    """Ask about a share of agreement. Columns are (agreed, not)."""
    ratios = _share_ratios(old, new, [margin, *(MARGIN * s for _, s in _SEVERITIES)], dispersion)
    before, now = (float(side[:, 0].sum() / side.sum()) if side.any() else math.nan for side in (old, new))
    return Question(name, before, now, _mixture(ratios[1:]), _combine(-ratios[0], 1 / MISSED))


def _rate(name: str, pairs: _Pairs, count: int, ratios: list[float], excluded: float) -> Question:
    """Ask about events per time. Luck clears nobody: `fine` is at most what would typically speak against `excluded` times the old rate."""
    columns = (count, _SECONDS)
    before, now = (float(3600 * side[:, count].sum() / side[:, _SECONDS].sum()) for side in (pairs.old, pairs.new))
    typical = pairs.new.copy()
    typical[:, count] = excluded * pairs.old[:, count] / pairs.old[:, _SECONDS] * pairs.new[:, _SECONDS]
    provable = _combine(_rate_ratio(pairs._replace(new=typical), columns, excluded), 1 / MISSED)
    fine = min(_combine(-_rate_ratio(pairs, columns, excluded), 1 / MISSED), provable)
    return Question(name, before, now, _mixture([_rate_ratio(pairs, columns, ratio) for ratio in ratios]), fine)


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


def _share_ratios(old: Array, new: Array, losses: list[float], dispersion: float) -> list[Array]:
    """Log likelihood ratios for each node: agreement worse by each of `losses`, or as before.

    The node's agreement under the old model is uniform a priori and integrated out. Below twice the loss, half of it is the loss.
    """
    before = old / dispersion @ np.log([_GRID, 1 - _GRID])

    def likelihood(share: Array) -> Array:
        return np.asarray(np.logaddexp.reduce(before + new / dispersion @ np.log([share, 1 - share]), axis=1))

    as_good = likelihood(_GRID)
    return [likelihood(np.maximum(_GRID - loss, _GRID / 2)) - as_good for loss in losses]


def _rate_ratio(pairs: _Pairs, columns: tuple[int, int], ratio: float) -> Array:
    """Log likelihood ratio for each node: events come `ratio` times as often, or as often as before. Columns are (events, exposure).

    How many of all events are the new model's is binomial, whatever the node's rate.
    """
    count, per = columns
    came, total = pairs.new[:, count] / pairs.dispersion[count], (pairs.old[:, count] + pairs.new[:, count]) / pairs.dispersion[count]
    old, new = np.maximum(pairs.old[:, per], 1e-9), pairs.new[:, per]
    return np.asarray(came * np.log(ratio) - total * np.log((old + ratio * new) / (old + new)))
