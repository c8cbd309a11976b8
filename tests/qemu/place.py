"""A site as deploy/ makes one, for boards and hosts: TLS-PSK with the access list for nodes, a password for the gateway."""

import asyncio
import contextlib
import random

import aiomqtt
import test_deploy
from fleet_site import WAKEWORD, FleetSite
from machine import Machine

from gatewayd import provisioning, signing
from gatewayd.core import image as images
from gatewayd.core import wire
from gatewayd.core.types import Info, NodeState, Provisioning, Security, State
from gatewayd.courier import conversation
from gatewayd.demo import site
from gatewayd.smp import SmpLinks

TAILS = {State: "state", Info: "info"}


class Place(FleetSite):
    """Every node of `names` has a key of its own; `image` is in their flash, `bundle` is newer. The gateway judges as cascades/wakeword says."""

    def __init__(self, folder, names):
        super().__init__(folder)
        rng = random.Random(1)
        self.keys = {name: rng.randbytes(16).hex() for name in names}
        self.newest = {}  # (node, tail) -> the last message
        self.links, self._asked = SmpLinks(self._ask), set()
        self.env |= {"GATEWAYD_MQTT__USERNAME": "gatewayd", "GATEWAYD_MQTT__PASSWORD": "secret"}

    def _cascade(self, version):
        text = (WAKEWORD / "cascade.toml").read_text().replace('version = "1.0.0"', f'version = "{version}"')
        (self.cascade / "cascade.toml").write_text(text)
        for name in ("CARD.md", "head.npz"):
            (self.cascade / name).write_bytes((WAKEWORD / name).read_bytes())

    @contextlib.asynccontextmanager
    async def broker(self):
        async with test_deploy.site(self.folder, self.keys) as broker:
            self.mqtt_port, self.tls_port = broker.port, broker.tls_port
            settings = f'[cascades]\nfolders = ["{self.cascade}"]\nkeys = ["{self.key}.pub"]\n[escalation]\nworkers = 2\n'
            self.config = site.write_config(self.folder, self.mqtt_port, self.http_port, settings)
            yield broker

    def broker_said(self):
        return (self.folder / "log").read_text()

    def machine(self, name, preset="qemu-m4", key=None):
        """A board that is provisioned as node `name`."""
        return Machine(self.folder / name, self.provisioning(name, key or self.keys[name]), preset)

    def provisioning(self, name, key):
        """The beginning of a board's flash."""
        trusted = (signing.raw(signing.load_private(self.key).public_key()),)
        node = Provisioning(name, "10.0.2.2", self.tls_port, Security.PSK, trusted, psk=bytes.fromhex(key))
        return provisioning.flash_image(node, self.image.read_bytes())

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
                self.links.deliver(node, message.payload)
            else:
                self.newest[node, tail] = wire.decode(tail, message.payload)  # a bad message ends the test by its silence

    def _ask(self, node, frame):
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

    async def update(self, node, image, progress=lambda _: None):
        """Bring it an image, try it and confirm it, as a rollout does; `progress` hears how many bytes the node has."""
        sha256 = images.parse(image).sha256
        async with conversation(self.links, node, lambda _: None) as courier:
            async for offset in courier.upload(image, 1):
                progress(offset)
            await courier.test(sha256)
            await courier.confirm(sha256)
