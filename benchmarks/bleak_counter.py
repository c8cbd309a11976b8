"""The reference: a bare bleak scanner on Bumble's stack that only counts. `bleak_counter.py HCI`; prints its count at SIGTERM."""

import asyncio
import signal
import sys

from bleak import BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from gatewayd.transports.bumble import Adapter


async def _count(hci: str) -> None:
    count = 0

    def heard(_device: BLEDevice, _advertisement: AdvertisementData) -> None:
        nonlocal count
        count += 1

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Adapter(hci, "counter") as adapter, BleakScanner(heard, backend=adapter.scanner):
        await ended.wait()
    print(count, flush=True)


if __name__ == "__main__":
    asyncio.run(_count(sys.argv[1]))
