"""core/rollout: groups, the halt rules, the queue, the operator's commands, and a fleet driven to its end."""

from pathlib import Path

import pytest

from gatewayd.core import gate, update
from gatewayd.core.rollout import (
    COMMANDS,
    Command,
    CommandError,
    Decision,
    Do,
    Node,
    Rollout,
    Rules,
    State,
    command,
    explain,
    mermaid,
    step,
    wilson_lower,
)

U = update.State
PASS = gate.Verdict(gate.Answer.PASS, 1, 50, 0.1, (gate.Question("precision", 0.8, 0.81, 0.1, 60.0),))
FAIL = gate.Verdict(gate.Answer.FAIL, 1, 50, 400.0, (gate.Question("precision", 0.8, 0.4, 1600.0, 0.0),))
HOLD = gate.NO_EVIDENCE
EVENTS = {
    Do.START: update.Event.ADMIT,
    Do.CONFIRM: update.Event.GATE_PASSED,
    Do.ABORT: update.Event.ABORT,
    Do.ROLL_BACK: update.Event.GATE_FAILED,
    Do.EXPIRE: update.Event.DEADLINE,
}
NEXT = {
    U.ADMITTED: update.Event.PROGRESS,
    U.UPLOADING: update.Event.UPLOADED,
    U.VERIFIED: update.Event.TEST_ACCEPTED,
    U.TRIAL: update.Event.RUNNING,
    U.CONFIRMING: update.Event.CONFIRM_ACCEPTED,
    U.REVERTING: update.Event.REVERTED,
}


def rollout(*sizes, state=State.RUNNING, **rules):
    names = iter(f"n{i}" for i in range(1_000))
    groups = tuple(tuple(next(names) for _ in range(size)) for size in sizes)
    return Rollout("r1", "wakeword", "1.1.0", b"x" * 32, 1_000, groups, Rules(**({"soak_s": 10} | rules)), state)


def nodes(one, state=U.WAITING, **others):
    return {name: Node(state) for names in one.groups for name in names} | others


def starts(decisions):
    return [decision.node for decision in decisions if decision.do is Do.START]


class Fleet:
    """Nodes that do at once what is decided, but for those named in `bad`, which answer nothing and time out."""

    def __init__(self, one, bad=()):
        self.rollout, self.bad, self.now_s, self.states = one, set(bad), 0.0, []
        self.updates = {n: update.Update(n, b"x" * 32, 1_000, U.WAITING, 0.0) for names in one.groups for n in names}

    def nodes(self):
        return {name: Node(one.state, reason=one.reason) for name, one in self.updates.items()}

    def run(self, verdict, steps=400):
        for _ in range(steps):
            self.now_s += 1
            moved, decisions = step(self.rollout, self.nodes(), verdict(self) if callable(verdict) else verdict, self.now_s)
            if moved.state is not self.rollout.state:
                self.states.append(moved.state)
                assert not decisions
            self.rollout = moved
            for decision in decisions:
                self.apply(decision.node, EVENTS[decision.do])
            for name, one in self.updates.items():
                if one.state in NEXT:
                    self.apply(name, update.Event.DEADLINE if name in self.bad and one.state is not U.REVERTING else NEXT[one.state])
        return self

    def apply(self, name, event):
        self.updates[name], _ = update.step(self.updates[name], event, self.now_s)

    def count(self, state):
        return sum(one.state is state for one in self.updates.values())


def test_a_good_model_passes_canary_and_waves():
    fleet = Fleet(rollout(1, 3, 8)).run(PASS)
    assert fleet.states == [State.SOAKING, State.RUNNING, State.SOAKING, State.RUNNING, State.SOAKING, State.DONE]
    assert fleet.count(U.CONFIRMED) == 12


def test_a_bad_model_halts_at_the_canary_and_goes_back():
    fleet = Fleet(rollout(1, 11)).run(lambda fleet: FAIL if fleet.count(U.JUDGING) else HOLD)
    assert fleet.states == [State.HALTED, State.ROLLING_BACK, State.ROLLED_BACK]
    assert fleet.count(U.ROLLED_BACK) == 12
    assert "the gate has failed: precision 80% -> 40%" in fleet.rollout.cause


def test_a_model_that_turns_bad_late_is_taken_back_everywhere():
    fleet = Fleet(rollout(1, 11, gate=True)).run(lambda fleet: FAIL if fleet.count(U.JUDGING) > 5 else PASS)
    assert fleet.rollout.state is State.ROLLED_BACK
    assert fleet.count(U.CONFIRMED) == 0


def test_not_enough_evidence_holds_then_pauses_and_approval_goes_on():
    fleet = Fleet(rollout(1, 2, gate_patience_s=50)).run(HOLD, steps=40)
    assert fleet.rollout.state is State.SOAKING
    assert fleet.count(U.JUDGING) == 1
    fleet.run(HOLD, steps=100)
    assert (fleet.rollout.state, fleet.rollout.cause) == (State.PAUSED, "not enough evidence")
    assert "approve" in explain(fleet.rollout, fleet.nodes(), HOLD, fleet.now_s)
    fleet.rollout = command(fleet.rollout, Command.APPROVE, fleet.now_s)
    assert fleet.run(HOLD).rollout.state is State.DONE


def test_approval_is_awaited_before_every_group_but_the_first():
    fleet = Fleet(rollout(1, 2, approval=True)).run(PASS)
    assert fleet.rollout.state is State.AWAITING_APPROVAL
    assert fleet.count(U.WAITING) == 2
    fleet.rollout = command(fleet.rollout, Command.APPROVE, fleet.now_s)
    assert fleet.run(PASS).rollout.state is State.DONE


def test_a_silent_canary_halts():
    fleet = Fleet(rollout(1, 5), bad=["n0"]).run(HOLD)
    assert fleet.rollout.state is State.ROLLED_BACK
    assert "success is out of reach" in fleet.rollout.cause or "surely more" in fleet.rollout.cause
    assert "silent while" in fleet.rollout.cause


def test_one_unlucky_node_of_many_does_not_halt():
    fleet = Fleet(rollout(20, min_attempted=3), bad=["n0"]).run(PASS)
    assert fleet.rollout.state is State.DONE
    assert (fleet.count(U.CONFIRMED), fleet.count(U.TIMED_OUT)) == (19, 1)


def test_wilson_is_wary_of_small_numbers():
    assert wilson_lower(0, 0) == wilson_lower(0, 5) == 0 or wilson_lower(0, 5) < 1e-9
    assert wilson_lower(1, 20) < 0.1 < wilson_lower(2, 4)
    bounds = [wilson_lower(n, 4 * n) for n in (1, 3, 10, 100)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < 0.25


def test_the_error_rate_is_not_looked_at_before_enough_were_attempted():
    one = rollout(40, min_attempted=10)
    bad = {f"n{i}": Node(U.FAILED) for i in range(4)}
    assert step(one, nodes(one, **bad), HOLD, 1)[0].state is State.RUNNING
    assert step(one._replace(rules=one.rules._replace(min_attempted=4)), nodes(one, **bad), HOLD, 1)[0].state is State.HALTED


def test_transfers_are_limited_and_later_groups_wait():
    one = rollout(6, 6, concurrent=3)
    assert starts(step(one, nodes(one), HOLD, 1)[1]) == ["n0", "n1", "n2"]
    assert starts(step(one, nodes(one, n0=Node(U.UPLOADING), n1=Node(U.TRIAL)), HOLD, 1)[1]) == ["n2", "n3"]


def test_air_time_is_limited_by_the_hour():
    one = rollout(6, concurrent=6, bytes_per_hour=2_500)
    assert starts(step(one, nodes(one), HOLD, 1)[1]) == ["n0", "n1"]
    used = {"n0": Node(U.JUDGING, started_s=100), "n1": Node(U.JUDGING, started_s=100)}
    assert starts(step(one, nodes(one, **used), HOLD, 3_699)[1]) == []
    assert starts(step(one, nodes(one, **used), HOLD, 3_701)[1]) == ["n2", "n3"]


def test_sleepers_and_empty_batteries_wait_and_are_not_attempted():
    one = rollout(3)
    state = nodes(one, n0=Node(U.WAITING, reachable=False), n1=Node(U.WAITING, battery=0.1))
    assert step(one, state, HOLD, 1)[1] == (Decision(Do.START, "n2"),)
    words = explain(one, state, HOLD, 1)
    assert "waits for 1 nodes that sleep" in words
    assert "battery below 30%" in words
    assert "0 of 3 attempted" in words
    assert Decision(Do.EXPIRE, "n0") in step(one, state, HOLD, one.rules.sleep_limit_s + 1)[1]


def test_who_wakes_late_is_updated_and_confirmed_in_a_later_group():
    one = rollout(2, 2, success_ratio=0.5)._replace(group=1, cleared=True)
    state = nodes(one, n0=Node(U.CONFIRMED), n1=Node(U.JUDGING))
    assert Decision(Do.CONFIRM, "n1") in step(one, state, HOLD, 1)[1]
    state["n1"] = Node(U.WAITING)
    assert starts(step(one, state, HOLD, 1)[1])[0] == "n1"


def test_nothing_starts_and_nothing_is_confirmed_in_a_pause():
    one = command(rollout(2), Command.PAUSE, 5)
    state = nodes(one, n0=Node(U.JUDGING))
    assert step(one, state, PASS, 6) == (one, ())
    assert step(one, state, FAIL, 6)[0].state is State.HALTED
    assert command(one, Command.RESUME, 7).state is State.RUNNING


def test_an_abort_leaves_confirmed_nodes_alone_and_a_roll_back_does_not():
    one = rollout(3)
    state = nodes(one, n0=Node(U.CONFIRMED), n1=Node(U.JUDGING))
    _, decisions = step(command(one, Command.ABORT, 1), state, HOLD, 2)
    assert set(decisions) == {Decision(Do.ABORT, "n1"), Decision(Do.ABORT, "n2")}
    _, decisions = step(command(one, Command.ROLL_BACK, 1), state, HOLD, 2)
    assert Decision(Do.ROLL_BACK, "n0") in decisions


def test_commands_that_do_not_fit_are_refused():
    for state in State:
        for order in Command:
            one = rollout(1, state=state)._replace(paused_from=State.RUNNING)
            if (state, order) not in COMMANDS:
                with pytest.raises(CommandError, match=one.id):
                    command(one, order, 1)
            else:
                command(one, order, 1)


def test_asking_again_gives_the_same_answer():
    one = rollout(4)
    state = nodes(one, n0=Node(U.UPLOADING))
    assert step(one, state, HOLD, 5) == step(one, state, HOLD, 5)


def test_the_explanation_has_the_gates_numbers():
    words = explain(rollout(1, state=State.SOAKING, gate=True, margin=0.3), nodes(rollout(1), U.JUDGING), PASS, 4)
    assert "precision 80% -> 81%" in words
    assert "50:1 fine, which excludes a loss of 30%" in words
    assert "soaks for another 6 s" in words
    assert "group: 1 judging; 1 of 1 must be confirmed" in words


def test_nodes_that_were_called_off_before_their_turn_did_not_go_wrong_and_the_cause_is_told_once():
    one = rollout(1, 3, state=State.ROLLED_BACK)._replace(cause="the gate has failed: 80% -> 40%")
    state = nodes(one, U.ROLLED_BACK, n0=Node(U.ROLLED_BACK, started_s=1.0, reason=one.cause))
    words = explain(one, state, HOLD, 9)
    assert "all groups: 1 of 4 attempted, 1 went wrong (rolled_back: 1)" in words
    assert words.count("80% -> 40%") == 1


def test_the_diagram_in_the_docs_is_the_codes():
    assert f"```mermaid\n{mermaid()}```" in (Path(__file__).parents[1] / "docs" / "rollouts.md").read_text()


def test_what_was_never_audited_is_said_to_be_so():
    one = rollout(1, state=State.SOAKING)
    audits = gate.Question("audits", 0.9, float("nan"), 1.0, 1.0)
    assert "audits 90.0% -> none yet" in explain(one, nodes(one), gate.Verdict(gate.Answer.HOLD, 1, 5, 1.0, (audits,)), 1.0)
