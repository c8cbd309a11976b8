"""core/listening: the time that a model was at work, by hour, and no more than that."""

import itertools

import pytest

from gatewayd.core.listening import Listened, Listener, Listening
from gatewayd.core.types import CascadeVitals, Vitals

HOUR = 500_000
NOON_S = 3_600.0 * HOUR
A, B = b"model-a.", b"model-b."


def work(invokes, model=A, cascade="wakeword", heard_ms=None):
    return CascadeVitals(cascade, model, invokes, 0, 0, 0, 0.0, 0.0, (0,) * 8, heard_ms)


def vitals(t_s, *cascades, session=1):
    return Vitals(session, 0, round(t_s * 1_000), 0, 0, cascades)


def heard(*reports, interval_s=60, unix_s=NOON_S + 1_800):
    """The seconds of each listener; the last report comes at `unix_s`, the others as long before as their clock says."""
    listening = Listening()
    for before, after in itertools.pairwise(reports):
        assert listening.observe("n1", before, after, interval_s, unix_s - (reports[-1].t_ms - after.t_ms) / 1_000)
    return {listener: time.seconds for listener, time in listening.take().items()}


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        (vitals(10, work(5)), vitals(70.5, work(6)), 60.5),
        (vitals(10, work(5)), vitals(70, work(5)), None),  # it did not listen
        (vitals(10, work(5)), vitals(70, work(4)), None),
        (vitals(10, work(5)), vitals(70, work(6, B)), None),  # whose time was it?
        (vitals(10), vitals(70, work(6)), None),
        (vitals(10, work(5)), vitals(70), None),
        (vitals(10, work(5)), vitals(70, work(6), session=2), None),  # another life, another clock
        (vitals(70, work(5)), vitals(10, work(6)), None),  # a clock that lies
        (vitals(70, work(5)), vitals(70, work(6)), None),
        (vitals(10, work(5)), vitals(140, work(6)), 120),  # a gap is not listening
        (vitals(10, work(5)), vitals(9e12, work(6)), 120),
        (vitals(10, work(5), work(5)), vitals(70, work(6), work(7)), 60),  # twice the same cascade
        # A node's own account of what its sensor brought counts, whatever the clocks say:
        (vitals(10, work(5, heard_ms=1_000)), vitals(70, work(6, heard_ms=241_000)), 240),
        (vitals(10, work(5, heard_ms=1_000)), vitals(70, work(6, heard_ms=31_000)), 30),
        (vitals(10, work(5, heard_ms=1_000)), vitals(140, work(6, heard_ms=131_000)), 130),
        (vitals(10, work(5, heard_ms=1_000)), vitals(70, work(6, heard_ms=0)), 0),
        (vitals(10, work(5, heard_ms=1_000)), vitals(70, work(6, heard_ms=2**60)), 86_400),
        (vitals(10, work(5)), vitals(70, work(6, heard_ms=31_000)), 60),
    ],
)
def test_between_two_reports(before, after, seconds):
    assert heard(before, after) == ({} if seconds is None else {Listener("n1", "wakeword", A, HOUR): pytest.approx(seconds)})


def test_every_cascade_has_its_own_time():
    got = heard(
        vitals(0, work(0), work(0, B, "vibration")),
        vitals(60, work(1), work(0, B, "vibration")),
        vitals(120, work(2), work(1, B, "vibration")),
    )
    assert got == {Listener("n1", "wakeword", A, HOUR): pytest.approx(120), Listener("n1", "vibration", B, HOUR): pytest.approx(60)}


def test_time_is_shared_out_to_the_hours_that_it_was_in():
    got = heard(vitals(0, work(0)), vitals(7_200, work(1)), interval_s=3_600, unix_s=NOON_S + 900)
    assert {key.hour: seconds for key, seconds in got.items()} == {
        HOUR - 2: pytest.approx(2_700),
        HOUR - 1: pytest.approx(3_600),
        HOUR: pytest.approx(900),
    }


def test_what_is_covered_begins_with_the_report_before_the_first_and_ends_with_the_last():
    """A clock that runs ten times as fast covers the time between its reports, and no more."""
    listening, began_s = Listening(), NOON_S + 1_800
    reports = [vitals(0, work(0)), vitals(60, work(1)), vitals(120, work(2, B)), vitals(180, work(3, B)), vitals(240, work(4, B))]
    for number, (before, after) in enumerate(itertools.pairwise(reports), 1):
        listening.observe("n1", before, after, 60, began_s + 6 * number)
    assert listening.take() == {
        Listener("n1", "wakeword", A, HOUR): Listened(60, began_s + 6 - 60, began_s + 6),  # nobody knows when the one before it came
        Listener("n1", "wakeword", B, HOUR): Listened(120, began_s + 12, began_s + 24),  # the report that is the first to name it
    }


def test_a_wall_clock_that_was_set_covers_what_the_nodes_own_clock_says():
    listening = Listening()
    for number, unix_s in enumerate((NOON_S + 1_800, NOON_S + 1_000, NOON_S + 3_000), 1):
        listening.observe("n1", vitals(60 * number, work(number)), vitals(60 * number + 60, work(number + 1)), 60, unix_s)
        assert listening.take() == {Listener("n1", "wakeword", A, HOUR): Listened(60, unix_s - 60, unix_s)}


def test_what_was_taken_is_gone_and_there_is_a_bound():
    listening = Listening(max_listeners=2)
    before, after = vitals(0, work(0)), vitals(60, work(1))
    assert [listening.observe(node, before, after, 60, NOON_S + 1_800) for node in ("a", "b", "c", "a")] == [True, True, False, True]
    assert {key.node: time.seconds for key, time in listening.take().items()} == {"a": pytest.approx(120), "b": pytest.approx(60)}
    assert listening.take() == {}
    assert listening.observe("c", before, after, 60, NOON_S + 1_800)
