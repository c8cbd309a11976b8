"""The air between controllers: who hears whom, when, and what is lost."""

import asyncio
from types import SimpleNamespace

import pytest
from ble_peer import Peer, until
from bumble import hci
from bumble.device import Connection, Device
from bumble.hci import Address

from gatewayd.demo.air import Air, Controller, Wire, plugged


class End:
    """What a Wire needs of a connection and its controller."""

    def __init__(self, role):
        self.role = role
        self.handle = 7
        self.controller = self
        self.le_connections = {0: self}
        self.received = []
        self.completed = 0

    def send_hci_packet(self, packet):
        if isinstance(packet, hci.HCI_AclDataPacket):
            self.received.append(packet.data)
        else:
            self.completed += sum(packet.num_completed_packets)


def ends():
    return End(hci.Role.CENTRAL), End(hci.Role.PERIPHERAL)


async def make(mbit=1, interval_ms=15.0, loss=0.0, seed=1):
    central, peripheral = ends()
    wire = Wire(Air(loss=loss, seed=seed), interval_ms, 4_000, central, peripheral)
    wire.mbit = mbit
    return wire, central, peripheral


def fill(wire, role, count, size=251):
    for number in range(count):
        wire.queues[role].append(hci.HCI_AclDataPacket(7, 0, 0, size, number.to_bytes(size, "big")))


@pytest.mark.parametrize(("mbit", "interval_ms", "pdus"), [(1, 15, 6), (2, 15, 10), (1, 50, 20), (2, 50, 35)])
async def test_an_event_holds_what_its_time_holds(mbit, interval_ms, pdus):
    """A PDU of 251 bytes and the empty answer take 2,088 + 80 + 2 * 150 us at 1 Mbit/s, 1,048 + 44 + 2 * 150 at 2."""
    wire, central, peripheral = await make(mbit, interval_ms)
    fill(wire, hci.Role.CENTRAL, 120)
    for number in range(1, 4):
        wire.event()
        assert len(peripheral.received) == central.completed == pdus * number
    assert wire.events == 3


async def test_both_directions_share_an_exchange():
    wire, central, peripheral = await make(mbit=2)
    fill(wire, hci.Role.CENTRAL, 100)
    fill(wire, hci.Role.PERIPHERAL, 100)
    wire.event()
    assert len(peripheral.received) == len(central.received) == 6


async def test_connections_of_a_central_share_its_time():
    wire, central, peripheral = await make(mbit=2)
    central.le_connections[1] = End(hci.Role.CENTRAL)
    fill(wire, hci.Role.CENTRAL, 100)
    wire.event()
    assert len(peripheral.received) == 5


async def test_an_event_ends_with_the_last_pdu():
    wire, _, peripheral = await make()
    fill(wire, hci.Role.CENTRAL, 2, size=20)
    wire.event()
    wire.event()
    assert len(peripheral.received) == 2
    assert wire.delivered == 2


async def test_loss_costs_slots_and_nothing_else():
    wire, central, peripheral = await make(loss=0.3)
    fill(wire, hci.Role.CENTRAL, 1_000)
    while wire.queues[hci.Role.CENTRAL]:
        wire.event()
    assert [int.from_bytes(data, "big") for data in peripheral.received] == list(range(1_000))
    assert central.completed == wire.delivered == 1_000
    assert 0.25 < wire.lost / (wire.lost + wire.delivered) < 0.35
    assert wire.events == -(-(wire.lost + wire.delivered) // 6)


async def test_the_same_seed_is_the_same_air():
    async def run(seed):
        wire, _, peripheral = await make(loss=0.5, seed=seed)
        fill(wire, hci.Role.CENTRAL, 50)
        counts = []
        while wire.queues[hci.Role.CENTRAL]:
            wire.event()
            counts.append(len(peripheral.received))
        return counts

    assert await run(1) == await run(1) != await run(2)


async def test_a_buffer_is_free_when_its_pdu_has_arrived():
    wire, central, _ = await make()
    for size in (27, 27):
        wire.send(central, hci.HCI_AclDataPacket(7, 0, 0, size, bytes(size)))
    assert central.completed == 0
    await until(lambda: central.completed == 2)
    assert wire.events == 1
    wire.close()


# ---- advertising


class Ears:
    """A scanning host, which only counts."""

    def __init__(self, controller, window=48, interval=48, *, active=False, filter_duplicates=False):
        self.reports = []
        controller.host = self
        controller.on_hci_le_set_scan_parameters_command(
            hci.HCI_LE_Set_Scan_Parameters_Command(int(active), interval, window, Address.RANDOM_DEVICE_ADDRESS, 0)
        )
        controller.on_hci_le_set_scan_enable_command(hci.HCI_LE_Set_Scan_Enable_Command(1, int(filter_duplicates)))

    def on_packet(self, packet):
        event = hci.HCI_Packet.from_bytes(packet)
        if isinstance(event, hci.HCI_LE_Advertising_Report_Event):
            self.reports += event.reports


async def advertise(controller, times, data=b"\x02\x01\x06"):
    advertiser = controller.le_legacy_advertiser
    advertiser.enabled, advertiser.advertising_data, advertiser.scan_response_data = True, data, b"\x02\x0a\x00"
    for _ in range(times):
        advertiser.send_advertising_data()
    await asyncio.sleep(0)  # it arrives
    await asyncio.sleep(0)  # its report
    await asyncio.sleep(0)


async def test_a_scanner_hears_the_share_that_its_window_is():
    air = Air(seed=3)
    all_the_time, half, node = Ears(Controller("a", air)), Ears(Controller("b", air), window=24), Controller("node", air)
    await advertise(node, 1_000)
    assert len(all_the_time.reports) == air.advertisements == 1_000
    assert 450 < len(half.reports) < 550


async def test_loss_takes_advertisements():
    air = Air(loss=0.2, seed=3)
    ears, node = Ears(Controller("a", air)), Controller("node", air)
    await advertise(node, 1_000)
    assert 750 < len(ears.reports) < 850


async def test_cells_do_not_hear_each_other():
    air, other = Air(), Air()
    ears, node = Ears(Controller("a", other)), Controller("node", air)
    await advertise(node, 10)
    assert ears.reports == []


async def test_only_who_asks_hears_scan_responses():
    air = Air()
    passive, active, node = Ears(Controller("a", air)), Ears(Controller("b", air), active=True), Controller("node", air)
    await advertise(node, 1)
    kind = hci.HCI_LE_Advertising_Report_Event.EventType
    assert [(report.event_type, report.data) for report in passive.reports] == [(kind.ADV_IND, b"\x02\x01\x06")]
    assert [(report.event_type, report.data) for report in active.reports] == [
        (kind.ADV_IND, b"\x02\x01\x06"),
        (kind.SCAN_RSP, b"\x02\x0a\x00"),
    ]


async def test_a_filter_of_duplicates_lets_changes_through():
    air = Air()
    ears, node = Ears(Controller("a", air), filter_duplicates=True), Controller("node", air)
    await advertise(node, 3)
    await advertise(node, 3, b"\x02\x01\x04")
    assert [report.data for report in ears.reports] == [b"\x02\x01\x06", b"\x02\x01\x04"]


async def test_an_advertiser_waits_its_interval_and_a_little():
    air = Air()
    node = Controller("node", air)
    delays = []
    loop = SimpleNamespace(call_later=lambda delay_s, _: delays.append(delay_s))
    node.le_legacy_advertiser.advertising_interval_min = 160
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: loop)
        for _ in range(100):
            node.le_legacy_advertiser._on_timer_fired()
    assert min(delays) >= 0.1
    assert 0.108 < max(delays) <= 0.11
    assert len(set(delays)) > 90


# ---- connections, with Bumble's hosts


async def central(air):
    controller = Controller("central", air)
    device = Device.with_hci("central", Address("C1:00:00:00:00:01"), controller, controller)
    await device.power_on()
    return device, controller


async def connected(air):
    device, controller = await central(air)
    peer = Peer(air, 1)
    await peer.start()
    return device, controller, peer, await device.connect(peer.address)


def end_of(connection: Connection):
    ended = asyncio.get_running_loop().create_future()
    connection.on("disconnection", ended.set_result)
    return ended


async def test_a_connection_request_that_is_lost_fails_late():
    air = Air()
    device, controller = await central(air)
    peer = Peer(air, 1)
    await peer.start()
    connecting = asyncio.ensure_future(device.connect(peer.address))
    air.random.random = lambda: 0.0  # advertisements are heard
    air.loss = 1e-9  # and what is sent to the peer is lost
    assert await end_of(await connecting) == hci.HCI_ErrorCode.CONNECTION_FAILED_TO_BE_ESTABLISHED_ERROR
    assert not peer.device.connections
    assert not controller.le_connections
    assert not air.wires


async def test_a_peer_that_vanishes_is_noticed_by_the_supervision_timeout():
    air = Air()
    _, controller, peer, connection = await connected(air)
    air.remove_controller(peer.controller)
    assert await end_of(connection) == hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR
    assert not controller.le_connections
    assert not air.wires


async def test_a_reset_forgets_everything_and_peers_notice():
    air = Air()
    _, controller, peer, _ = await connected(air)
    ended = end_of(next(iter(peer.device.connections.values())))
    controller.on_hci_reset_command(hci.HCI_Reset_Command())
    assert not controller.le_connections
    assert await ended == hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR


async def test_a_connection_that_was_cancelled_is_not_made():
    air = Air()
    device, controller = await central(air)
    peer = Peer(air, 1)
    connecting = asyncio.ensure_future(device.connect(peer.address))
    await until(lambda: device.is_le_connecting)
    assert controller.pending_le_connection
    await device.cancel_connection()
    with pytest.raises(Exception, match="UNKNOWN_CONNECTION_IDENTIFIER"):
        await connecting
    await peer.start()
    await until(lambda: air.advertisements > 3)
    assert not controller.le_connections


async def test_encryption_needs_the_same_key_on_both_sides():
    air = Air()
    device, _, peer, connection = await connected(air)
    await connection.pair()
    assert connection.is_encrypted
    bonds = peer.device.keystore.all_keys
    await until(lambda: bonds)
    await connection.disconnect()
    (name,) = bonds
    kept = bonds.pop(name)
    connection = await device.connect(peer.address)
    with pytest.raises(hci.HCI_Error, match="PIN_OR_KEY_MISSING"):
        await connection.encrypt()
    bonds[name] = kept
    kept.ltk.value = bytes(16)
    ended = end_of(connection)
    with pytest.raises(asyncio.CancelledError):
        await connection.encrypt()
    assert await ended == hci.HCI_ErrorCode.CONNECTION_TERMINATED_DUE_TO_MIC_FAILURE_ERROR


async def test_a_command_that_is_not_there_is_refused():
    air = Air()
    device, _, _, connection = await connected(air)
    with pytest.raises(hci.HCI_Error, match="UNKNOWN_HCI_COMMAND"):
        await device.send_sync_command(hci.HCI_Read_Local_OOB_Data_Command())
    with pytest.raises(hci.HCI_Error, match="UNKNOWN_HCI_COMMAND"):
        await device.send_async_command(hci.HCI_Read_Remote_Version_Information_Command(connection_handle=connection.handle))


async def test_parameters_change_for_both():
    air = Air()
    _, _, peer, connection = await connected(air)
    (wire,) = air.wires.values()
    theirs = next(iter(peer.device.connections.values()))
    await connection.set_phy([hci.Phy.LE_2M], [hci.Phy.LE_2M])
    await connection.update_parameters(50, 50, 0, 4_000)
    assert (wire.mbit, wire.interval_ms) == (2, 50)
    await until(lambda: theirs.parameters.connection_interval == 50)


# ---- HCI over TCP


async def test_one_host_at_a_time_and_the_next_is_not_disturbed_by_half_a_packet():
    air = Air()
    controller = Controller("gateway", air)
    reset = bytes(hci.HCI_Reset_Command())
    async with plugged(controller) as port:
        killed_reader, killed = await asyncio.open_connection("127.0.0.1", port)
        killed.write(reset[:2])
        await killed.drain()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await killed_reader.read() == b""
        writer.write(reset)
        answer = hci.HCI_Packet.from_bytes(await reader.readexactly(7))
        assert answer.command_opcode == hci.HCI_RESET_COMMAND
    assert await reader.read() == b""
    killed.close()
    writer.close()
