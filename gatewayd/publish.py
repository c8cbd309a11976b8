"""What the gateway tells nodes: verdicts and SMP requests, over the radio on which each was heard last."""

from collections.abc import Mapping

from gatewayd.core import wire
from gatewayd.core.registry import Node
from gatewayd.core.types import Record
from gatewayd.errors import TransportError
from gatewayd.ports import Transport


class NodePublisher:
    """A Publisher over the gateway's transports."""

    def __init__(self, transports: Mapping[str, Transport]) -> None:
        self._transports = transports

    def verdict(self, node: Node, record: Record) -> None:
        """Send the record's verdict to its node. Raises TransportError."""
        if record.verdict is not None:
            self._send(node, "verdict", wire.encode(record.verdict))

    def smp(self, node: Node, frame: bytes) -> None:
        """Send an SMP request. Raises TransportError."""
        self._send(node, "smp", frame)

    def _send(self, node: Node, tail: str, payload: bytes) -> None:
        transport = self._transports.get(node.transport())
        if transport is None:
            raise TransportError(f"{node.id}: its transport {node.transport()!r} is not running")
        transport.send(node.id, tail, payload)
