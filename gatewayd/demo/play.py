"""Runs the demo's two acts: the main job, then two rollouts; shows them, and says whether they proved what they should."""

import asyncio
import contextlib
import json
import re
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.live import Live

from gatewayd import app, bundle, config, signing
from gatewayd.demo import ota, proof, site, stage, wireless
from gatewayd.demo.show import Show
from gatewayd.store import Store

_AUDIT_S = 30  # mean time between audit samples: a demo has less patience than a site
_VITALS_S = 2
_CUT_S = 28.0  # then the node with both radios loses its way to the broker
_SETTLE_S = 10.0  # after the last word: a command may be recorded and understood


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
    key = folder / "operator.pem"
    signing.make(key)
    images = await asyncio.to_thread(_images, folder, key)
    outcome = await _main_job(folder, sensors, images, key, console)
    outcome |= await ota.act(folder / "ota", sensors, images["vibration"], key, console, once=once)
    console.print()
    missing = proof.shortfalls(outcome, len(sensors))
    for what in missing:
        console.print(f"[red]did not hold:[/] {what}")
    typer.echo(json.dumps(outcome))
    return 1 if missing else 0


def _images(folder: Path, key: Path) -> dict[str, Path]:
    """The node image of each cascade that came with gatewayd, signed with a key of this demo."""
    images = {}
    for name, cascade in bundle.read_all(app.cascade_folders(config.Config())).items():
        images[name] = folder / f"{name}.img"
        images[name].write_bytes(bundle.node_image(cascade, audit_s=_AUDIT_S, key=signing.load_private(key)))
    return images


async def _main_job(folder: Path, sensors: list[stage.Sensor], images: dict[str, Path], key: Path, console: Console) -> dict[str, Any]:
    """The first act: nodes suspect, the gateway judges, in real time."""
    mqtt_port, http_port = site.free_port(), site.free_port()
    address = f"http://127.0.0.1:{http_port}"
    show = Show(sensors, address)
    async with AsyncExitStack() as running:
        await running.enter_async_context(site.broker(folder, mqtt_port))
        ble = await running.enter_async_context(wireless.air(folder, show.message))
        settings = f"[escalation]\nqueue_size = {8 * len(sensors)}\n{ble}"
        await running.enter_async_context(site.gateway(folder, mqtt_port, http_port, settings))
        console.print("waiting for the larger models ...")
        await site.healthy(address)
        console.print(site.page(folder, address), highlight=False, soft_wrap=True)
        relay = await running.enter_async_context(wireless.Relay(mqtt_port))
        show.begin()
        watching = asyncio.get_running_loop().create_task(show.follow(mqtt_port))
        running.callback(watching.cancel)
        for sensor in sensors:
            inputs = [f"{'audio' if sensor.cascade == 'wakeword' else 'vibration'}:{sensor.wav}"]
            links = wireless.links(folder, sensor.node, relay.port if sensor.node == wireless.BOTH else mqtt_port)
            more = ("--key", f"{key}.pub", "--vitals-s", str(_VITALS_S))
            command = site.node_command(folder, sensor.node, links, [images[sensor.cascade]], inputs, *more)
            await running.enter_async_context(site.process(command, folder / f"{sensor.node}.log"))
        with Live(show, console=console, refresh_per_second=4):
            asyncio.get_running_loop().call_later(_CUT_S, relay.cut)
            await asyncio.wait([watching], timeout=stage.SECONDS + _SETTLE_S)
        return await _outcome(folder, sensors, show, address)


async def _outcome(folder: Path, sensors: list[stage.Sensor], show: Show, address: str) -> dict[str, Any]:
    metrics = await site.fetch(f"{address}/metrics")
    settings = config.load(folder / "gatewayd.toml")
    with Store(settings.store, settings.store_url) as store:
        events = store.recent(100_000)
    counts = proof.account(sensors, events, show.answer_s)
    stored = {(event.node, event.session, event.seq) for event in events}
    return {
        "nodes": len(re.findall(r"^gatewayd_node_up\{.*\} 1$", metrics, re.MULTILINE)),
        **counts,
        "ble_nodes": len(show.heard["ble"]),
        "ble_events": len(stored & show.events["ble"]),
        "radio_changes": sum(map(int, re.findall(r"^gatewayd_radio_changes_total (\d+)", metrics, re.MULTILINE))),
        "lost": sum(map(int, re.findall(r"^gatewayd_node_(?:messages_lost|events_dropped)_total\{.*\} (\d+)$", metrics, re.MULTILINE))),
    }
