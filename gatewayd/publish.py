"""What the gateway tells nodes: verdicts and SMP requests, and over which of its radios each node hears it."""

import logging
import time
from collections.abc import Callable, Mapping

from gatewayd.core import wire
from gatewayd.core.registry import Node
from gatewayd.core.types import Record
from gatewayd.errors import TransportError
from gatewayd.journal import Kind
from gatewayd.ports import Transport

_log = logging.getLogger(__name__)


class NodePublisher:
    """A Publisher over the gateway's transports, the preferred one first. `changed` is called when a node hears on another than before."""

    def __init__(self, transports: Mapping[str, Transport], changed: Callable[[], object] = lambda: None) -> None:
        self._transports = transports
        self._changed = changed

    def route(self, node: Node) -> str:
        """The first transport that works now; where none does, that on which the node was heard last: a broker may keep what comes."""
        route = next((name for name in self._transports if self.reaches(node, name)), node.transport())
        if node.route not in ("", route):
            self._changed()
            _log.info("%s: over %s, no more over %s", node.id, route, node.route, extra=Kind.NODE_ROUTE(NODE=node.id, TRANSPORT=route))
        node.route = route
        return route

    def reaches(self, node: Node, transport: str) -> bool:
        """Whether that transport works, and the node is there."""
        carrier = self._transports.get(transport)
        return carrier is not None and carrier.reaches(node.id) and node.up_on(transport, time.monotonic_ns() // 1_000_000)

    def verdict(self, node: Node, record: Record) -> None:
        """Send the record's verdict to its node. Raises TransportError."""
        if record.verdict is not None:
            self._send(node, self.route(node), "verdict", wire.encode(record.verdict))

    def smp(self, node: Node, transport: str, frame: bytes) -> None:
        """Send an SMP request over that transport. Raises TransportError."""
        self._send(node, transport, "smp", frame)

    def _send(self, node: Node, transport: str, tail: str, payload: bytes) -> None:
        carrier = self._transports.get(transport)
        if carrier is None:
            raise TransportError(f"{node.id}: its transport {transport!r} is not running")
        carrier.send(node.id, tail, payload)
