"""core/update: the table, deadlines, going on after a gap at any moment, admission."""

import struct
from pathlib import Path

import cbor2
import pytest
from tflite_builder import with_metadata

from gatewayd.core.image import Image
from gatewayd.core.types import Info, Limits, Slot, SlotState
from gatewayd.core.update import (
    BAD,
    DEADLINE_S,
    RESUME,
    SETTLED,
    TABLE,
    Action,
    Event,
    State,
    TransitionError,
    Update,
    admit,
    due_s,
    mermaid,
    refusal,
    resume,
    step,
)

SHA, OTHER = b"n" * 32, b"o" * 32
SIZE = 1_000


def update(state=State.WAITING, **kwargs):
    return Update("n1", SHA, SIZE, state, 0.0, **kwargs)


def slots(state, **kwargs):
    return (Slot(1, 0, SlotState.CONFIRMED, 4_096, "wakeword", OTHER), Slot(1, 1, state, 4_096, "wakeword", SHA, **kwargs))


class FakeNode:
    """Does what it is asked, at once, and counts what it was asked."""

    def __init__(self):
        self.state, self.offset, self.asked = SlotState.EMPTY, 0, []

    def report(self):
        if self.state is SlotState.EMPTY:
            return slots(SlotState.EMPTY)[:1]
        return slots(self.state, size_bytes=self.offset if self.state is SlotState.RECEIVING else SIZE)

    def do(self, action, offset):
        self.asked.append((action, self.offset))
        match action:
            case Action.UPLOAD:
                assert offset <= self.offset or self.offset == 0
                self.state, self.offset = SlotState.RECEIVING, self.offset + 500
                if self.offset >= SIZE:
                    self.state = SlotState.VERIFIED
                    return Event.UPLOADED
                return Event.PROGRESS
            case Action.TEST:
                assert self.state is SlotState.VERIFIED
                self.state = SlotState.TEST
                return Event.TEST_ACCEPTED
            case Action.CONFIRM:
                assert self.state is SlotState.TEST
                self.state = SlotState.CONFIRMED
                return Event.CONFIRM_ACCEPTED
            case _:
                self.state, self.offset = SlotState.EMPTY, 0
                return Event.REVERTED


def drive(kill_at, *, persisted):
    """One update, the gateway killed in its `kill_at`-th turn, before or after it stored the answer; then it goes on from the report."""
    node, one = FakeNode(), update()
    one, action = step(one, Event.ADMIT, 0)
    for turn in range(1, 20):
        if one.state in SETTLED:
            return one, node
        if action is None:
            event = Event.GATE_PASSED if one.state is State.JUDGING else Event.RUNNING
        else:
            event = node.do(action, one.offset_bytes)
        moved, following = step(one, event, 0, offset_bytes=node.offset)
        if event is Event.PROGRESS:
            following = Action.UPLOAD
        if turn == kill_at:
            one, action = resume(moved if persisted else one, node.report(), 0)
        else:
            one, action = moved, following
    raise AssertionError(one)


def test_the_straight_way():
    one, node = drive(0, persisted=True)
    assert one.state is State.CONFIRMED
    assert [action for action, _ in node.asked] == [Action.UPLOAD, Action.UPLOAD, Action.TEST, Action.CONFIRM]


@pytest.mark.parametrize("persisted", [True, False])
@pytest.mark.parametrize("kill_at", range(1, 7))
def test_a_gateway_killed_at_any_turn_asks_nothing_twice(kill_at, persisted):
    one, node = drive(kill_at, persisted=persisted)
    assert one.state is State.CONFIRMED
    assert len(node.asked) == len(set(node.asked)) == 4


def test_what_is_not_in_the_table_is_an_error():
    for state in State:
        for event in Event:
            if event in (Event.ASLEEP, Event.AWAKE):
                assert step(update(state), event, 1)[0].state is state
            elif (state, event) in TABLE:
                assert step(update(state), event, 1)[0].state is TABLE[state, event].state
            else:
                with pytest.raises(TransitionError):
                    step(update(state), event, 1)


def test_every_state_is_reached_and_every_open_one_can_end():
    assert {move.state for move in TABLE.values()} | {State.WAITING} == set(State)
    for state in set(State) - SETTLED:
        seen, todo = set(), [state]
        while todo:
            here = todo.pop()
            seen.add(here)
            todo += [move.state for (start, _), move in TABLE.items() if start is here and move.state not in seen]
        assert seen & SETTLED, state


def test_every_state_that_awaits_the_node_has_a_deadline():
    assert set(DEADLINE_S) == set(State) - SETTLED - {State.WAITING}
    for state, limit_s in DEADLINE_S.items():
        one = update(state)
        assert due_s(one) == limit_s
        ended, _ = step(one, Event.DEADLINE, limit_s)
        assert ended.state in BAD
        assert str(state) in ended.reason
    assert due_s(update()) == float("inf")


def test_a_sleeping_node_is_not_late_and_waking_starts_its_clock():
    one, _ = step(update(State.UPLOADING), Event.ASLEEP, 10)
    assert due_s(one) == float("inf")
    one, _ = step(one, Event.AWAKE, 5_000)
    assert due_s(one) == 5_000 + DEADLINE_S[State.UPLOADING]


def test_a_report_given_twice_asks_for_the_same_and_settled_reports_change_nothing():
    for state in State:
        for slot in SlotState:
            report = slots(slot, size_bytes=400) if slot is not SlotState.EMPTY else slots(slot)[:1]
            once, action = resume(update(state), report, 1)
            twice, again = resume(once, report, 1)
            assert (twice, again) == (once, action) or (once.state in SETTLED and again is None), (state, slot)


def test_an_upload_goes_on_where_the_node_says():
    one, action = resume(update(State.UPLOADING, offset_bytes=900), slots(SlotState.RECEIVING, size_bytes=400), 1)
    assert (one.state, one.offset_bytes, action) == (State.UPLOADING, 400, Action.UPLOAD)


def test_a_trial_that_is_over_is_rolled_back_with_the_nodes_reason():
    for state in (State.TRIAL, State.JUDGING, State.CONFIRMING):
        one, action = resume(update(state), slots(SlotState.REJECTED, rejected="watchdog"), 1)
        assert (one.state, one.reason, action) == (State.ROLLED_BACK, "watchdog", None)
        assert resume(update(state), slots(SlotState.EMPTY)[:1], 1)[0].reason == "reverted"


def test_a_trial_that_nobody_waits_for_goes_back():
    for state in BAD:
        one, action = resume(update(state, reason="silent"), slots(SlotState.TEST), 1)
        assert (one.state, one.reason, action) == (State.REVERTING, "silent", Action.REVERT)


def test_the_gates_no_reverts_and_keeps_its_reason():
    one, action = step(update(State.JUDGING), Event.GATE_FAILED, 1, reason="worse")
    assert (one.state, action) == (State.REVERTING, Action.REVERT)
    assert step(one, Event.REVERTED, 2)[0] == one._replace(state=State.ROLLED_BACK, since_s=2)


def image(**kwargs):
    values = {
        "payload": b"", "version": "1.0.0", "counter": 3, "cascade": "wakeword", "arena_bytes": 100, "operators": b"\x05",
        "front_end": cbor2.dumps({0: "audio"}), "decision": b"", "sha256": SHA, "self_test": None, "key_hash": None, "signature": None,
        "size_bytes": SIZE,
    }  # fmt: skip
    return Image(**values | kwargs)


def info(capacity=4_096):
    both = (
        Slot(1, 0, SlotState.CONFIRMED, 1 << 20, "wakeword", OTHER, counter=3),
        Slot(1, 1, SlotState.EMPTY, capacity, "wakeword"),
        Slot(2, 1, SlotState.EMPTY, 1 << 20, "vibration"),
    )
    return Info(1, "h", "b", "1", "power", b"\x07", 100, ("audio",), 60, both)


def test_an_image_that_fits_is_admitted():
    assert admit(image(), info()) is None
    assert admit(image(operators=b"\x05\x00\x00"), info()) is None


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("cascade", {"cascade": "elsewhere"}),
        ("capacity", {"size_bytes": 4_097}),
        ("counter", {"counter": 2}),
        ("arena", {"arena_bytes": 101}),
        ("operators", {"operators": b"\x05\x01"}),
        ("front-end", {"front_end": cbor2.dumps({0: "vibration"})}),
        ("front-end", {"front_end": b"\xff"}),
        ("front-end", {"front_end": cbor2.dumps({0: 7})}),
    ],
)
def test_each_misfit_has_its_reason(reason, change):
    assert admit(image(**change), info()) == reason


NODE_MODEL = (Path(__file__).parents[1] / "cascades/vibration/node.tflite").read_bytes()  # 13 tensors, 4 operators, 2 dimensions
LIMITS = Limits(tensors=13, operators=4, rank=2, work=5_000, plan_version=1)


def planned(data_bytes=400, work=5_000):
    header = b"nnp1" + struct.pack("<4I2H", 24, data_bytes, work, 24, 13, 0)
    return image(payload=with_metadata(NODE_MODEL, ("nn_plan", header)))


def told(**limits):
    return info()._replace(arena_bytes=400, limits=LIMITS._replace(**limits))


def test_a_model_is_held_against_the_limits_that_a_node_tells():
    one = planned()
    assert admit(one, told()) is None
    for limit in ("tensors", "operators", "rank", "work"):
        assert admit(one, told(**{limit: getattr(LIMITS, limit) - 1})) == "limits"
    without_plan = image(payload=NODE_MODEL)
    assert admit(without_plan, told(rank=1)) == "limits"
    assert admit(without_plan, told(work=0)) is None  # which the node finds out


def test_the_limits_come_after_what_else_is_wrong():
    assert admit(planned()._replace(front_end=cbor2.dumps({0: "vibration"})), told(rank=1)) == "front-end"


def test_a_plan_says_how_much_memory_is_needed_where_a_node_reads_it():
    frugal, greedy = planned(data_bytes=400)._replace(arena_bytes=401), planned(data_bytes=401)
    assert admit(frugal, told()) is None
    assert admit(greedy, told()) == "arena"
    for node in (told(plan_version=2), told(plan_version=0), told()._replace(limits=None)):
        assert admit(frugal, node) == "arena"
        assert admit(greedy, node) is None


def test_opening_a_plan_may_need_more_memory_than_running_it():
    assert admit(planned(data_bytes=16), told()._replace(arena_bytes=13 * 16)) is None
    assert admit(planned(data_bytes=16), told()._replace(arena_bytes=13 * 16 - 1)) == "arena"


def test_the_slot_that_is_in_use_is_no_room():
    assert admit(image(), info(capacity=SIZE - 1)) == "capacity"


def test_refusals_are_words():
    assert refusal(1, 27) == "counter"
    assert refusal(1, 999) == "smp group 1 rc 999"
    assert refusal(0, 27) == "smp group 0 rc 27"


def test_the_diagram_in_the_docs_is_the_tables():
    document = (Path(__file__).parents[1] / "docs" / "rollouts.md").read_text()
    assert f"```mermaid\n{mermaid()}```" in document


def test_resume_never_asks_for_an_action_that_its_state_does_not_await():
    assert all(move.state not in SETTLED for move in RESUME.values() if move.action)


def test_a_confirmation_that_got_lost_is_asked_for_again():
    one, action = resume(update(State.CONFIRMING), slots(SlotState.TEST), 1)
    assert (one.state, action) == (State.CONFIRMING, Action.CONFIRM)
