"""Who is in the air: which address is which node, who has gone silent, and who gets a connection next. No I/O; time is an argument.

An address that nobody knows is a *stranger* until its `identity` was read once; from then on it is a node's. Another address that claims
a node which is there is refused. Strangers are many where somebody floods the air, so they are bounded, come last, and seldom.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from gatewayd.core.beacon import Beacon, ScanClock, Sightings, crc_of, parse
from gatewayd.core.pairing import Trust
from gatewayd.errors import DecodeError

REASONS = ("beacon", "unpaired", "unprovisioned", "impostor", "identity", "crowded")  # of DecodeError, a metric's label values
MAX_PEERS = 1_000
MAX_STRANGERS = 1_024
MAX_NEWCOMERS = 64
FRESH_MS = 20_000  # after this a device may be gone from its stack
_CHOICE_MS = 3_000  # how long it is listened for others before a node that is nobody yet is taken for the only one
_SETTLED_MS = 500  # between a stranger's first and last advertisement: one that is heard once only is not worth a connection
_MOST_FAILURES = 3
_FIRST_PAUSE_MS, _LONGEST_PAUSE_MS = 1_000, 60_000
_STRANGER_PAUSE_MS, _LONGEST_STRANGER_PAUSE_MS = 5_000, 600_000
_STRANGERS_SHARE = 4  # strangers may waste one part of so many of an adapter's time for connecting


class Urgency(IntEnum):
    """What a connection is wanted for, the most urgent first."""

    PAIRING = 0
    VERDICT = 1
    TELEMETRY = 2
    UPDATE = 3
    STRANGER = 4
    IDLE = 5


@dataclass(slots=True)
class Heard:
    """How one adapter hears somebody. `device` is its stack's handle."""

    device: Any
    rssi: int
    at_ms: int
    sightings: Sightings
    times: int = 1


@dataclass(slots=True, eq=False)
class Peer:
    """Somebody in the air: a node, or a stranger."""

    address: str
    id: str = ""  # a stranger's is not known
    pairing: str = ""  # the node that it says it is, and with which the operator wants to pair
    beacon: Beacon | None = None
    session: int | None = None  # as the node said itself
    heard: dict[str, Heard] = field(default_factory=dict)  # by adapter
    first_ms: int = 0
    busy: bool = False  # connected, or about to be
    lost: bool = False
    failures: int = 0  # in a row
    not_before_ms: int = 0
    verdicts: deque[bytes] = field(default_factory=deque)
    requests: deque[tuple[int, bytes]] = field(default_factory=deque)  # SMP, and since when

    @property
    def nobody(self) -> bool:
        """Whether it is not provisioned."""
        return self.beacon is not None and not self.beacon.provisioned

    @property
    def informed(self) -> bool:
        """Whether it has told what it is, since it began as it is now."""
        return self.session is not None and (self.beacon is None or self.session & 0xFF == self.beacon.session_low)

    @property
    def failing(self) -> bool:
        """Whether it cannot be spoken to, although it may be heard."""
        return self.failures >= _MOST_FAILURES

    @property
    def urgency(self) -> Urgency | None:
        """What it needs a connection for, if it does."""
        if self.pairing:
            return Urgency.PAIRING
        if not self.id:
            return Urgency.STRANGER
        if self.verdicts:
            return Urgency.VERDICT
        if not self.informed or (self.beacon is not None and self.beacon.wants):
            return Urgency.TELEMETRY
        return Urgency.UPDATE if self.requests else None


class Neighbours:
    """Everybody who was heard, by any adapter, and whom `trust` admits."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self.clocks: dict[str, ScanClock] = {}
        self._nodes: dict[str, Peer] = {}  # by id
        self._addresses: dict[str, Peer] = {}  # of nodes
        self._claims: dict[int, Peer] = {}  # nodes by the CRC of their ids
        self._strangers: OrderedDict[str, Peer] = OrderedDict()  # by address; heard last comes last
        self._newcomers: OrderedDict[str, Peer] = OrderedDict()  # not provisioned, while the operator wants one; as strangers
        self._no_strangers_before_ms: dict[str, int] = {}  # by adapter

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._nodes.values())

    def get(self, node: str) -> Peer | None:
        """The node, if it is known here."""
        return self._nodes.get(node)

    # ---- adapters come and go

    def open(self, adapter: str, now_ms: int) -> None:
        """Its scanner begins."""
        self.clocks.setdefault(adapter, ScanClock()).start(now_ms)

    def pause(self, adapter: str, now_ms: int) -> None:
        """Its scanner is off, or found dead."""
        self.clocks[adapter].stop(now_ms)

    def close(self, adapter: str) -> None:
        """The adapter is gone: nobody is heard there any more."""
        for peer in (*self._nodes.values(), *self._strangers.values(), *self._newcomers.values()):
            peer.heard.pop(adapter, None)

    # ---- who is who

    def hear(self, adapter: str, address: str, device: Any, rssi: int, data: bytes, now_ms: int) -> Peer | None:
        """Take an advertisement's service data; whose it is, None where nobody wants it. Raises DecodeError."""
        beacon = parse(data)
        if not beacon.provisioned:
            return self._newcomer(adapter, address, device, rssi, beacon, now_ms)
        self._newcomers.pop(address, None)
        pairing = self._trust.admit(address, beacon.crc)
        peer = self._addresses.get(address)
        if peer is None or crc_of(peer.id) != beacon.crc:
            claimed = self._claims.get(beacon.crc)
            if claimed is not None and self.present(claimed, now_ms):
                raise DecodeError("impostor", f"{address} says it is {claimed.id}, which is here as {claimed.address}")
            peer = self._known(self._strangers, MAX_STRANGERS, address, now_ms)
        self._sight(peer, adapter, device, rssi, now_ms)
        peer.beacon, peer.lost, peer.pairing = beacon, False, pairing
        return peer

    def _newcomer(self, adapter: str, address: str, device: Any, rssi: int, beacon: Beacon, now_ms: int) -> Peer | None:
        order = self._trust.newcomer(address)
        if order is None:
            return None
        peer = self._known(self._newcomers, MAX_NEWCOMERS, address, now_ms)
        if not peer.busy and not self._fresh(peer, now_ms):
            peer.first_ms = now_ms
        self._sight(peer, adapter, device, rssi, now_ms)
        peer.beacon = beacon
        peer.pairing = order.node if now_ms - peer.first_ms >= _CHOICE_MS else ""
        return peer

    @staticmethod
    def _fresh(peer: Peer, now_ms: int) -> bool:
        return any(now_ms - heard.at_ms < FRESH_MS for heard in peer.heard.values())

    def obstacle(self, newcomer: Peer, now_ms: int) -> str:
        """Why it cannot become the node that it was taken for, if so."""
        node, order = self._nodes.get(newcomer.pairing), self._trust.newcomer(newcomer.address)
        if node is not None and node.address != newcomer.address and self.present(node, now_ms):
            return f"{node.id} is here already, as {node.address}"
        if order is None or order.node != newcomer.pairing:
            return "it is not wanted any more"
        several = [peer for peer in self._newcomers.values() if self._fresh(peer, now_ms)]
        if not order.address and len(several) > 1:
            heard = (f"{peer.address} ({max(one.rssi for one in peer.heard.values())} dBm)" for peer in several)
            return f"several wait to be provisioned, and it must be said which: {', '.join(sorted(heard))}"
        return ""

    def attached(self, adapter: str, address: str, device: Any, now_ms: int) -> bool:
        """Somebody is connected: where no visit knows of it, it is asked what it is, since it does not advertise. Whether it was not asked
        a moment ago.
        """
        known = self._addresses.get(address)
        peer = known or self._strangers.get(address)
        if address in self._newcomers or (peer and peer.busy):
            return False
        if known:
            peer, known.session, known.beacon, known.lost = known, None, None, False
        else:
            peer = self._known(self._strangers, MAX_STRANGERS, address, now_ms)
            peer.first_ms = now_ms - _SETTLED_MS
        asked = self._fresh(peer, now_ms)
        self._sight(peer, adapter, device, 0, now_ms)
        return not asked

    def identify(self, peer: Peer, node: str, now_ms: int) -> Peer:
        """A stranger says that it is `node`; the peer that it is from now on. Raises DecodeError."""
        if peer.beacon is not None and peer.beacon.crc != crc_of(node):
            raise DecodeError("identity", f"{peer.address} advertises another id than {node}")
        known = self._nodes.get(node)
        if known is None:
            self._make_room(now_ms)
            known = Peer(peer.address, node)
        elif known.address != peer.address and self.present(known, now_ms):
            raise DecodeError("impostor", f"{peer.address} says it is {node}, which is here as {known.address}")
        before = self._addresses.pop(peer.address, None)
        if before is not None and before is not known:
            self._forget(before)
        self._addresses.pop(known.address, None)
        self._strangers.pop(peer.address, None)
        known.address, known.heard, known.beacon = peer.address, peer.heard, peer.beacon
        known.busy, known.failures, known.not_before_ms, known.lost = peer.busy, 0, 0, False
        self._nodes[node] = self._addresses[known.address] = self._claims[crc_of(node)] = known
        return known

    def present(self, peer: Peer, now_ms: int) -> bool:
        """Whether it is here: connected, or not silent for too long."""
        return peer.busy or any(not heard.sightings.silent(self.clocks[name].read(now_ms)) for name, heard in peer.heard.items())

    def _sight(self, peer: Peer, adapter: str, device: Any, rssi: int, now_ms: int) -> None:
        clock_ms = self.clocks[adapter].read(now_ms)
        heard = peer.heard.get(adapter)
        if heard is None:
            peer.heard[adapter] = Heard(device, rssi, now_ms, Sightings(clock_ms))
        else:
            heard.device, heard.rssi, heard.at_ms, heard.times = device, rssi, now_ms, heard.times + 1
            heard.sightings.hear(clock_ms)

    @staticmethod
    def _known(peers: OrderedDict[str, Peer], most: int, address: str, now_ms: int) -> Peer:
        peer = peers.get(address)
        if peer is None:
            while len(peers) >= most:
                peers.popitem(last=False)
            peer = peers[address] = Peer(address, first_ms=now_ms)
        peers.move_to_end(address)
        return peer

    def _make_room(self, now_ms: int) -> None:
        if len(self._nodes) >= MAX_PEERS:
            gone = next((peer for peer in self._nodes.values() if not self.present(peer, now_ms)), None)
            if gone is None:
                raise DecodeError("crowded", "no room for another node")
            self._forget(gone)

    def _forget(self, peer: Peer) -> None:
        del self._nodes[peer.id]
        self._addresses.pop(peer.address, None)
        self._claims.pop(crc_of(peer.id), None)

    # ---- who gone silent, who next

    def silent(self, now_ms: int) -> Iterator[Peer]:
        """Nodes that have just been found lost."""
        for peer in self._nodes.values():
            if peer.heard and not peer.lost and not self.present(peer, now_ms):
                peer.lost = True
                yield peer

    def next(self, adapter: str, now_ms: int) -> Peer | None:
        """Who gets a connection on `adapter` next. A stranger does where no node wants one, and after a pause."""

        def due(peer: Peer) -> bool:
            heard, bond = peer.heard.get(adapter), self._trust.bond(peer.address)
            if heard is None or now_ms - heard.at_ms > FRESH_MS or peer.busy or (bond and bond.adapter != adapter):
                return False
            return now_ms >= peer.not_before_ms or bool(peer.pairing)

        candidates: list[Peer] = [*self, *(peer for peer in (*self._strangers.values(), *self._newcomers.values()) if peer.pairing)]
        wanting = [
            (urgency, peer.not_before_ms, id(peer), peer) for peer in candidates if due(peer) and (urgency := peer.urgency) is not None
        ]
        if wanting:
            return min(wanting)[-1]
        if now_ms < self._no_strangers_before_ms.get(adapter, now_ms):
            return None
        strangers = [peer for peer in self._strangers.values() if due(peer) and peer.heard[adapter].at_ms - peer.first_ms >= _SETTLED_MS]
        return min(strangers, key=lambda peer: (peer.failures, -peer.heard[adapter].times), default=None)  # a flood says little of each

    def failed(self, peer: Peer, adapter: str, began_ms: int, now_ms: int) -> None:
        """It could not be connected, or did not behave: not again before a growing pause, nor another stranger for a while after one."""
        if not peer.id:
            self._no_strangers_before_ms[adapter] = now_ms + (_STRANGERS_SHARE - 1) * (now_ms - began_ms)
        first_ms, longest_ms = (_FIRST_PAUSE_MS, _LONGEST_PAUSE_MS) if peer.id else (_STRANGER_PAUSE_MS, _LONGEST_STRANGER_PAUSE_MS)
        peer.not_before_ms = now_ms + min(first_ms << min(peer.failures, 16), longest_ms)
        peer.failures += 1

    def released(self, peer: Peer, now_ms: int) -> None:
        """Its connection is over: it has to advertise again before it gets another."""
        peer.busy = False
        for name, heard in peer.heard.items():
            heard.sightings.rest(self.clocks[name].read(now_ms))
            heard.at_ms = now_ms - FRESH_MS - 1
