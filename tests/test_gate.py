"""core/gate: what it says of plain cases, and a short form of benchmarks/gate_simulation.py."""

import importlib.util
from pathlib import Path

import pytest
from scipy.stats import binom

from gatewayd.core import gate
from gatewayd.core.gate import Answer, Baseline, Cell, judge

_SPEC = importlib.util.spec_from_file_location("gate_simulation", Path(__file__).parents[1] / "benchmarks" / "gate_simulation.py")
simulation = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(simulation)


def cells(nodes=1, hours=range(24 * 14), escalated=10, agreed=8, audits=4, missed=0, listened_s=3_600.0):
    return [Cell(f"n{i}", hour, escalated, agreed, audits, missed, listened_s) for i in range(nodes) for hour in hours]


NEW = range(24 * 14, 24 * 17)


def answer(baseline=None, **new):
    return judge(Baseline(baseline or cells(nodes=new.get("nodes", 1))), cells(**({"hours": NEW} | new)))


@pytest.mark.parametrize("nodes", [1, 3, 12])
def test_the_same_again_passes(nodes):
    assert answer(nodes=nodes).answer is Answer.PASS


@pytest.mark.parametrize("nodes", [1, 3, 12])
@pytest.mark.parametrize(
    ("change", "question"),
    [
        ({"agreed": 5, "escalated": 10}, "precision"),
        ({"agreed": 8, "escalated": 40}, "precision"),  # trigger-happy
        ({"agreed": 40, "escalated": 50}, "load"),  # fires again and again
        ({"agreed": 2, "escalated": 2}, "detections"),  # deaf
        ({"missed": 2}, "audits"),
    ],
)
def test_each_way_to_be_worse_is_seen(nodes, change, question):
    verdict = answer(nodes=nodes, **change)
    assert verdict.answer is Answer.FAIL
    assert next(q for q in verdict.questions if q.name == question).worse >= 1 / gate.WRONG_HALT


def test_little_evidence_holds():
    assert answer(hours=range(336, 338)).answer is Answer.HOLD
    assert judge(Baseline(cells()), []) == gate.NO_EVIDENCE
    assert judge(Baseline([]), cells()) == gate.NO_EVIDENCE
    assert judge(Baseline(cells()), [Cell("stranger", 400, 10, 0, 0, 0, 3_600.0)]) == gate.NO_EVIDENCE


def test_a_better_model_passes():
    assert answer(agreed=10).answer is Answer.PASS


def test_silence_is_never_a_pass():
    for escalated in (0, 1):
        assert answer(escalated=escalated, agreed=escalated, hours=NEW).answer is not Answer.PASS


def test_nodes_are_compared_with_themselves():
    """The new model runs on the bad node only: the pooled share falls from 0.7 to 0.5, the node's own does not."""
    old = cells() + [Cell("weak", h, 10, 5, 4, 0, 3_600.0) for h in range(24 * 14)]
    new = [Cell("weak", h, 10, 5, 4, 0, 3_600.0) for h in NEW]
    assert judge(Baseline(old), new).answer is Answer.PASS


def test_hours_of_the_day_are_compared_with_themselves():
    """A node with triggers by day only, on trial for nights only, has lost nothing."""
    old = [Cell("n0", h, *((20, 16) if 8 <= h % 24 < 20 else (1, 1)), 4, 0, 3_600.0) for h in range(24 * 14)]
    nights = [Cell("n0", h, 1, 1, 4, 0, 3_600.0) for h in range(24 * 14, 24 * 28) if not 8 <= h % 24 < 20]
    verdict = judge(Baseline(old), nights)
    detections = next(q for q in verdict.questions if q.name == "detections")
    assert detections.old == pytest.approx(detections.new)
    assert verdict.answer is not Answer.FAIL


def test_old_hours_of_the_day_that_the_new_model_has_not_seen_are_no_evidence():
    noon = [cell for cell in cells(hours=range(24 * 28)) if cell.hour % 24 == 12]
    new = cells(hours=[24 * day + 12 for day in range(28, 42)])
    assert judge(Baseline(cells(hours=range(24 * 28))), new).questions == judge(Baseline(noon), new).questions


def test_an_hour_that_the_old_model_never_saw_is_an_average_hour():
    verdict = answer(baseline=cells(hours=[24 * d + 3 for d in range(14)] * 4), hours=[24 * 20 + 4 + i for i in range(3)])
    assert verdict.nodes == 1
    assert verdict.questions[1].old == pytest.approx(8.0)


def test_one_broken_node_of_twelve_does_not_decide():
    new = cells(nodes=11, hours=NEW) + [Cell("n11", h, 10, 0, 4, 4, 3_600.0) for h in NEW]
    assert judge(Baseline(cells(nodes=12)), new).answer is not Answer.FAIL
    assert judge(Baseline(cells(nodes=12)), new[len(new) - 72 :]).answer is Answer.FAIL  # alone it does


def test_a_cascade_without_audits_is_not_asked_about_them():
    old = cells(audits=0)
    verdict = judge(Baseline(old), cells(audits=0, hours=NEW))
    assert [question.name for question in verdict.questions] == ["precision", "detections", "load"]
    assert verdict.answer is Answer.PASS


def test_days_that_differ_need_more_evidence():
    calm = Baseline(cells())
    wild = Baseline([cell._replace(escalated=cell.escalated * (1 + 3 * (cell.hour // 24 % 2)), agreed=cell.agreed) for cell in cells()])
    assert min(calm.dispersion) >= 1
    assert wild.dispersion[0] > calm.dispersion[0]


def _rate_is_at_most(count, trials, rate):
    """Whether `count` of `trials` is what a rate of at most `rate` may show (one in ten thousand runs it would show more)."""
    return count <= binom.ppf(1 - 1e-4, trials, rate)


@pytest.mark.parametrize("nodes", [1, 3, 12])
def test_wrong_halts_and_missed_regressions_are_rare(nodes):
    trials = {1: 60, 3: 40, 12: 12}[nodes]
    for case in simulation.CASES:
        if case.name == "as good":
            wrong = sum(simulation.trial(nodes, case, 10_000 + seed).answer is Answer.FAIL for seed in range(trials))
            assert _rate_is_at_most(wrong, trials, 0.02), case
        elif case.name == "precision 15 points worse":
            outcomes = [simulation.trial(nodes, case, 10_000 + seed).answer for seed in range(trials)]
            decided = trials - outcomes.count(Answer.HOLD)
            assert decided > trials / 2
            assert _rate_is_at_most(outcomes.count(Answer.PASS), decided, 0.05), case
