"""A plain Bumble peripheral on the air: it advertises service data, takes writes, notifies."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bumble.att import ATT_READ_NOT_PERMITTED_ERROR, ATT_Error
from bumble.core import AdvertisingData
from bumble.device import Device, DeviceConfiguration
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.hci import Address
from bumble.pairing import PairingConfig, PairingDelegate

from gatewayd.demo.air import Air, Controller
from gatewayd.transports.bumble import Adapter

SERVICE = "10c492ca-9dfe-4994-9520-c4e06db04166"
UP, DOWN, NAME = (f"10c492c{digit}-9dfe-4994-9520-c4e06db04166" for digit in "cdb")
DEADLINE_S = 20


class Peer:
    """A peripheral with one service: NAME is read, DOWN is written, UP notifies."""

    def __init__(self, air: Air, number: int, delegate: PairingDelegate | None = None, interval_ms: float = 20) -> None:
        self.address = f"C0:00:00:00:{number >> 8:02X}:{number & 255:02X}"
        self.controller = Controller(self.address, air)
        config = DeviceConfiguration(
            address=Address(self.address, Address.RANDOM_DEVICE_ADDRESS),
            advertising_interval_min=interval_ms,
            advertising_interval_max=interval_ms,
        )
        self.device = Device.from_config_with_hci(config, self.controller, self.controller)
        if delegate is not None:
            self.device.pairing_config_factory = lambda _: PairingConfig(delegate=delegate)
        self.written: list[bytes] = []
        does = Characteristic.Properties
        security = Characteristic.Permissions.READ_REQUIRES_AUTHENTICATION if delegate else Characteristic.Permissions(0)
        value = CharacteristicValue(self._refuse, lambda _, data: self.written.append(bytes(data)))
        self.name = Characteristic(NAME, does.READ, Characteristic.READABLE | security, self.address.encode())
        self.up = Characteristic(UP, does.NOTIFY, Characteristic.READABLE, b"")
        self.down = Characteristic(DOWN, does.WRITE_WITHOUT_RESPONSE | does.WRITE, Characteristic.WRITEABLE, value)
        self.device.add_service(Service(SERVICE, [self.name, self.up, self.down]))

    async def start(self, data: bytes = b"0123456789", response: bytes = b"") -> None:
        """Advertise, whenever nobody is connected."""
        await self.device.power_on()
        advertised = (
            bytes((2, 1, 6, 17 + len(data), AdvertisingData.SERVICE_DATA_128_BIT_UUID)) + bytes.fromhex(SERVICE.replace("-", ""))[::-1]
        )
        await self.device.start_advertising(advertising_data=advertised + data, scan_response_data=response, auto_restart=True)

    @staticmethod
    def _refuse(_connection: object) -> bytes:
        raise ATT_Error(ATT_READ_NOT_PERMITTED_ERROR)

    async def notify(self, data: bytes) -> None:
        await self.device.notify_subscribers(self.up, data)


@asynccontextmanager
async def scanning(adapter: Adapter) -> AsyncIterator[Callable[[str], asyncio.Future[BLEDevice]]]:
    """A scanner; what it gives waits for an address."""
    seen: dict[str, asyncio.Future[BLEDevice]] = {}

    def of(address: str) -> asyncio.Future[BLEDevice]:
        return seen.setdefault(address, asyncio.get_running_loop().create_future())

    def heard(device: BLEDevice, _advertisement: object) -> None:
        if not of(device.address).done():
            of(device.address).set_result(device)

    async with BleakScanner(heard, backend=adapter.scanner, scanning_mode="passive"):
        yield of


@asynccontextmanager
async def linked(adapter: Adapter, peer: Peer) -> AsyncIterator[BleakClient]:
    """Connected with `peer`."""
    async with scanning(adapter) as device, BleakClient(await device(peer.address), backend=adapter.client) as client:
        yield client


async def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)
