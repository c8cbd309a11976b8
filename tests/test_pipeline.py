"""pipeline: what is acknowledged, answered and kept, in which order, when all goes well and when it does not."""

import asyncio

import pytest

from gatewayd import pipeline as module
from gatewayd.core import cascade, wire
from gatewayd.core.escalation import Escalations
from gatewayd.core.listening import Listening
from gatewayd.core.registry import Registry
from gatewayd.core.types import (
    Basis,
    CascadeVitals,
    Crash,
    Event,
    Frame,
    Info,
    NodeState,
    Opinion,
    Reason,
    State,
    Vitals,
    Window,
    WindowKind,
)
from gatewayd.errors import StoreError, TransportError, WorkerCrashedError, WorkerTimeoutError
from gatewayd.metrics import Metrics
from gatewayd.pipeline import Pipeline
from gatewayd.ports import Judge

CASCADE = cascade.parse(
    {
        "name": "wakeword",
        "version": "1",
        "node": {
            "model": "node.tflite",
            "arena_bytes": 1,
            "front_end": {"kind": "audio", "rate_hz": 16000, "window": 30, "step": 10, "channels": 40, "low_hz": 125, "high_hz": 7500},
            "decision": {"rule": "average", "cutoff": 0.2, "window": 5, "labels": ["word"], "clip_ms": 1000},
        },
        "gateway": {"kind": "wakeword", "deadline_s": 1.0},
        "policy": {"action": "listen", "alone_score": 0.8},
    },
    "test",
)
WINDOW = Window(WindowKind.PCM16, 16000, 1, (2,), b"\0\0\0\0")
INFO = Info(1, "host", "board", "1.0", "power", b"\1", 1_000, ("audio",), 60, ())
WORK = CascadeVitals("wakeword", b"12345678", 10, 1_000, 500, 10, 0.1, 0.01, (1,) * 8)
VITALS = Vitals(1, 5, 100_000, 0, 0, (WORK,))
OPINION = Opinion(accepted=True, label="word", score=0.9, model="fake")


class FakeStore:
    """Commits when told to."""

    def __init__(self):
        self.waiting = []
        self.keys = set()
        self.records = []
        self.broken = False
        self.nodes = {}

    def submit(self, record, done):
        self.waiting.append((record, done))

    def commit(self):
        waiting, self.waiting = self.waiting, []
        for record, done in waiting:
            key = (record.node, record.event.session, record.event.seq)
            if self.broken:
                done(StoreError("disk full"))
            elif key in self.keys:
                done(False)
            else:
                self.keys.add(key)
                self.records.append(record)
                done(True)

    def save_nodes(self, nodes):
        self.nodes.update({node.id: node.enrolled for node in nodes})


class FakeEscalator:
    def __init__(self, answer=OPINION):
        self.answer = answer
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    async def classify(self, event, deadline_s):
        self.asked += 1
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakePublisher:
    def __init__(self):
        self.verdicts = []
        self.broken = False

    def verdict(self, node, record):
        if self.broken:
            raise TransportError("down")
        self.verdicts.append((node.id, record.verdict))


class Site:
    """A pipeline with its surroundings."""

    def __init__(self, answer=OPINION, capacity=8, per_node=8, enrolls=lambda _: True):
        self.store, self.publisher, self.escalator = FakeStore(), FakePublisher(), FakeEscalator(answer)
        self.metrics, self.registry = Metrics(), Registry(100)
        self.acknowledged = []
        self.judges = {"wakeword": Judge(CASCADE, self.escalator)}
        self.listening = Listening()
        self.managed, self.changed = [], []
        self.pipeline = Pipeline(
            registry=self.registry,
            judges=self.judges,
            store=self.store,
            publisher=self.publisher,
            metrics=self.metrics,
            enrolls=enrolls,
            escalations=Escalations(capacity, per_node),
            listening=self.listening,
            managed=lambda frame: self.managed.append((frame.node, frame.payload)),
            changed=self.changed.append,
        )

    def hear(self, seq, node="n1", tail="event", payload=None, on="fake", **fields):
        event = Event(seq, 1, "wakeword", b"12345678", 0.5, 0, 0, Reason.TRIGGER, WINDOW)._replace(**fields)
        payload = wire.encode(event) if payload is None else payload
        self.pipeline.take([Frame(node, tail, payload, on, lambda: self.acknowledged.append(seq))])

    def say(self, message, node="n1", retained=False):
        """`message` is bytes of SMP, or one of nodelink's."""
        tail = "smp" if isinstance(message, bytes) else type(message).__name__.lower()
        payload = message if isinstance(message, bytes) else wire.encode(message)
        self.pipeline.take([Frame(node, tail, payload, "fake", lambda: self.acknowledged.append(tail), retained)])

    def count(self, name):
        for line in self.metrics.exposition([], 0).decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no series {name}")


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nothing_is_acknowledged_or_answered_before_the_commit():
    site = Site()
    site.hear(0)
    await settle()
    assert (site.acknowledged, site.publisher.verdicts) == ([], [])
    site.store.commit()
    assert site.acknowledged == [0]
    ((node, verdict),) = site.publisher.verdicts
    assert (node, verdict.accepted, verdict.action, verdict.basis) == ("n1", True, "listen", Basis.GATEWAY)
    assert site.store.records[0].opinion == OPINION


async def test_a_redelivery_waits_for_the_same_commit_and_is_judged_once():
    site = Site()
    site.escalator.gate.clear()
    site.hear(0)
    site.hear(0)
    await settle()
    site.escalator.gate.set()
    await settle()
    site.store.commit()
    assert site.acknowledged == [0, 0]
    assert site.escalator.asked == len(site.publisher.verdicts) == 1
    site.hear(0)  # once more, long after
    assert site.acknowledged == [0, 0, 0]
    assert site.count("gatewayd_duplicates_total") == 2


async def test_an_event_that_comes_over_both_radios_is_one_and_both_hear_that_it_is_stored():
    site = Site()
    for on in ("mqtt", "ble"):
        site.hear(0, on=on)
    await settle()
    assert site.acknowledged == []
    site.store.commit()
    site.hear(0, on="ble")
    assert site.acknowledged == [0, 0, 0]
    assert len(site.store.records) == len(site.publisher.verdicts) == site.escalator.asked == 1
    assert site.count("gatewayd_duplicates_total") == 2


async def test_what_an_earlier_life_stored_is_acknowledged_and_not_answered_again():
    site = Site()
    site.store.keys.add(("n1", 1, 0))
    site.hear(0)
    await settle()
    site.store.commit()
    assert (site.acknowledged, site.publisher.verdicts, site.store.records) == ([0], [], [])


@pytest.mark.parametrize(("error", "basis"), [(WorkerTimeoutError("slow"), Basis.TIMEOUT), (WorkerCrashedError("gone"), Basis.FAILED)])
@pytest.mark.parametrize(("score", "accepted"), [(0.79, False), (0.81, True)])
async def test_without_an_opinion_only_a_strong_suspicion_is_believed(error, basis, score, accepted):
    site = Site(answer=error)
    site.hear(0, score=score)
    await settle()
    site.store.commit()
    ((_, verdict),) = site.publisher.verdicts
    assert (verdict.basis, verdict.accepted, verdict.action) == (basis, accepted, "listen" if accepted else "")


@pytest.mark.parametrize(("capacity", "per_node"), [(2, 9), (9, 2)])
async def test_beyond_the_bound_the_nodes_own_opinion_stands(capacity, per_node):
    site = Site(capacity=capacity, per_node=per_node)
    site.escalator.gate.clear()
    for seq in range(5):
        site.hear(seq)
    await settle()
    site.store.commit()
    assert [verdict.basis for _, verdict in site.publisher.verdicts] == [Basis.OVERLOAD] * 3
    site.escalator.gate.set()
    await settle()
    site.store.commit()
    assert sorted(site.acknowledged) == [0, 1, 2, 3, 4]
    site.hear(5)  # there is room again
    await settle()
    assert site.escalator.asked == 3


async def test_a_node_that_is_not_enrolled_is_recorded_and_no_more():
    site = Site(enrolls=lambda node: node == "n2")
    site.hear(0)
    site.hear(1, cascade="unheard-of", node="n2")
    site.store.commit()
    assert [record.verdict for record in site.store.records] == [None, None]
    assert (site.acknowledged, site.publisher.verdicts, site.escalator.asked) == ([0, 1], [], 0)


async def test_an_audit_is_measured_and_never_acted_upon():
    site = Site()
    site.hear(0, reason=Reason.AUDIT)
    await settle()
    site.store.commit()
    assert site.store.records[0].verdict.action == ""
    assert site.publisher.verdicts == []
    assert site.count('gatewayd_cascade_audit_disagreed_total{cascade="wakeword"}') == 1


async def test_what_the_disk_refuses_is_kept_and_offered_again(monkeypatch):
    monkeypatch.setattr(module, "TICK_S", 0.01)
    site = Site()
    site.store.broken = True
    site.hear(0)
    await settle()
    site.store.commit()
    assert site.acknowledged == []
    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(site.pipeline.tick())
        while not site.store.waiting:
            await asyncio.sleep(0.01)
        site.store.broken = False
        site.store.commit()
        ticking.cancel()
    assert site.acknowledged == [0]
    assert len(site.publisher.verdicts) == 1


async def test_a_verdict_without_a_link_is_counted():
    site = Site()
    site.publisher.broken = True
    site.hear(0)
    await settle()
    site.store.commit()
    assert site.acknowledged == [0]
    assert site.count("gatewayd_verdicts_unsent_total") == 1


@pytest.mark.parametrize(
    ("node", "tail", "payload", "reason"),
    [
        ("n1", "event", b"\x80", "schema"),
        ("n1", "event", b"", "cbor"),
        ("n1", "nonsense", b"\xa0", "schema"),
        ("n1", "event", b"\0" * 100_000, "oversized"),
        ("BAD id", "event", None, "node_id"),
    ],
)
async def test_garbage_is_refused_counted_and_acknowledged(node, tail, payload, reason):
    site = Site()
    site.hear(7, node=node, tail=tail, payload=payload)
    assert site.acknowledged == [7]
    assert site.count(f'gatewayd_rejected_messages_total{{reason="{reason}"}}') == 1
    assert site.store.waiting == []


@pytest.mark.parametrize("tail", wire.RETAINED)
async def test_what_clears_a_retained_message_says_nothing(tail):
    site = Site()
    site.hear(7, tail=tail, payload=b"")
    assert site.acknowledged == [7]
    assert site.registry.get("n1") is None
    assert "gatewayd_rejected_messages_total{" not in site.metrics.exposition([], 0).decode()


async def test_drain_lets_escalations_end_and_gives_up_on_those_that_do_not():
    site = Site()
    site.escalator.gate.clear()
    site.hear(0)
    await settle()
    await site.pipeline.drain(0.01)
    await settle()
    assert site.store.waiting == []  # not decided, not acknowledged: the broker will deliver it again
    assert site.acknowledged == []
    assert site.store.nodes == {"n1": True}


async def test_a_judge_that_was_replaced_judges_what_was_admitted_before_by_its_own_policy():
    site = Site()
    site.escalator.gate.clear()
    site.hear(0)
    await settle()
    policy = CASCADE.policy.model_copy(update={"action": "look"})
    site.judges["wakeword"] = Judge(CASCADE.model_copy(update={"policy": policy}), FakeEscalator(OPINION._replace(model="new")))
    site.hear(1)
    await settle()
    site.escalator.gate.set()
    await settle()
    site.store.commit()
    judged = {record.event.seq: (record.opinion.model, record.verdict.action) for record in site.store.records}
    assert judged == {0: ("fake", "listen"), 1: ("new", "look")}


# ---- what manages nodes


async def test_smp_is_for_whoever_manages_the_node_and_comes_from_enrolled_ones_only():
    site = Site(enrolls=lambda node: node == "n1")
    site.say(b"early")  # never heard of
    for node in ("n1", "n2"):
        site.say(INFO, node)
        site.say(node.encode(), node)
    site.say(b"long ago", retained=True)
    site.say(b"", "BAD id")
    assert site.managed == [("n1", b"n1")]
    assert site.registry.get("n1").links["fake"].state is NodeState.READY  # it has answered
    assert site.acknowledged.count("smp") == 5
    assert site.count('gatewayd_rejected_messages_total{reason="not_enrolled"}') == 2
    assert site.count('gatewayd_rejected_messages_total{reason="node_id"}') == 1
    assert site.count("gatewayd_messages_total") == 3
    assert len(site.registry) == 2


async def test_who_says_what_it_is_or_where_it_is_in_its_life_has_changed():
    site = Site()
    site.say(INFO, retained=True)
    site.say(State(NodeState.READY, 1))
    site.say(State(NodeState.LOST, 0))  # the will of an older connection
    site.say(VITALS)
    site.hear(0)
    assert site.changed == ["n1", "n1"]
    site.say(State(NodeState.SLEEPING, 1), "n2")
    assert site.changed[2:] == ["n2"]


async def test_a_new_session_of_a_known_node_is_a_reset(caplog):
    site = Site(enrolls=lambda node: node == "n1")
    crashed = INFO._replace(session=2, reset_reason="fault", crash=Crash(0x2F3C, 0x2F11, 0x8200, 3_480))
    for node in ("n1", "stranger"):
        for info in (
            INFO,  # nobody knows what was before
            *(crashed, crashed),  # the second: something else has changed
            INFO._replace(session=3, reset_reason="watchdog"),
            INFO._replace(session=4, reset_reason="a word\nof its own"),
        ):
            site.say(info, node)
    for reason, count in (("fault", 1), ("watchdog", 1), ("other", 1), ("power-on", 0)):
        assert site.count(f'gatewayd_node_resets_total{{reason="{reason}"}}') == count
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "n1 is back after a crash ('fault'): pc 0x00002f3c, lr 0x00002f11, status 0x00008200, 3480 bytes of stack",
        "n1 is back after a crash ('watchdog'): no record of it",
    ]


async def test_time_listened_is_counted_for_nodes_that_are_judged():
    site = Site(enrolls=lambda node: node == "n1")
    for node in ("n1", "n2"):
        for n in range(3):
            site.say(VITALS._replace(t_ms=100_000 + 60_000 * n, cascades=(WORK._replace(invokes=10 + n),)), node)
    taken = site.listening.take()
    assert {(key.node, key.cascade, key.model) for key in taken} == {("n1", "wakeword", b"12345678")}
    assert sum(time.seconds for time in taken.values()) == pytest.approx(120)


async def test_time_listened_that_finds_no_room_is_counted():
    site = Site()
    site.listening._max_listeners = 0
    site.say(VITALS)
    site.say(VITALS._replace(t_ms=160_000, cascades=(WORK._replace(invokes=11),)))
    assert site.count("gatewayd_listening_dropped_total") == 1
