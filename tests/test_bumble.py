import asyncio
import gc
import importlib
import sys
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from ble_peer import DEADLINE_S, DOWN, NAME, SERVICE, UP, Peer, linked, scanning, until
from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
from bleak_retry_connector import establish_connection
from bumble.pairing import PairingDelegate
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.demo.air import Air, Controller, plugged
from gatewayd.errors import MissingPackageError, TransportError
from gatewayd.transports import bumble
from gatewayd.transports.bumble import Adapter


class Site:
    """A gateway's controller that can be pulled out, and peers."""

    def __init__(self, bonds):
        self.bonds = bonds
        self.air = Air()
        self.controller = Controller("gateway", self.air)
        self.peers = []
        self.plug = AsyncExitStack()
        self.port = 0

    async def plug_in(self):
        self.port = await self.plug.enter_async_context(plugged(self.controller, self.port))

    async def pull_out(self):
        await self.plug.aclose()

    def adapter(self):
        return Adapter(f"tcp-client:127.0.0.1:{self.port}", "test", bonds=self.bonds)

    async def peer(self, *, silent=False, data=b"0123456789", response=b"", **options):
        self.peers.append(Peer(self.air, len(self.peers) + 1, **options))
        if not silent:
            await self.peers[-1].start(data, response)
        return self.peers[-1]

    def is_free(self):
        """Nobody is connected, nor about to be."""
        return self.controller.pending_le_connection is None and not self.controller.le_connections


@pytest.fixture
async def site(tmp_path):
    site = Site(tmp_path / "bonds.json")
    await site.plug_in()
    yield site
    await site.pull_out()
    await asyncio.sleep(0.05)  # what has arrived at peers is dealt with


@asynccontextmanager
async def connected(site, **options):
    peer = await site.peer(**options)
    async with site.adapter() as adapter, linked(adapter, peer) as client:
        yield adapter, peer, client


# ---- scanning


async def test_every_advertisement_is_heard(site):
    await site.peer()
    heard = []
    async with site.adapter() as adapter:
        before = site.air.advertisements
        scanner = BleakScanner(lambda _, data: heard.append(data), backend=adapter.scanner, scanning_mode="passive")
        await scanner.start()
        began = site.air.advertisements
        await until(lambda: site.air.advertisements == began + 10)
        site.peers[0].controller.le_legacy_advertiser.stop()
        sent = site.air.advertisements
        await until(lambda: len(heard) >= sent - began)
        await scanner.stop()
    assert len(heard) <= sent - before
    assert heard[0].service_data == {SERVICE: b"0123456789"}
    assert -90 < heard[0].rssi < -40


async def test_a_scan_response_is_part_of_what_was_heard(site):
    await site.peer(response=b"\x05\x09node")
    heard = []
    async with site.adapter() as adapter, BleakScanner(lambda device, data: heard.append((device, data)), backend=adapter.scanner):
        await until(lambda: len(heard) > 3)
    assert heard[0][1].local_name is None
    assert all(data.local_name == "node" and data.service_data == {SERVICE: b"0123456789"} for _, data in heard[1:])
    assert heard[1][0].name == "node"
    assert len({id(device) for device, _ in heard}) == 1


async def test_a_scanner_filters_by_service(site):
    await site.peer()
    await site.peer(data=b"", response=b"\x03\x03\x0f\x18")
    async with site.adapter() as adapter:
        device = await BleakScanner.find_device_by_filter(
            lambda device, _: True, DEADLINE_S, backend=adapter.scanner, service_uuids=["0000180f-0000-1000-8000-00805f9b34fb"]
        )
    assert device.address == site.peers[1].address


async def test_a_flood_of_addresses_is_forgotten(monkeypatch, site):
    monkeypatch.setattr(bumble, "_MOST_SEEN", 3)
    for _ in range(6):
        await site.peer()
    heard = set()
    async with site.adapter() as adapter, BleakScanner(lambda device, _: heard.add(device.address), backend=adapter.scanner) as scanner:
        await until(lambda: len(heard) == 6)
        assert len(scanner.discovered_devices) == 3


@given(st.binary(max_size=31), st.binary(max_size=31))
def test_whatever_is_advertised_can_be_read(advertised, responded):
    data = bumble._advertisement(advertised, responded, -50)
    assert sum(map(len, data.service_data.values())) + sum(map(len, data.manufacturer_data.values())) <= 62


@pytest.mark.parametrize(
    ("payload", "field", "value"),
    [
        ("03190f18" + "03030f18", "service_uuids", ["0000180f-0000-1000-8000-00805f9b34fb"]),
        ("0504efbeadde", "service_uuids", ["deadbeef-0000-1000-8000-00805f9b34fb"]),
        ("04160f1864", "service_data", {"0000180f-0000-1000-8000-00805f9b34fb": b"\x64"}),
        ("0620efbeadde01", "service_data", {"deadbeef-0000-1000-8000-00805f9b34fb": b"\x01"}),
        ("04ff4c0001", "manufacturer_data", {76: b"\x01"}),
        ("020af4", "tx_power", -12),
        ("04096e6f64", "local_name", "nod"),
        ("03086e6f" + "0409ff6f64", "local_name", "\ufffdod"),
        ("0509666f" + "00", "local_name", None),  # longer than there is
        ("02160f", "service_data", {}),
    ],
)
def test_advertising_data(payload, field, value):
    assert getattr(bumble._advertisement(bytes.fromhex(payload), b"", -50), field) == value


# ---- connections


async def test_services_are_found_and_read(site):
    async with connected(site) as (_, peer, client):
        assert client.is_connected
        assert client.mtu_size == 498
        assert await client.read_gatt_char(NAME) == peer.address.encode()
        down = client.services.get_characteristic(DOWN)
        assert sorted(down.properties) == ["write", "write-without-response"]
        assert down.max_write_without_response_size == 495
        (cccd,) = client.services.get_characteristic(UP).descriptors
        assert await client.read_gatt_descriptor(cccd.handle) == b"\0\0"
        assert next(iter(site.air.wires.values())).mbit == 2
    assert not client.is_connected
    await until(site.is_free)


async def test_notifications_come_in_order(site):
    got, others = [], []
    async with connected(site) as (_, peer, client):
        await client.start_notify(UP, lambda _, data: got.append(bytes(data)))
        for number in range(300):
            await peer.notify(number.to_bytes(200, "big"))
        await until(lambda: len(got) == 300)
        await client.stop_notify(UP)
        await client.start_notify(UP, lambda _, data: others.append(bytes(data)))
        await peer.notify(b"again")
        await until(lambda: others)
    assert [int.from_bytes(data, "big") for data in got] == list(range(300))
    assert others == [b"again"]


async def test_what_is_written_without_response_arrives_in_order(site):
    async with connected(site) as (_, peer, client):
        for number in range(200):
            await client.write_gatt_char(DOWN, number.to_bytes(495, "big"), response=False)
        await client.write_gatt_char(DOWN, b"last", response=True)
    assert [int.from_bytes(data, "big") for data in peer.written[:-1]] == list(range(200))
    assert peer.written[-1] == b"last"
    with pytest.raises(BleakError):
        await client.write_gatt_char(DOWN, b"x", response=False)


async def test_the_air_carries_writes_at_its_full_rate(site):
    site.air.interval_ms = 50  # time enough to fill the buffers again, here too
    async with connected(site) as (_, peer, client):
        (wire,) = site.air.wires.values()
        events, delivered = wire.events, wire.delivered
        for number in range(200):
            await client.write_gatt_char(DOWN, number.to_bytes(495, "big"), response=False)
        await until(lambda: len(peer.written) == 200)
    assert wire.delivered - delivered == 400
    assert wire.events - events < 2 * 400 / 35


async def test_a_writer_waits_for_the_air(site):
    async with connected(site) as (adapter, peer, client):
        (wire,) = site.air.wires.values()
        wire.interval_ms = 3_600_000
        count = 0

        async def write():
            nonlocal count
            while True:
                await client.write_gatt_char(DOWN, bytes(100), response=False)
                count += 1

        writing = asyncio.create_task(write())
        await until(lambda: len(wire.queues[0]) == 38)  # all buffers but two
        for _ in range(100):
            await asyncio.sleep(0)
        assert count <= 38 + 5
        other = await site.peer()
        async with linked(adapter, other) as nimble:
            await nimble.write_gatt_char(DOWN, b"not held up", response=True)
        assert other.written == [b"not held up"]
        assert peer.written == []
        writing.cancel()


async def test_what_is_too_long_or_forbidden_is_refused(site):
    async with connected(site) as (_, _, client):
        with pytest.raises(BleakError, match="at most 495"):
            await client.write_gatt_char(DOWN, bytes(496), response=False)
        with pytest.raises(BleakGATTProtocolError) as caught:
            await client.read_gatt_char(DOWN)
        assert caught.value.code == 2


async def test_the_retry_connector_connects(site):
    peer = await site.peer()
    left = []
    async with site.adapter() as adapter, scanning(adapter) as device:
        client = await establish_connection(BleakClient, await device(peer.address), "peer", left.append, backend=adapter.client)
        assert await client.read_gatt_char(NAME) == peer.address.encode()
        await next(iter(peer.device.connections.values())).disconnect()
        await until(lambda: left == [client])
        assert not client.is_connected


async def test_the_retry_connector_tries_again(site):
    peer = await site.peer()
    requests = []
    with_loss = site.air.send_advertising_pdu

    def lose_the_first(sender, packet):
        if sender is site.controller:
            requests.append(packet)
            site.air.loss = 1.0 if len(requests) == 1 else 0.0
        with_loss(sender, packet)
        site.air.loss = 0.0

    site.air.send_advertising_pdu = lose_the_first
    async with site.adapter() as adapter, scanning(adapter) as device:
        client = await establish_connection(BleakClient, await device(peer.address), "peer", backend=adapter.client)
        assert client.is_connected
        assert len(requests) == 2
        await client.disconnect()


async def test_an_address_alone_is_refused(site):
    async with site.adapter() as adapter:
        with pytest.raises(BleakDeviceNotFoundError):
            await BleakClient("C0:00:00:00:00:01", backend=adapter.client).connect()
        with pytest.raises(BleakDeviceNotFoundError):
            await BleakClient(BLEDevice("C0:00:00:00:00:01", None, {"path": "/org/bluez"}), backend=adapter.client).connect()


async def test_twenty_peers_connect_one_after_the_other(site):
    """The controller refuses a second LE Create Connection while there is one."""
    got = {}
    async with site.adapter() as adapter, scanning(adapter) as device, AsyncExitStack() as stack:
        for _ in range(20):
            await site.peer()

        async def connect(peer):
            client = BleakClient(await device(peer.address), timeout=60, backend=adapter.client)
            await client.connect()
            stack.push_async_callback(client.disconnect)
            await client.start_notify(UP, lambda _, data: got.setdefault(peer.address, bytes(data)))

        await asyncio.gather(*map(connect, site.peers))
        for peer in site.peers:
            await peer.notify(peer.address.encode())
        await until(lambda: len(got) == 20)
    assert got == {peer.address: peer.address.encode() for peer in site.peers}
    await until(site.is_free)


# ---- giving up


async def test_a_peer_that_is_not_there_costs_a_timeout(site):
    peer = await site.peer()
    async with site.adapter() as adapter, scanning(adapter) as device:
        found = await device(peer.address)
        await peer.device.stop_advertising()
        with pytest.raises(TimeoutError):
            await BleakClient(found, timeout=0.2, backend=adapter.client).connect()
        assert site.is_free()
        await peer.start()
        async with BleakClient(found, backend=adapter.client) as client:
            assert client.is_connected


async def test_a_connect_that_is_cancelled_leaves_nothing_behind(site):
    """Cancelled when the controller has had its nth packet, for all n until it is connected."""
    peer = await site.peer()
    packets, reached, at = 0, asyncio.Event(), 0
    take = site.controller.on_packet

    def on_packet(packet):
        nonlocal packets
        packets += 1
        if packets == at:
            reached.set()
        take(packet)

    site.controller.on_packet = on_packet
    cancelled = 0
    async with site.adapter() as adapter, scanning(adapter) as device:
        found = await device(peer.address)
        while True:
            reached.clear()
            packets, at = 0, at + 1
            left = []
            client = BleakClient(found, left.append, backend=adapter.client)
            connecting = asyncio.create_task(client.connect())
            watching = asyncio.create_task(reached.wait())
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.wait((connecting, watching), return_when=asyncio.FIRST_COMPLETED)
            watching.cancel()
            if connecting.done():
                break
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert not client.is_connected
            assert left == []
            await until(lambda: site.is_free() and not peer.device.connections)
            cancelled += 1
        assert client.is_connected
        assert await client.read_gatt_char(NAME) == peer.address.encode()
        await client.disconnect()
    assert cancelled > 12


async def test_a_request_that_is_cancelled_does_not_give_its_answer_to_the_next(site):
    async with connected(site) as (_, peer, client):
        for _ in range(3):
            reading = asyncio.create_task(client.read_gatt_char(0x0003))  # the name of another service
            await asyncio.sleep(0)
            reading.cancel()
            assert await client.read_gatt_char(NAME) == peer.address.encode()


async def test_a_peer_that_leaves_ends_what_waits(site):
    left = []
    peer = await site.peer()
    async with site.adapter() as adapter, scanning(adapter) as device:
        client = BleakClient(await device(peer.address), left.append, backend=adapter.client)
        await client.connect()
        site.air.interval_ms = next(iter(site.air.wires.values())).interval_ms = 3_600_000
        waiting = [asyncio.create_task(client.read_gatt_char(NAME)) for _ in range(3)]
        waiting.append(asyncio.create_task(client.start_notify(UP, lambda *_: None)))
        await until(lambda: next(iter(site.air.wires.values())).queues[0])
        await next(iter(peer.device.connections.values())).disconnect()
        async with asyncio.timeout(DEADLINE_S):
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [BleakError] * 4
        assert left == [client]


# ---- a controller that goes


@asynccontextmanager
async def pulled(site, adapter):
    """What is inside ends with a BleakError, quickly, when the controller is pulled out."""
    watching = asyncio.create_task(adapter.watch())
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(BleakError):
            yield
        with pytest.raises(TransportError, match="closed"):
            await watching
    assert adapter.gone


async def test_pulled_out_while_idle(site):
    async with site.adapter() as adapter, scanning(adapter), pulled(site, adapter):
        await site.pull_out()
        await until(lambda: adapter.gone)
        await BleakScanner(backend=adapter.scanner).start()


async def test_pulled_out_while_connecting(site):
    peer = await site.peer()
    async with site.adapter() as adapter, scanning(adapter) as device:
        found = await device(peer.address)
        await peer.device.stop_advertising()
        clients = [BleakClient(found, backend=adapter.client) for _ in range(3)]
        connecting = [asyncio.create_task(client.connect()) for client in clients]
        await until(lambda: site.controller.pending_le_connection)
        async with pulled(site, adapter):
            await site.pull_out()
            results = await asyncio.gather(*connecting, return_exceptions=True)
            assert [type(result) for result in results] == [BleakError] * 3
            raise results[0]


@pytest.mark.parametrize("what", ["read", "write", "queue", "notify", "disconnect", "pair"])
async def test_pulled_out_while_connected(site, what):
    left = []
    peer = await site.peer()
    async with site.adapter() as adapter, scanning(adapter) as device:
        client = BleakClient(await device(peer.address), left.append, backend=adapter.client)
        await client.connect()
        next(iter(site.air.wires.values())).interval_ms = 3_600_000  # nobody answers any more

        async def queue():
            while True:
                await client.write_gatt_char(DOWN, bytes(100), response=False)

        site.controller.on_hci_disconnect_command = lambda _: None
        waiting = asyncio.create_task(
            {
                "read": lambda: client.read_gatt_char(NAME),
                "write": lambda: client.write_gatt_char(DOWN, b"x", response=True),
                "queue": queue,
                "notify": lambda: client.start_notify(UP, lambda *_: None),
                "disconnect": client.disconnect,
                "pair": client.pair,
            }[what]()
        )
        await asyncio.sleep(0.05)
        assert not waiting.done()
        async with pulled(site, adapter):
            await site.pull_out()
            await until(waiting.done)
            assert left == [client]
            assert not client.is_connected
            await client.disconnect()
            await waiting
            raise BleakError("disconnect has nothing left to do")


@pytest.mark.parametrize("at", range(1, 14, 2))
async def test_pulled_out_while_setting_up(site, at):
    peer = await site.peer()
    packets, reached = 0, asyncio.Event()
    take = site.controller.on_packet

    def on_packet(packet):
        nonlocal packets
        packets += 1
        if packets == at:
            reached.set()
        take(packet)

    async with site.adapter() as adapter, scanning(adapter) as device:
        found = await device(peer.address)
        site.controller.on_packet = on_packet
        client = BleakClient(found, backend=adapter.client)
        connecting = asyncio.create_task(client.connect())
        await reached.wait()
        async with pulled(site, adapter):
            await site.pull_out()
            await connecting
        assert not client.is_connected


async def test_plugged_in_again_everything_works(site):
    peer = await site.peer()
    adapter = site.adapter()
    for _ in range(2):
        async with adapter, scanning(adapter) as device:
            client = await establish_connection(BleakClient, await device(peer.address), "peer", backend=adapter.client)
            assert await client.read_gatt_char(NAME) == peer.address.encode()
            await site.pull_out()
            await until(lambda: adapter.gone)
        with pytest.raises(TransportError):
            await adapter.__aenter__()
        await site.plug_in()


async def test_an_adapter_that_closes_leaves_its_peers(site):
    peer = await site.peer()
    async with site.adapter() as adapter, scanning(adapter) as device:
        await BleakClient(await device(peer.address), backend=adapter.client).connect()
    assert site.is_free()
    assert not site.controller.le_scan_enable
    await until(lambda: not peer.device.connections)


async def test_a_controller_that_never_answers_is_not_opened(monkeypatch, tmp_path):
    monkeypatch.setattr(bumble, "_OPEN_S", 0.1)

    ended = asyncio.Event()

    async def listen(reader, writer):
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    with pytest.raises(TransportError, match="does not answer"):
        await Adapter(f"tcp-client:127.0.0.1:{server.sockets[0].getsockname()[1]}", "test", bonds=tmp_path / "bonds.json").__aenter__()
    await ended.wait()
    server.close()


async def test_a_controller_that_falls_silent_is_gone(monkeypatch, site):
    async with connected(site) as (adapter, _, client):
        monkeypatch.setattr(bumble, "_ANSWER_S", 0.1)
        site.controller.on_packet = lambda _: None
        await client.disconnect()
        with pytest.raises(TransportError, match="does not answer"):
            await adapter.watch()


@pytest.mark.parametrize("name", ["nonsense", "serial:/dev/does-not-exist", "tcp-client:127.0.0.1:1", "tcp-client:nonsense"])
async def test_what_cannot_be_opened_says_so(name, tmp_path):
    with pytest.raises(TransportError, match=f"HCI controller {name}"):
        await Adapter(name, "test", bonds=tmp_path / "bonds.json").__aenter__()
    gc.collect()  # what is left over warns


# ---- pairing


class Display(PairingDelegate):
    """A node that shows its passkey."""

    def __init__(self):
        super().__init__(PairingDelegate.DISPLAY_OUTPUT_ONLY)

    async def generate_passkey(self):
        return 123_456


class Typist:
    def __init__(self, passkey):
        self._passkey = passkey

    async def compare(self, number):
        raise AssertionError(number)

    async def passkey(self):
        return self._passkey

    def authorize(self):
        return False


async def test_a_passkey_pairs_and_the_bond_outlives_the_gateway(site):
    peer = await site.peer(delegate=Display())
    async with site.adapter() as adapter, linked(adapter, peer) as client:
        with pytest.raises(BleakGATTProtocolError):
            await client.read_gatt_char(NAME)
        await adapter.pair(client, Typist(123_456))
        assert adapter.encrypts(peer.address)
        assert await client.read_gatt_char(NAME) == peer.address.encode()
    async with site.adapter() as adapter, linked(adapter, peer) as client:
        assert adapter.encrypts(peer.address)
        assert await client.read_gatt_char(NAME) == peer.address.encode()
        await client.unpair()
    async with site.adapter() as adapter, linked(adapter, peer) as client:
        assert not adapter.encrypts(peer.address)
        with pytest.raises(BleakGATTProtocolError):
            await client.read_gatt_char(NAME)


async def test_a_peer_that_has_lost_its_bond_is_connected_and_not_encrypted(site):
    peer = await site.peer(delegate=Display())
    async with site.adapter() as adapter:
        async with linked(adapter, peer) as client:
            await adapter.pair(client, Typist(123_456))
        peer.device.keystore.all_keys.clear()
        async with linked(adapter, peer):
            assert not adapter.encrypts(peer.address)
        await adapter.forget(peer.address)
        async with linked(adapter, peer) as client:
            await adapter.pair(client, Typist(123_456))
            assert adapter.encrypts(peer.address)


async def test_bonds_that_cannot_be_read_are_none(site):
    site.bonds.write_text("{")
    peer = await site.peer(delegate=Display())
    async with site.adapter() as adapter, linked(adapter, peer) as client:
        await adapter.pair(client, Typist(123_456))
    async with site.adapter() as adapter, linked(adapter, peer):
        assert adapter.encrypts(peer.address)


@pytest.mark.parametrize("passkey", [654_321, None])
async def test_a_wrong_passkey_does_not_pair(site, passkey):
    peer = await site.peer(delegate=Display())
    async with site.adapter() as adapter, linked(adapter, peer) as client:
        with pytest.raises(BleakError):
            await adapter.pair(client, Typist(passkey))
        with pytest.raises(BleakError):
            await client.read_gatt_char(NAME)


# ---- packages


@pytest.mark.parametrize(("package", "extra"), [("bleak.exc", "ble"), ("bumble.device", "bumble")])
def test_a_missing_package_names_its_extra(monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "gatewayd.transports.bumble")
    with pytest.raises(MissingPackageError, match=rf"gatewayd\[{extra}\]"):
        importlib.import_module("gatewayd.transports.bumble")
