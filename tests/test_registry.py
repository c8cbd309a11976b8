"""core/registry and core/liveness: identity, sessions, gaps, duplicates, silence."""

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.core.liveness import patience_ms
from gatewayd.core.registry import GAP_GRACE_MS, Node, Registry, Seen
from gatewayd.core.types import Event, Info, NodeState, Reason, State, Vitals


def event(seq, session=1):
    return Event(seq, session, "wakeword", b"12345678", 0.9, 0, 0, Reason.TRIGGER)


def info(session=1, interval_s=10):
    return Info(session, "h", "b", "1", "power", b"", 0, (), interval_s, ())


def see(registry, message, now_ms=0, node="n1", **kwargs):
    return registry.observe(node, message, "mqtt", now_ms, now_ms / 1000, **kwargs)


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
