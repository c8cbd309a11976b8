"""publish: over which transport a node is spoken to."""

import time

import pytest

from gatewayd.core.registry import Registry
from gatewayd.core.types import NodeState, State
from gatewayd.errors import TransportError
from gatewayd.publish import NodePublisher


class Radio:
    def __init__(self):
        self.works, self.sent = True, []

    def reaches(self, node):
        return self.works

    def send(self, node, tail, payload):
        if not self.works:
            raise TransportError("no link")
        self.sent.append((node, tail, payload))


@pytest.fixture
def site():
    return Site()


class Site:
    """MQTT is preferred; the node is on both."""

    def __init__(self):
        self.mqtt, self.ble, self.changes = Radio(), Radio(), 0
        self.publisher = NodePublisher({"mqtt": self.mqtt, "ble": self.ble}, self.count)
        self.registry = Registry(10)
        for transport in ("mqtt", "ble"):
            self.hear(transport)
        self.node = self.registry.get("n1")

    def count(self):
        self.changes += 1

    def hear(self, transport, state=NodeState.READY):
        self.registry.observe("n1", State(state, 1), transport, time.monotonic_ns() // 1_000_000, 0.0)

    @property
    def route(self):
        return self.publisher.route(self.node)


def test_the_preferred_one_while_it_works_and_then_the_other(site):
    assert site.route == "mqtt"
    site.mqtt.works = False  # the broker
    assert site.route == "ble"
    site.mqtt.works = True
    assert site.route == "mqtt"
    site.hear("mqtt", NodeState.LOST)  # the node's own link
    assert site.route == "ble"
    site.hear("mqtt")
    assert site.route == "mqtt"
    assert site.changes == 4


def test_where_none_works_it_is_that_on_which_it_was_heard_last(site):
    site.ble.works = False
    site.registry.lost("n1", "ble")
    site.hear("mqtt", NodeState.SLEEPING)
    assert site.route == "mqtt"
    site.publisher.smp(site.node, site.route, b"asleep")  # the broker keeps it
    assert site.mqtt.sent == [("n1", "smp", b"asleep")]


def test_what_is_begun_stays_on_its_transport(site):
    site.publisher.smp(site.node, "ble", b"frame")
    assert (site.ble.sent, site.mqtt.sent) == ([("n1", "smp", b"frame")], [])
    site.ble.works = False
    assert not site.publisher.reaches(site.node, "ble")
    with pytest.raises(TransportError, match="no link"):
        site.publisher.smp(site.node, "ble", b"frame")


def test_a_transport_that_is_not_running(site):
    site.registry.sighted("n1", "lora", 10**15, 0.0)
    assert not site.publisher.reaches(site.node, "lora")
    with pytest.raises(TransportError, match="lora"):
        site.publisher.smp(site.node, "lora", b"frame")
