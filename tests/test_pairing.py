"""Pairing: the gateway's transport on Bumble's stack, the operator at the store, the real node and its radio chip."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from functools import partial
from typing import ClassVar

import pytest
from ble_site import event, site, until
from bumble import crypto, smp
from bumble.pairing import PairingConfig, PairingDelegate
from smpclient.requests.os_management import EchoWrite

from gatewayd.core import beacon, wire
from gatewayd.core.pairing import Stage
from gatewayd.core.types import NodeState
from gatewayd.demo import radio
from gatewayd.demo import site as processes
from gatewayd.errors import TransportError
from gatewayd.transports.ble_adapter import Adapter
from gatewayd.transports.ble_stacks import BumbleStack

SHOWS = ("--pairing", "123456")


class Place:
    """Chips on a site's air, for nodes that run as processes; and an operator."""

    def __init__(self, folder, build, here):
        self.folder, self.here = folder, here
        self.program = build / "ports" / "posix" / "gateway-node"

    @contextlib.asynccontextmanager
    async def chip(self, name="n-1"):
        async with radio.cell(self.here.air, [self.folder / f"{name}.radio"]) as (chip,):
            yield chip

    @contextlib.asynccontextmanager
    async def node(self, *more, name="n-1", chip="n-1"):
        command = [self.program, "--id", name, "--radio", self.folder / f"{chip}.radio", "--flash", self.folder / f"{name}.flash"]
        async with processes.process([*command, *more], self.log(name)) as running:
            yield running

    @contextlib.asynccontextmanager
    async def both(self, *more):
        async with self.chip() as chip, self.node(*more) as running:
            yield chip, running

    def log(self, name="n-1"):
        return self.folder / f"{name}.log"

    def order(self, passkey=None, name="n-1"):
        assert self.here.pairings.order(name, passkey, time.time())

    async def ctl(self, *arguments, answer=b""):
        """Exit status and output of `gatewayctl node`."""
        settings = [f"--set=store.url=sqlite:///{self.folder / 'site.db'}", f"--set=ble.hci={self.here.adapter}"]
        command = [sys.executable, "-m", "gatewayd.cli", "node", *arguments, *settings]
        running = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(running.communicate(answer), 60)
        return running.returncode, out.decode().strip()

    def pairing(self, name="n-1"):
        return self.here.pairings.get(name)

    async def over(self, name="n-1"):
        """The pairing, when it has ended."""
        await until(lambda: not self.pairing(name).stage.ordered, 90)
        return self.pairing(name)

    async def compared(self):
        """The pairing, when the gateway shows a number; the node shows the same."""
        await until(lambda: self.pairing().stage is Stage.COMPARE)
        pairing = self.pairing()
        await until(lambda: f"{pairing.number:06}" in self.log().read_text())
        return pairing

    def states(self, name="n-1"):
        return [wire.decode("state", frame.payload) for frame in self.here.heard(name, "state")]

    async def hears(self, name="n-1"):
        """The node is heard, from now on."""
        heard = len(self.states(name))
        await until(lambda: len(self.states(name)) > heard, 90)
        assert self.states(name)[-1].state is NodeState.READY


@contextlib.asynccontextmanager
async def place(tmp_path, build, pairing="required", **settings):
    async with site(tmp_path, pairing=pairing, idle_s=1.0, **settings) as here:
        yield Place(tmp_path, build, here)


def keys(folder):
    """What the gateway's stack has kept."""
    file = folder / "bonds.json"
    return json.loads(file.read_text())["__DEFAULT__"] if file.exists() else {}


@pytest.fixture
def build(host_build):
    return host_build


# ---- how it should go ----


async def test_nobody_is_connected_who_has_not_paired(tmp_path, build):
    async with place(tmp_path, build) as here, here.both():
        await until(lambda: here.here.counts["refused", "unpaired"] > 20)
        assert not here.here.count("connections")
        assert not here.here.frames


async def test_a_passkey_a_restart_and_a_bond_that_is_taken_back(tmp_path, build):
    async with place(tmp_path, build) as here, here.both(*SHOWS):
        here.order(123_456)
        pairing = await here.over()
        assert (pairing.stage, pairing.authenticated, pairing.address) == (Stage.PAIRED, True, "F0:00:00:00:00:01")
        assert pairing.passkey is None
        await until(here.states)
        assert keys(tmp_path)
        assert (tmp_path / "bonds.json").stat().st_mode & 0o777 == 0o600
        assert not here.here.pairings.order("n-1", None, time.time())
        refused = here.here.counts["refused", "unpaired"]
        assert here.here.pairings.forget("n-1")
        await until(lambda: here.here.counts["refused", "unpaired"] > refused and not here.here.transport.links()[here.here.adapter])
        assert not keys(tmp_path)


async def test_the_gateway_starts_again_with_its_bonds(tmp_path, build):
    async with place(tmp_path, build) as here, here.both(*SHOWS):
        here.order(123_456)
        assert (await here.over()).stage is Stage.PAIRED
        await until(here.states)
        await here.here.start(tmp_path, pairing="required", idle_s=1.0)
        await here.hears()
        await here.here.start(tmp_path, pairing="open", idle_s=1.0)
        await here.hears()


async def test_gatewayctl_asks_the_operator(tmp_path, build):
    async with place(tmp_path, build) as here, here.both("--pairing", "compare") as (_, running):
        operator = asyncio.create_task(here.ctl("pair", "n-1", answer=b"y\n"))
        await until(here.pairing)
        await here.compared()
        running.send_signal(signal.SIGUSR1)
        status, said = await operator
        assert status == 0
        assert said.endswith("n-1: paired, authenticated")
        assert (await here.ctl("pair", "n-1"))[0] != 0  # it is
        assert (await here.ctl("unpair", "n-1"))[0] == 0
        assert (await here.ctl("unpair", "n-1"))[0] != 0
        assert here.pairing() is None


@pytest.mark.parametrize("same", [True, False])
async def test_a_number_is_compared(tmp_path, build, same):
    async with place(tmp_path, build) as here, here.both("--pairing", "compare") as (_, running):
        here.order()
        shown = await here.compared()
        running.send_signal(signal.SIGUSR1)  # somebody presses the node's button
        here.here.pairings.answer(shown, same=same)
        pairing = await here.over()
        if same:
            assert (pairing.stage, pairing.authenticated) == (Stage.PAIRED, True)
            await until(here.states)
        else:
            assert (pairing.stage, pairing.cause) == (Stage.FAILED, "the numbers are not the same")
            assert not here.here.frames


async def test_a_node_that_shows_nothing_is_encrypted_and_no_more(tmp_path, build):
    async with place(tmp_path, build, pairing="open") as here, here.both("--pairing", "encrypted"):
        here.order()
        pairing = await here.over()
        assert (pairing.stage, pairing.authenticated) == (Stage.PAIRED, False)
        await until(here.states)
        refused = here.here.counts["refused", "unpaired"]
        await here.here.start(tmp_path, pairing="required", idle_s=1.0)  # that bond is not good enough any more
        await until(lambda: here.here.counts["refused", "unpaired"] > refused + 20)
        assert here.here.pairings.forget("n-1")
        here.order()
        pairing = await here.over()
        assert (pairing.stage, pairing.cause) == (Stage.FAILED, "the node shows nothing that could be compared")


# ---- how it goes wrong ----


@pytest.mark.parametrize(("passkey", "cause"), [(123_457, "CONFIRM_VALUE_FAILED"), (None, "the node shows a passkey, and none was given")])
async def test_a_passkey_that_is_wrong_or_missing(tmp_path, build, passkey, cause):
    async with place(tmp_path, build) as here, here.both(*SHOWS):
        here.order(passkey)
        pairing = await here.over()
        assert pairing.stage is Stage.FAILED
        assert cause in pairing.cause
        assert not here.here.frames
        here.order(123_456)
        assert (await here.over()).stage is Stage.PAIRED
        await until(here.states)


def cut(chip, after):
    """Reset the chip when so many PDUs of a pairing have passed."""
    manager, left = chip._device.smp_manager, [after]

    def counted(pass_on):
        def passing(*arguments):
            left[0] -= 1
            if left[0] == 0:
                chip.cut = asyncio.create_task(chip.restart())
            if left[0] != 0:
                pass_on(*arguments)

        return passing

    manager.send_command = counted(partial(smp.Manager.send_command, manager))
    manager.on_smp_pdu = counted(partial(smp.Manager.on_smp_pdu, manager))
    return left


@pytest.mark.slow
async def test_a_radio_that_is_reset_at_any_point_of_a_pairing(tmp_path, build):
    async with place(tmp_path, build, pairing="open") as here, here.both(*SHOWS) as (chip, _):
        other = await here.here.node("n-2", 2)
        for after in (*range(1, 10), 40, *range(83, 87)):
            left = cut(chip, after)
            here.order(123_456)
            await other.suspect(after)
            assert (await here.over()).stage is Stage.PAIRED, after
            assert left[0] < 0, after
            await here.hears()
            await until(lambda: not other.events)
            assert here.here.pairings.forget("n-1")
            await until(lambda: not here.here.transport.links()[here.here.adapter])
        assert here.here.counts["refused", "unpaired"] >= 14


async def test_a_node_that_has_lost_its_bond(tmp_path, build):
    async with place(tmp_path, build) as here:
        async with here.both(*SHOWS):
            here.order(123_456)
            assert (await here.over()).stage is Stage.PAIRED
            await until(here.states)
        here.here.frames.clear()
        async with here.both(*SHOWS):  # another chip
            await until(lambda: "does not have the key" in here.pairing().cause and here.here.counts["refused", "unpaired"])
            assert not here.here.frames
            assert here.here.pairings.forget("n-1")
            here.order(123_456)
            assert (await here.over()).stage is Stage.PAIRED
            await until(here.states)


async def test_a_stack_that_does_not_scan_while_a_node_pairs_loses_nobody(tmp_path, build, monkeypatch):
    """BlueZ says that it scans."""
    monkeypatch.setattr(BumbleStack, "pauses", True)
    monkeypatch.setattr(beacon, "_GRACE_MS", 2_000)
    monkeypatch.setattr(beacon, "_SLOWEST_MS", 1_000)
    async with place(tmp_path, build, pairing="open") as here, here.both("--pairing", "compare"):
        other = await here.here.node("n-2", 2)
        await other.suspect(0)
        await until(lambda: not other.events)
        here.order()
        await here.compared()
        await other.stop()
        await asyncio.sleep(5)
        assert "n-2" not in here.here.lost
        here.here.pairings.answer(here.pairing(), same=False)
        await until(lambda: "n-2" in here.here.lost)


async def test_a_bond_with_which_no_connection_is_made(tmp_path, build, monkeypatch):
    """BlueZ does not say that it is the key."""

    async def refused(*_, **__):
        raise TransportError("le-connection-abort-by-local")

    async with place(tmp_path, build) as here, here.both(*SHOWS):
        here.order(123_456)
        assert (await here.over()).stage is Stage.PAIRED
        await until(here.states)
        with monkeypatch.context() as patch:
            patch.setattr(Adapter, "connect", refused)
            await until(lambda: not here.here.transport.links()[here.here.adapter])
            here.here.transport.send("n-1", "smp", bytes(EchoWrite(d="there?")))
            await until(lambda: "does not have the key" in here.pairing().cause, 90)
        await here.hears()
        assert not here.pairing().cause


async def test_impostors_do_not_disturb(tmp_path, build):
    """One has another address; one has the node's own, when that is off, and asks for no security at all."""
    async with place(tmp_path, build, pairing="open") as here:
        async with here.both(*SHOWS):
            here.order(123_456)
            assert (await here.over()).stage is Stage.PAIRED
            await until(here.states)
            impostor = await here.here.node("n-1", 9)
            await until(lambda: here.here.counts["refused", "unpaired"] > 5)
            here.here.transport.send("n-1", "smp", bytes(EchoWrite(d="there?")))
            await until(lambda: here.here.heard("n-1", "smp"))
            assert not impostor.connections
        await until(lambda: here.here.lost == ["n-1"], 60)
        refused = here.here.counts["refused", "unpaired"]
        await until(lambda: here.here.counts["refused", "unpaired"] > refused + 5)
        assert not impostor.connections
        await impostor.stop()
        heard = len(here.here.frames)
        twin = await here.here.node("n-1", 1, session=2)
        await until(lambda: "does not have the key" in here.pairing().cause, 90)
        assert len(here.here.frames) == heard
        assert not twin.said
        await twin.stop()


# ---- peers that cheat ----


class Cheat(smp.Session):
    """An honest peripheral, which shows 123456."""

    met: ClassVar = []  # kinds of what the gateway said

    def on_smp_command(self, command):
        self.met.append(type(command))
        super().on_smp_command(command)


class Legacy(Cheat):
    """It does not know Secure Connections."""

    def send_pairing_response_command(self):
        self.sc = False
        super().send_pairing_response_command()


class Weak(Cheat):
    """Its keys have seven bytes."""

    def send_pairing_response_command(self):
        self.maximum_encryption_key_size = 7
        super().send_pairing_response_command()


class Early(Cheat):
    """It does not wait until the operator has compared."""

    def send_pairing_random_command(self):
        super().send_pairing_random_command()
        asyncio.get_running_loop().call_soon(self.send_pairing_dhkey_check_command)


class Reflects(Cheat):
    """It sends back the key that it got, and could send back all that follows: the bits of the passkey are in that."""

    def send_public_key_command(self):
        self.send_command(smp.SMP_Pairing_Public_Key_Command(public_key_x=self.peer_public_key_x, public_key_y=self.peer_public_key_y))


class Learns(Cheat):
    """It does not know the passkey: it commits itself to each bit again, when it has seen the gateway's."""

    again = False
    learned = 0

    def on_smp_pairing_confirm_command(self, command):
        self.confirm_value = command.confirm_value
        self.send_command(smp.SMP_Pairing_Confirm_Command(confirm_value=bytes(16)))

    def on_smp_pairing_random_command(self, command):
        self.again = not self.again
        if self.again:
            bit = crypto.f4(self.pka, self.pkb, command.random_value, b"\x81") == self.confirm_value
            self.learned |= bit << self.passkey_step
            self.passkey, self.r = self.learned, crypto.r()
            confirm = crypto.f4(self.pkb, self.pka, self.r, bytes((0x80 + bit,)))
            self.send_command(smp.SMP_Pairing_Confirm_Command(confirm_value=confirm))
        else:
            super().on_smp_pairing_random_command(command)


class Fingers(PairingDelegate):
    async def generate_passkey(self):
        return 123_456


@pytest.mark.parametrize("kind", [Cheat, Legacy, Weak, Early, Reflects, Learns])
async def test_a_peer_that_cheats(tmp_path, kind):
    kind.met = []
    async with place(tmp_path, tmp_path) as here:
        node = await here.here.node("n-1", 1)
        io = PairingDelegate.DISPLAY_OUTPUT_AND_YES_NO_INPUT if kind is Early else PairingDelegate.DISPLAY_OUTPUT_ONLY
        node.device.smp_session_proxy = kind
        node.device.pairing_config_factory = lambda _: PairingConfig(delegate=Fingers(io))
        here.order(123_456)
        pairing = await here.over()
        if kind is Cheat:
            assert pairing.stage is Stage.PAIRED
            await until(here.states)
        else:
            assert pairing.stage is Stage.FAILED
            assert not here.here.frames
            assert not keys(tmp_path)
        if kind is Reflects:
            assert smp.SMP_Pairing_Random_Command not in kind.met


async def test_a_peer_that_begins(tmp_path):
    """Only the gateway does, and only when the operator wants it."""
    async with place(tmp_path, tmp_path, pairing="open") as here:
        node = await here.here.node("n-1", 1)
        await until(lambda: node.connected)
        with pytest.raises(Exception, match="UNSPECIFIED_REASON"):
            await asyncio.wait_for(node.device.pair(node._connection), 30)
        await node.suspect(0)
        await until(lambda: not node.events)
        assert event(1, 0) in [wire.decode("event", frame.payload) for frame in here.here.heard("n-1", "event")]
        assert not keys(tmp_path)
