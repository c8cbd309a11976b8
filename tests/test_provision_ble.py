"""Provisioning over Bluetooth LE: the real node and its chip, the gateway's transport on Bumble's stack, gatewayctl, a real broker."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys

import pytest
from ble_site import BleNode, site, until
from bumble.pairing import PairingConfig, PairingDelegate
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatewayd import provisioning, signing
from gatewayd.core import wire
from gatewayd.core.pairing import Stage
from gatewayd.core.types import NodeState
from gatewayd.demo import radio
from gatewayd.demo import site as processes
from gatewayd.demo.line import Chip

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
        try:
            out, _ = await asyncio.wait_for(running.communicate(answer), 150)
        finally:
            if running.returncode is None:
                running.kill()
                await running.communicate()
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
        assert here.here.pairings._store.enrolments() == {"n-1": True}
        here.keeps_no_key(said)


async def test_its_key_is_good_for_the_broker(tmp_path, build):
    port = processes.free_port()
    config = tmp_path / "broker.conf"
    async with place(tmp_path, build) as here, here.one():
        psk = f"psk_hint x\npsk_file {here.psk_file}\nuse_identity_as_username true\nallow_anonymous false\n"
        config.write_text(f"listener {port} 127.0.0.1\nuser root\n{psk}")
        broker = [shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), "-c", config]
        async with processes.process(broker, tmp_path / "broker.log") as running:
            await processes.listening(port, running, tmp_path / "broker.log")
            status, said = await here.ctl("n-1", "--passkey", "123456", broker=f"127.0.0.1:{port}")
            assert status == 0, said
            assert "systemctl reload mosquitto" in said
            running.send_signal(signal.SIGHUP)
            await here.said("n-1: online")


async def test_a_number_is_compared(tmp_path, build):
    async with place(tmp_path, build) as here, here.one("--pairing", "compare") as (_, running):
        operator = asyncio.create_task(here.ctl("n-1", answer=b"y\n"))
        await here.said("does the peer show")
        running.send_signal(signal.SIGUSR1)
        assert (await operator)[0] == 0


async def test_nobody_is_left_alone_without_an_order(tmp_path, build):
    async with place(tmp_path, build) as here, here.one():
        heard = here.here.counts["advertisements", here.here.adapter]
        await until(lambda: here.here.counts["advertisements", here.here.adapter] > heard + 60)
        assert not here.here.count("connections")
        assert not here.here.count("refused")


@pytest.mark.parametrize(("passkey", "cause"), [(("--passkey", "123457"), "CONFIRM_VALUE_FAILED"), ((), "none was given")])
async def test_who_does_not_pair_is_told_nothing(tmp_path, build, passkey, cause):
    async with place(tmp_path, build) as here, here.one():
        status, said = await here.ctl("n-1", *passkey)
        assert status == 1
        assert cause in said
        assert here.psk_file.read_text() == ""
        assert here.sector() == b"\xff" * provisioning.SECTOR_BYTES
        assert here.here.counts["refused", "unprovisioned"]
        assert (await here.ctl("n-1", "--passkey", "123456"))[0] == 0


async def test_of_several_the_operator_says_which(tmp_path, build):
    async with place(tmp_path, build) as here, here.chips("a", "b"), here.node(name="a"), here.node(name="b"):
        status, said = await here.ctl("n-1", "--passkey", "123456")
        assert status == 1
        assert re.search(r"which: F0:00:00:00:00:01 .*, F0:00:00:00:00:02 ", said)
        assert (await here.ctl("n-1", "--passkey", "123456", "--address", "f0:00:00:00:00:02"))[0] == 0
        assert (await here.ctl("n-2", "--passkey", "123456"))[0] == 0  # only one is left
        await here.said("n-1: session 1", "b")
        await here.said("n-2: session 1", "a")
        status, said = await here.ctl("n-1", "--passkey", "123456")
        assert status != 0
        assert "n-1 is paired" in said


@pytest.mark.parametrize("after_s", [0, 0.5])
async def test_the_power_fails_when_it_was_told(tmp_path, build, after_s):
    async with place(tmp_path, build) as here, here.chips("a"):
        operator = asyncio.create_task(here.ctl("n-1", "--passkey", "123456"))
        async with here.node() as running:
            await here.said("nobody: provisioned")
            await asyncio.sleep(after_s)
            running.kill()
        async with here.node():
            status, said = await operator
            assert status == 0, said


def cut(chip, after):
    """Reset the chip when so many frames have passed the line since the central came."""
    left = [after]

    def count(kind, _payload):
        if left[0] == after and kind != Chip.CONNECTED:
            return
        left[0] -= 1
        if left[0] == 0:
            chip.cut = asyncio.create_task(chip.restart())

    chip.overhear = count
    return left


@pytest.mark.slow
async def test_a_link_that_breaks_at_any_point(tmp_path, build):
    async with place(tmp_path, build) as here, here.chips("a") as (chip,):
        for after in range(1, 24, 3):
            left = cut(chip, after)
            async with here.node():
                status, said = await here.ctl("n-1", "--passkey", "123456")
            assert status == 0, (after, said)
            assert left[0] <= 0, after
            assert provisioning.read(here.sector()).psk.hex() in here.psk_file.read_text()
            here.keeps_no_key(said)
            assert here.here.pairings.forget("n-1")
            (tmp_path / "a.flash").unlink()


class Mute(BleNode):
    """It pairs, and has nothing of what a node that is nobody yet must have."""

    def beacon(self):
        return super().beacon()._replace(provisioned=False)

    async def start(self):
        await super().start()
        self.device.pairing_config_factory = lambda _: PairingConfig(delegate=Shows(PairingDelegate.DISPLAY_OUTPUT_ONLY))


class Shows(PairingDelegate):
    async def generate_passkey(self):
        return 123_456


async def test_one_that_only_imitates_disturbs_nobody(tmp_path, build):
    async with place(tmp_path, build) as here:
        imitation = await here.here.node("n-1", 9, Mute)
        operator = asyncio.create_task(here.ctl("n-1", "--passkey", "123456"))
        await until(lambda: imitation.connections > 2, 90)
        await imitation.stop()
        operator.cancel()
        await asyncio.gather(operator, return_exceptions=True)
        assert not here.here.counts["provisioned", here.here.adapter]
        assert here.here.pairings.get("n-1").stage is not Stage.PAIRED
