"""The gateway's transport for Bluetooth LE on Bumble's stack: found, connected when there is something to say, and nobody disturbed."""

import asyncio
import contextlib

import pytest
from ble_site import BleNode, site, until
from bleak.backends.device import BLEDevice

from gatewayd.core import wire
from gatewayd.core.types import GatewayState, NodeState, State, Stored, Verdict
from gatewayd.errors import TransportError
from gatewayd.transports import ble, ble_link
from gatewayd.transports.ble_adapter import Adapter
from gatewayd.transports.ble_link import FLOW, SMP, UP
from gatewayd.transports.ble_stacks import BumbleStack

VERDICT = Verdict(0, 1, True, "yes", 0.5, "", 1_000, "gateway")


def smp_frame(size: int) -> bytes:
    return b"\x03\x00" + (size - 8).to_bytes(2, "big") + bytes(4) + (bytes(range(256)) * (size // 256 + 1))[: size - 8]


class Forgetful(BleNode):
    """Its stack loses every third notification, and every fifth of what was written."""

    forgotten = 0
    _notified = _written = 0

    def soon(self, uuid: str, data: bytes) -> None:
        self._notified += 1
        if self._notified % 3:
            super().soon(uuid, data)
        else:
            self.forgotten += 1

    def _down(self, segment: bytes) -> None:
        self._written += 1
        if self._written % 5:
            super()._down(segment)


class Deaf(BleNode):
    """It hears nothing while it is `deaf`."""

    deaf = False

    def _down(self, segment: bytes) -> None:
        if not self.deaf:
            super()._down(segment)


async def test_a_node_is_found_and_says_what_it_is(tmp_path) -> None:
    async with site(tmp_path) as here:
        node = await here.node("kitchen-1")
        await until(lambda: here.heard("kitchen-1", "state"))
        assert wire.decode("state", here.heard("kitchen-1", "state")[0].payload) == State(NodeState.READY, 1)
        assert here.heard("kitchen-1", "info")
        assert isinstance(node.said[0], GatewayState)
        assert node.said[0].state == "online"
        assert not here.count("refused")


async def test_an_event_is_stored_and_answered(tmp_path) -> None:
    async with site(tmp_path, idle_s=1.0) as here:
        node = await here.node("kitchen-1")
        await until(lambda: here.heard("kitchen-1", "state"))
        await until(lambda: not node.connected)
        await node.suspect(0)
        await until(lambda: here.heard("kitchen-1", "event"))
        await until(lambda: not node.events)
        assert Stored(1, (0,)) in node.said
        here.transport.send("kitchen-1", "verdict", wire.encode(VERDICT))
        await until(lambda: VERDICT in node.said)
        assert node.connections == 2


async def test_smp_comes_and_goes_in_pieces(tmp_path) -> None:
    async with site(tmp_path) as here:
        node = await here.node("kitchen-1")
        await until(lambda: here.heard("kitchen-1", "info"))
        request, answer = smp_frame(1_000), smp_frame(3_000)
        here.transport.send("kitchen-1", "smp", request)
        here.transport.send("kitchen-1", "smp", request)
        await until(lambda: b"".join(node.requests) == 2 * request)
        for start in range(0, 2 * len(answer), 200):
            await node.notify(SMP, (2 * answer)[start : start + 200])
        await until(lambda: [frame.payload for frame in here.heard("kitchen-1", "smp")] == 2 * [answer])


async def test_what_the_stack_loses_arrives_nevertheless(tmp_path) -> None:
    async with site(tmp_path) as here:
        node = await here.node("kitchen-1", kind=Forgetful)
        for seq in range(6):
            await node.suspect(seq)
        await until(lambda: not node.events, 60)
        assert [wire.decode("event", frame.payload).seq for frame in here.heard("kitchen-1", "event")] == list(range(6))
        assert node.forgotten
        assert not here.count("refused")


@pytest.mark.slow
async def test_more_nodes_than_places(tmp_path) -> None:
    async with site(tmp_path, connections=3) as here:
        nodes = [await here.node(f"node-{number}", number) for number in range(1, 13)]
        for node in nodes:
            await node.suspect(0)
        await until(lambda: not any(node.events for node in nodes), 60)
        assert {frame.node for frame in here.frames if frame.tail == "event"} == {node.id for node in nodes}
        assert max(here.transport.links().values()) <= 3
        for node in nodes:
            assert len(here.heard(node.id, "event")) >= 1


async def test_a_verdict_takes_the_place_of_an_update(tmp_path) -> None:
    async with site(tmp_path, connections=1) as here:
        updating, waiting = await here.node("node-a", 1), await here.node("node-b", 2)
        await until(lambda: here.heard("node-a", "state") and here.heard("node-b", "state"))
        here.transport.send("node-a", "smp", smp_frame(100))
        await until(lambda: updating.requests)

        async def update() -> None:
            while True:
                here.transport.send("node-a", "smp", smp_frame(100))
                await asyncio.sleep(0.1)

        task = asyncio.get_running_loop().create_task(update())
        await asyncio.sleep(1.5)
        assert updating.connected
        here.transport.send("node-b", "verdict", wire.encode(VERDICT))
        await until(lambda: VERDICT in waiting.said)
        task.cancel()


async def test_a_verdict_that_a_broken_link_swallowed_comes_again(tmp_path) -> None:
    async with site(tmp_path) as here:
        node = await here.node("kitchen-1", kind=Deaf)
        await until(lambda: here.heard("kitchen-1", "state"))
        node.deaf = True
        here.transport.send("kitchen-1", "verdict", wire.encode(VERDICT))
        await asyncio.sleep(0.2)
        await node.disconnect()
        node.deaf = False
        await until(lambda: VERDICT in node.said)


@pytest.mark.slow
async def test_silence_is_told_and_so_is_the_return(tmp_path) -> None:
    async with site(tmp_path, idle_s=1.0) as here:
        await here.node("attic-1", 2)
        node = await here.node("kitchen-1", 1)
        await until(lambda: here.heard("kitchen-1", "state") and not node.connected)
        await until(lambda: here.sighted["kitchen-1"] > 30)
        assert here.transport.reaches("kitchen-1")
        await node.stop()
        await until(lambda: here.lost == ["kitchen-1"], 60)
        assert not here.transport.reaches("kitchen-1")
        with pytest.raises(TransportError):
            here.transport.send("kitchen-1", "verdict", b"")
        sighted = here.sighted["kitchen-1"]
        await here.node("kitchen-1", 1, session=2)
        await until(lambda: here.sighted["kitchen-1"] > sighted)
        await until(lambda: len(here.heard("kitchen-1", "info")) == 2)  # another session: it is asked again
        assert "attic-1" not in here.lost


async def test_a_controller_that_is_pulled_out_and_plugged_in(tmp_path) -> None:
    async with site(tmp_path) as here:
        node = await here.node("kitchen-1")
        await until(lambda: here.heard("kitchen-1", "state"))
        here.unplug()
        await until(lambda: here.transport.problems() and not here.transport.links()[here.adapter])
        assert here.transport.problems() == [f"{here.adapter} does not scan"]
        await until(lambda: not here.transport.problems())
        await node.suspect(0)
        await until(lambda: not node.events)
        assert here.counts["restarts", here.adapter] >= 1


async def test_who_is_connected_by_somebody_else_is_asked_who_it_is(tmp_path, monkeypatch) -> None:
    """A node that BlueZ connects after all, for a gateway that was killed meanwhile, does not advertise."""
    monkeypatch.setattr(ble, "_ATTACH_S", 0.05)
    found: list[BLEDevice] = []

    async def connected(_stack: BumbleStack) -> list[BLEDevice]:
        return found

    monkeypatch.setattr(BumbleStack, "connected", connected)
    async with site(tmp_path) as here:
        await here.node("attic-1", 2)
        await until(lambda: here.heard("attic-1", "state"))
        failures = here.count("failures")
        found.append(BLEDevice("F0:00:00:00:00:99", None, None))
        await until(lambda: here.count("failures") > failures)  # there is nobody, but it was tried


# ---- who does not behave; a node beside them must not notice


@contextlib.asynccontextmanager
async def beside(tmp_path, *evil: tuple[str, type[BleNode]], **settings):
    """A site with some who are evil and one node that behaves, whose events come through whatever the others do."""
    async with site(tmp_path, **settings) as here:
        good = await here.node("kitchen-1", 1)
        await until(lambda: here.heard("kitchen-1", "state"))
        yield here, [await here.node(node, 0xE0 + number, kind=kind) for number, (node, kind) in enumerate(evil)]
        await good.suspect(99)
        await until(lambda: not good.events)
        assert "kitchen-1" not in here.lost


def saying(uuid: str, *pieces: bytes) -> type[BleNode]:
    """A node that says this, where it should say what it is."""

    class Evil(BleNode):
        def greet(self) -> None:
            for piece in pieces:
                self.soon(uuid, piece)

    return Evil


async def test_an_imitated_id(tmp_path) -> None:
    async with beside(tmp_path, ("kitchen-1", BleNode)) as (here, (evil,)):
        await until(lambda: here.counts["refused", "impostor"] > 3)
        assert evil.connections == 0


async def test_an_identity_that_contradicts_the_advertisement(tmp_path) -> None:
    class Liar(BleNode):
        def identity(self) -> str:
            return "kitchen-1"

    async with beside(tmp_path, ("evil-1", Liar)) as (here, (evil,)):
        await until(lambda: here.counts["refused", "identity"] and not evil.connected)
        assert not here.heard("evil-1", "info")
        assert len(here.heard("kitchen-1", "info")) == 1


async def test_a_flood_of_addresses(tmp_path) -> None:
    async with site(tmp_path, idle_s=1.0) as here:
        good = await here.node("kitchen-1", 1)
        await until(lambda: here.heard("kitchen-1", "state"))
        for number in range(3_000):
            here.advertise(f"C0:DE:00:00:{number >> 8:02X}:{number & 0xFF:02X}", f"evil-{number}")
            if number % 50 == 0:
                await asyncio.sleep(0.01)
            if number % 1_000 == 0:
                await good.suspect(number)
        await until(lambda: not good.events)
        assert here.count("advertisements") > 2_000
        assert len(here.transport._neighbours._strangers) <= 1_024
        assert here.count("failures") < 5


@pytest.mark.slow
async def test_what_cannot_be_is_refused_with_its_reason(tmp_path) -> None:
    evil = {
        "segment_counter": saying(UP, b"\x20a"),
        "segment_first": saying(UP, b"\x80a", b"\x81b"),
        "segment_empty": saying(UP, b"\x80"),
        "code": saying(UP, b"\xc0\x09"),
        "cbor": saying(UP, b"\xc0\x04\xa1\x00"),
        "smp": saying(SMP, b"\x03\x00\xff\xff\x00\x00\x00\x00"),
        "flow": saying(FLOW, b"\x3f"),
    }
    async with beside(tmp_path, *((f"evil-{number}", kind) for number, kind in enumerate(evil.values()))) as (here, nodes):
        await until(lambda: all(here.counts["refused", reason] for reason in evil), 60)
        await until(lambda: not any(node.connected for node in nodes))
        assert not any(here.heard(node.id, "state") for node in nodes)


async def test_a_message_without_end(tmp_path) -> None:
    class Endless(BleNode):
        def greet(self) -> None:
            self.sender.put(bytes(200_000))
            self._send()

    async with beside(tmp_path, ("evil-1", Endless)) as (here, _):
        await until(lambda: here.counts["refused", "segment_oversized"], 60)


async def test_who_leaves_at_any_point_is_asked_ever_more_seldom(tmp_path) -> None:
    class Fleeting(BleNode):
        point = ""

        def at(self, here: str) -> None:
            if here == self.point:
                asyncio.get_running_loop().create_task(self.disconnect())

        def _connected(self, connection) -> None:
            super()._connected(connection)
            self.at("connected")

        def _subscribed(self) -> None:
            self.at("subscribed")

        def greet(self) -> None:
            self.at("greeted")

    points = [type(f"At{point}", (Fleeting,), {"point": point}) for point in ("connected", "subscribed", "greeted")]
    async with beside(tmp_path, *((f"evil-{number}", kind) for number, kind in enumerate(points))) as (_, nodes):
        await asyncio.sleep(5)
        assert all(1 <= node.connections <= 5 for node in nodes)


async def test_who_takes_the_adapter_along_is_asked_ever_more_seldom(tmp_path, monkeypatch) -> None:
    """Linux and BlueZ have died of a connect."""
    connect, died = Adapter.connect, []

    async def deadly(adapter, device, *arguments, **options):
        if device.address.endswith("E0"):
            died.append(device)
            here.unplug()
            await asyncio.sleep(60)
        return await connect(adapter, device, *arguments, **options)

    monkeypatch.setattr(Adapter, "connect", deadly)
    async with beside(tmp_path, ("evil", BleNode)) as (here, _):
        await until(lambda: len(died) == 3, 60)
        assert here.transport._neighbours._strangers["F0:00:00:00:00:E0"].failures >= 2


async def test_who_holds_a_place_for_ever_loses_it_to_who_waits(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ble_link, "_TURN_MS", 2_000)

    class Talkative(BleNode):
        def greet(self) -> None:
            if self.connected:
                super().greet()
                asyncio.get_running_loop().call_later(0.1, self.greet)

    async with beside(tmp_path, ("evil-1", Talkative), connections=1) as (here, _):
        await until(lambda: len(here.heard("evil-1", "info")) > 3, 60)
