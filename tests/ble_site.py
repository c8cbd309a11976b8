"""A Bluetooth site in one process: the air, the gateway's transport, and nodes of which a test may do anything. For tests."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

from bumble import att, core, gatt, hci, ll
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.host import Host
from bumble.transport.common import AsyncPipeSink, StreamPacketSink

from gatewayd.config import Ble
from gatewayd.config import Store as StoreSettings
from gatewayd.core import wire
from gatewayd.core.beacon import SERVICE_UUID, Beacon, build, crc_of
from gatewayd.core.pairing import Trust
from gatewayd.core.segments import Receiver, Sender
from gatewayd.core.types import Event, GatewayState, Info, NodeState, Reason, State, Stored, Verdict
from gatewayd.demo.air import Air, Controller, plugged
from gatewayd.errors import DecodeError
from gatewayd.pairings import Desk, Pairings
from gatewayd.store import Store
from gatewayd.transports.ble import BleTransport, stacks
from gatewayd.transports.ble_link import DOWN, FLOW, IDENTITY, SMP, UP

MODEL = bytes(range(8))
SMP_SERVICE = "8d53dc1d-1db7-4cd3-868b-8a527460aa84"
KINDS = {1: GatewayState, 2: Verdict, 3: Stored}


def info(session: int) -> Info:
    return Info(session, "bumble", "air", "1.0", "power-on", b"", 1_000, ("audio",), 60, ())


def event(session: int, seq: int) -> Event:
    return Event(seq, session, "hey-jarvis", MODEL, 0.5, 0, 1_000, Reason.TRIGGER)


class BleNode:
    """A node, as the contract wants it: after `gateway-state` it says what it is, then its events until they are stored."""

    def __init__(self, air: Air, node: str, *, address: str, session: int = 1, advertising_ms: float = 50) -> None:
        self.id = node
        self.session = session
        self._advertising_ms = advertising_ms
        self.said: list[tuple] = []  # messages of the gateway
        self.events: dict[int, Event] = {}  # by seq, not stored
        self.requests: list[bytes] = []  # pieces of SMP
        self.connections = 0
        self.missing = False  # the gateway said so
        self._air = air
        self._controller = Controller(node, air)
        host = Host(self._controller, AsyncPipeSink(self._controller))
        self._controller.host = host
        config = DeviceConfiguration(name=node, address=hci.Address(address))
        config.le_privacy_enabled = False
        self.device = Device(config=config, host=host)
        self._characteristics: dict[str, gatt.Characteristic] = {}
        self._connection: Connection | None = None
        self._counter = 0

    # ---- GATT

    async def start(self) -> None:
        notify, write = gatt.Characteristic.Properties.NOTIFY, gatt.Characteristic.Properties.WRITE_WITHOUT_RESPONSE
        writable = att.Attribute.Permissions.WRITEABLE

        def characteristic(uuid: str, properties: gatt.Characteristic.Properties, taken: Callable[[bytes], None]) -> gatt.Characteristic:
            value = gatt.CharacteristicValue(write=lambda _connection, data: taken(bytes(data)))
            made = self._characteristics[uuid] = gatt.Characteristic(uuid, properties, writable, value)
            made.on(made.EVENT_SUBSCRIPTION, lambda *_: asyncio.get_running_loop().call_soon(self._subscribed))
            return made

        identity = gatt.Characteristic(
            IDENTITY, gatt.Characteristic.Properties.READ, att.Attribute.Permissions.READABLE, self.identity().encode()
        )
        nodelink = gatt.Service(
            SERVICE_UUID,
            [
                identity,
                characteristic(UP, notify, lambda _: None),
                characteristic(DOWN, write, self._down),
                characteristic(FLOW, notify | write, self._flow),
            ],
        )
        self.device.add_service(nodelink)
        self.device.add_service(gatt.Service(SMP_SERVICE, [characteristic(SMP, notify | write, self.managed)]))
        self.device.on("connection", self._connected)
        await self.device.power_on()
        await self.advertise()

    def identity(self) -> str:
        return self.id

    def beacon(self) -> Beacon:
        self._counter = (self._counter + 1) & 0xFF
        return Beacon(self.session & 0xFF, crc_of(self.id), wants=bool(self.events), counter=self._counter)

    async def advertise(self) -> None:
        data = build(self.beacon())
        service_data = core.UUID(SERVICE_UUID).to_bytes() + data
        with contextlib.suppress(core.InvalidStateError, hci.HCI_Error):
            await self.device.start_advertising(
                advertising_data=bytes((2, 1, 6, len(service_data) + 1, 0x21)) + service_data,
                auto_restart=False,
                advertising_interval_min=self._advertising_ms,
                advertising_interval_max=self._advertising_ms,
            )

    async def stop(self) -> None:
        """Fall silent, as if the battery were taken out."""
        self._air.remove_controller(self._controller)
        self._controller.le_legacy_advertiser.stop()

    def _connected(self, connection: Connection) -> None:
        self._connection = connection
        self.connections += 1
        self.receiver, self.sender = Receiver(98_305), Sender(20)
        self._subscriptions = 0
        connection.on("disconnection", self._disconnected)
        asyncio.get_running_loop().call_later(0.2, self._tick, self.sender)
        connection.on("connection_att_mtu_update", lambda: setattr(self.sender, "segment_bytes", connection.att_mtu - 3))

    def _disconnected(self, _reason: int) -> None:
        self._connection = None
        asyncio.get_running_loop().create_task(self.advertise())

    def _subscribed(self) -> None:
        """The third, `up`, is the last."""
        self._subscriptions += 1

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect()

    async def notify(self, uuid: str, data: bytes) -> None:
        if self._connection is not None:
            await self.device.notify_subscriber(self._connection, self._characteristics[uuid], data, force=True)

    def soon(self, uuid: str, data: bytes) -> None:
        asyncio.get_running_loop().create_task(self.notify(uuid, data))

    # ---- what is said

    def _down(self, segment: bytes) -> None:
        message = self.receiver.take(segment)
        if (flow := self.receiver.flow()) is not None:
            self.soon(FLOW, flow)
        if message is not None:
            self.hear(wire.decode_as(KINDS[message[0]], message[1:]))

    def _flow(self, flow: bytes) -> None:
        self.missing = self.missing or flow[0] > 0x7F
        with contextlib.suppress(DecodeError):
            self.sender.heard(flow, now_ms())
        self._send()

    def _tick(self, sender: Sender) -> None:
        if self.connected and self.sender is sender:
            sender.tick(now_ms())
            self._send()
            asyncio.get_running_loop().call_later(0.2, self._tick, sender)

    def _send(self) -> None:
        while (segment := self.sender.next(now_ms())) is not None:
            self.soon(UP, segment)

    def say(self, code: int, message: tuple) -> None:
        self.sender.put(bytes((code,)) + wire.encode(message))
        self._send()

    def hear(self, message: tuple) -> None:
        self.said.append(message)
        if isinstance(message, GatewayState):
            self.greet()
        elif isinstance(message, Stored):
            for seq in message.seqs:
                self.events.pop(seq, None)

    def greet(self) -> None:
        self.say(2, info(self.session))
        self.say(1, State(NodeState.READY, self.session))
        for waiting in self.events.values():
            self.say(4, waiting)

    def managed(self, piece: bytes) -> None:
        self.requests.append(piece)

    async def suspect(self, seq: int) -> None:
        """An event happens."""
        self.events[seq] = event(self.session, seq)
        if self.connected:
            self.say(4, self.events[seq])
        else:
            await self.device.stop_advertising()
            await self.advertise()


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Site:
    """The gateway's transport on the air; what it says is in `frames`, what it counts in `counts`."""

    def __init__(self, air: Air) -> None:
        self.air = air
        self.controller = Controller("gateway", air)
        self.adapter = ""
        self.frames: list = []
        self.counts = Counter[tuple[str, str]]()
        self.sighted = Counter[str]()
        self.lost: list[str] = []
        self.transport: BleTransport
        self.pairings: Pairings
        self.life: contextlib.AsyncExitStack
        self.keeps = True  # what comes is on disk at once

    async def read(self) -> None:
        async for batch in self.transport.frames():
            for frame in batch:
                self.frames.append(frame)
                if self.keeps:
                    frame.done()

    @contextlib.asynccontextmanager
    async def gateway(self, tmp_path, **settings) -> AsyncIterator[None]:
        """One life of it."""
        ble = Ble(hci=self.adapter, **settings)
        async with Store(StoreSettings(), f"sqlite:///{tmp_path / 'site.db'}") as store, asyncio.TaskGroup() as tasks:
            self.pairings = Pairings(store)
            desk = Desk(self.pairings, Trust(required=ble.pairing == "required"), store.changes)
            self.transport = BleTransport(
                ble,
                stacks(ble, "site", tmp_path),
                desk,
                count=lambda what, label: self.counts.update([(what, label)]),
                sighted=lambda node: self.sighted.update([node]),
                lost=self.lost.append,
            )
            working = [tasks.create_task(work) for work in (self.transport.run(), self.read(), desk.follow(self.transport.review))]
            yield
            for task in working:
                task.cancel()

    async def start(self, tmp_path, **settings) -> None:
        """Begin its life, or end it and begin another."""
        await self.life.aclose()
        await self.life.enter_async_context(self.gateway(tmp_path, **settings))

    def unplug(self) -> None:
        """The controller goes, and is there again."""
        assert isinstance(self.controller.host, StreamPacketSink)
        self.controller.host.close()

    def advertise(self, address: str, node: str) -> None:
        """An advertisement out of nowhere."""
        data = core.UUID(SERVICE_UUID).to_bytes() + build(Beacon(1, crc_of(node)))
        self.controller.on_ll_advertising_pdu(ll.AdvInd(hci.Address(address), bytes((2, 1, 6, len(data) + 1, 0x21)) + data))

    def count(self, what: str) -> int:
        return sum(number for (kind, _), number in self.counts.items() if kind == what)

    def heard(self, node: str, tail: str) -> list:
        return [frame for frame in self.frames if frame.node == node and frame.tail == tail]

    async def node(self, node: str, number: int = 1, kind: type[BleNode] = BleNode, **options) -> BleNode:
        made = kind(self.air, node, address=f"F0:00:00:00:00:{number:02X}", **options)
        await made.start()
        return made


@contextlib.asynccontextmanager
async def site(tmp_path, loss: float = 0.0, **settings) -> AsyncIterator[Site]:
    here = Site(Air(loss=loss, interval_ms=15))
    async with plugged(here.controller) as port, contextlib.AsyncExitStack() as here.life:
        here.adapter = f"tcp-client:127.0.0.1:{port}"
        await here.start(tmp_path, **settings)
        yield here


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
