"""An adapter's scanner is watched and its failures have names; a stack that ends is noticed."""

import asyncio
import contextlib
import os
import subprocess
from types import SimpleNamespace

import pytest
from ble_site import until
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakDBusError, BleakError
from dbus_fast import BusType
from dbus_fast.aio import MessageBus

from gatewayd.core.beacon import SERVICE_UUID
from gatewayd.errors import TransportError
from gatewayd.transports import ble_adapter
from gatewayd.transports.ble_adapter import Adapter
from gatewayd.transports.ble_stacks import BluezStack


class Scanner:
    """Hears what it is told."""

    def __init__(self, heard) -> None:
        self.heard, self.running, self.discovered_devices = heard, False, []

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False
        raise BleakError("no reply")  # what is dead

    def hear(self, node: bool) -> None:
        data = {SERVICE_UUID: bytes(10)} if node else {}
        self.heard(BLEDevice("A", None, None), AdvertisementData(None, {}, data, [], None, -60, ()))


class Stack:
    """A stack that does what a test says."""

    pauses = True

    def __init__(self) -> None:
        self.name, self.client, self.scanners = "hci0", {}, []

    def scanner(self, heard) -> Scanner:
        self.scanners.append(Scanner(heard))
        return self.scanners[-1]


@pytest.fixture
def clock(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(ble_adapter, "_LOOK_S", 0.001)
    monkeypatch.setattr(ble_adapter, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@contextlib.asynccontextmanager
async def scanning(all_linked=lambda: False):
    stack, counts, lives = Stack(), [], []
    adapter = stack.adapter = Adapter(stack, 5, counts.append, lambda: counts.append("silenced"))
    work = adapter.scan(
        lambda _device, _advertisement: None,
        began=lambda: lives.append("began"),
        ended=lambda: lives.append("ended"),
        all_linked=all_linked,
    )
    task = asyncio.get_running_loop().create_task(work)
    await until(lambda: adapter.scanning)
    yield stack, counts, lives
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not adapter.scanning
    assert lives[-1] == "ended"


async def steady(clock, stack, node: bool, seconds: int) -> None:
    for _ in range(seconds):
        clock[0] += 1
        stack.scanners[-1].hear(node)
        await asyncio.sleep(0.002)


async def test_a_scanner_that_hears_nothing_is_started_again(clock) -> None:
    async with scanning() as (stack, counts, lives):
        await steady(clock, stack, node=False, seconds=200)
        assert len(stack.scanners) == 1
        clock[0] += 91
        await until(lambda: len(stack.scanners) == 2 and stack.scanners[1].running)
        assert counts == ["silenced"]
        assert lives == ["began", "ended", "began"]


async def test_so_is_one_that_hears_no_node_any_more(clock) -> None:
    async with scanning() as (stack, counts, _):
        await steady(clock, stack, node=True, seconds=1)
        await steady(clock, stack, node=False, seconds=95)
        await until(lambda: len(stack.scanners) == 2)
        await steady(clock, stack, node=False, seconds=200)  # once: the nodes may be gone
        assert counts == ["silenced"]


async def test_nodes_that_are_connected_do_not_advertise(clock) -> None:
    async with scanning(all_linked=lambda: True) as (stack, counts, _):
        clock[0] += 1_000
        await asyncio.sleep(0.02)
        assert not counts
        assert len(stack.scanners) == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_the_scanner_pauses_for_a_connect(clock, monkeypatch, fails) -> None:
    async def connect(*_args, **_options) -> None:
        assert not stack.scanners[-1].running
        assert stack.adapter.scanning  # as far as others need to know
        if fails:
            raise BleakError("later")

    monkeypatch.setattr(ble_adapter, "establish_connection", connect)
    async with scanning() as (stack, counts, lives):
        with contextlib.suppress(TransportError):
            await stack.adapter.connect(BLEDevice("A", None, None), lambda _: None, attempts=1)
        await until(lambda: len(stack.scanners) == 2 and stack.scanners[1].running)
        assert counts == ["other"] * fails
        assert lives == ["began", "ended", "began"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "timeout"),
        (BleakDBusError("org.bluez.Error.InProgress", []), "in_progress"),
        (BleakError("failed to discover services, device disconnected"), "services"),
        (BleakError("le-connection-abort-by-local"), "other"),
        (EOFError(), "other"),
    ],
)
async def test_what_prevents_a_connection_has_a_name(monkeypatch, error, reason) -> None:
    async def connect(*_args, **_options) -> None:
        raise error

    monkeypatch.setattr(ble_adapter, "establish_connection", connect)
    counts = []
    with pytest.raises(TransportError):
        await Adapter(Stack(), 5, counts.append, lambda: None).connect(BLEDevice("A", None, None), lambda _: None, attempts=1)
    assert counts == [reason]


@pytest.fixture
def bus(tmp_path, monkeypatch):
    """A private system bus, and an adapter in sysfs."""
    address = f"unix:path={tmp_path / 'bus'}"
    config = tmp_path / "bus.conf"
    config.write_text(
        f"<busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth><policy context='default'>"
        "<allow own='*'/><allow send_destination='*'/><allow receive_sender='*'/></policy></busconfig>"
    )
    daemon = subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"], stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    daemon.stdout.readline()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    assert os.environ["DBUS_SYSTEM_BUS_ADDRESS"] == address
    yield tmp_path
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()


async def watched(tmp_path):
    stack = BluezStack("hci0")
    stack._folder = tmp_path / "hci0"
    stack._folder.mkdir()
    bluetoothd = await MessageBus(bus_type=BusType.SYSTEM).connect()
    await bluetoothd.request_name("org.bluez")
    watching = asyncio.get_running_loop().create_task(stack.watch())
    await asyncio.sleep(0.3)
    assert not watching.done()
    return stack, bluetoothd, watching


async def test_the_end_of_bluetoothd_is_noticed(bus) -> None:
    _, bluetoothd, watching = await watched(bus)
    bluetoothd.disconnect()
    with pytest.raises(TransportError, match="bluetoothd has ended"):
        await watching


async def test_an_adapter_that_is_unplugged_is_noticed(bus) -> None:
    stack, bluetoothd, watching = await watched(bus)
    stack._folder.rmdir()
    with pytest.raises(TransportError, match="hci0 is gone"):
        await watching
    bluetoothd.disconnect()


async def test_without_a_bus_there_is_a_clear_error(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    with pytest.raises(TransportError, match="watch bluetoothd"):
        await BluezStack("hci0").watch()
    with pytest.raises(TransportError, match="no adapter hci77"):
        async with BluezStack("hci77").open():
            pass
