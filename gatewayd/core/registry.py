"""Who is out there: every node that was heard, what it is, how it is, and which of its events came.

Time is an argument everywhere: `now_ms` is monotonic and may start anywhere; `unix_s` is only kept for people.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import assert_never

from gatewayd.core.liveness import is_up, patience_ms
from gatewayd.core.types import Event, Info, Message, NodeState, State, Vitals

DEFAULT_VITALS_INTERVAL_S = 60
GAP_GRACE_MS = 30_000  # a gap that nobody fills for so long is a loss
_WINDOW = 1024  # seqs remembered behind the newest
_MASK = (1 << _WINDOW) - 1
_SESSIONS = 8  # remembered for each node: events may wait in flash over a few reboots
_SKEW_FROM_MS = 600_000  # before, a report that came late looks like a clock that runs slow


class Seen(Enum):
    """What an observation was."""

    NEW = auto()
    DUPLICATE = auto()
    STALE = auto()  # the will of a connection that a newer birth has replaced, or an old word of who is here on another transport
    FULL = auto()  # one node more than the registry may hold


@dataclass(slots=True)
class Clock:
    """A session's clock against the gateway's, between its first report that was heard and its newest."""

    session: int
    first_ms: int  # of the gateway's clock
    offset_ms: int  # then: the gateway's clock minus the node's
    last_ms: int = 0
    drift_ms: int = 0  # by how much the offset is smaller now

    def observe(self, t_ms: int, now_ms: int) -> None:
        """A report came that was made at `t_ms` of the node's clock."""
        self.last_ms, self.drift_ms = now_ms, self.offset_ms - (now_ms - t_ms)

    @property
    def skew(self) -> float | None:
        """How much faster than the gateway's it runs: 0.01 gains a second in 100; None before that can be told."""
        elapsed_ms = self.last_ms - self.first_ms
        return self.drift_ms / elapsed_ms if elapsed_ms >= _SKEW_FROM_MS else None


@dataclass(slots=True)
class Sequence:
    """The seqs of one session: the newest, and two bitmaps of those behind it (bit n stands for `newest - n`)."""

    newest: int
    seen: int = 1
    missing: int = 0  # skipped, and not yet given up
    missing_since_ms: int = 0
    lost: int = 0  # given up, not yet collected

    def observe(self, seq: int, now_ms: int) -> bool:
        """Whether `seq` is new. One older than the window is called new: the store knows better."""
        ahead = seq - self.newest
        if ahead > 0:
            self._advance(ahead, now_ms)
            return True
        if -ahead >= _WINDOW:
            return True
        bit = 1 << -ahead
        if self.seen & bit:
            return False
        self.seen |= bit
        self.missing &= ~bit
        return True

    def _advance(self, ahead: int, now_ms: int) -> None:
        skipped = ahead - 1
        kept = min(skipped, _WINDOW - 1)
        self.newest += ahead
        if ahead < _WINDOW:
            self.seen = (self.seen << ahead | 1) & _MASK
            self.missing <<= ahead
            self.lost += (self.missing >> _WINDOW).bit_count()
        else:
            self.seen = 1
            self.lost += self.missing.bit_count()
            self.missing = 0
        if skipped:
            self.lost += skipped - kept
            self.missing |= ((1 << kept) - 1) << 1
            self.missing_since_ms = now_ms
        self.missing &= _MASK

    def give_up(self, now_ms: int) -> int:
        """How many more are lost for good by now."""
        if self.missing and now_ms - self.missing_since_ms >= GAP_GRACE_MS:
            self.lost += self.missing.bit_count()
            self.missing = 0
        lost, self.lost = self.lost, 0
        return lost


@dataclass(slots=True)
class Link:
    """A node on one transport: a will, or silence, speaks for the link that it came over, and for no other."""

    heard_ms: int
    state: NodeState = NodeState.INIT
    session: int | None = None  # of the newest birth on it


@dataclass(slots=True)
class Node:
    """One node as the gateway knows it."""

    id: str
    known: bool = False  # policy has looked at it
    enrolled: bool = False
    session: int | None = None
    info: Info | None = None
    vitals: Vitals | None = None
    links: dict[str, Link] = field(default_factory=dict)  # by transport
    route: str = ""  # the transport over which it is spoken to
    heard_unix_s: float = 0.0
    clock: Clock | None = None
    sequences: dict[int, Sequence] = field(default_factory=dict)
    messages: int = 0
    lost: int = 0
    duplicates: int = 0
    reboots: int = 0

    @property
    def state(self) -> NodeState:
        """Its newest word, wherever it was heard; lost is who is lost everywhere."""
        return max(self.links.values(), key=_word, default=_NOWHERE).state

    @property
    def heard_ms(self) -> int:
        """When it was last heard."""
        return max((link.heard_ms for link in self.links.values()), default=0)

    def up(self, now_ms: int) -> bool:
        """Whether it is there now."""
        return any(self.up_on(transport, now_ms) for transport in self.links)

    def up_on(self, transport: str, now_ms: int) -> bool:
        """Whether it is there now on that transport."""
        link = self.links.get(transport, _NOWHERE)
        return is_up(link.state, now_ms - link.heard_ms, self._interval_s())

    def asleep(self, now_ms: int) -> bool:
        """Whether it sleeps, as it said it would, and is not overdue."""
        return self.state is NodeState.SLEEPING and now_ms - self.heard_ms <= patience_ms(self._interval_s())

    def _interval_s(self) -> int:
        return self.info.vitals_interval_s if self.info else DEFAULT_VITALS_INTERVAL_S

    def transport(self) -> str:
        """Where it was heard last; empty where it never was."""
        return max(self.links, key=lambda name: _word(self.links[name]), default="")


_NOWHERE = Link(0, NodeState.LOST)


def _word(link: Link) -> tuple[bool, int]:
    """By this the newest word is chosen: a link that is lost has none."""
    return link.state is not NodeState.LOST, link.heard_ms


def _is_will(message: Message) -> bool:
    return isinstance(message, State) and message.state is NodeState.LOST  # no node says that of itself


def _stale(node: Node, link: Link, message: Message, retained: bool) -> bool:
    if _is_will(message):
        return link.session not in (None, message.session)
    others = (other for other in node.links.values() if other is not link and other.state is not NodeState.LOST)
    return retained and any(other.session is not None for other in others)


class Registry:
    """A bounded table of nodes."""

    def __init__(self, max_nodes: int) -> None:
        self._nodes: dict[str, Node] = {}
        self._max_nodes = max_nodes
        self._gaps: set[str] = set()  # nodes with an open gap

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def get(self, node: str) -> Node | None:
        """The node, if it was ever heard."""
        return self._nodes.get(node)

    def restore(self, node: Node, keys: Iterable[tuple[int, int]]) -> None:
        """Take a node from the store with the (session, seq) of its newest events, so that a redelivery is recognised."""
        self._nodes[node.id] = node
        for session, seq in sorted(keys):
            sequence = node.sequences.get(session)
            if sequence is None:
                node.sequences[session] = Sequence(seq)
            else:
                sequence.observe(seq, 0)
                sequence.missing = sequence.lost = 0

    def forget(self, node: str) -> None:
        """Drop a node."""
        self._nodes.pop(node, None)
        self._gaps.discard(node)

    def observe(self, node_id: str, message: Message, transport: str, now_ms: int, unix_s: float, *, retained: bool = False) -> Seen:
        """Take in one message."""
        node = self._nodes.get(node_id)
        if node is None:
            if len(self._nodes) >= self._max_nodes:
                return Seen.FULL
            node = self._nodes[node_id] = Node(node_id, heard_unix_s=unix_s)
        link = node.links.get(transport)
        if link is None:
            link = node.links[transport] = Link(now_ms)
        if _stale(node, link, message, retained):
            return Seen.STALE
        node.messages += 1
        if not retained and not _is_will(message):
            link.heard_ms, node.heard_unix_s = now_ms, unix_s
        return self._apply(node, link, message, now_ms)

    def sighted(self, node_id: str, transport: str, now_ms: int, unix_s: float) -> None:
        """A sign of life without a message, as an advertisement is. A node that never said anything stays unknown."""
        node = self._nodes.get(node_id)
        if node is not None:
            link = node.links.setdefault(transport, Link(now_ms))
            link.heard_ms, link.state, node.heard_unix_s = now_ms, NodeState.READY, unix_s

    def lost(self, node_id: str, transport: str) -> None:
        """What a will says on MQTT: there it is silent for longer than it ever was."""
        node = self._nodes.get(node_id)
        if node is not None and transport in node.links:
            node.links[transport].state = NodeState.LOST

    def _apply(self, node: Node, link: Link, message: Message, now_ms: int) -> Seen:
        match message:
            case Event():
                return self._event(node, message, now_ms)
            case Vitals():
                node.vitals = message
                if node.clock is None or node.clock.session != message.session:
                    node.clock = Clock(message.session, now_ms, now_ms - message.t_ms)
                node.clock.observe(message.t_ms, now_ms)
                link.state = NodeState.READY  # whoever reports is there, whatever a retained will says
            case Info():
                node.info = message
                self._session(node, link, message.session)
            case State():
                link.state = message.state
                if message.state is not NodeState.LOST:
                    self._session(node, link, message.session)
            case _:
                assert_never(message)
        return Seen.NEW

    @staticmethod
    def _session(node: Node, link: Link, session: int) -> None:
        if node.session is not None and node.session != session:
            node.reboots += 1
            for other in node.links.values():  # a reset breaks them all
                if other is not link and other.session != session:
                    other.state = NodeState.LOST
        node.session = link.session = session

    def _event(self, node: Node, event: Event, now_ms: int) -> Seen:
        sequence = node.sequences.get(event.session)
        if sequence is None:
            if len(node.sequences) >= _SESSIONS:
                del node.sequences[next(iter(node.sequences))]
            node.sequences[event.session] = Sequence(event.seq)
            return Seen.NEW
        if not sequence.observe(event.seq, now_ms):
            node.duplicates += 1
            return Seen.DUPLICATE
        if sequence.missing or sequence.lost:
            self._gaps.add(node.id)
        return Seen.NEW

    def tick(self, now_ms: int) -> None:
        """Count as lost what nobody has delivered in time."""
        for node_id in tuple(self._gaps):
            node = self._nodes[node_id]
            node.lost += sum(sequence.give_up(now_ms) for sequence in node.sequences.values())
            if not any(sequence.missing for sequence in node.sequences.values()):
                self._gaps.discard(node_id)
