"""Bluetooth LE: nodes are found and watched by what they advertise, and connected when there is something to say.

_heard      an advertisement: who is it, is it there, does it want something        core.neighbours
_attach     who is connected though no visit knows of it
_connects   whom to connect next, and whose connection ends for it                  one after the other, for each adapter
_visit      one connection: meet (ble_bonds.Bonds), talk (ble_link.Link), part
_take       a message becomes a frame; when an event is on disk the node is told
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from gatewayd.config import Ble
from gatewayd.core import wire
from gatewayd.core.beacon import SERVICE_UUID, crc_of
from gatewayd.core.neighbours import Neighbours, Peer, Urgency
from gatewayd.core.pairing import Pairing
from gatewayd.core.types import Event, Frame, Info, State
from gatewayd.errors import DecodeError, GatewaydError, MissingPackageError, TransportError
from gatewayd.ports import PairingDesk
from gatewayd.supervise import supervise

try:
    from bleak import BleakClient
    from bleak.backends.device import BLEDevice
    from bleak.backends.scanner import AdvertisementData

    from gatewayd.transports.ble_adapter import Adapter
    from gatewayd.transports.ble_bonds import Bonds, forget
    from gatewayd.transports.ble_link import Link, answered
    from gatewayd.transports.ble_stacks import BluezStack, BumbleStack, Stack
except ImportError as error:
    raise MissingPackageError("bleak", "ble") from error

_MAX_BACKLOG = 20_000  # frames read but not yet taken; above it they are dropped and counted
_MOST_WAITING = 32  # verdicts, or requests, for one node
_REQUEST_MS = 30_000  # whoever asked does not wait any longer
_TICK_S = 1.0
_GATHER_S = 0.02  # many advertisements, one look
_LEAVE_S = 12.0
_ATTACH_S = 10.0
_log = logging.getLogger(__name__)
Count = Callable[[str, str], None]  # what, label


def _nothing() -> None:
    """Nobody waits for an acknowledgement."""


def stacks(settings: Ble, gateway_id: str, state_dir: Path) -> list[Stack]:
    """One for each adapter that is configured. Raises MissingPackageError."""
    found: list[Stack] = [BluezStack(name) for name in settings.adapters]
    if settings.hci:
        from gatewayd.transports.bumble import Adapter as Bumble  # noqa: PLC0415 -- an extra of its own

        found.append(BumbleStack(Bumble(settings.hci, gateway_id, bonds=state_dir / "bonds.json")))
    return found


async def probe(stack: Stack) -> None:
    """Scan for a moment. Raises TransportError where that is not possible."""
    async with stack.open():
        scanner = stack.scanner(lambda _device, _advertisement: None)
        async with answered("scan"):
            await scanner.start()
            await scanner.stop()


class BleTransport:
    """All nodes that the adapters of `its_stacks` hear. `sighted` gets the id of a node whenever it is heard, `lost` once when it has gone
    silent. `dropped` counts frames that came faster than they were taken.
    """

    def __init__(
        self,
        settings: Ble,
        its_stacks: Sequence[Stack],
        desk: PairingDesk,
        *,
        count: Count,
        sighted: Callable[[str], object],
        lost: Callable[[str], object],
    ) -> None:
        self.name = "ble"
        self.dropped = 0
        self._settings = settings
        self._bonds = Bonds(desk)
        self._trust = desk.trust
        self._count = count
        self._sighted = sighted
        self._lost = lost
        self._adapters = [
            Adapter(stack, settings.connections, partial(count, "failures"), partial(count, "scanner_restarts", stack.name))
            for stack in its_stacks
        ]
        self._neighbours = Neighbours(desk.trust)
        self._links: dict[str, Link] = {}  # by node
        self._backlog: list[Frame] = []
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Work with every adapter until cancelled; one that breaks is taken again later, the others go on."""
        async with asyncio.TaskGroup() as tasks:
            for adapter in self._adapters:
                restarted = partial(self._count, "restarts", adapter.name)
                tasks.create_task(supervise(adapter.name, partial(self._work, adapter), restarted), name=f"ble-{adapter.name}")
            tasks.create_task(self._watch(), name="ble-watch")

    def links(self) -> Mapping[str, int]:
        """Connections, by adapter."""
        return {adapter.name: len(adapter.links) for adapter in self._adapters}

    def reaches(self, node: str) -> bool:
        """Whether it is connected, or could be."""
        peer = self._neighbours.get(node)
        return peer is not None and (node in self._links or (not peer.failing and self._neighbours.present(peer, _now_ms())))

    def problems(self) -> list[str]:
        """What is wrong with the adapters."""
        return [f"{adapter.name} does not scan" for adapter in self._adapters if not adapter.scanning]

    # ---- frames in, payloads out

    async def frames(self) -> AsyncIterator[Sequence[Frame]]:
        """Batches of frames in order of arrival, without end."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._backlog = self._backlog, []
            if batch:
                yield batch

    def _frame(self, node: str, tail: str, payload: bytes, done: Callable[[], object] = _nothing) -> None:
        if len(self._backlog) >= _MAX_BACKLOG:
            self.dropped += 1
            return
        self._backlog.append(Frame(node, tail, payload, self.name, done))
        self._wake.set()

    def send(self, node: str, tail: str, payload: bytes) -> None:
        """Say it, or keep it until there is a connection. Raises TransportError where the node is not here or too much waits."""
        peer, link = self._neighbours.get(node), self._links.get(node)
        if peer is None or not self.reaches(node):
            raise TransportError(f"Bluetooth: {node} is not here")
        if max(len(peer.verdicts), len(peer.requests)) >= _MOST_WAITING:
            raise TransportError(f"Bluetooth: too much waits for {node}")
        if tail == "verdict":
            peer.verdicts.append(payload)
        else:
            peer.requests.append((_now_ms(), payload))
        if link is not None:
            self._hand_over(peer, link)
        for adapter in self._adapters:
            adapter.wake.set()

    @staticmethod
    def _hand_over(peer: Peer, link: Link) -> None:
        for payload in peer.verdicts:
            link.verdict(payload)
        for since_ms, frame in peer.requests:
            if _now_ms() - since_ms < _REQUEST_MS:
                link.request(frame)
        peer.verdicts.clear()
        peer.requests.clear()

    # ---- what is advertised

    def _heard(self, adapter: Adapter, device: BLEDevice, advertisement: AdvertisementData) -> None:
        now_ms, data = _now_ms(), advertisement.service_data.get(SERVICE_UUID)
        self._neighbours.clocks[adapter.name].hear(now_ms)
        if data is None:
            return
        self._count("advertisements", adapter.name)
        try:
            peer = self._neighbours.hear(adapter.name, device.address, device, advertisement.rssi, data, now_ms)
        except DecodeError as error:
            self._refuse(error)
            return
        if peer is None:
            return
        if peer.id:
            self._sighted(peer.id)
        if not peer.busy and peer.urgency is not None:
            adapter.wake.set()

    def _refuse(self, error: DecodeError) -> None:
        self._count("refused", error.reason)
        _log.debug("Bluetooth: refused: %s", error)

    async def _watch(self) -> None:
        """Tell of nodes that have gone silent."""
        while True:
            await asyncio.sleep(_TICK_S)
            for peer in self._neighbours.silent(_now_ms()):
                peer.verdicts.clear()
                peer.requests.clear()
                self._lost(peer.id)

    # ---- bonds

    async def review(self, gone: Collection[Pairing]) -> None:
        """Whom we trust has changed, and these bonds are no more."""
        for node, link in self._links.items():
            peer = self._neighbours.get(node)
            assert peer is not None
            try:
                if self._trust.admit(peer.address, crc_of(node)):
                    link.leave()  # to pair
            except DecodeError as error:
                link.end(error)
        for bond in gone:
            for adapter in self._adapters:
                if adapter.name == bond.adapter:
                    await forget(adapter, bond.address)

    # ---- adapters and connections

    async def _work(self, adapter: Adapter) -> None:
        """Scan and connect. Raises TransportError where the adapter does not work any more."""
        neighbours, name = self._neighbours, adapter.name
        try:
            async with adapter.stack.open():
                neighbours.open(name, _now_ms())
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(adapter.stack.watch())
                    tasks.create_task(self._attach(adapter))
                    tasks.create_task(
                        adapter.scan(
                            partial(self._heard, adapter),
                            began=partial(self._resume, adapter),
                            ended=lambda: neighbours.pause(name, _now_ms()),
                            all_linked=lambda: all(peer.busy or peer.lost for peer in neighbours) and bool(self._links),
                        )
                    )
                    tasks.create_task(self._connects(adapter, tasks))
        except ExceptionGroup as group:
            broken, bugs = group.split(GatewaydError)
            if bugs is not None or broken is None:
                raise
            raise broken.exceptions[0] from group
        finally:
            neighbours.close(name)

    async def _attach(self, adapter: Adapter) -> None:
        """Look for nodes that are connected though no visit knows of it, and so do not advertise: a gateway that was killed leaves them
        so, and a connect or a disconnect that was given up and came about later.
        """
        while True:
            for device in await adapter.stack.connected():
                if self._neighbours.attached(adapter.name, device.address, device, _now_ms()):
                    _log.info("%s: %s is connected already", adapter.name, device.address)
                    adapter.wake.set()
            await asyncio.sleep(_ATTACH_S)

    def _resume(self, adapter: Adapter) -> None:
        """Let its scan clock go on, unless the scanner pauses or a node pairs."""
        if adapter.listening and not adapter.pairing:
            self._neighbours.open(adapter.name, _now_ms())

    @contextlib.contextmanager
    def _deaf(self, adapter: Adapter) -> Iterator[None]:
        """While a node pairs BlueZ does not scan, and says that it does: nodes that are not heard then are not lost."""
        adapter.pairing += adapter.stack.pauses
        if adapter.pairing:
            self._neighbours.pause(adapter.name, _now_ms())
        try:
            yield
        finally:
            adapter.pairing -= adapter.stack.pauses
            self._resume(adapter)

    async def _connects(self, adapter: Adapter, visits: asyncio.TaskGroup) -> None:
        while True:
            adapter.wake.clear()
            peer = self._neighbours.next(adapter.name, _now_ms())
            urgency = peer.urgency if peer else None
            if peer is None or urgency is None or not self._room(adapter, urgency):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_S):
                        await adapter.wake.wait()
                await asyncio.sleep(_GATHER_S)
                continue
            peer.busy, met = True, asyncio.Event()
            visits.create_task(self._visit(adapter, peer, met), name=f"ble-{peer.address}")
            await met.wait()

    @staticmethod
    def _room(adapter: Adapter, urgency: Urgency) -> bool:
        """Whether there is room for another connection; if not, the least urgent makes some, that with the longest silence first."""
        if not adapter.full:
            return True
        least = max(adapter.links, key=lambda link: (link.leaving, link.urgency, link.quiet_ms))
        if least.urgency > urgency:
            least.leave()
        return False

    async def _visit(self, adapter: Adapter, peer: Peer, met: asyncio.Event) -> None:
        """One connection, from its beginning to its end; `met` is done when others may be made."""
        link, client, began_ms = Link(self._settings.idle_s), None, _now_ms()
        adapter.links.add(link)
        try:
            try:
                client = await self._connect(adapter, peer, link)
                if peer.pairing:
                    met.set()  # an operator may have to be asked
                peer = await self._meet(adapter, peer, link, client)
            finally:
                met.set()
            self._count("connections", adapter.name)
            if peer.nobody:
                self._count("provisioned", adapter.name)
                return
            if peer.beacon is None:  # a link of an earlier life: its segments began then, so it begins anew
                return
            self._links[peer.id] = link
            self._hand_over(peer, link)
            await link.run(client, partial(self._take, peer, link))
        except DecodeError as error:
            self._refuse(error)
            self._neighbours.failed(peer, adapter.name, began_ms, _now_ms())
        except (TransportError, asyncio.CancelledError) as error:  # cancelled: the adapter has ended, perhaps of this
            _log.debug("%s: %s", peer.id or peer.address, error)
            if not link.heard:
                self._neighbours.failed(peer, adapter.name, began_ms, _now_ms())
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            peer.failures = 0
        finally:
            await self._part(adapter, peer, link, client)

    async def _connect(self, adapter: Adapter, peer: Peer, link: Link) -> BleakClient:
        """A connection. Raises DecodeError where there shall be none, TransportError."""
        if peer.nobody and (cause := self._neighbours.obstacle(peer, _now_ms())):
            await self._bonds.refuse(peer, cause)
        await self._bonds.doubt(peer)
        ended = TransportError("Bluetooth: disconnected")
        return await adapter.connect(peer.heard[adapter.name].device, lambda _: link.end(ended), attempts=2 if peer.id else 1)

    async def _meet(self, adapter: Adapter, peer: Peer, link: Link, client: BleakClient) -> Peer:
        """Who was connected. Raises DecodeError, TransportError."""
        if peer.nobody:
            with self._deaf(adapter):
                await self._bonds.provision(adapter, peer, link, client)
            return peer
        if peer.pairing:
            with self._deaf(adapter):
                await self._bonds.pair(adapter, peer, link, client)
        bond = self._trust.bond(peer.address)
        await self._bonds.check(adapter, bond, client)
        node = peer.id or await link.identify(client)
        await self._bonds.arrived(adapter, bond, node)
        return peer if peer.id else self._neighbours.identify(peer, node, _now_ms())

    async def _part(self, adapter: Adapter, peer: Peer, link: Link, client: BleakClient | None) -> None:
        if self._links.get(peer.id) is link:
            del self._links[peer.id]
            peer.verdicts.extendleft(reversed(link.unheard()))
        try:
            if client is not None:
                async with answered("disconnect", _LEAVE_S):
                    await client.disconnect()
        except TransportError as error:
            _log.debug("%s: %s", peer.id or peer.address, error)
        finally:
            adapter.links.discard(link)
            self._neighbours.released(peer, _now_ms())
            adapter.wake.set()

    # ---- what a node says

    def _take(self, peer: Peer, link: Link, tail: str, payload: bytes) -> None:
        """Make a frame of it. Raises DecodeError for an event without a name, which could never be acknowledged."""
        done: Callable[[], object] = _nothing
        if tail == "event":
            event = wire.decode(tail, payload)
            assert isinstance(event, Event)
            link.owed += 1
            done = partial(link.stored, event.session, event.seq)
        elif tail in ("state", "info"):
            with contextlib.suppress(DecodeError):  # the pipeline refuses and counts it
                message = wire.decode(tail, payload)
                assert isinstance(message, State | Info)
                peer.session = message.session
        self._frame(peer.id, tail, payload, done)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
