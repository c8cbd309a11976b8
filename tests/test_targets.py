"""core/targets: who takes part, who comes first, and what is mistyped."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.core.image import Image
from gatewayd.core.targets import Candidate, Selector, TargetError, in_turn, select, split, unfit
from gatewayd.core.types import Info, Slot, SlotState

NOW_S = 1.8e9
SHA = bytes(range(32))
IMAGE = Image(b"", "1.1.0", 2, "wakeword", 1_000, b"\1", cbor2.dumps({0: "audio"}), b"", SHA, None, None, None, 5_000)


def info(*cascades, board="devkit", **slot):
    slots = [
        Slot(number, place, SlotState.CONFIRMED if place == 0 else SlotState.EMPTY, 10_000, cascade)._replace(
            **(slot if place == 0 else {})
        )
        for number, cascade in enumerate(cascades, 1)
        for place in (0, 1)
    ]
    return Info(1, "esp32", board, "1.0", "power", b"\1", 2_000, ("audio",), 60, tuple(slots))


def node(name, *, enrolled=True, heard_s=NOW_S, info=info("wakeword"), labels=()):  # noqa: B008 - a constant
    return Candidate(name, enrolled, heard_s, info, labels)


FLEET = [
    node("attic", labels=("mains", "noisy")),
    node("cellar", info=info("vibration", "wakeword", board="nano"), labels=("mains",)),
    node("kitchen"),
    node("motor", info=info("vibration")),
    node("new", info=None),
    node("stranger", enrolled=False),
]


def chosen(**selector):
    return [one.id for one in select(FLEET, Selector("wakeword", **selector))]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ({}, ["attic", "cellar", "kitchen"]),
        ({"boards": ["devkit"]}, ["attic", "kitchen"]),
        ({"boards": ["devkit", "nano"]}, ["attic", "cellar", "kitchen"]),
        ({"labels": ["mains"]}, ["attic", "cellar"]),
        ({"labels": ["mains", "noisy"]}, ["attic"]),
        ({"labels": ["mains"], "boards": ["nano"]}, ["cellar"]),
        ({"nodes": ["kitchen", "attic"]}, ["attic", "kitchen"]),
        ({"nodes": ["attic"], "labels": ["mains"], "boards": ["devkit"]}, ["attic"]),
    ],
)
def test_a_selector_means_enrolled_nodes_of_the_cascade(selector, names):
    assert chosen(**selector) == names


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ({"nodes": ["kitchne"]}, "kitchne cannot take part: it was never heard"),
        ({"nodes": ["kitchen", "stranger"]}, "stranger cannot take part: it is not enrolled"),
        ({"nodes": ["new"]}, "new cannot take part: it has not said yet what it is"),
        ({"nodes": ["motor"]}, "motor cannot take part: it has no slot for 'wakeword'"),
        ({"nodes": ["kitchen"], "labels": ["mains"]}, "kitchen cannot take part: it has no label 'mains'"),
        ({"nodes": ["kitchen"], "boards": ["nano"]}, "kitchen cannot take part: its board is 'devkit'"),
        ({"boards": ["devkti"]}, "no node of this cascade has board 'devkti'; there are: devkit, nano"),
        ({"labels": ["main"]}, "no node of this cascade has label 'main'; there are: mains, noisy"),
        ({"labels": ["noisy"], "boards": ["nano"]}, "no node has all that was asked for"),
    ],
)
def test_what_cannot_be_meant_is_said(selector, words):
    with pytest.raises(TargetError) as caught:
        chosen(**selector)
    assert str(caught.value) == words


def test_a_cascade_that_nobody_has():
    with pytest.raises(TargetError, match="no enrolled node has a slot for 'gesture'"):
        select(FLEET, Selector("gesture"))


def test_a_node_that_would_refuse_or_has_it_is_unfit():
    assert unfit(IMAGE, info("wakeword")) is None
    assert unfit(IMAGE, info("vibration")) == "cascade"
    assert unfit(IMAGE._replace(arena_bytes=2_001), info("wakeword")) == "arena"
    assert unfit(IMAGE, info("wakeword", counter=3)) == "counter"
    assert unfit(IMAGE, info("wakeword", sha256=SHA, counter=2)) == "has it already"
    assert unfit(IMAGE, info("wakeword", sha256=SHA, state=SlotState.TEST)) is None


def test_the_canary_is_awake_and_well_known():
    fleet = [node("asleep", heard_s=NOW_S - 3_601), node("quiet"), node("busy", heard_s=NOW_S - 3_599), node("also-busy")]
    judged = {"asleep": 1_000, "busy": 50, "also-busy": 50, "gone": 7}
    assert in_turn(fleet, judged, NOW_S) == ["also-busy", "busy", "quiet", "asleep"]
    assert in_turn(reversed(fleet), judged, NOW_S) == in_turn(fleet, judged, NOW_S)


def sizes(count, text):
    names = [str(n) for n in range(count)]
    groups = split(names, text)
    assert [name for group in groups for name in group] == names
    return [len(group) for group in groups]


@pytest.mark.parametrize(
    ("count", "text", "groups"),
    [
        (12, "1,10%,100%", [1, 1, 10]),
        (200, "1,10%,100%", [1, 19, 180]),
        (1, "1,10%,100%", [1]),
        (3, "1,10%,100%", [1, 2]),
        (12, " 2 , 50% , 100% ", [2, 4, 6]),
        (12, "100%", [12]),
        (12, "3,12", [3, 9]),
        (5, "3,12", [3, 2]),
        (12, "5,10%,100%", [5, 7]),
        (1_000, "1%,10,5%,100%", [10, 40, 950]),
    ],
)
def test_groups_grow(count, text, groups):
    assert sizes(count, text) == groups


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,x,100%", "'x' is neither a number of nodes nor a percentage"),
        ("", "'' is neither"),
        ("1,,100%", "'' is neither"),
        ("0,100%", "'0' is neither"),
        ("-1", "'-1' is neither"),
        ("1.5", "'1.5' is neither"),
        ("10%,5%,100%", "must grow"),
        ("5,5", "must grow"),
        ("1,110%", "must grow, to 100% at most"),
        ("1,10%", "they end at 2 of 12 nodes; end with 100%"),
        ("11", "they end at 11 of 12"),
    ],
)
def test_groups_that_make_no_sense(text, words):
    with pytest.raises(TargetError, match="groups ") as caught:
        sizes(12, text)
    assert words in str(caught.value)


@given(st.integers(1, 2_000), st.lists(st.integers(1, 99), unique=True), st.integers(1, 50))
def test_groups_hold_everybody_once_and_none_is_empty(count, percents, canary):
    text = ",".join([str(canary), *(f"{percent}%" for percent in sorted(percents)), "100%"])
    groups = sizes(count, text)
    assert min(groups) > 0
    assert groups[0] >= min(canary, count)
