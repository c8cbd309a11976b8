"""core/decision, core/escalation and core/cascade: what goes to the larger model, and what is made of its opinion."""

import tomllib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import CASCADE, WINDOW, event

from gatewayd.core import cascade as module
from gatewayd.core import wire
from gatewayd.core.decision import decide
from gatewayd.core.escalation import Admission, Escalations
from gatewayd.core.microfrontend import Parameters, Tuning, encode
from gatewayd.core.registry import Node
from gatewayd.core.types import Basis, Opinion, Reason, Verdict
from gatewayd.errors import CascadeError


def document(**changes):
    tree = tomllib.loads(CASCADE.replace("DEADLINE", "1.0"))
    for dotted, value in changes.items():
        *above, last = dotted.split("__")
        inner = tree
        for key in above:
            inner = inner[key]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return tree


def cascade(**changes):
    return module.parse(document(**changes), "test")


ACTIONS = cascade(policy__actions={"fault": "stop"})
YES = Opinion(accepted=True, label="yes", score=0.9, model="m")

# ---- decision


@pytest.mark.parametrize(
    ("opinion", "reason", "accepted", "action"),
    [
        (YES, Reason.TRIGGER, True, "act"),  # the cascade's default
        (YES._replace(label="fault"), Reason.TRIGGER, True, "stop"),  # the label's
        (YES._replace(action="light:on"), Reason.TRIGGER, True, "light:on"),  # the opinion's own
        (YES._replace(accepted=False, action="light:on"), Reason.TRIGGER, False, ""),
        (YES, Reason.AUDIT, True, ""),
        (YES._replace(action="light:on"), Reason.AUDIT, True, ""),
        (YES, Reason.FOLLOW, True, ""),  # the default is for triggers
        (YES._replace(label="fault"), Reason.FOLLOW, True, "stop"),
        (YES._replace(action="light:on"), Reason.FOLLOW, True, "light:on"),
    ],
)
def test_the_larger_models_opinion_is_the_verdict(opinion, reason, accepted, action):
    verdict = decide(event(7, session=3, reason=reason), ACTIONS, opinion, Basis.GATEWAY)
    assert verdict == (7, 3, accepted, opinion.label, 0.9, action, 5_000, Basis.GATEWAY)


@pytest.mark.parametrize("basis", [Basis.NODE, Basis.OVERLOAD, Basis.TIMEOUT, Basis.FAILED])
@pytest.mark.parametrize(
    ("score", "reason", "accepted"),
    [(0.8, Reason.TRIGGER, True), (0.79, Reason.TRIGGER, False), (1.0, Reason.AUDIT, False), (1.0, Reason.FOLLOW, False)],
)
def test_alone_a_node_is_believed_only_in_its_strong_suspicions(basis, score, reason, accepted):
    verdict = decide(event(7, score=score, reason=reason), ACTIONS, None, basis)
    assert verdict == (7, 1, accepted, "word", score, "act" if accepted else "", 5_000, basis)


def test_a_label_that_the_cascade_does_not_have_is_no_label():
    assert decide(event(0, label=99), ACTIONS, None, Basis.NODE).label == ""


@given(st.floats(-1e9, 1e9), st.booleans(), st.sampled_from(Reason))
def test_a_verdict_can_always_be_sent(score, accepted, reason):
    verdict = decide(event(0, reason=reason), ACTIONS, YES._replace(accepted=accepted, score=score), Basis.GATEWAY)
    assert wire.decode_as(Verdict, wire.encode(verdict)) == pytest.approx(verdict)


# ---- escalation


NODE, STRANGER = Node("n1", enrolled=True), Node("n2", enrolled=False)


@pytest.mark.parametrize(
    ("node", "cascade_", "window", "admission"),
    [
        (NODE, ACTIONS, WINDOW, Admission.ESCALATE),
        (NODE, ACTIONS, None, Admission.DECIDE),
        (NODE, cascade(gateway=None), WINDOW, Admission.DECIDE),
        (NODE, None, WINDOW, Admission.RECORD),
        (STRANGER, ACTIONS, WINDOW, Admission.RECORD),
    ],
)
def test_where_an_event_goes(node, cascade_, window, admission):
    escalations = Escalations(1, 1)
    assert escalations.admit(node, event(0, window=window), cascade_) is admission
    assert escalations.depth == (admission is Admission.ESCALATE)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80), st.integers(1, 6), st.integers(1, 4))
def test_the_bounds_hold_and_every_place_comes_back(steps, capacity, per_node):
    escalations = Escalations(capacity, per_node)
    waiting = []
    for name, arrives in steps:
        if arrives:
            admission = escalations.admit(Node(name, enrolled=True), event(0), ACTIONS)
            full = len(waiting) >= capacity or waiting.count(name) >= per_node
            assert admission is (Admission.OVERLOAD if full else Admission.ESCALATE)
            waiting += [] if full else [name]
        elif name in waiting:
            waiting.remove(name)
            escalations.release(name)
        assert escalations.depth == len(waiting) <= capacity
    for name in waiting:
        escalations.release(name)
    assert (escalations.depth, len(escalations._waiting)) == (0, 0)  # nothing is kept of nodes that wait for nothing


# ---- cascade


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "No Good"}, "test: name: String should match"),
        ({"node__decision__cutoff": 0}, "test: node.decision.cutoff: Input should be greater than 0"),
        ({"node__decision__cutof": 1.0}, "test: node.decision.cutof: Extra inputs are not permitted"),
        ({"node__decision__labels": []}, "test: node.decision.labels"),
        ({"node__front_end__kind": "vibration"}, "a vibration front end needs a normalisation"),
        ({"node__front_end__normalisation": "n.bin"}, "an audio front end has none"),
        ({"node__front_end__rate_hz": 8_000}, "8000 Hz, not 16000"),
        ({"node__front_end__window": 16}, "window"),
        ({"node__front_end__tuning": {"gain": 1}}, "node.front_end.tuning.gain: Extra inputs are not permitted"),
        ({"node__front_end__tuning": {"gain_bits": 14}}, "PCAN"),
        ({"policy__alone_score": 1.5}, "test: policy.alone_score"),
        ({"node": None}, "test: node: Field required"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(CascadeError, match=message):
        cascade(**changes)


def test_the_image_carries_front_end_and_decision_by_number():
    front_end, decision = ACTIONS.node.front_end, ACTIONS.node.decision
    assert cbor2.loads(module.encode_front_end(front_end, None)) == dict(enumerate(["audio", 16_000, 30, 10, 40, 125, 7_500]))
    slow = front_end.model_copy(update={"step": 20, "tuning": Tuning(enable_pcan=False)})
    assert cbor2.loads(module.encode_front_end(slow, None))[7] == encode(Parameters(step_ms=20, tuning=Tuning(enable_pcan=False)))
    assert cbor2.loads(module.encode_decision(decision)) == dict(enumerate(["average", 0.2, 5, ["word"], 1_000, 0, 1_000, 0]))
    machine = module.FrontEnd(kind="vibration", rate_hz=8_000, window=512, step=16, channels=40, low_hz=10, high_hz=3_900)
    assert cbor2.loads(module.encode_front_end(machine, bytes(160)))[7] == bytes(160)
    with pytest.raises(CascadeError, match="a normalisation of 3 bytes, not 160"):
        module.encode_front_end(machine, bytes(3))
