"""Tells Home Assistant of the nodes: a second connection with the broker, beside the path of a message.

Many times a second it looks at a part of the nodes and publishes what is new of them, so much in a second and no more: thousands that
change at once are told one after the other. What is retained there of nodes that are not enrolled any more is removed.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiomqtt
from paho.mqtt.subscribeoptions import SubscribeOptions

from gatewayd.config import HomeAssistant as Settings
from gatewayd.config import Mqtt
from gatewayd.core import homeassistant
from gatewayd.core.homeassistant import OFFLINE, ONLINE, Model, Names
from gatewayd.core.registry import Node, Registry
from gatewayd.core.rollout import Rollout
from gatewayd.core.types import Reason, Record
from gatewayd.core.update import Update
from gatewayd.errors import TransportError
from gatewayd.ports import Judge

TURN_S = 0.1
MOST_IN_A_TURN = 10  # messages
MOST_WAITING = 1_000  # events
_LOOKS_IN_A_TURN = 50  # at nodes, of which most are as they were
_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Told:
    """What Home Assistant knows of a node."""

    seen: tuple[object, ...] = ()  # of what it was made when it was looked at last
    action: str = ""  # the last one
    components: dict[str, str] = field(default_factory=dict)  # id -> platform, of all that it ever had


class HomeAssistant:
    """`event` is told what was decided; `run` publishes. `coming` says what an open rollout brings to a node of a cascade."""

    def __init__(
        self,
        *,
        settings: Settings,
        mqtt: Mqtt,
        gateway_id: str,
        registry: Registry,
        judges: Mapping[str, Judge],
        coming: Callable[[str, str], tuple[Rollout, Update] | None],
        dropped: Callable[[], object],
    ) -> None:
        self._mqtt = mqtt
        self._id = gateway_id
        self._registry = registry
        self._judges = judges
        self._coming = coming
        self._dropped = dropped
        self._names = Names(settings.prefix, gateway_id)
        self._hello = f"{settings.prefix}/status"
        self._nodes: dict[str, _Told] = {}
        self._events: deque[Record] = deque()
        self._sent: dict[str, int] = {}  # retained topic -> hash of what is there
        self._round: deque[str] = deque()  # nodes that are still to be looked at

    def event(self, record: Record) -> None:
        """An event was decided and is on disk. An audit's is no news: it was not the node's idea."""
        if record.verdict is None or record.event.reason is Reason.AUDIT:
            return
        if len(self._events) >= MOST_WAITING:
            self._events.popleft()
            self._dropped()
        self._events.append(record)

    async def run(self) -> None:
        """Connect and publish until cancelled. Raises TransportError."""
        try:
            async with self._client() as client:
                await client.subscribe([
                    (self._hello, SubscribeOptions(qos=1)),
                    (self._names.config("+"), SubscribeOptions(qos=1, noLocal=True)),
                ])  # fmt: skip
                listening = asyncio.create_task(self._listen(client), name="homeassistant-listen")
                try:
                    await self._publish(client, listening)
                finally:
                    listening.cancel()
                    with contextlib.suppress(aiomqtt.MqttError):
                        await client.publish(self._names.status, OFFLINE, qos=1, retain=True)
        except aiomqtt.MqttError as error:
            raise TransportError(f"Home Assistant's broker {self._mqtt.host}:{self._mqtt.port}: {error}") from error

    def _client(self) -> aiomqtt.Client:
        settings = self._mqtt
        return aiomqtt.Client(
            settings.host,
            settings.port,
            username=settings.username,
            password=settings.secret(),
            identifier=f"gatewayd-{self._id}-ha",
            protocol=aiomqtt.ProtocolVersion.V5,  # whose subscriptions need not hear what we say ourselves
            tls_params=aiomqtt.TLSParameters(ca_certs=str(settings.ca_file)) if settings.ca_file else None,
            keepalive=settings.keepalive_s,
            will=aiomqtt.Will(self._names.status, OFFLINE, 1, retain=True),
            timeout=_TIMEOUT_S,
        )

    # ---- in: Home Assistant's hello, and what an earlier life of this gateway announced

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            topic, payload = message.topic.value, message.payload
            if not isinstance(payload, bytes):
                continue
            if topic == self._hello:
                if payload == ONLINE:
                    self._tell_all_again()
            elif (node := self._names.node_of(topic)) is not None and payload:
                self._sent[topic] = hash(payload)
                self._nodes.setdefault(node, _Told()).components |= homeassistant.components(payload)

    def _tell_all_again(self) -> None:
        self._sent.clear()
        for told in self._nodes.values():
            told.seen = ()

    # ---- out: so much in a turn

    async def _publish(self, client: aiomqtt.Client, listening: asyncio.Task[None]) -> None:
        self._tell_all_again()
        await client.publish(self._names.status, ONLINE, qos=1, retain=True)
        while not listening.done():
            budget = MOST_IN_A_TURN
            while self._events and budget:
                budget -= await self._tell_event(client, self._events.popleft())
            if not self._round:
                self._round.extend({**self._nodes, **dict.fromkeys(node.id for node in self._registry)})
                budget -= await self._tell_gateway(client)
            looks = _LOOKS_IN_A_TURN
            while self._round and looks and budget > 0:
                budget -= await self._look(client, self._round.popleft())
                looks -= 1
            await asyncio.sleep(TURN_S)
        await listening  # says why it ended

    async def _say(self, client: aiomqtt.Client, topic: str, payload: bytes) -> int:
        """Retain `payload` where it is not there already. Returns how many messages that took."""
        if self._sent.get(topic) == hash(payload):
            return 0
        await client.publish(topic, payload, qos=1, retain=True)
        self._sent[topic] = hash(payload)
        return 1

    async def _tell_gateway(self, client: aiomqtt.Client) -> int:
        names, now_ms = self._names, _now_ms()
        enrolled = [node for node in self._registry if node.enrolled]
        up = sum(node.up(now_ms) for node in enrolled)
        said = await self._say(client, names.config(names.gateway), homeassistant.gateway_config(names, self._id))
        return said + await self._say(client, names.state, homeassistant.gateway_state(up, len(enrolled)))

    async def _tell_event(self, client: aiomqtt.Client, record: Record) -> int:
        judge = self._judges.get(record.event.cascade)
        if judge is None or record.verdict is None:
            return 0
        if record.verdict.action:
            self._nodes.setdefault(record.node, _Told()).action = record.verdict.action
        topic = self._names.event(record.node, record.event.cascade)
        await client.publish(topic, homeassistant.event(record, judge.cascade.policy), qos=1)
        return 1

    async def _look(self, client: aiomqtt.Client, node_id: str) -> int:
        """Tell what is new of a node. Nothing is made of one that is as it was."""
        node = self._registry.get(node_id)
        if node is None or not node.enrolled:
            return await self._remove(client, node_id)
        names, now_ms = self._names, _now_ms()
        announced = names.config(names.device(node_id)) in self._sent
        if node.vitals is None and (node.up(now_ms) or not announced):
            return 0  # it has not reported since this gateway began: what it has is not known yet, and must not seem gone
        told = self._nodes.setdefault(node_id, _Told())
        models = self._models(node)
        seen = (node.info, node.vitals, node.up(now_ms), node.asleep(now_ms), told.action, models)
        if told.seen == seen:
            return 0
        said = 0
        if node.vitals is not None:
            policies = {name: self._judges[name].cascade.policy for name in homeassistant.cascades_of(node) if name in self._judges}
            config, told.components = homeassistant.node_config(names, node, policies, told.components)
            said = await self._say(client, names.config(names.device(node_id)), config)
        said += await self._say(client, names.node_state(node_id), homeassistant.node_state(node, models, told.action, now_ms))
        told.seen = seen
        return said

    def _models(self, node: Node) -> dict[str, Model]:
        found = {}
        for cascade in homeassistant.cascades_of(node):
            current = self._judges[cascade].cascade.version if cascade in self._judges else ""
            found[cascade] = homeassistant.model(current, self._coming(node.id, cascade))
        return found

    async def _remove(self, client: aiomqtt.Client, node_id: str) -> int:
        """Nobody's node any more: an empty message takes a device out."""
        if self._nodes.pop(node_id, None) is None:
            return 0
        for topic in (self._names.config(self._names.device(node_id)), self._names.node_state(node_id)):
            await client.publish(topic, b"", qos=1, retain=True)
            self._sent.pop(topic, None)
        return 2


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
