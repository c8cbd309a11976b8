"""The gateway's transport and the real node, between them the radio chip of the demo and the air: events, verdicts, SMP, resets."""

import asyncio
import contextlib
import signal

import numpy as np
import pytest
from ble_site import site, until
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from smp import header
from smpclient.requests.os_management import EchoWrite

from cascades.vibration import simulator
from gatewayd import bundle, signing
from gatewayd.core import wire
from gatewayd.core.types import Basis, Event, Info, NodeState, State, Verdict, Vitals
from gatewayd.demo import radio
from gatewayd.demo import site as processes

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
VIBRATION = processes.BROKER_FILES.parent.parent / "cascades" / "vibration"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    file = tmp_path_factory.mktemp("image") / "vibration.img"
    file.write_bytes(bundle.node_image(bundle.read(VIBRATION), key=KEY))
    return file


class Place:
    """Chips on a site's air, for nodes that run as processes."""

    def __init__(self, folder, build, here):
        self.folder, self.here = folder, here
        self.program = build / "ports" / "posix" / "gateway-node"
        self.key = folder / "key.hex"
        self.key.write_text(signing.raw(KEY.public_key()).hex() + "\n")

    @contextlib.asynccontextmanager
    async def node(self, name, *more):
        command = [self.program, "--id", name, "--radio", self.folder / f"{name}.radio", "--flash", self.folder / f"{name}.flash"]
        command += ["--key", self.key, "--vitals-s", "600", *more]
        async with processes.process([*map(str, command)], self.log(name)) as running:
            yield running

    def log(self, name):
        return self.folder / f"{name}.log"

    def said(self, name, kind, tail):
        messages = [wire.decode(tail, frame.payload) for frame in self.here.heard(name, tail)]
        assert all(isinstance(message, kind) for message in messages)
        return messages


@contextlib.asynccontextmanager
async def place(tmp_path, build, *names, **settings):
    async with site(tmp_path, **settings) as here, radio.cell(here.air, [tmp_path / f"{name}.radio" for name in names]):
        yield Place(tmp_path, build, here)


def shaking(file, seconds):
    samples = np.random.default_rng(1).integers(-20_000, 20_000, seconds * 8_000, dtype=np.int16)
    simulator.write_wav(file, samples)
    return f"vibration:{file}"


@pytest.mark.slow
async def test_an_event_its_verdict_and_what_was_stored(tmp_path, host_build, image):
    async with place(tmp_path, host_build, "n-1", idle_s=1.0) as here:
        shaken = shaking(tmp_path / "shaken.wav", 30)
        async with here.node("n-1", "--image", image, "--input", shaken, "--speed", "4") as running:
            await until(lambda: here.said("n-1", Event, "event"))
            assert here.said("n-1", Info, "info")[0].slots[0].cascade == "vibration"
            assert here.said("n-1", State, "state")[0] == State(NodeState.READY, 1)
            event = here.said("n-1", Event, "event")[0]
            verdict = Verdict(event.seq, 1, True, "anomaly", 0.9, "stop-motor", 60_000, Basis.GATEWAY)
            here.here.transport.send("n-1", "verdict", wire.encode(verdict))
            await until(lambda: "action stop-motor (anomaly)" in here.log("n-1").read_text())
            await until(lambda: here.said("n-1", Vitals, "vitals"))
            await processes.end(running)
        seqs = [event.seq for event in here.said("n-1", Event, "event")]
        assert seqs == list(range(len(seqs)))  # what was stored was not sent again
        await until(lambda: here.here.lost == ["n-1"], 60)
        async with here.node("n-1"):
            await until(lambda: State(NodeState.READY, 2) in here.said("n-1", State, "state"))
        assert not here.here.count("refused")


async def test_what_is_not_stored_comes_again(tmp_path, host_build, image):
    async with place(tmp_path, host_build, "n-1") as here:
        here.here.keeps = False  # the disk is full
        async with here.node("n-1", "--image", image, "--input", shaking(tmp_path / "shaken.wav", 10), "--fast") as running:
            await until(lambda: here.said("n-1", Event, "event"))
            await processes.end(running, signal.SIGKILL)
        here.here.keeps = True
        here.here.frames.clear()
        async with here.node("n-1"):
            await until(lambda: [event.seq for event in here.said("n-1", Event, "event")][:1] == [0])
            assert here.said("n-1", Event, "event")[0].session == 1


async def test_smp(tmp_path, host_build):
    async with place(tmp_path, host_build, "n-1") as here, here.node("n-1"):
        await until(lambda: here.said("n-1", State, "state"))
        requests = [EchoWrite(d="x" * size, sequence=size % 256) for size in (1, 200, 2_000)]
        for request in requests:
            here.here.transport.send("n-1", "smp", bytes(request))
        await until(lambda: len(here.here.heard("n-1", "smp")) == 3)
        answers = [frame.payload for frame in here.here.heard("n-1", "smp")]
        assert [header.Header.loads(answer[:8]).sequence for answer in answers] == [1, 200, 2_000 % 256]
        assert b"x" * 200 in answers[1]


@pytest.mark.slow
async def test_twenty_nodes(tmp_path, host_build, image):
    names = [f"n-{number}" for number in range(20)]
    shaken = shaking(tmp_path / "shaken.wav", 10)
    async with place(tmp_path, host_build, *names) as here, contextlib.AsyncExitStack() as nodes:
        for name in names:
            await nodes.enter_async_context(here.node(name, "--image", image, "--input", shaken, "--fast"))
        await until(lambda: all(here.here.heard(name, "event") for name in names), 120)
        assert not here.here.count("refused")
        assert max(here.here.transport.links().values()) <= 5


async def test_without_pairing_it_is_not_heard_and_seldom_asked(tmp_path, host_build):
    async with place(tmp_path, host_build, "n-1") as here, here.node("n-1", "--pairing", "encrypted"):
        await until(lambda: here.here.sighted or here.here.count("advertisements") > 10)
        await asyncio.sleep(3)
        assert not here.here.frames
