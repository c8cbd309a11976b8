"""An update over Bluetooth LE: what our uploader gets out of the radio model, beside a stream of bytes that nobody waits for."""

import asyncio
import contextlib
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from report import Result
from smp.header import Header
from smp.os_management import EchoWriteRequest

from gatewayd.config import Ble
from gatewayd.courier import conversation
from gatewayd.demo import radio, site
from gatewayd.demo.air import Air, Controller, plugged
from gatewayd.smp import NodeLink, SmpLinks
from gatewayd.transports.ble import BleTransport, stacks

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from fleet_site import FleetSite
from live import until

_GOAL = 0.7  # of the raw stream
_INTERVALS_MS = 15, 50
_ROUNDS = 5


class Cell:
    """The gateway's transport and one node in the air."""

    def __init__(self, folder: Path, air: Air, port: int) -> None:
        settings = Ble(hci=f"tcp-client:127.0.0.1:{port}")
        self.heard: set[str] = set()
        self.transport = BleTransport(
            settings, stacks(settings, "bench", folder), count=lambda *_: None, sighted=self.heard.add, lost=lambda _: None
        )
        self.links = SmpLinks(self._send)
        self.air = air

    def _send(self, node: str, _transport: str, frame: bytes) -> None:
        self.transport.send(node, "smp", frame)

    async def read(self) -> None:
        """Take what the node says until cancelled."""
        async for batch in self.transport.frames():
            for frame in batch:
                frame.done()
                if frame.tail == "smp":
                    self.links.deliver(frame.node, "ble", frame.payload)


@contextlib.asynccontextmanager
async def _cell(folder: Path, interval_ms: float) -> AsyncIterator[Cell]:
    air = Air(interval_ms=interval_ms)
    async with plugged(Controller("gateway", air)) as port:
        cell = Cell(folder, air, port)
        working = [asyncio.create_task(cell.transport.run()), asyncio.create_task(cell.read())]
        try:
            yield cell
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)


async def _round(ours: FleetSite, interval_ms: float) -> tuple[float, float]:
    """Seconds for an image's bytes over one connection with the real node: as an upload, until it has verified it; and plainly, until it has
    answered an echo behind them.
    """
    image, folder = ours.bundle_image(), ours.folder
    async with _cell(folder, interval_ms) as cell, radio.cell(cell.air, [folder / "radio"]):
        (folder / "flash").unlink(missing_ok=True)
        command = (site.NODE_PROGRAM, "--id", "bench", "--radio", folder / "radio", "--flash", folder / "flash")
        async with site.process([*command, "--image", ours.image, "--key", f"{ours.key}.pub"], folder / "node.log"):
            await until(lambda: "bench" in cell.heard)
            async with conversation(cell.links, "bench", "ble", lambda _: None) as courier:
                began = time.monotonic()
                offsets = [offset async for offset in courier.upload(image, 1)]
                update_s = time.monotonic() - began
                piece_bytes = courier.frame_bytes
            if offsets[-1] != len(image):
                raise RuntimeError(f"the node has {offsets[-1]} of {len(image)} bytes")
            link = NodeLink(cell.links, "ble")
            await link.connect("bench", 0)
            began = time.monotonic()
            for start in range(0, len(image), piece_bytes):
                size = min(piece_bytes, len(image) - start) - Header.SIZE
                cell.transport.send(
                    "bench", "smp", struct.pack("!BBHHBB", 0xFF, 0, size, 0, 0, 0) + bytes(size)
                )  # no request: it is dropped
            await link.send_and_receive(EchoWriteRequest(d="there").BYTES)
            return update_s, time.monotonic() - began


async def throughput(folder: Path) -> dict[str, Result]:
    """The best of a few rounds at each interval: the machine's other work comes and goes."""
    folder = folder / "ble"
    folder.mkdir()
    ours, results = FleetSite(folder), {}
    size = len(ours.bundle_image())
    for interval_ms in _INTERVALS_MS:
        rounds = [await _round(ours, interval_ms) for _ in range(_ROUNDS)]
        update, raw = (size / 1e3 / min(seconds) for seconds in zip(*rounds, strict=True))
        results[f"ble.ota_ratio_{interval_ms}ms"] = Result(
            round(update / raw, 2),
            "x",
            _GOAL,
            note=f"Throughput of an update over Bluetooth LE beside that of a plain stream: {update:.0f} and {raw:.0f} KB/s, each the best of {_ROUNDS}. An image of {size} "
            "bytes from the first request to the answer of the real node, which has verified it by then; and as many bytes of which it takes no notice, until it has "
            f"answered an echo behind them. Radio model: connection events each {interval_ms} ms, 2 Mbit/s, PDUs of 251 bytes, no loss.",
            least=True,
        )
    return results


SUBJECTS = {"ble": throughput}
