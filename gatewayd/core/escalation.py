"""Whether an event goes to the larger model."""

from collections import Counter
from enum import Enum, auto

from gatewayd.core.cascade import Cascade
from gatewayd.core.registry import Node
from gatewayd.core.types import Event


class Admission(Enum):
    """Where an event goes."""

    RECORD = auto()  # kept, and no more: its node is not enrolled or its cascade is unknown here
    DECIDE = auto()  # no larger model can say anything about it
    ESCALATE = auto()
    OVERLOAD = auto()  # a larger model should have looked at it, but too much is waiting


class Escalations:
    """What waits for a larger model, bounded as a whole and for each node, so that one node cannot starve the others."""

    def __init__(self, capacity: int, capacity_per_node: int) -> None:
        self._capacity = capacity
        self._capacity_per_node = capacity_per_node
        self._waiting: Counter[str] = Counter()
        self.depth = 0

    def admit(self, node: Node, event: Event, cascade: Cascade | None) -> Admission:
        """Decide, and take a place where the answer is ESCALATE: `release` gives it back."""
        if cascade is None or not node.enrolled:
            return Admission.RECORD
        if cascade.gateway is None or event.window is None:
            return Admission.DECIDE
        if self.depth >= self._capacity or self._waiting[node.id] >= self._capacity_per_node:
            return Admission.OVERLOAD
        self._waiting[node.id] += 1
        self.depth += 1
        return Admission.ESCALATE

    def release(self, node_id: str) -> None:
        """An escalation is over."""
        self.depth -= 1
        self._waiting[node_id] -= 1
        if not self._waiting[node_id]:
            del self._waiting[node_id]
