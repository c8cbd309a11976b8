"""A central for tests: Bumble as it is, on a controller of its own; and what a gateway says to a node, by hand."""

import asyncio
import contextlib
import time

from bumble.core import AdvertisingData
from bumble.device import Device, Peer
from bumble.hci import Address
from bumble.keys import MemoryKeyStore
from bumble.pairing import PairingConfig, PairingDelegate

from gatewayd.core import wire
from gatewayd.core.segments import Receiver, Sender
from gatewayd.core.types import Event, GatewayState, Info, Provisioning, State, Stored, Verdict, Vitals
from gatewayd.demo import radio
from gatewayd.demo.air import Controller

IDENTITY, UP, DOWN, FLOW, SMP = range(5)
TIMEOUT_S = 30
KINDS = {1: State, 2: Info, 3: Vitals, 4: Event}
CODES = {GatewayState: 1, Verdict: 2, Stored: 3, Provisioning: 4}


class Fingers(PairingDelegate):
    """Whoever holds the central: a passkey that they read, or what they say of a number."""

    def __init__(self, io, passkey=None, same=True):
        super().__init__(io)
        self.passkey, self.same, self.shown = passkey, same, asyncio.get_running_loop().create_future()

    async def get_number(self):
        return self.passkey

    async def compare_numbers(self, number, digits):
        self.shown.set_result(number)
        return self.same


class Central:
    def __init__(self, air, address="C0:00:00:00:00:01", fingers=None):
        controller = Controller("central", air)
        self.device = Device.with_hci("central", Address(address), controller, controller)
        self.device.keystore = MemoryKeyStore()
        self.device.pairing_config_factory = lambda _: PairingConfig(delegate=fingers, mitm=fingers is not None)

    @contextlib.asynccontextmanager
    async def on(self):
        await self.device.power_on()
        try:
            yield self
        finally:
            for link in tuple(self.device.connections.values()):
                await link.disconnect()
            await self.device.power_off()

    async def advertisement(self, meets=lambda _: True):
        """The service data of the nodelink service in the first advertisement that has it and meets the condition, and its sender."""
        found = asyncio.get_running_loop().create_future()

        def hear(advertisement):
            for uuid, data in advertisement.data.get_all(AdvertisingData.SERVICE_DATA_128_BIT_UUID):
                if uuid == radio.NODELINK and not found.done() and meets(data):
                    found.set_result((bytes(data), advertisement.address))

        self.device.on("advertisement", hear)
        await self.device.start_scanning(filter_duplicates=False)
        try:
            return await asyncio.wait_for(found, TIMEOUT_S)
        finally:
            await self.device.stop_scanning()
            self.device.remove_listener("advertisement", hear)

    async def connect(self, address):
        return await asyncio.wait_for(Visit(await self.device.connect(address)).begin(), TIMEOUT_S)


class Visit:
    """A connection to a node."""

    def __init__(self, connection):
        self.connection, self.peer = connection, Peer(connection)
        self.heard = [[] for _ in range(5)]
        self.news = asyncio.Event()
        self.ended = asyncio.Event()
        connection.on("disconnection", lambda _: (self.ended.set(), self.news.set()))

    async def begin(self, mtu=247):
        await self.peer.request_mtu(mtu)
        await self.peer.discover_services()
        self.table = []
        for uuid in (radio.NODELINK, radio.SMP):
            (service,) = self.peer.get_services_by_uuid(uuid)
            self.table += await service.discover_characteristics()
        return self

    async def subscribe(self, *which):
        for number in which:
            await self.table[number].subscribe(lambda value, number=number: (self.heard[number].append(value), self.news.set()))

    async def write(self, which, data):
        await self.table[which].write_value(data)

    async def identity(self):
        return await self.table[IDENTITY].read_value()

    async def until(self, condition):
        """Until what was heard meets the condition. Raises ConnectionError where the connection ends before."""
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                if self.ended.is_set():
                    raise ConnectionError
                self.news.clear()
                await self.news.wait()


class Talk:
    """The gateway's end of a visit: messages both ways, in segments."""

    def __init__(self, visit):
        self.visit, self.messages = visit, []
        self.sender, self.receiver = Sender(visit.connection.att_mtu - 3), Receiver(100_000)

    async def begin(self):
        await self.visit.subscribe(UP, FLOW)
        await self.say(GatewayState("online", int(time.time())))
        return self

    async def say(self, message):
        self.sender.put(bytes((CODES[type(message)],)) + wire.encode(message))
        await self._flush()

    async def _flush(self):
        while segment := self.sender.next(0):
            await self.visit.write(DOWN, segment)

    async def hear(self, kind, condition=lambda _: True):
        """The first message of that kind that meets the condition. Raises ConnectionError where the connection ends before."""
        while True:
            for message in self.messages:
                if isinstance(message, kind) and condition(message):
                    return message
            await self._listen()

    async def _listen(self):
        heard = self.visit.heard
        await self.visit.until(lambda: heard[UP] or heard[FLOW])
        while heard[FLOW]:
            self.sender.heard(heard[FLOW].pop(0), 0)
        while heard[UP]:
            if message := self.receiver.take(heard[UP].pop(0)):
                self.messages.append(wire.decode_as(KINDS[message[0]], message[1:]))
        if flow := self.receiver.flow():
            await self.visit.write(FLOW, flow)
        await self._flush()
