"""One Bluetooth adapter: its scanner, which is watched, and its connections, which are made one after the other.

A scanner may die without a word (a restart of bluetoothd does that), so one that hears nothing for too long is started again. Two
connects at once fail on many adapters, as does a connect by address: one at a time, with a device that was heard just now.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Never

from bleak import BleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak_retry_connector import BleakNotFoundError, BleakOutOfConnectionSlotsError, establish_connection

from gatewayd.core.beacon import SERVICE_UUID
from gatewayd.errors import TransportError
from gatewayd.journal import Kind
from gatewayd.transports.ble_link import Link, answered
from gatewayd.transports.ble_stacks import Heard, Stack

SILENCE_S = 90.0
_LOOK_S = 1.0
_SCANNER_S = 20.0  # to start or to stop it
_CONNECT_S = 12.0
_MOST_SEEN = 8_192  # devices that bleak's scanner may remember; anyone can make up more
_log = logging.getLogger(__name__)


class Adapter:
    """An adapter and its links. `failed` counts connections that could not be made, by reason; `silenced` restarts of the scanner."""

    def __init__(self, stack: Stack, connections: int, failed: Callable[[str], None], silenced: Callable[[], object]) -> None:
        self.name = stack.name
        self.stack = stack
        self.links: set[Link] = set()
        self.wake = asyncio.Event()  # there may be somebody to connect, or room for somebody
        self.scanning = False  # or pausing for a connect
        self.listening = False  # the scanner is on
        self.pairing = 0  # so many nodes pair, and the stack does not scan meanwhile
        self._connections = connections
        self._failed = failed
        self._silenced = silenced
        self._turn = asyncio.Lock()  # of the scanner or of a connect, where the stack cannot do both well
        self._wanted = asyncio.Event()  # by a connect
        self._heard_s = 0.0  # anything
        self._node_s: float | None = None  # a node's advertisement, by this scanner

    async def scan(self, heard: Heard, *, began: Callable[[], None], ended: Callable[[], None], all_linked: Callable[[], bool]) -> Never:
        """Scan, and start the scanner again whenever it falls silent. Raises TransportError where it cannot be started."""

        def taken(device: BLEDevice, advertisement: AdvertisementData) -> None:
            self._heard_s = time.monotonic()
            if SERVICE_UUID in advertisement.service_data:
                self._node_s = self._heard_s
            heard(device, advertisement)

        try:
            while True:
                async with self._turn:
                    await self._listen(taken, began, ended, all_linked)
                if not self._wanted.is_set():
                    self._silenced()
                    _log.warning(
                        "%s: the scanner hears nothing any more and is started again",
                        self.name,
                        extra=Kind.SCANNER_RESTARTED(ADAPTER=self.name),
                    )
        finally:
            self.scanning = False

    async def _listen(self, taken: Heard, began: Callable[[], None], ended: Callable[[], None], all_linked: Callable[[], bool]) -> None:
        """Scan until nothing is heard any more, or a connect wants silence."""
        scanner = self.stack.scanner(taken)
        async with answered(f"{self.name}: start the scanner", _SCANNER_S):
            await scanner.start()
        self._heard_s, self._node_s = time.monotonic(), None
        self.scanning = self.listening = True
        began()
        try:
            while not self._wanted.is_set() and not self._silent(all_linked()) and len(scanner.discovered_devices) < _MOST_SEEN:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._wanted.wait()
        finally:
            self.listening = False
            ended()
            with contextlib.suppress(TransportError):  # what is dead may not be stopped
                async with answered("stop the scanner", _SCANNER_S):
                    await scanner.stop()

    def _silent(self, all_linked: bool) -> bool:
        """Nothing was heard for too long, or no node where nodes were. Nodes that are connected do not advertise."""
        if all_linked:
            return False
        now_s = time.monotonic()
        return now_s - self._heard_s > SILENCE_S or (self._node_s is not None and now_s - self._node_s > SILENCE_S)

    @property
    def full(self) -> bool:
        """No room for another connection."""
        return len(self.links) >= self._connections

    async def connect(self, device: BLEDevice, gone: Callable[[BleakClient], None], *, attempts: int) -> BleakClient:
        """Connect to a device that was heard. Raises TransportError, and counts the reason."""
        try:
            async with self._stillness(), answered(f"{self.name}: connect {device.address}", _CONNECT_S):
                return await establish_connection(BleakClient, device, device.address, gone, max_attempts=attempts, **self.stack.client)
        except TransportError as error:
            self._failed(_reason(error))
            raise

    @contextlib.asynccontextmanager
    async def _stillness(self) -> AsyncIterator[None]:
        """The scanner pauses, where it would delay a connect."""
        if not self.stack.pauses:
            yield
            return
        self._wanted.set()
        try:
            async with self._turn:
                yield
        finally:
            self._wanted.clear()


def _reason(error: TransportError) -> str:
    """The word for a metric's label."""
    cause, text = error.__cause__, str(error)
    if isinstance(cause, TimeoutError):
        return "timeout"
    if isinstance(cause, BleakNotFoundError):
        return "not_found"
    if isinstance(cause, BleakOutOfConnectionSlotsError):
        return "slots"
    if "InProgress" in text:
        return "in_progress"
    return "services" if "service" in text else "other"
