"""The demo's Bluetooth LE: a radio chip for four of the nodes, the gateway's controller, and what is overheard between nodes and chips."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from gatewayd.core.segments import Receiver
from gatewayd.core.wire import MAX_PAYLOAD_BYTES
from gatewayd.demo.air import Air, Controller, plugged
from gatewayd.demo.line import Chip, Host
from gatewayd.demo.radio import cell
from gatewayd.errors import DecodeError
from gatewayd.transports.ble_link import TAILS

BLE_ONLY = ("attic", "garage", "fan")
BOTH = "studio"
NODES = (*BLE_ONLY, BOTH)
_UP, _DOWN = 1, 2  # characteristics on the line
_DOWN_TAILS = {2: "verdict"}
Hear = Callable[[str, str, str, bytes, str], None]  # direction, node, tail, payload, radio


class _Tap:
    """Puts together what passes one chip's line."""

    def __init__(self, node: str, hear: Hear) -> None:
        self._say = partial(self._hear, node, hear)
        self._connected()

    def _connected(self) -> None:
        self._ends = {_UP: Receiver(MAX_PAYLOAD_BYTES + 1), _DOWN: Receiver(MAX_PAYLOAD_BYTES + 1)}

    def __call__(self, kind: Host | Chip, payload: bytes) -> None:
        if kind is Chip.CONNECTED:
            self._connected()
        elif kind in (Host.NOTIFY, Chip.WRITTEN) and payload[0] in self._ends:
            with contextlib.suppress(DecodeError):  # whom it is for drops the link, and another begins
                if message := self._ends[payload[0]].take(payload[1:]):
                    self._say(payload[0], message)

    @staticmethod
    def _hear(node: str, hear: Hear, characteristic: int, message: bytes) -> None:
        direction, tails = ("up", TAILS) if characteristic == _UP else ("down", _DOWN_TAILS)
        if tail := tails.get(message[0]):
            hear(direction, node, tail, message[1:], "ble")


@contextlib.asynccontextmanager
async def air(folder: Path, hear: Hear) -> AsyncIterator[str]:
    """The chips' sockets are in `folder` by the node's name; yields the gateway's settings."""
    around = Air()
    async with cell(around, [folder / f"{node}.radio" for node in NODES]) as radios, plugged(Controller("gateway", around)) as port:
        for node, radio in zip(NODES, radios, strict=True):
            radio.overhear = _Tap(node, hear)
        yield f'[ble]\nhci = "tcp-client:127.0.0.1:{port}"\n'


def links(folder: Path, node: str, mqtt_port: int) -> Sequence[str]:
    """The options of a node's program: which radios it has."""
    broker = () if node in BLE_ONLY else ("--broker", f"127.0.0.1:{mqtt_port}")
    return (*broker, *(("--radio", str(folder / f"{node}.radio")) if node in NODES else ()))


class Relay:
    """A way to the broker that can be cut, while its block runs."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.cut()

    def cut(self) -> None:
        """For good: no connection stays, and none is taken."""
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            self._writers.add(far_writer)
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.close()
