"""Bluetooth LE without BlueZ: bleak's scanner and client over Bumble, a host stack in Python, and an HCI controller that it opens.

    async with Adapter("serial:/dev/ttyACM0,1000000", "site") as adapter:
        BleakScanner(heard, backend=adapter.scanner)
        BleakClient(device, backend=adapter.client)

Bumble's coroutines must not be cancelled while controller or peer owe them an answer, which would be taken for the next question's. So each
runs in a task of its own (`Adapter.run`), to its end; whoever waits for it may leave, and where the connection or the controller is gone,
the wait ends with BleakError. A controller that does not answer is gone. A new Adapter begins with the controller's reset.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar, Never, Self, TypeVar

from gatewayd.core.pairing import Agent
from gatewayd.errors import MissingPackageError, TransportError

try:
    from bleak import BleakClient
    from bleak.args import SizedBuffer
    from bleak.assigned_numbers import AdvertisementDataType, gatt_char_props_to_strs
    from bleak.backends.characteristic import BleakGATTCharacteristic
    from bleak.backends.client import BaseBleakClient, NotifyCallback
    from bleak.backends.descriptor import BleakGATTDescriptor
    from bleak.backends.device import BLEDevice
    from bleak.backends.scanner import AdvertisementData, AdvertisementDataCallback, BaseBleakScanner
    from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
    from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
except ImportError as error:
    raise MissingPackageError("bleak", "ble") from error
try:
    from bumble import att, core, gatt_client, hci, pairing
    from bumble.device import Connection, ConnectionParametersPreferences, Device, DeviceConfiguration, Peer
    from bumble.host import DataPacketQueue, Host
    from bumble.transport import open_transport
    from bumble.transport.common import Transport, TransportLostError

    from gatewayd.transports.bumble_pairing import Bonds, Delegate, Session
except ImportError as error:
    raise MissingPackageError("bumble", "bumble") from error

_OPEN_S = 10.0
_ANSWER_S = 5.0  # no controller takes that long for a command
_LEAVE_S = 10.0  # more than the supervision timeout
_MTU = 498  # a write without response of two full PDUs
_MOST_WAITING = 4  # packets of a connection behind those that the controller has; above it, writing waits
_SPARE = 2  # of a controller's buffers, which no connection takes alone
_MOST_SEEN = 4_000  # addresses that a scanner remembers; anyone can make up more
_CONNECTION = ConnectionParametersPreferences(connection_interval_min=15, connection_interval_max=50, supervision_timeout=4_000)
_STATIC_ADDRESS = 0xC0  # the two highest bits

T = TypeVar("T")
logging.getLogger("bumble").setLevel(
    logging.CRITICAL
)  # what it warns of is the doing of peers, as often as they like; what matters it raises


class _Queue(DataPacketQueue):
    """Packets on their way to the controller. Connections take turns, and a slow one leaves some of the buffers to others."""

    def __init__(self, like: DataPacketQueue, send: Callable[[hci.HCI_Packet], None]) -> None:
        super().__init__(like.max_packet_size, like.max_in_flight, send)
        self._transmit = send
        self._lines: dict[int, deque[hci.HCI_Packet]] = {}
        self._flying: Counter[int] = Counter()
        self._moved = asyncio.Event()

    def enqueue(self, packet: hci.HCI_Packet, connection_handle: int) -> None:
        """Send `packet` when it is its turn."""
        self._lines.setdefault(connection_handle, deque()).append(packet)
        self._advance()

    def on_packets_completed(self, packet_count: int, connection_handle: int) -> None:
        """`packet_count` of a connection's packets have left the controller."""
        self._flying[connection_handle] = max(0, self._flying[connection_handle] - packet_count)
        self._advance()

    def flush(self, connection_handle: int) -> None:
        """Forget a connection that has ended."""
        self._lines.pop(connection_handle, None)
        del self._flying[connection_handle]
        self._advance()

    def full(self, connection_handle: int) -> bool:
        """Enough of a connection's packets wait."""
        return len(self._lines.get(connection_handle, ())) > _MOST_WAITING

    async def room(self, connection_handle: int) -> None:
        """Wait until it is not full."""
        while self.full(connection_handle):
            await self._moved.wait()

    async def drain(self, connection_handle: int) -> None:
        """Wait until all of a connection's packets have left the controller."""
        while self._lines.get(connection_handle) or self._flying[connection_handle]:
            await self._moved.wait()

    def _advance(self) -> None:
        while self._lines and self._flying.total() < self.max_in_flight:
            handle = min(self._lines, key=self._flying.__getitem__)
            if self._flying[handle] >= max(1, self.max_in_flight - _SPARE):
                break
            queue = self._lines[handle]
            self._transmit(queue.popleft())
            self._flying[handle] += 1
            if not queue:
                del self._lines[handle]
        self._moved.set()
        self._moved.clear()


_LE_EVENT = bytes((hci.HCI_EVENT_PACKET, hci.HCI_LE_META_EVENT))
_ONE_REPORT = bytes((hci.HCI_LE_ADVERTISING_REPORT_EVENT, 1))
_SIZE, _REPORT_BYTES = 13, 15  # where the size of its data is, and what it has beside them
_LEGACY, _EXTENDED = hci.HCI_LE_Advertising_Report_Event.EventType, hci.HCI_LE_Extended_Advertising_Report_Event.EventType


class _Host(Host):
    """Bumble's host, which does not write down each packet for a log that nobody reads: that was most of its work.

    What it hears (address, its type, data, RSSI, whether a scan response) goes to `heard`.
    """

    def __init__(self, transport: Transport, heard: Callable[[bytes, int, bytes, int, bool], None]) -> None:
        super().__init__(transport.source, transport.sink)
        self._heard = heard

    def on_packet(self, packet: bytes) -> None:
        """Take a packet from the controller. Most are legacy advertising reports, one in an event: Bumble needs long to read them."""
        if packet[:2] == _LE_EVENT and packet[3:5] == _ONE_REPORT and self.ready and len(packet) == _REPORT_BYTES + packet[_SIZE]:
            rssi = packet[-1] - 256 if packet[-1] > 127 else packet[-1]  # noqa: PLR2004 -- a signed byte
            self._heard(packet[7:_SIZE], packet[6], packet[_SIZE + 1 : -1], rssi, packet[5] == _LEGACY.SCAN_RSP)
        else:
            super().on_packet(packet)

    def on_hci_packet(self, packet: hci.HCI_Packet) -> None:
        """Take a packet from the controller."""
        if isinstance(packet, hci.HCI_AclDataPacket):
            self.on_hci_acl_data_packet(packet)
        elif isinstance(packet, hci.HCI_Event):
            self.on_hci_event_packet(packet)

    def on_transport_lost(self) -> None:
        """The controller is gone; Bumble fails the command that waits for it, unless that has just ended."""
        with contextlib.suppress(asyncio.InvalidStateError):
            super().on_transport_lost()  # type: ignore[no-untyped-call]

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        """Give a packet to the controller."""
        if self.hci_sink is not None:
            self.hci_sink.on_packet(bytes(packet))


class Adapter:
    """One HCI controller and its host, in an `async with`, also again. `name` makes its address; bonds are in the file `bonds`."""

    def __init__(self, hci_name: str, name: str, *, bonds: Path) -> None:
        self.name = hci_name
        self.scanner: type[BaseBleakScanner] = type("BumbleScanner", (_Scanner,), {"adapter": self})
        self.client: type[BaseBleakClient] = type("BumbleClient", (_Client,), {"adapter": self})
        self._seed = f"{name} {hci_name}"
        self.bonds = Bonds(None, str(bonds))
        self.agents: dict[str, Agent] = {}  # by the address of whoever pairs
        self._transport: Transport | None = None
        self._gone: asyncio.Future[str] | None = None  # why
        self._initiating = asyncio.Lock()  # one LE Create Connection at a time
        self._changing_scan = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._scanners: set[_Scanner] = set()
        self.clients: set[_Client] = set()  # connected
        self.device = Device()

    # ---- its life

    async def __aenter__(self) -> Self:
        """Open and reset the controller. Raises TransportError."""
        self._gone = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_OPEN_S):
                self._transport = await open_transport(self.name)
                self._transport.source.terminated.add_done_callback(lambda _: self._fail("closed"))
                await self.run(self._power_on(self._transport), self._gone)
        except Exception as error:  # sockets, serial ports and USB each have their own
            await self._close("not opened")
            raise TransportError(f"HCI controller {self.name}: {str(error) or 'does not answer'}") from error
        except asyncio.CancelledError:
            await self._close("not opened")
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(client.disconnect() for client in tuple(self.clients)), return_exceptions=True)
        if not self.gone:
            with contextlib.suppress(BleakError):
                await self.command(self.device.send_sync_command(hci.HCI_Reset_Command()))
        await self._close("closed by the gateway")

    async def watch(self) -> Never:
        """Raise TransportError when the controller is gone."""
        assert self._gone is not None
        raise TransportError(f"HCI controller {self.name}: {await asyncio.shield(self._gone)}")

    @property
    def gone(self) -> bool:
        """It is not open, or no longer."""
        return self._gone is None or self._gone.done()

    async def _power_on(self, transport: Transport) -> None:
        host = _Host(transport, self._heard)
        digest = hashlib.sha256(self._seed.encode()).digest()
        address = hci.Address(bytes((*digest[:5], digest[5] | _STATIC_ADDRESS)), hci.Address.RANDOM_DEVICE_ADDRESS)
        self.device = device = Device(config=DeviceConfiguration(name="gatewayd", address=address), host=host)
        device.keystore = self.bonds
        device.pairing_config_factory = self._pairing
        device.smp_session_proxy = Session
        await device.power_on()
        assert host.le_acl_packet_queue is not None
        host.le_acl_packet_queue = _Queue(host.le_acl_packet_queue, host.send_hci_packet)
        host.remove_listener("advertising_report", device.on_advertising_report)  # it remembers each address for ever
        host.on("advertising_report", self._report)

    def _pairing(self, connection: Connection) -> pairing.PairingConfig:
        agent = self.agents.get(connection.peer_address.to_string(with_type_qualifier=False))
        return pairing.PairingConfig(sc=True, mitm=True, bonding=True, delegate=Delegate(agent) if agent else None)

    async def _close(self, reason: str) -> None:
        self._fail(reason)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._scanners.clear()
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    def _fail(self, reason: str) -> None:
        if self._gone is None or self._gone.done():
            return
        self._gone.set_result(reason)
        for client in tuple(self.clients):
            client.ended()

    # ---- bonds

    async def pair(self, client: BleakClient, agent: Agent) -> None:
        """Pair, from the beginning, with whom `client` is connected to; `agent` answers. Raises BleakError."""
        await self.forget(client.address)
        self.agents[client.address] = agent
        try:
            await client.pair()
        finally:
            del self.agents[client.address]

    async def forget(self, address: str) -> None:
        """Have no bond with `address`."""
        for kind in hci.AddressType(0), hci.AddressType(1):
            await self.bonds.delete(str(hci.Address(address, kind)))

    def encrypts(self, address: str) -> bool:
        """Whether `address` is connected, and encrypted."""
        return any(client.address == address and client.encrypted for client in self.clients)

    # ---- work

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do `work` whoever waits for it, but no longer than the adapter lives."""
        task = asyncio.get_running_loop().create_task(work, name=f"bumble {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever asked may have left

    async def run(self, work: Coroutine[Any, Any, T], end: asyncio.Future[str] | None) -> T:
        """Do `work` to its end, but wait for it until `end` only. Raises BleakError."""
        if end is None or end.done():
            work.close()
            raise BleakError("not connected" if end is None else end.result())
        task = self.spawn(work)
        await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise BleakError(end.result())
        try:
            return task.result()
        except att.ATT_Error as error:
            raise BleakGATTProtocolError(error.error_code) from error
        except (core.BaseBumbleError, TimeoutError) as error:
            if isinstance(error, TransportLostError):
                self._fail("closed")
            raise BleakError(str(error) or "no answer") from error
        except asyncio.CancelledError as error:  # the task's: Bumble cancels what waits for a peer that has left
            raise BleakError("disconnected") from error

    async def command(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what only the controller has to answer. Raises BleakError."""
        return await self._soon(self.run(work, self._gone))

    async def _soon(self, waiting: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await waiting
        except TimeoutError as error:
            self._fail("does not answer")
            raise BleakError(f"{self.name} does not answer") from error

    # ---- connections

    async def connect(self, address: hci.Address) -> Connection:
        """Connect, when those who asked before are done; waits for ever, and takes it back when cancelled. Raises BleakError."""
        task = self.spawn(self._initiate(address))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.shield(self.spawn(self._withdraw(task)))
            raise

    async def _withdraw(self, initiating: asyncio.Task[Connection]) -> None:
        initiating.cancel()
        with contextlib.suppress(BleakError, asyncio.CancelledError):
            await self.disconnect(await initiating)

    async def _initiate(self, address: hci.Address) -> Connection:
        async with self._initiating:
            pending = self.spawn(self.run(self._create(address), self._gone))
            try:
                return await asyncio.shield(pending)
            except asyncio.CancelledError:
                with contextlib.suppress(BleakError):
                    await self._cancel(pending)
                raise

    async def _create(self, address: hci.Address) -> Connection:
        public = self.device.public_address != hci.Address.ANY
        return await self.device.connect(
            address,
            connection_parameters_preferences={hci.Phy.LE_1M: _CONNECTION},
            own_address_type=hci.OwnAddressType.PUBLIC if public else hci.OwnAddressType.RANDOM,
            timeout=None,
        )

    async def _cancel(self, pending: asyncio.Future[Connection]) -> None:
        """Take back an LE Create Connection, which may succeed meanwhile. Raises BleakError, as a rule."""
        if not pending.done():
            with contextlib.suppress(BleakError):  # refused where it has just succeeded
                await self.command(self.device.send_sync_command(hci.HCI_LE_Create_Connection_Cancel_Command()))
        await self.disconnect(await self._soon(asyncio.shield(pending)))

    async def disconnect(self, connection: Connection) -> None:
        """Ask for the end of a connection, which comes as an event. Raises BleakError where it is no more."""
        reason = hci.HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR
        await self.command(self.device.send_async_command(hci.HCI_Disconnect_Command(connection_handle=connection.handle, reason=reason)))

    # ---- scanning

    async def start_scanning(self, scanner: "_Scanner") -> None:
        """Deliver what is heard to `scanner` too. Raises BleakError."""
        self._scanners.add(scanner)
        try:
            await self.command(self._change_scan(active=scanner.active))
        except BaseException:
            self._scanners.discard(scanner)
            raise

    async def stop_scanning(self, scanner: "_Scanner") -> None:
        """Deliver no more to `scanner`."""
        self._scanners.discard(scanner)
        try:
            await self.command(self._change_scan(active=scanner.active))
        except BleakError:
            if not self.gone:
                raise

    async def _change_scan(self, *, active: bool) -> None:
        async with self._changing_scan:
            if self._scanners and not self.device.is_scanning:
                await self.device.start_scanning(active=active, scanning_phys=(hci.Phy.LE_1M,))
            elif not self._scanners and self.device.is_scanning:
                await self.device.stop_scanning()

    def _report(self, report: hci.HCI_LE_Advertising_Report_Event.Report | hci.HCI_LE_Extended_Advertising_Report_Event.Report) -> None:
        if isinstance(report, hci.HCI_LE_Extended_Advertising_Report_Event.Report):
            response = bool(report.event_type & _EXTENDED.SCAN_RESPONSE)
        else:
            response = report.event_type == _LEGACY.SCAN_RSP
        self._heard(bytes(report.address), report.address_type, report.data, report.rssi, response)

    def _heard(self, address: bytes, address_type: int, data: bytes, rssi: int, response: bool) -> None:
        for scanner in tuple(self._scanners):
            scanner.heard(address, address_type, data, rssi, response=response)


class _Scanner(BaseBleakScanner):
    """Calls back for every advertisement, with the device's newest scan response."""

    adapter: ClassVar[Adapter]

    def __init__(
        self, detection_callback: AdvertisementDataCallback | None, service_uuids: list[str] | None, scanning_mode: str, **_: Any
    ) -> None:
        super().__init__(detection_callback, service_uuids)
        self.active = scanning_mode == "active"

    async def start(self) -> None:
        """Begin. Raises BleakError."""
        self.seen_devices = {}
        await self.adapter.start_scanning(self)

    async def stop(self) -> None:
        """End."""
        await self.adapter.stop_scanning(self)

    def heard(self, address: bytes, address_type: int, data: bytes, rssi: int, *, response: bool) -> None:
        """Something came from `address`: an advertisement, or a scan response."""
        key = address[::-1].hex(":").upper()
        device, before = self.seen_devices.get(key, (None, None))
        advertised, responded = (b"", b"") if before is None else before.platform_data
        if response and data == responded:
            return
        payloads: tuple[bytes, bytes] = (advertised, data) if response else (data, responded)
        if before is not None and payloads == before.platform_data:
            advertisement = before._replace(rssi=rssi)
        else:
            advertisement = _advertisement(*payloads, rssi)
        if device is None and len(self.seen_devices) >= _MOST_SEEN:
            del self.seen_devices[next(iter(self.seen_devices))]  # seen first
        details = hci.Address(address, hci.AddressType(address_type)) if device is None else device.details
        device = self.create_or_update_device(key, key, advertisement.local_name, details, advertisement)
        if self.is_allowed_uuid(advertisement.service_uuids):
            self.call_detection_callbacks(device, advertisement)


_UUID_LISTS: dict[int, int] = {
    AdvertisementDataType.INCOMPLETE_LIST_SERVICE_UUID16: 2,
    AdvertisementDataType.COMPLETE_LIST_SERVICE_UUID16: 2,
    AdvertisementDataType.INCOMPLETE_LIST_SERVICE_UUID32: 4,
    AdvertisementDataType.COMPLETE_LIST_SERVICE_UUID32: 4,
    AdvertisementDataType.INCOMPLETE_LIST_SERVICE_UUID128: 16,
    AdvertisementDataType.COMPLETE_LIST_SERVICE_UUID128: 16,
}
_SERVICE_DATA: dict[int, int] = {
    AdvertisementDataType.SERVICE_DATA_UUID16: 2,
    AdvertisementDataType.SERVICE_DATA_UUID32: 4,
    AdvertisementDataType.SERVICE_DATA_UUID128: 16,
}
_BASE_UUID = "-0000-1000-8000-00805f9b34fb"


def _uuid(data: bytes) -> str:
    digits = data[::-1].hex()
    if len(data) < 16:  # noqa: PLR2004 -- bytes of a full one
        return digits.zfill(8) + _BASE_UUID
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _advertisement(advertised: bytes, responded: bytes, rssi: int) -> AdvertisementData:
    """Read both payloads as one; a structure that does not hold ends its payload, as in BlueZ."""
    name: str | None = None
    tx_power: int | None = None
    makers: dict[int, bytes] = {}
    services: dict[str, bytes] = {}
    uuids: list[str] = []
    for payload in (advertised, responded):
        at = 0
        while at < len(payload) and payload[at] and at + payload[at] < len(payload):
            kind, data = payload[at + 1], payload[at + 2 : at + 1 + payload[at]]
            at += 1 + payload[at]
            if size := _SERVICE_DATA.get(kind):
                if len(data) >= size:
                    services[_uuid(data[:size])] = data[size:]
            elif size := _UUID_LISTS.get(kind):
                uuids += [_uuid(data[start : start + size]) for start in range(0, len(data) - size + 1, size)]
            elif kind == AdvertisementDataType.COMPLETE_LOCAL_NAME or (kind == AdvertisementDataType.SHORTENED_LOCAL_NAME and name is None):
                name = data.decode(errors="replace")
            elif kind == AdvertisementDataType.TX_POWER_LEVEL and len(data) == 1:
                tx_power = int.from_bytes(data, "little", signed=True)
            elif kind == AdvertisementDataType.MANUFACTURER_SPECIFIC_DATA and len(data) >= 2:  # noqa: PLR2004 -- bytes of the company's number
                makers[int.from_bytes(data[:2], "little")] = data[2:]
    return AdvertisementData(name, makers, services, uuids, tx_power, rssi, (advertised, responded))


class _Client(BaseBleakClient):
    """One connection at a time to one device, which a scanner of the same adapter has heard."""

    adapter: ClassVar[Adapter]

    def __init__(
        self, address_or_ble_device: BLEDevice | str, *, disconnected_callback: Callable[[], None] | None, timeout: float, **_: Any
    ) -> None:
        super().__init__(address_or_ble_device, disconnected_callback=disconnected_callback, timeout=timeout)
        self._device = address_or_ble_device if isinstance(address_or_ble_device, BLEDevice) else None
        self._connection: Connection | None = None
        self._gatt: gatt_client.Client | None = None
        self._left: asyncio.Future[str] | None = None  # the newest connection
        self._silent = True  # nobody has seen it connected

    @property
    def name(self) -> str:
        """What the device calls itself, or its address."""
        return (self._device and self._device.name) or self.address

    @property
    def mtu_size(self) -> int:
        """The ATT_MTU."""
        return att.ATT_DEFAULT_MTU if self._gatt is None else self._gatt.mtu

    @property
    def is_connected(self) -> bool:
        """There is a connection."""
        return self._connection is not None

    @property
    def encrypted(self) -> bool:
        """There is a connection, and it is encrypted."""
        return self._connection is not None and self._connection.is_encrypted

    # ---- the connection

    async def connect(self, pair: bool, **kwargs: Any) -> None:
        """Connect and look at the services. Raises BleakError, and TimeoutError after `timeout`."""
        if self._connection is not None:
            raise BleakError("already connected")
        if self._device is None or not isinstance(self._device.details, hci.Address):
            raise BleakDeviceNotFoundError(self.address, "give the BLEDevice that a scanner of this adapter has heard")
        async with asyncio.timeout(kwargs.get("timeout", self._timeout)):
            connection = await self.adapter.connect(self._device.details)
            if self.adapter.device.connections.get(connection.handle) is not connection:
                raise BleakError("disconnected")
            self._began(connection)
            try:
                await self._set_up(connection, pair=pair)
            except BaseException:
                self._silent = True  # it was never connected, as far as anyone knows
                await asyncio.shield(self.adapter.spawn(self.disconnect()))
                raise
            self._silent = False

    def _began(self, connection: Connection) -> None:
        self._connection = connection
        self._gatt = Peer(connection).gatt_client
        self._left = asyncio.get_running_loop().create_future()
        self.adapter.clients.add(self)
        connection.on(connection.EVENT_DISCONNECTION, lambda _: self.ended())

    async def _set_up(self, connection: Connection, *, pair: bool) -> None:
        if await self.adapter.bonds.get(str(connection.peer_address)) is not None:
            with contextlib.suppress(BleakError):  # a peer that has lost its bond is connected nevertheless, see `encrypted`
                await self._run(connection.encrypt())
        elif pair:
            await self.pair()
        if self.adapter.device.supports_le_phy(hci.Phy.LE_2M):
            with contextlib.suppress(BleakError):  # where the peer has it too
                await self.adapter.command(connection.set_phy([hci.Phy.LE_2M], [hci.Phy.LE_2M]))
        gatt = self._client()
        await self._run(gatt.request_mtu(_MTU))
        self.services = await self._run(self._discover(gatt))

    async def _discover(self, gatt: gatt_client.Client) -> BleakGATTServiceCollection:
        services = BleakGATTServiceCollection()
        for service in await gatt.discover_services():
            ours = BleakGATTService(service, service.handle, _uuid(service.uuid.to_bytes()))
            services.add_service(ours)
            for proxy in await service.discover_characteristics():
                properties = list(gatt_char_props_to_strs(int(proxy.properties)))
                its = BleakGATTCharacteristic(proxy, proxy.handle, _uuid(proxy.uuid.to_bytes()), properties, self._most, ours)
                services.add_characteristic(its)
                for descriptor in await proxy.discover_descriptors():
                    services.add_descriptor(BleakGATTDescriptor(descriptor, descriptor.handle, _uuid(descriptor.type.to_bytes()), its))
        return services

    def ended(self) -> None:
        """The connection is no more, or its controller."""
        if self._connection is None or self._left is None:
            return
        self._connection = self._gatt = self.services = None
        self._left.set_result("disconnected")
        self.adapter.clients.discard(self)
        if self._disconnected_callback is not None and not self._silent:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        """Disconnect, if connected. Raises BleakError where the controller fails."""
        if self._connection is None or self._left is None:
            return
        left = self._left
        try:
            await self.adapter.disconnect(self._connection)
        except BleakError:
            if not left.done():
                raise
        await asyncio.wait((left,), timeout=_LEAVE_S)

    async def pair(self, *_: Any, **__: Any) -> None:
        """Pair with LE Secure Connections, and bond, where that was not done before. Raises BleakError."""
        if self._connection is None:
            raise BleakError("not connected")
        if not self._connection.is_encrypted:
            await self._run(self._pair(self._connection))

    async def _pair(self, connection: Connection) -> None:
        ended = asyncio.Event()
        connection.once(connection.EVENT_PAIRING, lambda _: ended.set())
        await connection.pair()
        await ended.wait()  # the keys are saved, or could not be
        if await self.adapter.bonds.get(str(connection.peer_address)) is None:
            raise BleakError("the bond cannot be kept")

    async def unpair(self) -> None:
        """Forget the bond, and disconnect."""
        if self._device is not None:
            await self.adapter.bonds.delete(str(self._device.details))
        await self.disconnect()

    def _client(self) -> gatt_client.Client:
        if self._gatt is None:
            raise BleakError("not connected")
        return self._gatt

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return await self.adapter.run(work, self._left)

    # ---- characteristics

    def _most(self) -> int:
        """Bytes in a write without response."""
        return self.mtu_size - 3

    async def read_gatt_char(self, characteristic: BleakGATTCharacteristic, **_: Any) -> bytearray:
        """Read. Raises BleakError."""
        return bytearray(await self._run(self._client().read_value(characteristic.handle)))

    async def read_gatt_descriptor(self, descriptor: BleakGATTDescriptor, **_: Any) -> bytearray:
        """Read. Raises BleakError."""
        return bytearray(await self._run(self._client().read_value(descriptor.handle)))

    async def write_gatt_char(self, characteristic: BleakGATTCharacteristic, data: SizedBuffer, response: bool) -> None:
        """Write; without response, wait until the controller has taken most of what was written before. Raises BleakError."""
        value = bytes(data)
        if response:
            await self._run(self._client().write_value(characteristic.handle, value, with_response=True))
            return
        if len(value) > self._most():
            raise BleakError(f"{len(value)} bytes in a write without response, at most {self._most()}")
        if self._connection is not None:
            queue = self._connection.data_packet_queue
            assert isinstance(queue, _Queue)
            while queue.full(self._connection.handle):
                await self._run(queue.room(self._connection.handle))
        await self._client().write_value(characteristic.handle, value)  # only queues it

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: SizedBuffer) -> None:
        """Write. Raises BleakError."""
        await self._run(self._client().write_value(descriptor.handle, bytes(data), with_response=True))

    async def start_notify(self, characteristic: BleakGATTCharacteristic, callback: NotifyCallback, **_: Any) -> None:
        """Call back with each notification, in order. Raises BleakError."""
        proxy: gatt_client.CharacteristicProxy[bytes] = characteristic.obj
        await self._run(proxy.subscribe(lambda value: callback(bytearray(value))))

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        """Call back no more. Raises BleakError."""
        proxy: gatt_client.CharacteristicProxy[bytes] = characteristic.obj
        await self._run(proxy.unsubscribe())
