"""Bluetooth LE on Bumble's stack and demo/air.py: an update beside what the link carries, and what it costs to hear a hundred nodes."""

import asyncio
import contextlib
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import psutil
from report import Result

from gatewayd.config import Ble
from gatewayd.courier import Courier, conversation
from gatewayd.demo import radio, site
from gatewayd.demo.air import Air, Controller, plugged
from gatewayd.smp import SmpLinks
from gatewayd.transports.ble import BleTransport, stacks
from gatewayd.transports.bumble import Adapter

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from ble_peer import DOWN, Peer, linked
from fleet_site import FleetSite

HERE = Path(__file__).parent
_PAIRS = 5
_NODE = "bench-1"
_IMAGE = 1  # MCUmgr's number of a node's first model
_ADVERTISING_MS = 250
_MEASURED_S = 15.0


# ---- an update


class Place(NamedTuple):
    """The air, and the name of a gateway's controller on it."""

    air: Air
    hci: str


@contextlib.asynccontextmanager
async def _place(interval_ms: float) -> AsyncIterator[Place]:
    air = Air(interval_ms=interval_ms)
    async with plugged(Controller("gateway", air)) as port:
        yield Place(air, f"tcp-client:127.0.0.1:{port}")


@contextlib.asynccontextmanager
async def _gateway(place: Place, folder: Path) -> AsyncIterator[Callable[[], AbstractAsyncContextManager[Courier]]]:
    """The gateway's transport, which has heard the node; what it gives is a conversation with it."""
    settings, sighted = Ble(hci=place.hci), asyncio.Event()
    transport = BleTransport(
        settings, stacks(settings, "bench", folder), count=lambda *_: None, sighted=lambda _: sighted.set(), lost=lambda _: None
    )
    links = SmpLinks(lambda node, _transport, frame: transport.send(node, "smp", frame))

    async def read() -> None:
        async for batch in transport.frames():
            for frame in batch:
                if frame.tail == "smp":
                    links.deliver(frame.node, "ble", frame.payload)
                frame.done()

    async with asyncio.TaskGroup() as tasks:
        working = [tasks.create_task(transport.run()), tasks.create_task(read())]
        await sighted.wait()
        yield lambda: conversation(links, _NODE, "ble", lambda _: None)
        for task in working:
            task.cancel()


async def _update_s(place: Place, folder: Path, image: bytes) -> float:
    """Seconds from the first piece of an upload to the answer of its last, on a connection that is there."""
    async with _gateway(place, folder) as talk, talk() as courier:
        began = time.monotonic()
        async for _ in courier.upload(image, _IMAGE):
            pass
        return time.monotonic() - began


async def _stream_s(place: Place, peer: Peer, size: int) -> float:
    """Seconds that as many bytes take as writes without response, one behind the other, until the last has arrived."""
    async with Adapter(place.hci, "bench") as adapter, linked(adapter, peer) as client:
        down = client.services.get_characteristic(DOWN)
        assert down is not None
        room, left, began = down.max_write_without_response_size, size, time.monotonic()
        while left:
            await client.write_gatt_char(down, bytes(min(room, left)), response=False)
            left -= min(room, left)
        while sum(map(len, peer.written)) < size:
            await asyncio.sleep(0.001)
        peer.written.clear()
        return time.monotonic() - began


async def _ratio(folder: Path, interval_ms: int) -> Result:
    folder.mkdir()
    made = FleetSite(folder)
    image = made.bundle_image()
    command = [site.NODE_PROGRAM, "--id", _NODE, "--radio", folder / "radio", "--key", f"{made.key}.pub", "--image", made.image]
    stream_s, update_s = [], []
    async with _place(interval_ms) as place, radio.cell(place.air, [folder / "radio"]):
        peer = Peer(place.air, 99)
        await peer.start()
        for number in range(_PAIRS):
            stream_s.append(await _stream_s(place, peer, len(image)))
            async with site.process([*command, "--flash", folder / f"flash-{number}"], folder / "node.log"):
                update_s.append(await _update_s(place, folder, image))
    ratios = [raw / ours for raw, ours in zip(stream_s, update_s, strict=True)]
    rates = [round(len(image) / statistics.median(seconds) / 1e3, 1) for seconds in (stream_s, update_s)]
    ratio = round(statistics.median(ratios), 2)
    return Result(
        ratio,
        "x",
        0.7,
        rates[0],
        ratio,
        f"An image of {len(image)} bytes to the real node over demo/radio.py at a connection interval of {interval_ms} ms, 2M PHY, PDUs of 251 bytes: from the first "
        f"SMP request of the upload to the answer of the last, after which it is verified, {rates[1]} KB/s, by the gateway's own transport and windowed uploader. "
        f"Reference (KB/s): as many bytes as writes without response to a plain peripheral on the same air. Median of {_PAIRS} pairs, "
        f"{min(ratios):.2f} to {max(ratios):.2f}; both wait for whole connection events.",
        at_least=True,
    )


async def ota(folder: Path) -> dict[str, Result]:
    """An image over the air against the same bytes as a plain stream, on the same link."""
    return {f"ble.ota_ratio_{interval_ms}ms": await _ratio(folder / str(interval_ms), interval_ms) for interval_ms in (15, 50)}


# ---- hearing


async def scan(folder: Path) -> dict[str, Result]:
    """CPU of a gateway whose nodes do nothing but advertise, beside that of a scanner that only counts."""
    few, many = [await _hearing(folder / str(nodes), nodes) for nodes in (20, 100)]
    return {
        "ble.scan_cpu_100": Result(
            round(100 * many.gateway, 1),
            "% of a core",
            None,
            round(100 * many.counter, 1),
            round(many.gateway / many.counter, 2),
            f"CPU of the gateway's process (user and system, all threads) while 100 known nodes advertise every {_ADVERTISING_MS} ms and it scans actively: "
            f"{1e6 * many.gateway / many.heard_per_s:.0f} µs for each of {many.heard_per_s:.0f} advertisements a second. With 20 nodes {100 * few.gateway:.1f} %, "
            f"{few.heard_per_s:.0f} a second. Reference (% of a core): a bare bleak scanner on the same Bumble stack that only counts, on the same air at the "
            f"same time; with 20 nodes {100 * few.counter:.1f} %.",
        ),
    }


class Hearing(NamedTuple):
    """Shares of a core, and how many advertisements a second a scanner hears."""

    gateway: float
    counter: float
    heard_per_s: float


async def _hearing(folder: Path, nodes: int) -> Hearing:
    folder.mkdir()
    folder.chmod(0o755)  # the broker has a user of its own
    mqtt_port, http_port = site.free_port(), site.free_port()
    field_log, counter_log = folder / "field.log", folder / "counter.log"
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(site.broker(folder, mqtt_port))
        await stack.enter_async_context(
            site.process([sys.executable, HERE / "ble_field.py", str(nodes), "2", str(_ADVERTISING_MS)], field_log)
        )
        while not (said := field_log.read_text().split()):
            await asyncio.sleep(0.1)
        ours, theirs = (f"tcp-client:127.0.0.1:{port}" for port in said[-2:])
        config = site.write_config(folder, mqtt_port, http_port, f'[ble]\nhci = "{ours}"\nidle_s = 1\n')
        running = await stack.enter_async_context(
            site.process([sys.executable, "-m", "gatewayd.cli", "run", "-c", config], folder / "gateway.log")
        )
        await site.listening(http_port, running, folder / "gateway.log")
        while await asyncio.to_thread(_total, http_port, "gatewayd_node_up") < nodes or await asyncio.to_thread(
            _total, http_port, "gatewayd_ble_links"
        ):
            await asyncio.sleep(0.5)
        counting = await stack.enter_async_context(site.process([sys.executable, HERE / "bleak_counter.py", theirs], counter_log))
        await asyncio.sleep(3)
        processes = [psutil.Process(process.pid) for process in (running, counting)]
        before, heard, began = [_cpu_s(process) for process in processes], await asyncio.to_thread(_heard, http_port), time.monotonic()
        await asyncio.sleep(_MEASURED_S)
        spent = [_cpu_s(process) - cpu_s for process, cpu_s in zip(processes, before, strict=True)]
        took_s = time.monotonic() - began
        heard = await asyncio.to_thread(_heard, http_port) - heard
    return Hearing(spent[0] / took_s, spent[1] / took_s, heard / took_s)


def _heard(port: int) -> float:
    return _total(port, "gatewayd_ble_advertisements_total")


def _total(port: int, series: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return sum(float(value) for value in re.findall(rf"^{series}(?:\{{.*\}})? ([0-9.e+-]+)$", answer.read().decode(), re.MULTILINE))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


SUBJECTS = {"ble-ota": ota, "ble-scan": scan}
