"""Runs the demo: sets the stage, starts the site, shows it, and says whether it proved what it should."""

import asyncio
import contextlib
import json
import logging
import re
import tempfile
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiomqtt
import typer
from rich.console import Console
from rich.live import Live

from gatewayd import app, bundle, config, signing
from gatewayd.demo import proof, site, stage
from gatewayd.demo.show import Show
from gatewayd.store import Store
from gatewayd.transports.mqtt import ROOT

_AUDIT_S = 30  # mean time between audit samples: a demo has less patience than a site
_VITALS_S = 2
_KEY = "operator.pem"
_HEALTH_TIMEOUT_S = 60.0
_SETTLE_S = 10.0  # after the last word: a command may be recorded and understood
_log = logging.getLogger(__name__)


def play(*, once: bool) -> int:
    """Run until Ctrl-C, or `once` through; the exit status says whether all held."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="gatewayd-demo-") as name, contextlib.suppress(KeyboardInterrupt):
        folder = Path(name)
        folder.chmod(0o755)  # the broker has a user of its own
        return asyncio.run(_play(folder, console, once=once))
    return 0


async def _play(folder: Path, console: Console, *, once: bool) -> int:
    console.print("making speech and vibration for eight rooms and four motors ...")
    sensors = await asyncio.to_thread(stage.build, folder)
    images = await asyncio.to_thread(_images, folder)
    mqtt_port, http_port = site.free_port(), site.free_port()
    address = f"http://127.0.0.1:{http_port}"
    async with AsyncExitStack() as running:
        await running.enter_async_context(site.broker(folder, mqtt_port))
        await running.enter_async_context(site.gateway(folder, mqtt_port, http_port, f"[escalation]\nqueue_size = {8 * len(sensors)}"))
        console.print("waiting for the larger models ...")
        await _healthy(address)
        show = Show(sensors, address)
        watching = asyncio.get_running_loop().create_task(_watch(mqtt_port, show))
        for sensor in sensors:
            inputs = [f"{'audio' if sensor.cascade == 'wakeword' else 'vibration'}:{sensor.wav}"]
            more = ("--key", str(folder / f"{_KEY}.pub"), "--vitals-s", str(_VITALS_S))
            command = site.node_command(folder, sensor.node, mqtt_port, [images[sensor.cascade]], inputs, *more)
            await running.enter_async_context(site.process(command, folder / f"{sensor.node}.log"))
        with Live(show, console=console, refresh_per_second=4, transient=False):
            await asyncio.wait([watching], timeout=stage.SECONDS + _SETTLE_S if once else None)
        watching.cancel()
        outcome = await _outcome(folder, sensors, show, address)
    console.print()
    missing = proof.shortfalls(outcome, len(sensors))
    for what in missing:
        console.print(f"[red]did not hold:[/] {what}")
    typer.echo(json.dumps(outcome))
    return 1 if missing else 0


def _images(folder: Path) -> dict[str, Path]:
    """The node image of each cascade that came with gatewayd, signed with a key of this demo."""
    signing.make(folder / _KEY)
    key = signing.load_private(folder / _KEY)
    images = {}
    for name, cascade in bundle.read_all(app.cascade_folders(config.Config())).items():
        images[name] = folder / f"{name}.img"
        images[name].write_bytes(bundle.node_image(cascade, audit_s=_AUDIT_S, key=key))
    return images


async def _watch(port: int, show: Show) -> None:
    async with aiomqtt.Client("127.0.0.1", port, identifier="demo-show") as client:
        for direction in ("up", "down"):
            await client.subscribe(f"{ROOT}/{direction}/#", qos=0)
        async for message in client.messages:
            _, _, direction, node, tail = message.topic.value.split("/")
            show.message(direction, node, tail, bytes(message.payload))


async def _fetch(url: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 -- our own gateway on the loopback
            text: str = answer.read().decode()
            return text

    return await asyncio.to_thread(get)


async def _healthy(address: str) -> None:
    """Wait until the gateway says that it is whole. Raises TimeoutError."""
    async with asyncio.timeout(_HEALTH_TIMEOUT_S):
        while True:
            with contextlib.suppress(OSError):  # 503 is one too
                await _fetch(f"{address}/healthz")
                return
            await asyncio.sleep(0.2)


async def _outcome(folder: Path, sensors: list[stage.Sensor], show: Show, address: str) -> dict[str, Any]:
    metrics = await _fetch(f"{address}/metrics")
    settings = config.load(folder / "gatewayd.toml")
    with Store(settings.store, settings.store_url) as store:
        events = store.recent(100_000)
    counts = proof.account(sensors, events, show.answer_s)
    return {
        "nodes": len(re.findall(r"^gatewayd_node_up\{.*\} 1$", metrics, re.MULTILINE)),
        **counts,
        "lost": sum(map(int, re.findall(r"^gatewayd_node_(?:messages_lost|events_dropped)_total\{.*\} (\d+)$", metrics, re.MULTILINE))),
    }
