"""core/registry and core/liveness: identity, sessions, gaps, duplicates, silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.core.liveness import patience_ms
from gatewayd.core.registry import GAP_GRACE_MS, Node, Registry, Seen
from gatewayd.core.types import Event, Info, NodeState, Reason, State, Vitals


def event(seq, session=1):
    return Event(seq, session, "wakeword", b"12345678", 0.9, 0, 0, Reason.TRIGGER)


def info(session=1, interval_s=10):
    return Info(session, "h", "b", "1", "power", b"", 0, (), interval_s, ())


def see(registry, message, now_ms=0, node="n1", on="mqtt", **kwargs):
    return registry.observe(node, message, on, now_ms, now_ms / 1000, **kwargs)


def test_a_node_is_up_by_its_word_and_down_by_its_will():
    registry = Registry(10)
    see(registry, State(NodeState.READY, 1))
    node = registry.get("n1")
    assert node.up(0)
    assert see(registry, State(NodeState.LOST, 1)) is Seen.NEW
    assert not node.up(0)


def test_the_will_of_an_older_session_is_ignored():
    registry = Registry(10)
    see(registry, State(NodeState.READY, 7))
    assert see(registry, State(NodeState.LOST, 6)) is Seen.STALE
    assert registry.get("n1").up(0)


def test_silence_beyond_three_reports_is_down_and_a_report_is_up_again():
    registry = Registry(10)
    see(registry, State(NodeState.READY, 1))
    see(registry, info(interval_s=10))
    node = registry.get("n1")
    assert node.up(patience_ms(10))
    assert not node.up(patience_ms(10) + 1)
    see(registry, Vitals(1, 5, 5, 0, 0, ()), now_ms=100_000)
    assert node.up(100_000)


def test_a_node_sleeps_as_it_said_until_it_is_overdue():
    registry = Registry(10)
    see(registry, info(interval_s=600))
    see(registry, State(NodeState.SLEEPING, 1))
    node = registry.get("n1")
    assert (node.up(1), node.asleep(1), node.asleep(patience_ms(600)), node.asleep(patience_ms(600) + 1)) == (False, True, True, False)
    see(registry, State(NodeState.READY, 1))
    assert (node.up(1), node.asleep(1)) == (True, False)


def test_retained_messages_do_not_make_a_silent_node_alive():
    registry = Registry(10)
    see(registry, info(), now_ms=0)
    see(registry, info(), now_ms=900_000, retained=True)
    assert registry.get("n1").heard_ms == 0


def test_a_new_session_is_a_reboot():
    registry = Registry(10)
    for session in (4, 4, 5, 1):
        see(registry, info(session))
    assert registry.get("n1").reboots == 2


def on_both(now_ms=0):
    registry = Registry(10)
    for on in ("mqtt", "ble"):
        see(registry, info(), now_ms, on=on)
        see(registry, State(NodeState.READY, 1), now_ms, on=on)
    return registry, registry.get("n1")


def test_a_will_speaks_for_its_transport_only():
    registry, node = on_both()
    see(registry, State(NodeState.LOST, 1))
    assert (node.up(0), node.up_on("mqtt", 0), node.up_on("ble", 0), node.state) == (True, False, True, NodeState.READY)
    registry.lost("n1", "ble")
    assert (node.up(0), node.state) == (False, NodeState.LOST)
    see(registry, Vitals(1, 5, 5, 0, 0, ()))
    assert (node.up_on("mqtt", 0), node.up_on("ble", 0)) == (True, False)


def test_silence_is_each_transports_own_and_a_sight_ends_it():
    registry, node = on_both()
    late = patience_ms(10) + 1
    registry.sighted("n1", "ble", late, 0.0)
    assert (node.up(late), node.up_on("mqtt", late), node.transport()) == (True, False, "ble")
    registry.lost("n1", "ble")
    registry.sighted("n1", "ble", late, 0.0)
    assert node.up(late)


def test_the_newest_word_is_its_state_wherever_it_was_said():
    registry, node = on_both()
    see(registry, State(NodeState.SLEEPING, 1), 10, on="ble")
    assert node.state is NodeState.SLEEPING
    registry.sighted("n1", "mqtt", 20, 0.0)
    assert node.state is NodeState.READY


def test_a_sight_of_a_stranger_is_nothing():
    registry = Registry(10)
    registry.sighted("n1", "ble", 0, 0.0)
    registry.lost("n1", "ble")
    assert len(registry) == 0


def test_a_reset_breaks_every_link_though_the_will_that_says_so_is_of_an_older_session():
    registry, node = on_both()
    see(registry, info(2), on="ble")
    assert (node.reboots, node.up_on("mqtt", 0), node.up_on("ble", 0)) == (1, False, True)
    see(registry, State(NodeState.READY, 2))
    assert (node.reboots, node.up_on("mqtt", 0)) == (1, True)
    assert see(registry, State(NodeState.LOST, 1)) is Seen.STALE
    assert node.up_on("mqtt", 0)


def test_what_a_broker_remembers_is_older_than_what_a_node_says_elsewhere():
    registry = Registry(10)
    see(registry, info(7), on="ble")
    assert see(registry, info(6), retained=True) is Seen.STALE
    assert see(registry, State(NodeState.READY, 6), retained=True) is Seen.STALE
    node = registry.get("n1")
    assert (node.session, node.reboots, node.up_on("ble", 0)) == (7, 0, True)
    registry.lost("n1", "ble")
    assert see(registry, info(8), retained=True) is Seen.NEW


def test_events_that_come_over_both_radios_are_one():
    registry = Registry(10)
    assert [see(registry, event(seq), on=on) for seq, on in ((0, "mqtt"), (0, "ble"), (1, "ble"), (1, "mqtt"))] == [
        Seen.NEW,
        Seen.DUPLICATE,
        Seen.NEW,
        Seen.DUPLICATE,
    ]


def test_gaps_become_losses_only_after_their_grace():
    registry = Registry(10)
    for seq in (0, 1, 5):
        see(registry, event(seq))
    registry.tick(GAP_GRACE_MS - 1)
    assert registry.get("n1").lost == 0
    see(registry, event(3))  # late, but it came
    registry.tick(GAP_GRACE_MS)
    assert registry.get("n1").lost == 2
    registry.tick(10 * GAP_GRACE_MS)
    assert registry.get("n1").lost == 2


def test_a_first_event_in_the_middle_is_no_loss():
    registry = Registry(10)
    see(registry, event(500))
    registry.tick(10**9)
    assert registry.get("n1").lost == 0


def test_events_of_earlier_sessions_are_told_apart():
    registry = Registry(10)
    assert see(registry, event(3, session=2)) is Seen.NEW
    assert see(registry, event(3, session=1)) is Seen.NEW
    assert see(registry, event(3, session=1)) is Seen.DUPLICATE


def test_what_the_store_has_is_a_duplicate_after_a_restart():
    registry = Registry(10)
    registry.restore(Node("n1"), [(1, 4), (1, 7), (2, 0)])
    for key, seen in (((1, 4), Seen.DUPLICATE), ((1, 7), Seen.DUPLICATE), ((2, 0), Seen.DUPLICATE), ((1, 5), Seen.NEW), ((2, 1), Seen.NEW)):
        assert see(registry, event(key[1], session=key[0])) is seen
    registry.tick(10**9)
    assert registry.get("n1").lost == 0


def test_the_table_is_bounded():
    registry = Registry(2)
    assert [see(registry, info(), node=node) for node in ("n1", "n2", "n3")] == [Seen.NEW, Seen.NEW, Seen.FULL]
    assert len(registry) == 2


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200))
def test_no_seq_is_new_twice_and_losses_are_exact(seqs):
    registry = Registry(1)
    came: set[int] = set()
    for seq in seqs:
        assert (see(registry, event(seq)) is Seen.NEW) == (seq not in came)
        came.add(seq)
    registry.tick(GAP_GRACE_MS)
    missing = set(range(seqs[0], max(came))) - came
    assert registry.get("n1").lost == len(missing)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60))
def test_any_seq_is_taken(seqs):
    registry = Registry(1)
    for seq in seqs:
        assert see(registry, event(seq)) in (Seen.NEW, Seen.DUPLICATE)
    registry.tick(GAP_GRACE_MS)


# ---- clocks


def vitals(t_ms, session=1):
    return Vitals(session, t_ms // 1_000, t_ms, 0, 0, ())


def skew_after(seconds, rate=1.0, late_ms=0):
    """The skew of a clock that runs at `rate`, after reports every ten seconds of which the last is late."""
    registry = Registry(10)
    for now_ms in range(0, seconds * 1_000 + 1, 10_000):
        see(registry, vitals(5_000 + round(now_ms * rate)), 70_000 + now_ms + (late_ms if now_ms == seconds * 1_000 else 0))
    return registry.get("n1").clock.skew


def test_a_clock_that_runs_fast_or_slow_is_known_by_its_share():
    assert skew_after(7_200) == 0
    assert skew_after(7_200, 1.01) == pytest.approx(0.01)
    assert skew_after(7_200, 0.98) == pytest.approx(-0.02)


def test_a_report_that_came_late_is_no_skew():
    assert abs(skew_after(7_200, late_ms=2_000)) < 0.0005
    assert skew_after(500, late_ms=2_000) is None  # too early to tell


def test_a_boot_begins_a_clock_anew():
    registry = Registry(10)
    for minute in range(20):
        see(registry, vitals(minute * 66_000), minute * 60_000)
    assert registry.get("n1").clock.skew == pytest.approx(0.1)
    for minute in range(20, 40):
        see(registry, vitals((minute - 20) * 60_000, session=2), minute * 60_000)
    assert registry.get("n1").clock.skew == 0
