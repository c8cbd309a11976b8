"""The engine of rollouts on a real ledger: twelve nodes that speak SMP, and all that can come between."""

import asyncio
import contextlib
import hashlib
from types import SimpleNamespace

import hostile_images
import pytest
from smp_node import OLD, SmpNode
from test_store import open_store

from gatewayd import bundle, courier, rollouts
from gatewayd.core import gate, image, update
from gatewayd.core.registry import Registry
from gatewayd.core.rollout import Command, Rollout, Rules, State
from gatewayd.core.types import Frame, NodeState, SlotState
from gatewayd.core.types import State as Said
from gatewayd.errors import CascadeError, RefusedError, StoreError, TransportError
from gatewayd.ledger import Ledger
from gatewayd.metrics import Metrics
from gatewayd.publish import NodePublisher

U = update.State
IMAGE = hostile_images.good()
PARSED = image.parse(IMAGE)
BUNDLE = "b" * 64
NAMES = tuple(f"n{i}" for i in range(4))
GROUPS = (NAMES[:1], NAMES[1:])
RULES = Rules(success_ratio=1.0, soak_s=0.0, gate=False)
FOLDER = bundle.Folder(SimpleNamespace(name="vibration"), "folder")
BEFORE = bundle.Folder(SimpleNamespace(name="vibration"), "before")


class FakeShelf:
    def __init__(self):
        self.forgotten, self.broken = [], None

    def open(self, sha256):
        if self.broken:
            raise self.broken
        return SimpleNamespace(image=PARSED, members={bundle.NODE_IMAGE: IMAGE})

    def unpack(self, sha256):
        return FOLDER

    def forget(self, needed):
        self.forgotten.append(needed)


class FakeJudges:
    def __init__(self):
        self.replaced, self.broken = [], None

    async def replace(self, folder):
        if self.broken:
            raise self.broken
        self.replaced.append(folder)


class Site:
    """A gateway's engine and its nodes; `life()` is one life of the gateway, which ends as kill -9 ends it."""

    def __init__(self, ledger, names=NAMES):
        self.ledger = ledger
        self.nodes = {name: SmpNode() for name in names}
        self.lost = set()  # nodes that hear nothing
        self.now_s = 1_000.0
        self.shelf, self.judges, self.metrics = FakeShelf(), FakeJudges(), Metrics()
        self.frames = 0
        self.stop_after = None  # frames: then nothing is sent any more
        self._new_life()

    def _new_life(self):
        self.registry = Registry(100)
        for name in self.nodes:
            self.tell(name, said=True)
        self.engine = rollouts.Rollouts(
            registry=self.registry,
            ledger=self.ledger,
            shelf=self.shelf,
            judges=self.judges,
            folders={"vibration": BEFORE},
            publisher=self,
            metrics=self.metrics,
            clock=lambda: self.now_s,
        )

    def tell(self, name, *, said=False, state=NodeState.READY):
        """The node's retained info and state reach the registry."""
        now_ms = rollouts.time.monotonic_ns() // 1_000_000
        for message in (self.nodes[name].info(), Said(state, 1)):
            self.registry.observe(name, message, "mqtt", now_ms, self.now_s)
        self.registry.get(name).enrolled = True
        if not said:
            self.engine.changed(name)

    def route(self, node):
        """The engine's Publisher."""
        return "mqtt"

    def reaches(self, node, transport):
        return node.up_on(transport, rollouts.time.monotonic_ns() // 1_000_000)

    def smp(self, node, transport, frame):
        self.frames += 1
        if self.stop_after is not None and self.frames > self.stop_after:
            raise TransportError("killed")
        if node.id in self.lost:
            return
        answer = self.nodes[node.id].handle(frame)
        loop = asyncio.get_running_loop()
        loop.call_soon(self.tell, node.id)
        if answer is not None:
            loop.call_soon(self.engine.managed, Frame(node.id, "smp", answer, transport, print))

    @contextlib.asynccontextmanager
    async def life(self):
        task = asyncio.get_running_loop().create_task(self.engine.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._new_life()

    def add(self, groups=GROUPS, rules=RULES, **changes):
        draft = Rollout("", "vibration", PARSED.version, PARSED.sha256, len(IMAGE), groups, rules)._replace(**changes)
        return self.ledger.add(draft, BUNDLE, hashlib.sha256(IMAGE).digest(), self.now_s).id

    def state(self, id_):
        return self.ledger.rollout(id_).rollout.state

    def updates(self, id_):
        return {name: one.state for name, one in self.ledger.updates(id_).items()}

    async def until(self, condition, timeout_s=20.0):
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.01)

    async def ends(self, id_):
        await self.until(lambda: self.ledger.rollout(id_).closed)

    def count(self, name, **labels):
        return self.metrics._registry.get_sample_value(name, labels)


@pytest.fixture
async def site(sqlite_url, monkeypatch):
    monkeypatch.setattr(rollouts, "TICK_S", 0.02)
    monkeypatch.setattr(rollouts, "_GATHER_S", 0.001)
    monkeypatch.setattr(rollouts, "_WORD_S", 0.005)
    monkeypatch.setattr(rollouts, "_RETRY_S", 0.0)
    monkeypatch.setattr(courier, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(courier, "_PATIENCE_S", 0.1)
    async with open_store(sqlite_url) as store:
        yield Site(Ledger(store))


def asked(site):
    return {name: node.asked for name, node in site.nodes.items()}


async def test_a_rollout_runs_through_its_groups_and_the_gateway_half_follows(site):
    one = site.add()
    async with site.life():
        await site.ends(one)
    assert site.state(one) is State.DONE
    assert set(site.updates(one).values()) == {U.CONFIRMED}
    assert asked(site) == {name: ["upload", "test", "confirm"] for name in NAMES}
    assert all(node.data == IMAGE for node in site.nodes.values())
    assert site.judges.replaced == [FOLDER]
    assert site.ledger.active() == {"vibration": BUNDLE}
    assert site.count("gatewayd_ota_jobs_total") == len(NAMES)
    assert site.count("gatewayd_ota_bytes_total", transport="mqtt") == len(NAMES) * len(IMAGE)
    words = "\n".join(note.text for note in site.ledger.history(one))
    assert "group 2 of 2" in words
    assert "group: 3 confirmed" in site.ledger.explanation(one).text
    assert "4 of 4 attempted, 0 went wrong" in site.ledger.explanation(one).text


@pytest.mark.parametrize("frames", range(1, 40, 2))
async def test_a_gateway_killed_after_any_frame_goes_on_and_asks_nothing_twice(site, frames):
    one = site.add()
    site.stop_after = frames
    async with site.life():
        await site.until(lambda: site.frames > frames or site.ledger.rollout(one).closed)
    site.stop_after = None
    async with site.life():
        await site.ends(one)
    assert site.state(one) is State.DONE
    assert asked(site) == {name: ["upload", "test", "confirm"] for name in NAMES}
    assert sum(node.repeated for node in site.nodes.values()) == 0


async def test_a_canary_that_refuses_halts_the_rollout_before_anybody_else_is_asked(site):
    site.nodes["n0"].verdict = "self-test"
    one = site.add()
    async with site.life():
        await site.ends(one)
    assert site.state(one) is State.ROLLED_BACK
    assert site.ledger.updates(one)["n0"].reason == "self-test"
    assert not any(site.nodes[name].asked for name in NAMES[1:])
    assert "self-test" in site.ledger.explanation(one).text
    assert site.count("gatewayd_ota_failed_total", reason="self-test") == 1
    assert site.judges.replaced == []
    assert site.ledger.active() == {}


@pytest.mark.parametrize("reason", ["arena", "limits"])
async def test_admission_refuses_before_a_byte_is_sent(site, reason):
    node = site.nodes["n0"]
    full = node.info()
    less = {"arena": {"arena_bytes": 1}, "limits": {"limits": full.limits._replace(operators=3)}}
    node.info = lambda: full._replace(**less[reason])
    site.tell("n0", said=True)
    one = site.add()
    async with site.life():
        await site.ends(one)
    assert (site.state(one), site.ledger.updates(one)["n0"].reason) == (State.ROLLED_BACK, reason)
    assert node.asked == []


async def test_a_node_that_has_the_image_is_not_asked(site):
    node = site.nodes["n0"]
    node.data, node.sha256, node.state, node.confirmed = IMAGE, PARSED.sha256, SlotState.CONFIRMED, PARSED.sha256
    site.tell("n0", said=True)
    one = site.add()
    async with site.life():
        await site.ends(one)
    assert site.state(one) is State.DONE
    assert node.asked == []


def verdict(answer):
    return gate.Verdict(answer, 1, 50, 400.0, (gate.Question("precision", 0.8, 0.4, 1600.0, 0.0),))


async def test_a_failing_gate_takes_the_canary_back_and_says_why(site, monkeypatch):
    said = [verdict(gate.Answer.HOLD)]

    async def ask(_self, _updates, _margin):
        return said[0]

    monkeypatch.setattr(rollouts.Evidence, "verdict", ask)
    one = site.add(rules=RULES._replace(gate=True))
    async with site.life():
        await site.until(lambda: site.updates(one)["n0"] is U.JUDGING)
        await site.until(lambda: site.state(one) is State.SOAKING)
        said[0] = verdict(gate.Answer.FAIL)
        await site.ends(one)
    assert site.state(one) is State.ROLLED_BACK
    assert site.nodes["n0"].asked == ["upload", "test", "confirm"]  # the old one
    assert site.nodes["n0"].confirmed == OLD
    assert not any(site.nodes[name].asked for name in NAMES[1:])
    assert "precision 80% -> 40%" in site.ledger.explanation(one).text
    assert site.count("gatewayd_ota_rollbacks_total", reason="gate") == 1
    assert site.count("gatewayd_rollouts_halted_total") == 1


async def test_a_trial_that_ends_on_the_node_is_noticed(site):
    one = site.add(rules=RULES._replace(soak_s=1e6))
    async with site.life():
        await site.until(lambda: site.updates(one)["n0"] is U.JUDGING)
        site.nodes["n0"].reset()
        site.tell("n0")
        await site.ends(one)
    assert site.state(one) is State.ROLLED_BACK
    assert site.ledger.updates(one)["n0"].reason == "reset by power-on"
    assert "reset by power-on: 1" in site.ledger.explanation(one).text
    assert site.count("gatewayd_ota_rollbacks_total", reason="reset") == 1


async def test_the_operators_hand(site):
    one = site.add(rules=RULES._replace(soak_s=1e6))
    async with site.life():
        await site.until(lambda: site.updates(one)["n0"] is U.JUDGING)
        site.ledger.order(one, Command.PAUSE, "lunch", site.now_s)
        await site.until(lambda: site.state(one) is State.PAUSED)
        site.ledger.order(one, Command.APPROVE, "", site.now_s)
        site.ledger.order(one, Command.PAUSE, "again", site.now_s)
        await site.until(lambda: not site.ledger.orders())
        site.ledger.order(one, Command.START, "", site.now_s)  # cannot be
        await site.until(lambda: not site.ledger.orders())
        site.ledger.order(one, Command.ABORT, "enough", site.now_s)
        await site.ends(one)
    assert site.state(one) is State.ABORTED
    assert site.updates(one) == dict.fromkeys(NAMES, U.ROLLED_BACK)
    words = [note.text for note in site.ledger.history(one)]
    assert any("lunch" in text for text in words)
    assert any("cannot start" in text for text in words)


async def test_rolled_back_after_it_was_done_with_both_halves(site):
    one = site.add()
    async with site.life():
        await site.ends(one)
        site.ledger.order(one, Command.ROLL_BACK, "a feeling", site.now_s)
        await site.until(lambda: site.state(one) is State.ROLLED_BACK and site.ledger.rollout(one).closed)
    assert all(node.confirmed == OLD for node in site.nodes.values())
    assert site.judges.replaced == [FOLDER, BEFORE]
    assert site.ledger.active() == {}


async def test_a_gateway_half_that_does_not_start_stays_what_it_was(site):
    site.judges.broken = CascadeError("no such model")
    one = site.add()
    async with site.life():
        await site.ends(one)
    assert site.state(one) is State.DONE
    assert site.ledger.active() == {}
    assert "no such model" in site.ledger.history(one)[-1].text


async def test_a_sleeping_node_gets_its_turn_when_it_wakes(site):
    site.tell("n3", said=True, state=NodeState.SLEEPING)
    one = site.add()
    async with site.life():
        await site.until(lambda: sum(state in (U.JUDGING, U.CONFIRMED) for state in site.updates(one).values()) == 3)
        assert site.nodes["n3"].asked == []
        site.tell("n3")
        await site.ends(one)
    assert site.state(one) is State.DONE
    assert site.nodes["n3"].asked == ["upload", "test", "confirm"]


async def test_silence_is_a_failure_after_its_deadline(site):
    site.lost = {"n0"}
    one = site.add()
    async with site.life():
        await site.until(lambda: site.updates(one)["n0"] is U.ADMITTED)
        site.now_s += update.DEADLINE_S[U.ADMITTED] + 1
        await site.ends(one)
    assert site.state(one) is State.ROLLED_BACK
    assert site.updates(one)["n0"] is U.TIMED_OUT
    assert "silent" in site.ledger.updates(one)["n0"].reason


async def test_links_that_break_are_tried_again_and_then_given_up(site):
    node = site.nodes["n0"]
    node.silent = {"upload"}
    real = courier.Courier.upload

    async def broken(_self, _data, _image):
        raise TransportError("in the middle")
        yield

    one = site.add()
    courier.Courier.upload = broken
    try:
        async with site.life():
            await site.ends(one)
    finally:
        courier.Courier.upload = real
    assert site.state(one) is State.ROLLED_BACK
    assert (site.updates(one)["n0"], site.ledger.updates(one)["n0"].reason) == (U.FAILED, "link")


class Radio:
    """A transport to the site's nodes that breaks for good after some frames; an answer may be lost with it."""

    def __init__(self, site, name, frames=10**9):
        self.site, self.name, self.frames = site, name, frames

    def reaches(self, node):
        return self.frames > 0

    def send(self, node, tail, frame):
        if self.frames <= 0:
            raise TransportError("no link")
        self.frames -= 1
        answer = self.site.nodes[node].handle(frame)
        if self.frames > 0:
            self.site.later(Frame(node, tail, answer, self.name, print))
        else:
            self.site.on_break(self.name)


class TwoRadios(Site):
    """A site whose nodes are heard on MQTT and on Bluetooth."""

    def __init__(self, ledger):
        super().__init__(ledger, NAMES[:1])
        (self.node,) = self.nodes.values()
        self.node.buffer_bytes, self.node.buffers = 128, 4
        self.on_break = lambda _name: None

    def later(self, frame):
        asyncio.get_running_loop().call_soon(self.engine.managed, frame)

    def tell(self, name, *, said=False, state=NodeState.READY):
        super().tell(name, said=True, state=state)
        self.registry.sighted(name, "ble", rollouts.time.monotonic_ns() // 1_000_000, self.now_s)

    def radios(self, **frames):
        radios = {name: Radio(self, name, count) for name, count in frames.items()}
        self.engine._publisher = NodePublisher(radios, self.metrics.radio_changes.inc)
        return radios

    def bytes_over(self, transport):
        return self.count("gatewayd_ota_bytes_total", transport=transport)


@pytest.fixture
def two(site):
    return TwoRadios(site.ledger)


@pytest.mark.parametrize("broken", range(2, 14))
@pytest.mark.parametrize("names", [("mqtt", "ble"), ("ble", "mqtt")])
async def test_an_update_goes_on_over_the_other_radio(two, names, broken):
    first, second = names
    two.radios(**{first: broken, second: 10**9})
    one = two.add((NAMES[:1],))
    async with two.life():
        await two.ends(one)
    assert two.state(one) is State.DONE
    assert two.node.asked == ["upload", "test", "confirm"]
    assert two.count("gatewayd_radio_changes_total") == 1
    had = two.bytes_over(first) or 0
    assert 0 < two.bytes_over(second) <= len(IMAGE) - had


async def test_and_back_and_whatever_brings_it_on_is_patience_anew(two):
    radios, cuts = two.radios(mqtt=8, ble=0), 0

    def other(broken):
        nonlocal cuts
        cuts += 1
        radios[{"mqtt": "ble", "ble": "mqtt"}[broken]].frames = 8

    two.on_break = other
    one = two.add((NAMES[:1],))
    async with two.life():
        await two.ends(one)
    assert two.state(one) is State.DONE
    assert cuts > rollouts._MOST_BREAKS
    assert two.node.asked == ["upload", "test", "confirm"]
    assert two.bytes_over("mqtt") > 0
    assert two.bytes_over("ble") > 0
    assert two.count("gatewayd_radio_changes_total") == cuts


async def test_a_node_that_always_breaks_at_the_same_byte_is_given_up(two):
    radios = two.radios(mqtt=10, ble=0)

    def again(_broken):
        two.node.data = two.node.data[:400]  # a reset: what flash claims
        radios["mqtt"].frames = 10

    two.on_break = again
    one = two.add((NAMES[:1],))
    async with two.life():
        await two.ends(one)
    assert (two.updates(one)["n0"], two.ledger.updates(one)["n0"].reason) == (U.FAILED, "link")


async def test_a_disk_that_refuses_is_waited_for(site, monkeypatch):
    one = site.add()
    save, broken = site.ledger.save, [True]

    def refuse(*arguments):
        if broken[0]:
            raise StoreError("disk full")
        save(*arguments)

    monkeypatch.setattr(site.ledger, "save", refuse)
    async with site.life():
        await asyncio.sleep(0.2)
        assert not any(node.asked for node in site.nodes.values())  # nothing is asked that is not on disk
        broken[0] = False
        await site.ends(one)
    assert site.state(one) is State.DONE
    assert asked(site) == {name: ["upload", "test", "confirm"] for name in NAMES}


async def test_a_bundle_that_is_damaged_meanwhile_is_sent_to_nobody(site):
    site.shelf.broken = RefusedError("digest", "node.img")
    one = site.add()
    async with site.life():
        await site.ends(one)
    assert site.state(one) is State.ROLLED_BACK
    assert site.ledger.updates(one)["n0"].reason == "digest"
    assert not any(node.asked for node in site.nodes.values())
