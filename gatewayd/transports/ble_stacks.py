"""The Bluetooth stacks that the gateway can use, in bleak's terms: BlueZ, or Bumble with a controller of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, Protocol

from bleak import BleakAdapter, BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from dbus_fast import BusType, Message
from dbus_fast.aio import MessageBus

from gatewayd.core.beacon import SERVICE_UUID
from gatewayd.core.pairing import Agent
from gatewayd.errors import TransportError
from gatewayd.transports import bluez
from gatewayd.transports.ble_link import answered

if TYPE_CHECKING:
    from gatewayd.transports import bumble

_LOOK_S = 1.0
Heard = Callable[[BLEDevice, AdvertisementData], None]


class Stack(Protocol):
    """A Bluetooth stack with one adapter, in bleak's terms."""

    name: str
    client: dict[str, Any]  # arguments of BleakClient
    pauses: bool  # its scanner should, for a connect, and does, for a pairing

    def open(self) -> AbstractAsyncContextManager[Any]:
        """Take the adapter, for as long as the block runs. Raises TransportError."""

    def scanner(self, heard: Heard) -> BleakScanner:
        """A scanner."""

    async def watch(self) -> Never:
        """Raise TransportError when the adapter is gone."""

    async def connected(self) -> list[BLEDevice]:
        """Nodes that are connected, by whomever."""

    async def pair(self, client: BleakClient, agent: Agent) -> None:
        """Pair, from the beginning, with whom `client` is connected to; `agent` answers. Raises what bleak raises, and TransportError."""

    async def encrypts(self, client: BleakClient) -> bool:
        """Whether that connection is encrypted with the key of a bond. Raises TransportError."""

    async def forget(self, address: str) -> None:
        """Have no bond with `address`. Raises TransportError."""


class BluezStack:
    """BlueZ, over D-Bus. While it scans, a connect waits for one more report of the device, which controllers withhold for ten seconds."""

    pauses = True

    def __init__(self, adapter: str) -> None:
        self.name = adapter
        self.client: dict[str, Any] = {"bluez": {"adapter": adapter}}
        self._folder = Path("/sys/class/bluetooth") / adapter

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Look whether it is there. Raises TransportError."""
        if not self._folder.exists():
            raise TransportError(f"Bluetooth: there is no adapter {self.name}")
        yield

    def scanner(self, heard: Heard) -> BleakScanner:
        """A scanner."""
        return BleakScanner(heard, bluez={"adapter": self.name})

    async def watch(self) -> Never:
        """Raise TransportError when the adapter was unplugged, or bluetoothd has ended: nothing that it did goes on then."""
        ended = asyncio.Event()

        def heard(message: Message) -> None:
            if message.member == "NameOwnerChanged" and message.body[0] == "org.bluez" and not message.body[2]:
                ended.set()

        bus = MessageBus(bus_type=BusType.SYSTEM)
        try:
            async with answered("watch bluetoothd"):
                await bus.connect()
                bus.add_message_handler(heard)
                await bus.call(
                    Message(
                        destination="org.freedesktop.DBus",
                        path="/org/freedesktop/DBus",
                        interface="org.freedesktop.DBus",
                        member="AddMatch",
                        signature="s",
                        body=["type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='org.bluez'"],
                    )
                )
            while self._folder.exists() and bus.connected and not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):  # sysfs does not say when it changes
                        await ended.wait()
        finally:
            bus.disconnect()
        raise TransportError(f"Bluetooth: {'bluetoothd has ended' if self._folder.exists() else f'adapter {self.name} is gone'}")

    async def connected(self) -> list[BLEDevice]:
        """Nodes to which BlueZ has a connection."""
        async with answered("connected devices"):
            adapter = await BleakAdapter.get(bluez={"adapter": self.name})
            return await adapter.get_connected_devices([SERVICE_UUID])

    async def pair(self, client: BleakClient, agent: Agent) -> None:
        """Pair. A bond of which we know nothing is no good: then it fails, and whoever asked forgets the device and tries again."""
        device = bluez.device_path(self.name, client.address)
        if await bluez.paired(device):
            raise TransportError("BlueZ has an old bond with it")
        async with bluez.answering(device, agent):
            await client.pair()

    async def encrypts(self, client: BleakClient) -> bool:
        """Whether there is a bond: BlueZ holds no connection with its device that is not encrypted."""
        async with answered("look at the bond"):
            return await bluez.paired(bluez.device_path(self.name, client.address))

    async def forget(self, address: str) -> None:
        """Remove the device from BlueZ."""
        async with answered("forget a bond"):
            await bluez.forget(self.name, bluez.device_path(self.name, address))


class BumbleStack:
    """A controller that BlueZ does not have."""

    pauses = False

    def __init__(self, adapter: "bumble.Adapter") -> None:
        self.name = adapter.name
        self.client: dict[str, Any] = {"backend": adapter.client}
        self._adapter = adapter

    def open(self) -> AbstractAsyncContextManager[Any]:
        """Open the controller. Raises TransportError."""
        return self._adapter

    def scanner(self, heard: Heard) -> BleakScanner:
        """A scanner."""
        return BleakScanner(heard, backend=self._adapter.scanner)

    async def watch(self) -> Never:
        """Raise TransportError when the controller is gone."""
        await self._adapter.watch()

    async def connected(self) -> list[BLEDevice]:
        """None: a controller is reset when it is opened."""
        return []

    async def pair(self, client: BleakClient, agent: Agent) -> None:
        """Pair."""
        await self._adapter.pair(client, agent)

    async def encrypts(self, client: BleakClient) -> bool:
        """Whether that connection is encrypted."""
        return self._adapter.encrypts(client.address)

    async def forget(self, address: str) -> None:
        """Have no bond with `address`."""
        await self._adapter.forget(address)
