"""The gateway's speed and memory, under load from the fleet simulator and a real broker."""

import asyncio
import json
import re
import socket
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from report import Result

from cascades.wakeword import speech
from gatewayd.core import wire
from gatewayd.core.types import Event, Reason, Window, WindowKind
from gatewayd.demo import site

HERE = Path(__file__).parent
FLEET = site.NODE_PROGRAM.with_name("gateway-fleet")
_RATE_PER_S = 1_000
_FULL_PER_S = 3_000  # about what two cores carry with fleet, broker and both subscribers
_MEASURED_S = 8.0
_PAIRS = 3


class Running(NamedTuple):
    """A broker and a probed gateway."""

    folder: Path
    mqtt_port: int
    http_port: int
    gateway: psutil.Process

    def scrape(self) -> str:
        """The text of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def total(self, series: str) -> float:
        """The sum of all series of a name."""
        return sum(float(value) for value in re.findall(rf"^{series}(?:\{{.*\}})? ([0-9.e+-]+)$", self.scrape(), re.MULTILINE))


@asynccontextmanager
async def _site(folder: Path, settings: str = "") -> AsyncIterator[Running]:
    folder.mkdir()
    folder.chmod(0o755)
    mqtt_port, http_port = site.free_port(), site.free_port()
    async with site.broker(folder, mqtt_port):
        config = site.write_config(folder, mqtt_port, http_port, settings)
        log = folder / "gateway.log"
        async with site.process([sys.executable, HERE / "probed_gateway.py", folder / "figures.json", config], log) as process:
            await site.listening(http_port, process, log)
            running = Running(folder, mqtt_port, http_port, psutil.Process(process.pid))
            while not await asyncio.to_thread(running.total, "gatewayd_mqtt_connected"):
                await asyncio.sleep(0.1)
            yield running


def _fleet(running: Running, *more: str) -> list[str | Path]:
    return [FLEET, "--broker", f"127.0.0.1:{running.mqtt_port}", *more]


def _figures_ms(folder: Path) -> np.ndarray:
    """[arrival to disk, waiting, model] of every event."""
    return 1e3 * np.array(json.loads((folder / "figures.json").read_text())).reshape(-1, 3)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def pipeline(folder: Path) -> dict[str, Result]:
    """CPU of a message against a subscriber that only counts, both on the same messages at the same time; and the time to disk."""
    ratios, ours_us, theirs_us = [], [], []
    async with _site(folder / "full") as running:
        for number in range(_PAIRS):
            ours, theirs = await _pair(running, f"pair{number}-", _FULL_PER_S)
            ratios.append(ours / theirs)
            ours_us.append(1e6 * ours)
            theirs_us.append(1e6 * theirs)
    async with _site(folder / "pipeline") as running:
        slow = [await _pair(running, f"pair{number}-", _RATE_PER_S) for number in range(_PAIRS)]
    slow_ratio = statistics.median(ours / theirs for ours, theirs in slow)
    durable_ms = _figures_ms(folder / "pipeline")[:, 0]
    ratio, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
    return {
        "gateway.cpu_ratio_to_paho": Result(
            round(ratio, 2),
            "x",
            1.6,
            round(statistics.median(theirs_us), 1),
            round(ratio, 2),
            f"CPU (user and system, all threads) a message of QoS 1 at {_FULL_PER_S}/s from 50 nodes, decoded, recorded in SQLite with full syncs and "
            f"acknowledged after the commit; the events have no window and their cascade no larger model, so no verdict is sent. Gateway "
            f"{statistics.median(ours_us):.1f} µs, reference (µs): bare paho 2 `loop_forever` that only counts the same messages at the same time. "
            f"Median of {_PAIRS} pairs, {spread}. At {_RATE_PER_S}/s, where nearly every message wakes both processes, it is {slow_ratio:.2f}.",
        ),
        "gateway.durable_p99_ms": Result(
            round(float(np.percentile(durable_ms, 99)), 1),
            "ms",
            note=f"Arrival in the gateway to the end of the commit, {len(durable_ms)} events at {_RATE_PER_S}/s from 50 nodes, commits at least 20 ms apart; "
            f"p50 {np.percentile(durable_ms, 50):.1f} ms, largest {durable_ms.max():.0f} ms.",
        ),
    }


async def _pair(running: Running, prefix: str, rate_per_s: int) -> tuple[float, float]:
    """CPU seconds a message: (the gateway's, the counter's)."""
    log = running.folder / "counter.log"
    log.unlink(missing_ok=True)
    async with site.process([sys.executable, HERE / "paho_counter.py", str(running.mqtt_port)], log) as counter:
        await asyncio.sleep(1.0)
        reference = psutil.Process(counter.pid)
        received = running.total("gatewayd_node_messages_total")
        began = _cpu_s(running.gateway), _cpu_s(reference)
        command = _fleet(running, "--prefix", prefix, "--count", "50", "--event-rate", str(rate_per_s), "--window-bytes", "0")
        async with site.process([*command, "--cascade", "bench", "--duration", str(_MEASURED_S)], running.folder / "fleet.log") as fleet:
            await fleet.wait()
        await asyncio.sleep(0.5)
        spent = _cpu_s(running.gateway) - began[0], _cpu_s(reference) - began[1]
        received = running.total("gatewayd_node_messages_total") - received
        await site.end(counter)
    return spent[0] / received, spent[1] / int(log.read_text().split()[-1])


async def escalation(folder: Path) -> dict[str, Result]:
    """What an escalation takes beyond its model, on real clips."""
    import aiomqtt  # noqa: PLC0415 -- only here

    clip = np.concatenate([np.zeros(speech.RATE_HZ, np.int16), speech.say("okay nabu", "espeak-ng:en-us")])
    window = Window(WindowKind.PCM16, speech.RATE_HZ, 1, (len(clip[-32_000:]),), clip[-32_000:].tobytes())
    async with _site(folder / "escalation") as running, aiomqtt.Client("127.0.0.1", running.mqtt_port) as client:
        while "no larger model" in await asyncio.to_thread(_health, running.http_port):
            await asyncio.sleep(0.2)
        for seq in range(200):
            event = Event(seq, 1, "wakeword", b"benchbch", 0.9, 0, seq, Reason.TRIGGER, window)
            await client.publish(f"nodelink/1/up/bench-{seq % 12}/event", wire.encode(event._replace(seq=seq // 12)), qos=1)
            await asyncio.sleep(0.25)
        await asyncio.sleep(2)
    figures = _figures_ms(folder / "escalation")
    judged = figures[figures[:, 2] > 0]
    overhead = judged[:, 0] - judged[:, 1] - judged[:, 2]
    note = (
        f"Arrival to the end of the commit, after which the verdict leaves, less waiting for a worker and the model's own time (p50 "
        f"{np.percentile(judged[:, 2], 50):.0f} ms): {len(judged)} wake words of 2 s from 12 nodes, four a second."
    )
    return {
        "gateway.escalation_overhead_p50_ms": Result(round(float(np.percentile(overhead, 50)), 2), "ms", 2.0, note=note),
        "gateway.escalation_overhead_p99_ms": Result(round(float(np.percentile(overhead, 99)), 2), "ms", 10.0, note=note),
    }


def _health(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except urllib.error.HTTPError as error:
        return error.read().decode()


async def fleet(folder: Path, nodes: int = 10_000, scrapes: int = 20) -> dict[str, Result]:
    """Memory and the cost of a scrape with ten thousand nodes online."""
    async with _site(folder / "fleet") as running:
        command = _fleet(running, "--count", str(nodes), "--vitals-s", "60", "--event-rate", "1", "--cascade", "bench", "--duration", "600")
        async with site.process(command, running.folder / "fleet.log"):
            deadline = time.monotonic() + 240
            while (up := await asyncio.to_thread(running.total, "gatewayd_node_up")) < nodes:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"only {up:.0f} of {nodes} nodes are up")
                await asyncio.sleep(2)
            await asyncio.sleep(70)  # every node has sent its vitals
            before = _cpu_s(running.gateway)
            idle_began = time.monotonic()
            await asyncio.sleep(10)
            idle_share = (_cpu_s(running.gateway) - before) / (time.monotonic() - idle_began)
            began, began_s = _cpu_s(running.gateway), time.monotonic()
            for _ in range(scrapes):
                text = await asyncio.to_thread(running.scrape)
            scrape_s = (_cpu_s(running.gateway) - began - idle_share * (time.monotonic() - began_s)) / scrapes
            rss_mb = running.gateway.memory_info().rss / 1e6
    note = f"{nodes} nodes of the fleet simulator online"
    return {
        "gateway.rss_10k_mb": Result(
            round(rss_mb, 1), "MB", 120.0, note=f"{note}; resident memory of the gateway's own process, without its workers."
        ),
        "gateway.scrape_10k_ms": Result(
            round(1e3 * scrape_s, 1),
            "ms",
            50.0,
            note=f"{note}; CPU of one of {scrapes} scrapes, {text.count(chr(10))} lines, {len(text) / 1e6:.1f} MB, less what the gateway uses without them.",
        ),
    }


async def ready(folder: Path, starts: int = 7) -> dict[str, Result]:
    """From exec to READY=1 (sd_notify)."""
    folder = folder / "ready"
    folder.mkdir()
    folder.chmod(0o755)
    mqtt_port = site.free_port()
    seconds = []
    async with site.broker(folder, mqtt_port):
        config = site.write_config(folder, mqtt_port, site.free_port())
        for number in range(starts):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
                path = str(folder / f"notify-{number}")
                notified.bind(path)
                notified.settimeout(30)
                began = time.monotonic()
                command = [sys.executable, "-m", "gatewayd.cli", "run", "-c", config]
                async with site.process(command, folder / "gateway.log", {"NOTIFY_SOCKET": path}):
                    while b"READY=1" not in await asyncio.to_thread(notified.recv, 4096):
                        pass
                    seconds.append(time.monotonic() - began)
    note = f"From exec to READY=1, imports included; median of {starts} starts, {min(seconds):.2f} to {max(seconds):.2f} s."
    return {"gateway.ready_s": Result(round(statistics.median(seconds), 2), "s", 1.5, note=note)}


SUBJECTS = {"pipeline": pipeline, "escalation": escalation, "fleet": fleet, "ready": ready}
