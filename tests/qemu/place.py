"""A site as deploy/ makes one, for boards and hosts: TLS-PSK with the access list for nodes, a password for the gateway."""

import asyncio
import contextlib
import random
from pathlib import Path
from typing import NamedTuple

import aiomqtt
import test_deploy
from fleet_site import FLEET, WAKEWORD
from live import Live, until
from machine import Machine

from gatewayd import bundle, provisioning, signing
from gatewayd.core import image as images
from gatewayd.core import wire
from gatewayd.core.types import Info, NodeState, Provisioning, Security, State, Vitals
from gatewayd.courier import conversation
from gatewayd.demo import site
from gatewayd.smp import SmpLinks

HOST = "10.0.2.2"  # this machine, for a guest of QEMU's user network
TAILS = {State: "state", Info: "info", Vitals: "vitals"}


class Models(NamedTuple):
    """Two versions of cascades/wakeword signed with `key`: of the old one the gateway's folder and the nodes' image, of the new one
    the bundle and the image in it.
    """

    key: Path
    folder: Path
    old: bytes
    bundle: Path
    new: bytes


def models(folder):
    """Make them. Takes some six seconds."""
    key = folder / "operator.pem"
    signing.make(key)
    private = signing.load_private(key)
    old, new = (bundle.read(_cascade(folder, version)) for version in ("1.0.0", "2.0.0"))
    packed = folder / "new.bundle"
    packed.write_bytes(bundle.build(new, counter=1, key=private))
    image = bundle.open_bundle(packed, None).members[bundle.NODE_IMAGE]
    return Models(key, old.path, bundle.node_image(old, key=private), packed, image)


def _cascade(folder, version):
    path = folder / f"wakeword-{version}"
    path.mkdir()
    for name in ("CARD.md", "head.npz"):
        (path / name).write_bytes((WAKEWORD / name).read_bytes())
    text = (WAKEWORD / "cascade.toml").read_text()
    for line, other in (
        ('version = "1.0.0"', f'version = "{version}"'),
        ("deadline_s = 2.0", "deadline_s = 20.0"),  # this machine may be busy
        ("ttl_ms = 3_000", "ttl_ms = 30_000"),
    ):
        assert line in text
        text = text.replace(line, other)
    (path / "cascade.toml").write_text(text)
    return path


class Place(Live):
    """Every node of `names` has a key of its own, the old image in its flash, and may connect."""

    def __init__(self, folder, models, names):
        super().__init__(folder)
        rng = random.Random(1)
        self.models = models
        self.keys = {name: rng.randbytes(16).hex() for name in names}
        self.newest = {}  # (node, tail) -> the last message
        self.links, self._asked = SmpLinks(self._ask), set()
        self.env |= {"GATEWAYD_MQTT__USERNAME": "gatewayd", "GATEWAYD_MQTT__PASSWORD": "secret"}

    @contextlib.asynccontextmanager
    async def broker(self):
        async with test_deploy.site(self.folder, self.keys) as broker:
            self.mqtt_port, self.tls_port = broker.port, broker.tls_port
            self.write_config()
            yield broker

    def write_config(self):
        """The gateway's."""
        settings = f'[cascades]\nfolders = ["{self.models.folder}"]\nkeys = ["{self.models.key}.pub"]\n[escalation]\nworkers = 2\n'
        self.config = site.write_config(self.folder, self.mqtt_port, self.http_port, settings)

    @contextlib.asynccontextmanager
    async def hosts(self, count, prefix):
        """Nodes that are one process, with everybody's keys."""
        image, log = self.folder / "node.img", self.folder / "hosts.log"
        image.write_bytes(self.models.old)
        command = [FLEET, "--broker", f"127.0.0.1:{self.tls_port}", "--psk", self.folder / "secrets" / "psk", "--count", count]
        command += ["--prefix", prefix, "--image", image, "--key", f"{self.models.key}.pub"]
        async with site.process(command, log):
            await until(lambda: f"{count} online" in log.read_text(), log.read_text)
            yield

    def identity(self, name, key=None):
        """What makes a board node `name`."""
        trusted = (signing.raw(signing.load_private(self.models.key).public_key()),)
        return Provisioning(name, HOST, self.tls_port, Security.PSK, trusted, psk=bytes.fromhex(key or self.keys[name]))

    def board(self, name, preset="qemu-m4", key=None):
        """A microcontroller that is provisioned as node `name`."""
        return Machine(self.folder / name, provisioning.flash_image(self.identity(name, key), self.models.old), preset)

    # ---- what a gateway does, done by hand

    @contextlib.asynccontextmanager
    async def hearing(self):
        """Hear the nodes, and be able to ask them; instead of a gateway."""
        async with aiomqtt.Client("127.0.0.1", self.mqtt_port, username="gatewayd", password="secret") as self._client:
            await self._client.subscribe("nodelink/1/up/#", qos=1)
            listening = asyncio.create_task(self._listen())
            try:
                yield
            finally:
                listening.cancel()

    async def _listen(self):
        async for message in self._client.messages:
            _, _, _, node, tail = message.topic.value.split("/")
            if tail == "smp":
                self.links.deliver(node, "mqtt", message.payload)
            else:
                self.newest[node, tail] = wire.decode(tail, message.payload)  # a bad message ends the test by its silence

    def _ask(self, node, _transport, frame):
        self._asked.add(asyncio.ensure_future(self._client.publish(f"nodelink/1/down/{node}/smp", frame)))

    async def hears(self, node, kind, condition=lambda _: True):
        """The newest message of that kind, once it meets the condition."""
        async with asyncio.timeout(60):
            while not (said := self.newest.get((node, TAILS[kind]))) or not condition(said):
                await asyncio.sleep(0.01)
        return said

    async def ready(self, node, session):
        """Wait until it is online in its `session`-th life; what it says of itself."""
        await self.hears(node, State, lambda state: state == (NodeState.READY, session))
        return await self.hears(node, Info, lambda info: info.session == session)

    async def update(self, node, image, progress=None):
        """Bring it an image, try it and confirm it, as a rollout does; `progress` is awaited with how many bytes the node has."""
        sha256 = images.parse(image).sha256
        async with conversation(self.links, node, "mqtt", lambda _: None) as courier:
            async for offset in courier.upload(image, 1):
                if progress:
                    await progress(offset)
            await courier.test(sha256)
            await courier.confirm(sha256)
