"""The posix node with a radio chip, and a central that reads, subscribes and judges by hand."""

import asyncio
import contextlib
import signal

import ble_site
import numpy as np
import pytest
from ble_central import SMP, UP, Central, Fingers, Talk
from bumble.att import ATT_Error
from bumble.core import BaseBumbleError
from bumble.pairing import PairingDelegate
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cascades.vibration import simulator
from gatewayd import bundle, signing
from gatewayd.core import beacon, wire
from gatewayd.core.types import Basis, Event, Info, NodeState, State, Stored, Verdict
from gatewayd.demo import radio, site
from gatewayd.demo.air import Air

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
RATE_HZ = 8_000


class Place:
    def __init__(self, folder, build):
        self.folder, self.program, self.socket = folder, build / "ports" / "posix" / "gateway-node", folder / "radio"
        self.air = Air(interval_ms=7.5)
        self.key = folder / "key.hex"
        self.key.write_text(signing.raw(KEY.public_key()).hex() + "\n")
        self.log = folder / "node.log"

    def chip(self):
        return radio.cell(self.air, [self.socket])

    def node(self, *more):
        options = ("--id", "n-1", "--radio", self.socket, "--flash", self.folder / "flash", "--key", self.key)
        return site.process([self.program, *options, *more], self.log)

    @contextlib.asynccontextmanager
    async def both(self, *more):
        async with self.chip() as (chip,), self.node(*more) as running:
            yield chip, running

    async def said(self, words):
        async with asyncio.timeout(30):
            while words not in self.log.read_text():
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def visit(self, fingers=None):
        """A central that found the node, and is connected."""
        async with Central(self.air, fingers=fingers).on() as central:
            _, address = await central.advertisement()
            yield await central.connect(address)


def shaking(folder, times):
    """A healthy machine that goes wild, so many times over: an event each."""
    file = folder / "shaking.wav"
    healthy = simulator.record(simulator.machine(0), 6, seed=1)
    wild = np.random.default_rng(1).integers(-20_000, 20_000, 6 * RATE_HZ, dtype=np.int16)
    simulator.write_wav(file, np.concatenate((healthy, wild) * times))
    return "--input", f"vibration:{file}", "--fast"


@pytest.fixture
def place(tmp_path, host_build):
    return Place(tmp_path, host_build)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    file = tmp_path_factory.mktemp("image") / "vibration.img"
    folder = bundle.read(site.BROKER_FILES.parent.parent / "cascades" / "vibration")
    decision = folder.cascade.node.decision.model_copy(update={"hold_off_ms": 0, "clip_ms": 500})
    node = folder.cascade.node.model_copy(update={"decision": decision})
    file.write_bytes(bundle.node_image(folder._replace(cascade=folder.cascade.model_copy(update={"node": node})), key=KEY))
    return file


async def test_it_is_seen_and_read(place, image):
    async with place.both("--image", image), Central(place.air).on() as central:
        data, address = await central.advertisement()
        seen = beacon.parse(data)
        assert (seen.session_low, seen.crc, seen.mqtt) == (1, beacon.crc_of("n-1"), False)
        visit = await central.connect(address)
        assert await visit.identity() == b"n-1"
        talk = await Talk(visit).begin()
        info = await talk.hear(Info)
        assert (info.session, info.slots[0].cascade, info.board) == (1, "vibration", "posix")
        assert seen.model == info.slots[0].sha256[:2]
        assert (await talk.hear(State)) == (NodeState.READY, 1)


async def test_an_event_is_its_own_until_it_is_stored(place, image):
    async with place.both("--image", image, *shaking(place.folder, 20)), Central(place.air).on() as central:
        _, address = await central.advertisement()
        visit = await central.connect(address)
        first = await (await Talk(visit).begin()).hear(Event)
        await visit.connection.disconnect()
        await central.advertisement()
        talk = await Talk(await central.connect(address)).begin()
        assert await talk.hear(Event) == first
        stored = []
        while len(stored) < 10:
            event = await talk.hear(Event, lambda event: event.seq not in stored)
            stored.append(event.seq)
            await talk.say(Stored(event.session, (event.seq,)))
        assert sorted(stored) == stored == [message.seq for message in talk.messages if isinstance(message, Event)][:10]


async def test_a_verdict_is_carried_out(place, image):
    async with place.both("--image", image, *shaking(place.folder, 1)), place.visit() as visit:
        talk = await Talk(visit).begin()
        event = await talk.hear(Event)
        await talk.say(Verdict(event.seq, event.session, True, "anomaly", 0.9, "stop-motor", 60_000, Basis.GATEWAY))
        await place.said("vibration: action stop-motor (anomaly)")


async def test_its_beacon_says_that_an_event_waits_and_that_it_has_a_broker(place, image):
    port = site.free_port()
    for above in (place.folder, *place.folder.parents):  # mosquitto drops root and must reach its files then
        if above.name.startswith(("pytest-", "test_")):
            above.chmod(0o755)
    command = ("--image", image, *shaking(place.folder, 1), "--broker", f"127.0.0.1:{port}")
    async with place.both(*command), Central(place.air).on() as central:
        await central.advertisement(lambda data: beacon.parse(data).wants and not beacon.parse(data).mqtt)
        async with site.broker(place.folder, port):
            await central.advertisement(lambda data: beacon.parse(data).mqtt)
        await central.advertisement(lambda data: not beacon.parse(data).mqtt)


async def test_smp_without_a_gateway(place):
    echo = bytes.fromhex("0a00000600002a00a16164626869")  # os, echo "hi"
    async with place.both(), place.visit() as visit:
        await visit.subscribe(SMP)
        await visit.write(SMP, echo[:5])
        await visit.write(SMP, echo[5:])
        await visit.until(lambda: b"".join(visit.heard[SMP]).endswith(b"bhi"))


async def test_the_radio_restarts(place):
    async with place.both() as (chip, _), Central(place.air).on() as central:
        _, address = await central.advertisement()
        for _ in range(3):
            visit = await central.connect(address)
            await (await Talk(visit).begin()).hear(State)
            await chip.restart()
            await asyncio.wait_for(visit.ended.wait(), 30)
        assert await (await central.connect(address)).identity() == b"n-1"


async def test_the_radio_is_taken_away_and_another_comes(place):
    async with place.node(), Central(place.air).on() as central:
        for _ in range(2):
            async with place.chip():
                _, address = await central.advertisement()
                visit = await central.connect(address)
                await (await Talk(visit).begin()).hear(State)


async def test_the_node_restarts(place):
    async with place.chip(), Central(place.air).on() as central:
        for session in (1, 2, 3):
            async with place.node() as running:
                _, address = await central.advertisement(lambda data, session=session: beacon.parse(data).session_low == session)
                visit = await central.connect(address)
                talk = await Talk(visit).begin()
                assert await talk.hear(State) == (NodeState.READY, session)
                if session == 2:
                    running.terminate()
                    await talk.hear(State, lambda message: message.state == NodeState.DISCONNECTED)
                else:
                    running.kill()
                with pytest.raises(ConnectionError):
                    await talk.hear(Event)


class Noise:
    """A line that damages a byte six times, between the node and its chip."""

    def __init__(self, path, chip):
        self.path, self.chip, self.rng, self.damaged = path, chip, np.random.default_rng(1), 0
        self.tasks = set()

    @contextlib.asynccontextmanager
    async def on(self):
        async with await asyncio.start_unix_server(self._connected, self.path):
            yield
        await asyncio.wait_for(asyncio.gather(*self.tasks), 30)

    async def _connected(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        from_chip, to_chip = await asyncio.open_unix_connection(self.chip)
        await asyncio.gather(self._copy(reader, to_chip), self._copy(from_chip, writer))

    async def _copy(self, reader, writer):
        while data := bytearray(await reader.read(200)):
            if self.damaged < 6 and self.rng.random() < 0.03:
                data[self.rng.integers(len(data))] ^= 0x40
                self.damaged += 1
            writer.write(data)
        writer.close()


async def test_a_line_that_damages_frames(place, image):
    """Every event comes, however often node and chip start anew."""
    noise, seqs = Noise(place.folder / "noise", place.socket), set()
    command = ("--image", image, *shaking(place.folder, 20), "--radio", noise.path)
    async with place.chip(), noise.on(), place.node(*command), Central(place.air).on() as central:
        while noise.damaged < 6 or len(seqs) < 10:
            with contextlib.suppress(BaseBumbleError, ConnectionError, TimeoutError, asyncio.CancelledError):  # the line takes its time
                _, address = await central.advertisement()
                visit = await central.connect(address)
                talk = await Talk(visit).begin()
                while noise.damaged < 6 or len(seqs) < 10:
                    event = await talk.hear(Event, lambda event: event.seq not in seqs)
                    seqs.add(event.seq)
                    await talk.say(Stored(event.session, (event.seq,)))
    assert seqs >= set(range(10))


# ---- pairing ----


async def test_a_node_that_wants_encryption(place):
    async with place.both("--pairing", "encrypted"), place.visit() as visit:
        with pytest.raises(ATT_Error):
            await visit.identity()
        await visit.connection.pair()
        await (await Talk(visit).begin()).hear(State)


async def test_a_node_with_a_passkey(place):
    keyboard = PairingDelegate.IoCapability.KEYBOARD_INPUT_ONLY
    async with place.both("--pairing", "012345"), place.visit(Fingers(keyboard, 12_345)) as visit:
        with pytest.raises(ATT_Error):
            await visit.subscribe(UP)
        await visit.connection.pair()
        await (await Talk(visit).begin()).hear(State)


async def test_a_node_that_shows_a_number(place):
    fingers = Fingers(PairingDelegate.IoCapability.DISPLAY_OUTPUT_AND_YES_NO_INPUT)
    async with place.both("--pairing", "compare") as (_, running), place.visit(fingers) as visit:
        pairing = asyncio.create_task(visit.connection.pair())
        await place.said(f"does the peer show {await fingers.shown:06}?")
        running.send_signal(signal.SIGUSR1)
        await pairing
        await (await Talk(visit).begin()).hear(State)


# ---- with the gateway's transport


async def test_what_the_gateway_hears(place, image):
    async with ble_site.site(place.folder) as gateway:
        place.air = gateway.air
        async with place.both("--image", image, *shaking(place.folder, 5)):
            await ble_site.until(lambda: len(gateway.heard("n-1", "event")) >= 5)
        assert [len(gateway.heard("n-1", tail)) >= 1 for tail in ("info", "state", "vitals")] == [True] * 3
        events = [wire.decode("event", frame.payload) for frame in gateway.heard("n-1", "event")]
        assert len({(event.session, event.seq) for event in events}) == len(events) == 5
