"""The posix ports as processes on a real broker: one node that feels a machine shake, and a fleet."""

import asyncio
import contextlib
import hashlib
import json
import signal
import time

import aiomqtt
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from smpclient import SMPClient
from smpclient.requests.image_management import ImageStatesWrite

from cascades.vibration import simulator
from gatewayd import bundle, signing
from gatewayd.core import image as images
from gatewayd.core import tflite, wire
from gatewayd.core.types import Basis, Event, GatewayState, Info, Limits, NodeState, Reason, State, Verdict, Vitals
from gatewayd.demo import site
from gatewayd.smp import NodeLink, SmpLinks

RATE_HZ = 8_000
VIBRATION = site.BROKER_FILES.parent.parent / "cascades" / "vibration"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def shaking(seconds, rng):
    """A machine that no healthy one resembles, as raw int16."""
    return rng.integers(-20_000, 20_000, seconds * RATE_HZ, dtype=np.int16).tobytes()


class Site:
    """A broker, and the gateway's side of it: `heard` has (node, tail, message) in order."""

    def __init__(self, folder, build):
        self.folder, self.port = folder, site.free_port()
        self.programs = build / "ports" / "posix"
        self.heard, self.news = [], asyncio.Event()
        self.links, self.asked = SmpLinks(self._ask), set()
        self.key = folder / "key.hex"
        self.key.write_text(signing.raw(KEY.public_key()).hex() + "\n")
        for above in (folder, *folder.parents):  # mosquitto drops root and must reach its files then
            if above.name.startswith(("pytest-", "test_")):
                above.chmod(0o755)

    @contextlib.asynccontextmanager
    async def up(self):
        async with site.broker(self.folder, self.port), self.hearing():
            yield self

    @contextlib.asynccontextmanager
    async def hearing(self, **login):
        async with aiomqtt.Client("127.0.0.1", self.port, **login) as self.client:
            await self.client.subscribe("nodelink/1/up/#", qos=1)
            listening = asyncio.create_task(self._listen())
            try:
                yield
            finally:
                listening.cancel()

    async def _listen(self):
        async for message in self.client.messages:
            _, _, _, node, tail = str(message.topic).split("/")
            if tail == "smp":
                self.links.deliver(node, "mqtt", message.payload)
                continue
            self.heard.append((node, tail, wire.decode(tail, message.payload)))  # a bad message ends the test by its silence
            self.news.set()

    def _ask(self, node, _transport, frame):
        self.asked.add(asyncio.ensure_future(self.client.publish(f"nodelink/1/down/{node}/smp", frame)))

    async def wait_for(self, kind, condition=lambda _: True, count=1):
        """The first `count` messages of that kind that meet the condition."""
        async with asyncio.timeout(30):
            while True:
                found = [message for _, _, message in self.heard if isinstance(message, kind) and condition(message)]
                if len(found) >= count:
                    return found[:count]
                self.news.clear()
                await self.news.wait()

    async def state(self, word):
        return (await self.wait_for(State, lambda message: message.state == word))[0]

    async def gateway(self, online):
        payload = wire.encode(GatewayState("online" if online else "offline", int(time.time())))
        await self.client.publish("nodelink/1/gateway/test/state", payload, 1, retain=True)

    async def answer(self, node, event, action, ttl_ms=60_000):
        verdict = Verdict(event.seq, event.session, True, "anomaly", 0.9, action, ttl_ms, Basis.GATEWAY)
        await self.client.publish(f"nodelink/1/down/{node}/verdict", wire.encode(verdict), 1)

    @contextlib.asynccontextmanager
    async def node(self, *more, name="n-1"):
        self.log = self.folder / f"{name}.log"
        async with site.process([*self.node_command(name), *more], self.log) as running:
            yield running

    def node_command(self, name):
        options = {"--id": name, "--broker": f"127.0.0.1:{self.port}", "--flash": self.folder / "flash", "--key": self.key}
        return [str(word) for word in (self.programs / "gateway-node", *(word for option in options.items() for word in option))]

    async def said(self, words):
        async with asyncio.timeout(30):
            while words not in self.log.read_text():
                await asyncio.sleep(0.02)


@pytest.fixture
def place(tmp_path, host_build):
    return Site(tmp_path, host_build)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The vibration cascade's, made to listen for a second where a verdict says so."""
    file = tmp_path_factory.mktemp("image") / "vibration.img"
    folder = bundle.read(VIBRATION)
    decision = folder.cascade.node.decision.model_copy(update={"listen_ms": 1_000})
    node = folder.cascade.node.model_copy(update={"decision": decision})
    file.write_bytes(bundle.node_image(folder._replace(cascade=folder.cascade.model_copy(update={"node": node})), key=KEY))
    return file


async def test_birth_goodbye_and_death(place, image):
    async with place.up():
        async with place.node("--image", image, "--vitals-s", "600") as running:
            assert (await place.state(NodeState.READY)).session == 1
            info = (await place.wait_for(Info))[0]
            assert [slot.state for slot in info.slots] == ["confirmed", *["empty"] * 7]
            assert (info.slots[0].cascade, info.slots[0].size_bytes, info.vitals_interval_s) == ("vibration", image.stat().st_size, 600)
            assert info.limits == Limits(1_024, 1_024, 6, 1 << 28, tflite.PLAN_VERSION)
            assert (await place.wait_for(Vitals))[0].cascades[0].model == info.slots[0].sha256[:8]
            assert await site.end(running) == 0
        assert (await place.state(NodeState.DISCONNECTED)).session == 1
        async with place.node() as running:  # the image is in its flash
            await place.wait_for(State, lambda message: message == (NodeState.READY, 2))
            await site.end(running, signal.SIGKILL)
            assert (await place.state(NodeState.LOST)).session == 2


async def test_an_image_that_does_not_verify_is_reported(place, image):
    broken = place.folder / "broken.img"
    broken.write_bytes(image.read_bytes()[:-1] + b"\0")
    async with place.up(), place.node("--image", broken):
        slot = (await place.wait_for(Info))[0].slots[0]
        assert (slot.state, slot.rejected) == ("rejected", "signature")


async def test_events_verdicts_and_flash(place, image):
    rng = np.random.default_rng(1)
    samples = place.folder / "samples"
    samples.write_bytes(shaking(30, rng))
    command = ("--image", image, "--input", f"vibration:{samples}", "--fast")
    async with place.up():
        # Nobody is there to judge: the events stay, though the power fails.
        async with place.node(*command) as running:
            await place.said("inputs ended")
            await place.state(NodeState.READY)
            await site.end(running, signal.SIGKILL)
        assert not [message for _, tail, message in place.heard if tail == "event"]
        await place.gateway(online=True)
        async with place.node() as running:
            await place.said("online")
            events = await place.wait_for(Event)
            assert (events[0].session, events[0].reason, events[0].cascade) == (1, Reason.TRIGGER, "vibration")
            assert events[0].window.data in samples.read_bytes()
            assert (events[0].window.rate_hz, events[0].window.shape) == (RATE_HZ, (2 * RATE_HZ,))
            assert [event.seq for event in events] == sorted(event.seq for event in events)
            await site.end(running)
        # With a gateway, at once; its verdict is carried out, in time and in its own session only.
        async with place.node(*command) as running:
            event = (await place.wait_for(Event, lambda message: message.session == 3))[0]
            await place.answer("n-1", event._replace(session=1), "wrong-session")
            await place.answer("n-1", event, "too-late", ttl_ms=0)
            await place.answer("n-1", event, "stop-motor")
            await place.said("vibration: action stop-motor (anomaly)")
            await site.end(running)
            assert "wrong-session" not in place.log.read_text()
            assert "too-late" not in place.log.read_text()


async def test_a_recording_that_is_heard_again_and_again(place, image):
    wav = place.folder / "two-seconds.wav"
    simulator.write_wav(wav, np.frombuffer(shaking(2, np.random.default_rng(1)), "<i2"))
    async with place.up(), place.node("--image", image, "--input", f"vibration:{wav}", "--loop", "--speed", "20", "--vitals-s", "1"):
        await place.wait_for(Vitals, lambda message: message.cascades[0].invokes > 12)  # two seconds are good for three
        assert "inputs ended" not in place.log.read_text()


async def test_a_verdict_that_asks_to_listen(place, image):
    samples = place.folder / "samples"
    samples.write_bytes(shaking(100, np.random.default_rng(3)))
    async with place.up():
        await place.gateway(online=True)
        async with place.node("--image", image, "--input", f"vibration:{samples}", "--speed", "4"):
            event = (await place.wait_for(Event))[0]
            await place.answer("n-1", event, "listen")
            follow = (await place.wait_for(Event, lambda message: message.reason == Reason.FOLLOW))[0]
            assert (follow.ref, follow.session) == (event.seq, event.session)
            assert follow.window.shape == (RATE_HZ,)
            # It begins 200 ms before the trigger, where the verdict was in time for that; bytes are twice as many as samples.
            raw = samples.read_bytes()
            trigger = raw.index(event.window.data) + len(event.window.data)
            assert raw.index(follow.window.data) >= trigger - 2 * RATE_HZ * 200 // 1_000


async def test_the_broker_goes_and_comes_back(place, image):
    async with place.node("--image", image, "--keepalive-s", "2"):
        async with place.up():
            await place.state(NodeState.READY)
        await place.said("offline: closed by the broker")
        place.heard.clear()
        async with place.up():
            await place.wait_for(State, lambda message: message == (NodeState.READY, 1))


async def test_samples_from_a_pipe(place, image):
    async with place.up():
        await place.gateway(online=True)
        running = await asyncio.create_subprocess_exec(
            *place.node_command("n-2"), "--image", image, "--input", "vibration:-", "--exit-at-end", stdin=asyncio.subprocess.PIPE
        )
        raw = shaking(30, np.random.default_rng(2))
        for start in range(0, len(raw), 1_001):  # samples cut in the middle
            running.stdin.write(raw[start : start + 1_001])
            await running.stdin.drain()
        running.stdin.close()
        assert await asyncio.wait_for(running.wait(), 30) == 0
        event = (await place.wait_for(Event))[0]
        assert event.window.data in raw


async def test_an_update_is_told_of(place, image):
    audited = bundle.node_image(bundle.read(VIBRATION), audit_s=1, key=KEY)
    new = images.parse(audited).sha256

    def tells(state):
        return lambda info: (info.slots[1].state, info.slots[1].sha256) == (state, new)

    async with place.up(), place.node("--image", image, "--trial-s", "1"):
        await place.state(NodeState.READY)
        async with SMPClient(NodeLink(place.links, "mqtt"), "n-1") as client:
            assert [offset async for offset in client.upload(audited, slot=1)][-1] == len(audited)
            receiving = (await place.wait_for(Info, lambda info: info.slots[1].state == "receiving"))[0].slots[1]
            assert (receiving.sha256, receiving.version) == (hashlib.sha256(audited).digest(), None)
            await place.wait_for(Info, tells("verified"))
            await client.request(ImageStatesWrite(hash=new))
            await place.wait_for(Info, tells("test"))
            rejected = (await place.wait_for(Info, tells("rejected")))[0]  # nobody watched
            assert (rejected.slots[1].rejected, rejected.slots[0].state) == ("deadline", "confirmed")


async def test_a_fleet_that_was_killed_goes_on(place, image):
    audited = bundle.node_image(bundle.read(VIBRATION), audit_s=1, key=KEY)
    options = {
        "--broker": f"127.0.0.1:{place.port}",
        "--count": 3,
        "--prefix": "f-",
        "--event-rate": 20,
        "--image": image,
        "--key": place.key,
    }
    options |= {"--flash": place.folder / "fleet.flash", "--duration": 600}
    command = [place.programs / "gateway-fleet", *(word for option in options.items() for word in option)]
    log = place.folder / "fleet.log"
    async with place.up():
        await place.gateway(online=True)
        async with site.process(command, log) as running, SMPClient(NodeLink(place.links, "mqtt"), "f-1") as client:
            await place.wait_for(State, lambda message: message.state == NodeState.READY, count=3)
            assert (await place.wait_for(Event))[0].model == images.parse(image.read_bytes()).sha256[:8]
            async for offset in client.upload(audited, slot=1):
                if offset > 4_096:
                    await site.end(running, signal.SIGKILL)
                    break
        place.heard.clear()
        async with site.process(command, log) as running, SMPClient(NodeLink(place.links, "mqtt"), "f-1") as client:
            await place.wait_for(State, lambda message: message == (NodeState.READY, 2), count=3)
            first, *_ = [offset async for offset in client.upload(audited, slot=1)]
            assert first == 4_096
            await client.request(ImageStatesWrite(hash=images.parse(audited).sha256))
            await place.wait_for(Event, lambda event: event.model == images.parse(audited).sha256[:8])
            await site.end(running)
        totals = json.loads(log.read_text().splitlines()[-1])
        assert [totals[name] for name in ("uploads", "resumed", "verified", "tests", "reverts")] == [0, 1, 1, 1, 0]


async def test_a_fleet(place):
    async with place.up():
        await place.gateway(online=True)
        command = (
            *(place.programs / "gateway-fleet", "--broker", f"127.0.0.1:{place.port}", "--count", 200, "--prefix", "f-"),
            *("--event-rate", 100, "--window-bytes", 400, "--duration", 1, "--vitals-s", 60),
        )
        running = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(running.communicate(), 60)
        *first, last = out.decode().splitlines()
        totals = json.loads(last)
        assert first[0].startswith("200 online in ")
        assert totals["events"] == totals["acknowledged"] > 0
        assert totals["uploads"] == 0
        assert (totals["nodes"], totals["online"], totals["waiting"], totals["lost"]) == (200, 200, 0, 0)
        events = await place.wait_for(Event, count=totals["events"])
        assert all(len(event.window.data) == 400 for event in events)
        assert len({node for node, _, _ in place.heard}) == 200
        await place.wait_for(State, lambda message: message.state == NodeState.DISCONNECTED, count=200)
