"""core/gate: what it says of plain cases, and a short form of benchmarks/gate_simulation.py."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from gatewayd.core import gate
from gatewayd.core.gate import Answer, Baseline, Cell, judge

_SPEC = importlib.util.spec_from_file_location("gate_simulation", Path(__file__).parents[1] / "benchmarks" / "gate_simulation.py")
simulation = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(simulation)


def cells(nodes=1, hours=range(24 * 14), escalated=10, agreed=8, audits=4, missed=0, listened_s=3_600.0):
    return [Cell(f"n{i}", hour, escalated, agreed, audits, missed, listened_s) for i in range(nodes) for hour in hours]


NEW = range(24 * 14, 24 * 17)


def answer(baseline=None, margin=gate.MARGIN, **new):
    return judge(Baseline(baseline or cells(nodes=new.get("nodes", 1))), cells(**({"hours": NEW} | new)), margin)


def questions(verdict):
    return {question.name: question for question in verdict.questions}


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
    assert questions(verdict)[question].worse >= 1 / gate.WRONG_HALT


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
    new = [Cell("weak", h, 10, 5, 4, 0, 3_600.0) for h in range(24 * 14, 24 * 21)]
    assert judge(Baseline(old), new).answer is Answer.PASS


def test_hours_of_the_day_are_compared_with_themselves():
    """A node with triggers by day only, on trial for nights only, has lost nothing."""
    old = [Cell("n0", h, *((20, 16) if 8 <= h % 24 < 20 else (1, 1)), 4, 0, 3_600.0) for h in range(24 * 14)]
    nights = [Cell("n0", h, 1, 1, 4, 0, 3_600.0) for h in range(24 * 14, 24 * 28) if not 8 <= h % 24 < 20]
    verdict = judge(Baseline(old), nights)
    detections = questions(verdict)["detections"]
    assert detections.old == pytest.approx(detections.new)
    assert verdict.answer is not Answer.FAIL


def test_old_hours_of_the_day_that_the_new_model_has_not_seen_are_no_evidence():
    noon = [cell for cell in cells(hours=range(24 * 28)) if cell.hour % 24 == 12]
    new = cells(hours=[24 * day + 12 for day in range(28, 42)])
    assert judge(Baseline(cells(hours=range(24 * 28))), new).questions == judge(Baseline(noon), new).questions


def test_an_hour_that_the_old_model_never_saw_is_an_average_hour():
    verdict = answer(baseline=cells(hours=[24 * d + 3 for d in range(14)] * 4), hours=[24 * 20 + 4 + i for i in range(3)])
    assert verdict.nodes == 1
    assert questions(verdict)["detections"].old == pytest.approx(8.0)


def test_a_baseline_of_minutes_is_known_once_however_many_hours_the_trial_takes():
    minutes = [Cell("n0", 1_000, 200, 160, 20, 0, 1_200.0)]
    one, three = (
        judge(
            Baseline(minutes),
            [Cell("n0", hour, 300 // hours, 240 // hours, 30, 0, 1_800.0 / hours) for hour in range(1_001, 1_001 + hours)],
        )
        for hours in (1, 3)
    )
    assert [q.fine for q in three.questions[:3]] == pytest.approx([q.fine for q in one.questions[:3]])
    assert judge(Baseline(minutes), [Cell("n0", 1_001, 300, 240, 30, 0, 1_800.0)], margin=0.5).answer is Answer.PASS


def test_an_hour_that_the_old_model_hardly_saw_is_an_average_hour():
    old = [Cell("n0", 1_000, 200, 160, 20, 0, 1_200.0), Cell("n0", 1_001, 0, 0, 0, 0, 5.0)]
    assert questions(judge(Baseline(old), [Cell("n0", 1_001, 200, 160, 20, 0, 1_200.0)]))["detections"].old == pytest.approx(480, rel=0.01)


def test_what_happened_in_time_without_a_report_waits():
    new = cells(hours=NEW)
    assert judge(Baseline(cells()), [*new, Cell("n0", NEW.stop, 90, 0, 0, 0, 0.0)]) == judge(Baseline(cells()), new)


def test_many_days_may_come_as_sums_by_hour_of_the_day():
    new = [Cell("n0", h, h % 7, h % 7, 4, 0, 3_600.0) for h in NEW]
    sums = [Cell("n0", hour, *map(sum, zip(*(c[2:] for c in new if c.hour % 24 == hour), strict=True))) for hour in range(24)]
    assert judge(Baseline(cells()), sums) == judge(Baseline(cells()), new)


def test_a_wider_margin_needs_less_evidence():
    new = {"hours": range(336, 352), "agreed": 8}
    assert answer(**new).answer is Answer.HOLD
    assert answer(margin=0.3, **new).answer is Answer.PASS


def test_luck_clears_nobody():
    """Twice the detections in an hour: a model that has lost 15 % would have shown nothing in so short a time."""
    verdict = answer(hours=range(336, 337), escalated=20, agreed=20)
    assert verdict.answer is Answer.HOLD
    assert questions(verdict)["detections"].fine < 2


@pytest.mark.parametrize("few", [0.02, 0.5])
def test_many_nodes_of_which_little_is_known_do_not_add_up_to_a_mistake(few):
    """200 nodes with few triggers each: of the same model, or of one whose precision has fallen from 0.9 to 0.7."""
    rng = np.random.default_rng(1)
    verdicts = []
    for precision in (0.9, 0.7):
        old, new = (
            [Cell(f"n{i}", h, n, rng.binomial(n, p), 4, 0, 3_600.0) for i in range(200) for h in hours for n in [rng.poisson(few)]]
            for hours, p in ((range(12), 0.9), (range(24, 48), precision))
        )
        verdicts.append(judge(Baseline(old), new).answer)
    assert verdicts[0] is not Answer.FAIL
    assert verdicts[1] is not Answer.PASS


@pytest.mark.parametrize("size", [1, 10**9])
def test_no_count_is_too_large(size):
    large = {"nodes": 50, "escalated": 10 * size, "audits": 4 * size, "hours": range(24)}
    for agreed, expected in ((8, Answer.PASS), (4, Answer.FAIL)):
        verdict = judge(Baseline(cells(agreed=8 * size, **large)), cells(agreed=agreed * size, **large))
        assert verdict.answer is expected
        assert all(np.isfinite(question[1:]).all() for question in verdict.questions)


def test_one_broken_node_of_twelve_does_not_decide():
    new = cells(nodes=11, hours=NEW) + [Cell("n11", h, 10, 0, 4, 4, 3_600.0) for h in NEW]
    assert judge(Baseline(cells(nodes=12)), new).answer is not Answer.FAIL
    assert judge(Baseline(cells(nodes=12)), new[len(new) - 72 :]).answer is Answer.FAIL  # alone it does


def test_a_cascade_without_audits_is_not_asked_about_them():
    old = cells(audits=0)
    verdict = judge(Baseline(old), cells(audits=0, hours=NEW))
    assert [question.name for question in verdict.questions] == ["precision", "detections", "load"]
    assert verdict.answer is Answer.PASS


def busy_days(nodes, shared):
    """Every other day of a node, or of all nodes, has two thirds more triggers."""
    busy = [[(day + i * (not shared)) % 2 for day in range(14)] for i in range(nodes)]
    return [
        Cell(f"n{i}", h, 25 if busy[i][h // 24] else 15, 20 if busy[i][h // 24] else 12, 4, 0, 3_600.0)
        for i in range(nodes)
        for h in range(336)
    ]


def test_days_that_differ_need_more_evidence():
    calm, apart, together = (
        judge(Baseline(old), cells(nodes=12, hours=NEW, escalated=20, agreed=16))
        for old in (cells(nodes=12, escalated=20, agreed=16), busy_days(12, shared=False), busy_days(12, shared=True))
    )
    assert calm.answer is apart.answer is Answer.PASS
    assert questions(calm)["detections"].fine > questions(apart)["detections"].fine
    assert together.answer is Answer.HOLD  # twelve nodes of one house know no more of its days than one


def test_wrong_halts_and_missed_regressions_are_rare():
    """The promises of docs/gate.md, on fixed seeds."""
    answers = {
        case.name: [
            simulation.trial(nodes, case, 10_000 + seed).answer for nodes, trials in ((1, 40), (3, 25), (12, 10)) for seed in range(trials)
        ]
        for case in simulation.CASES
        if case.name in ("as good", "precision 15 points worse", "recall 15 points worse") and case.margin == gate.MARGIN
    }
    good = answers.pop("as good")
    assert good.count(Answer.FAIL) <= 0.02 * len(good)
    assert good.count(Answer.PASS) >= 10
    worse = [answer for case in answers.values() for answer in case if answer is not Answer.HOLD]
    assert worse.count(Answer.PASS) <= 0.05 * len(worse)
    assert len(worse) >= len(good)
