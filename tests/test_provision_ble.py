"""Provisioning over Bluetooth LE: the real node and its chip, the gateway's transport on Bumble's stack, gatewayctl, a real broker."""

import asyncio
import contextlib
import re
import sys

import pytest
from ble_site import site, until
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatewayd import provisioning, signing
from gatewayd.core import wire
from gatewayd.core.pairing import Stage
from gatewayd.core.types import NodeState
from gatewayd.demo import radio
from gatewayd.demo import site as processes

SHOWS = ("--pairing", "123456")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()


class Place:
    """Nodes that are nobody yet, each with its chip, and an operator."""

    def __init__(self, folder, build, here):
        self.folder, self.here = folder, here
        self.program = build / "ports" / "posix" / "gateway-node"
        self.psk_file = folder / "psk"
        self.psk_file.touch()
        self.key_file = folder / "key.pem"
        self.key_file.write_bytes(KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    @contextlib.asynccontextmanager
    async def chips(self, *names):
        async with radio.cell(self.here.air, [self.folder / f"{name}.radio" for name in names]) as chips:
            yield chips

    def node(self, *more, name="a"):
        command = [self.program, "--radio", self.folder / f"{name}.radio", "--flash", self.folder / f"{name}.flash"]
        return processes.process([*command, *(more or SHOWS)], self.folder / f"{name}.log")

    def log(self, name="a"):
        return (self.folder / f"{name}.log").read_text()

    async def said(self, words, name="a"):
        await until(lambda: words in self.log(name), 60)

    @contextlib.asynccontextmanager
    async def one(self, *more):
        async with self.chips("a") as (chip,), self.node(*more) as running:
            yield chip, running

    def sector(self, name="a"):
        return (self.folder / f"{name}.flash").read_bytes()[: provisioning.SECTOR_BYTES]

    async def ctl(self, node, *arguments, answer=b"", broker="127.0.0.1:9"):
        """Exit status and output of `gatewayctl node provision`."""
        settings = [f"store.url=sqlite:///{self.folder / 'site.db'}", f"ble.hci={self.here.adapter}", f'cascades.keys=["{self.key_file}"]']
        command = [sys.executable, "-m", "gatewayd.cli", "node", "provision", node, "--broker", broker, "--psk-file", self.psk_file]
        running = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            *(f"--set={setting}" for setting in settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(running.communicate(answer), 150)
        return running.returncode, out.decode()

    def keeps_no_key(self, said=""):
        """Nothing but the psk_file and the node's flash has the key."""
        keys = re.findall(r":([0-9a-f]{64})", self.psk_file.read_text())
        assert all(key not in text for key in keys for text in (said, self.log()))
        assert self.here.pairings.get("n-1") is None or self.here.pairings.get("n-1").given is None


@contextlib.asynccontextmanager
async def place(tmp_path, build, **settings):
    async with site(tmp_path, pairing="required", idle_s=1.0, **settings) as here:
        yield Place(tmp_path, build, here)


@pytest.fixture
def build(host_build):
    return host_build


async def test_a_node_that_was_nobody_is_there_as_itself(tmp_path, build):
    async with place(tmp_path, build) as here, here.one():
        (tmp_path / "wifi").write_text("open sesame\n")
        status, said = await here.ctl("n-1", "--passkey", "123456", "--ssid", "den", "--wifi-password-file", tmp_path / "wifi")
        assert status == 0, said
        assert "n-1: provisioned, and here" in said
        assert (here.here.pairings.get("n-1").stage, here.here.pairings.get("n-1").address) == (Stage.PAIRED, "F0:00:00:00:00:01")
        await until(lambda: here.here.heard("n-1", "state"))
        assert wire.decode("state", here.here.heard("n-1", "state")[0].payload).state is NodeState.READY
        found = provisioning.read(here.sector())
        assert (found.id, found.host, found.port, found.ssid, found.wifi_password) == ("n-1", "127.0.0.1", 9, "den", "open sesame")
        assert found.keys == (signing.raw(KEY),)
        assert here.psk_file.read_text() == f"n-1:{found.psk.hex()}\n"
        assert here.here.counts["provisioned", here.here.adapter] == 1
        here.keeps_no_key(said)
