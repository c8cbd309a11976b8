"""The radio chip of the demo between a host that speaks docs/radio.md and a central that is Bumble's."""

import asyncio
import contextlib
import struct

import pytest
from ble_central import DOWN, FLOW, SMP, UP, Central, Fingers
from bumble.att import ATT_Error
from bumble.core import BaseBumbleError
from bumble.pairing import PairingDelegate

from gatewayd.demo import line, radio
from gatewayd.demo.air import Air
from gatewayd.demo.line import Chip
from gatewayd.demo.line import Host as Say

SERVICE_DATA = bytes(range(10))
ADVERTISING = b"\x02\x01\x06\x1b\x21" + radio.NODELINK.uuid_bytes + SERVICE_DATA
OPEN, ENCRYPTED, AUTHENTICATED = range(3)
NOTHING, SHOWS, COMPARES = range(3)
KEYBOARD, DISPLAY = (
    PairingDelegate.IoCapability.KEYBOARD_INPUT_ONLY,
    PairingDelegate.IoCapability.DISPLAY_OUTPUT_AND_YES_NO_INPUT,
)


class Host:
    """The node's side of the line."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.number = reader, writer, 0
        self.frames, self.waiting = line.Reader(), []

    def say(self, kind, payload=b""):
        self.number = 0 if kind in {Say.RESET, Say.SECURITY} else self.number + 1
        self.writer.write(line.encode(line.Frame(kind, self.number % 256, payload)))

    async def next(self):
        async with asyncio.timeout(30):
            while not self.waiting:
                self.waiting += self.frames.feed(await self.reader.read(4_096))
        return self.waiting.pop(0)

    async def hear(self, kind):
        """The payload of the next frame, which is of that kind."""
        frame = await self.next()
        assert frame.type == kind, (Chip(frame.type), frame.payload)
        return frame.payload

    async def start(self, level=OPEN, io=NOTHING, passkey=0):
        self.say(Say.RESET)
        while (await self.next()).type != Chip.STARTED:
            pass
        self.say(Say.SECURITY, struct.pack("<BBI", level, io, passkey))
        self.say(Say.VALUE, b"\0n-1")
        self.advertise()

    def advertise(self):
        self.say(Say.ADVERTISE, bytes((len(ADVERTISING),)) + ADVERTISING + b"\x03\x03\x12\x34")


class Cell:
    def __init__(self, folder):
        self.air, self.path = Air(interval_ms=7.5), folder / "radio"

    @contextlib.asynccontextmanager
    async def chip(self):
        async with radio.cell(self.air, [self.path]) as (chip,):
            yield chip

    @contextlib.asynccontextmanager
    async def host(self):
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            yield Host(reader, writer)
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def visit(self, **security):
        """A chip whose host has started it, and a central that is connected."""
        async with self.chip(), self.host() as host, Central(self.air).on() as central:
            await host.start(**security)
            _, address = await central.advertisement()
            visit = await central.connect(address)
            assert await host.hear(Chip.CONNECTED) == b"\x17\0"
            assert await host.hear(Chip.MTU) == b"\xf7\0"
            yield host, visit


@pytest.fixture
def cell(tmp_path):
    return Cell(tmp_path)


async def test_it_advertises_what_the_host_says(cell):
    async with cell.chip(), cell.host() as host, Central(cell.air).on() as central:
        await host.start()
        data, address = await central.advertisement()
        assert (data, str(address)) == (SERVICE_DATA, "F0:00:00:00:00:01")
        changed = ADVERTISING[:-1] + b"\xff"
        host.say(Say.ADVERTISE, bytes((len(changed),)) + changed)
        await central.advertisement(lambda data: data[-1] == 0xFF)
        host.say(Say.ADVERTISE, b"\0")
        host.say(Say.ALIVE)
        await host.hear(Chip.ALIVE)
        sent = cell.air.advertisements
        await asyncio.sleep(0.3)
        assert cell.air.advertisements == sent


async def test_a_connection(cell):
    async with cell.visit() as (host, visit):
        assert await visit.identity() == b"n-1"
        await visit.subscribe(UP, FLOW, SMP)
        assert [await host.hear(Chip.SUBSCRIBED) for _ in range(3)] == [b"\x01\x01", b"\x03\x01", b"\x04\x01"]
        for number in range(20):
            await visit.write(DOWN, bytes((number,)) * 100)
        for number in range(20):
            assert await host.hear(Chip.WRITTEN) == b"\x02" + bytes((number,)) * 100
        host.say(Say.NOTIFY, b"\x01hello")
        host.say(Say.NOTIFY, b"\x03\x05")
        await visit.until(lambda: visit.heard[UP] == [b"hello"] and visit.heard[FLOW] == [b"\x05"])
        await visit.table[UP].unsubscribe()
        sent = 0
        while sent < 2:
            sent += (await host.hear(Chip.SENT))[0]
        assert await host.hear(Chip.SUBSCRIBED) == b"\x01\x00"
        host.say(Say.DISCONNECT)
        await asyncio.wait_for(visit.ended.wait(), 30)
        await host.hear(Chip.DISCONNECTED)


async def test_notifications_are_counted_when_they_are_gone(cell):
    async with cell.visit() as (host, visit):
        await visit.subscribe(UP)
        await host.hear(Chip.SUBSCRIBED)
        cell.air.loss = 1.0  # nothing gets through
        for number in range(8):
            host.say(Say.NOTIFY, bytes((UP, number)) * 100)
        host.say(Say.ALIVE)
        await host.hear(Chip.ALIVE)
        cell.air.loss = 0.3
        sent = 0
        while sent < 8:
            sent += (await host.hear(Chip.SENT))[0]
            assert len(visit.heard[UP]) >= sent - 8
        await visit.until(lambda: len(visit.heard[UP]) == 8)
        assert [value[0] for value in visit.heard[UP]] == list(range(8))
        host.say(Say.NOTIFY, b"\x04nobody has subscribed")
        assert await host.hear(Chip.SENT) == b"\x01"


async def test_it_advertises_again_when_it_is_told_to(cell):
    async with cell.chip(), cell.host() as host, Central(cell.air).on() as central:
        await host.start()
        for _ in range(2):
            _, address = await central.advertisement()
            visit = await central.connect(address)
            host.advertise()  # before the host knows
            host.say(Say.ALIVE)
            assert await host.hear(Chip.CONNECTED)
            assert await host.hear(Chip.MTU)
            await host.hear(Chip.ALIVE)
            await visit.connection.disconnect()
            assert await host.hear(Chip.DISCONNECTED) == b"\x13"
            host.say(Say.NOTIFY, b"\x01to nobody")
            sent = cell.air.advertisements
            await asyncio.sleep(0.3)
            assert cell.air.advertisements == sent
            host.advertise()


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Say.VALUE, b"\x01x"),
        (Say.ADVERTISE, b""),
        (Say.NOTIFY, b"\x0ax"),
        (Say.NOTIFY, b""),
        (0x20, b""),
        (Say.SECURITY, b"\x03\0\0\0\0\0"),
    ],
)
async def test_what_cannot_be_starts_it_anew(cell, kind, payload):
    async with cell.visit() as (host, visit):
        host.say(kind, payload)
        await host.hear(Chip.STARTED)
        await asyncio.wait_for(visit.ended.wait(), 30)


async def test_a_frame_that_is_missing_starts_it_anew(cell):
    async with cell.visit() as (host, visit):
        host.number += 1
        host.say(Say.ALIVE)
        host.say(Say.ALIVE)  # it heeds nothing now
        await host.hear(Chip.STARTED)
        await asyncio.wait_for(visit.ended.wait(), 30)
        await host.start()
        host.say(Say.ALIVE)
        await host.hear(Chip.ALIVE)


async def test_a_host_that_goes_takes_the_connection_with_it(cell):
    async with cell.chip(), Central(cell.air).on() as central:
        for _ in range(2):
            async with cell.host() as host:
                await host.start()
                _, address = await central.advertisement()
                visit = await central.connect(address)
            await asyncio.wait_for(visit.ended.wait(), 30)


# ---- security ----


async def refused(visit):
    """Nothing can be written, read or subscribed."""
    await visit.write(DOWN, b"secret")
    with pytest.raises(ATT_Error):
        await visit.identity()
    with pytest.raises(ATT_Error):
        await visit.subscribe(UP)


async def quiet(host):
    """The host was told of nothing."""
    host.say(Say.ALIVE)
    await host.hear(Chip.ALIVE)


async def test_encrypted_and_bonded(cell):
    async with cell.chip(), cell.host() as host, Central(cell.air).on() as central:
        await host.start(ENCRYPTED)
        for paired in (False, True):
            _, address = await central.advertisement()
            visit = await central.connect(address)
            await host.hear(Chip.CONNECTED), await host.hear(Chip.MTU)
            await refused(visit)
            await quiet(host)
            if paired:
                await visit.connection.encrypt()
            else:
                await visit.connection.pair()
            assert await host.hear(Chip.SECURED) == b"\x01"
            assert await visit.identity() == b"n-1"
            await visit.write(DOWN, b"said")
            assert await host.hear(Chip.WRITTEN) == b"\x02said"
            await visit.connection.disconnect()
            await host.hear(Chip.DISCONNECTED)
            await host.start(ENCRYPTED)  # the bond outlives a reset


async def test_a_passkey_that_the_node_shows(cell):
    fingers = Fingers(KEYBOARD, 123_457)
    async with cell.chip(), cell.host() as host, Central(cell.air, fingers=fingers).on() as central:
        await host.start(AUTHENTICATED, SHOWS, 123_456)
        _, address = await central.advertisement()
        visit = await central.connect(address)
        await refused(visit)
        with pytest.raises(BaseBumbleError):
            await visit.connection.pair()
        await asyncio.wait_for(visit.ended.wait(), 30)  # one guess a connection
        fingers.passkey = 123_456
        host.advertise()
        visit = await central.connect(address)
        await visit.connection.pair()
        assert await visit.identity() == b"n-1"
        await visit.connection.disconnect()
        host.advertise()
        visit = await central.connect(address)
        await visit.connection.encrypt()
        assert await visit.identity() == b"n-1"


async def test_who_did_not_authenticate_does_not_replace_who_did(cell):
    fingers = Fingers(KEYBOARD, 123_456)
    async with cell.chip(), cell.host() as host:
        await host.start(AUTHENTICATED, SHOWS, 123_456)
        async with Central(cell.air, fingers=fingers).on() as central:
            _, address = await central.advertisement()
            visit = await central.connect(address)
            await visit.connection.pair()
            assert await visit.identity() == b"n-1"
            keys = central.device.keystore
        await host.start(ENCRYPTED)
        async with Central(cell.air).on() as imitator:  # it has the address
            visit = await imitator.connect(address)
            await visit.connection.pair()
            assert await visit.identity() == b"n-1"
        await host.start(AUTHENTICATED, SHOWS, 123_456)
        async with Central(cell.air).on() as central:
            central.device.keystore = keys
            visit = await central.connect(address)
            await visit.connection.encrypt()
            assert await visit.identity() == b"n-1"


@pytest.mark.parametrize(("node_says", "central_says"), [(True, True), (False, True), (True, False)])
async def test_a_number_that_both_show(cell, node_says, central_says):
    fingers = Fingers(DISPLAY, same=central_says)
    async with cell.chip(), cell.host() as host, Central(cell.air, fingers=fingers).on() as central:
        await host.start(AUTHENTICATED, COMPARES)
        _, address = await central.advertisement()
        visit = await central.connect(address)
        await host.hear(Chip.CONNECTED), await host.hear(Chip.MTU)
        pairing = asyncio.create_task(visit.connection.pair())
        (number,) = struct.unpack("<I", await host.hear(Chip.COMPARE))
        assert number == await fingers.shown
        host.say(Say.CONFIRM, bytes((node_says,)))
        if node_says and central_says:
            await pairing
            assert await host.hear(Chip.SECURED) == b"\x02"
            assert await visit.identity() == b"n-1"
        else:
            with pytest.raises(BaseBumbleError):
                await pairing
            await host.hear(Chip.DISCONNECTED)


async def test_a_pairing_that_nobody_looked_at_is_not_authenticated(cell):
    async with cell.visit(level=AUTHENTICATED, io=SHOWS, passkey=1) as (host, visit):
        with pytest.raises(BaseBumbleError):
            await visit.connection.pair()
        await host.hear(Chip.DISCONNECTED)
