"""The demo's second act: an operator rolls out a better wake-word model to twelve nodes, and then a spoilt one.

The site is another than the first act's, and its time is compressed: nodes hear recordings faster than they were spoken. Nobody tells the
gateway which of the models is the better one.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live

from gatewayd import app, config, signing
from gatewayd.core.update import Update
from gatewayd.demo import models, proof, site, stage, talk, wireless
from gatewayd.demo.show import RolloutShow
from gatewayd.errors import ConfigError
from gatewayd.ledger import Ledger, Note, StoredRollout
from gatewayd.store import Store

SPEED = 4
_CASCADE = "wakeword"
_BUSY = ("kitchen", "office", "hall", "mill")  # where most is said: the canaries, because the gate learns most there
_BASELINE_S = 70.0  # of listening to the first model
_START_TIMEOUT_S = 60.0
_ROLLOUT_TIMEOUT_S = 600.0
# What takes days at a site: a group soaks for seconds, and the gate, in so short a time, can exclude only large losses.
_RULES = ("--groups", "4,8,100%", "--soak", "4s", "--margin", "0.5", "--concurrent", "8")


class _Site(NamedTuple):
    """A running site as its operator sees it."""

    config: Path
    show: RolloutShow
    ledger: Ledger


async def act(folder: Path, sensors: Sequence[stage.Sensor], motor: Path, key: Path, console: Console, *, once: bool) -> dict[str, Any]:
    """Both rollouts, and how they ended; without `once` the site then goes on until Ctrl-C. `motor` is the vibration cascade's image."""
    console.print(f"\nNow all twelve hear people talk, {SPEED} times as fast as they do. Making two more models for them ...")
    await asyncio.to_thread(folder.mkdir)
    nodes = [sensor.node for sensor in sensors]
    healthy = next(sensor.wav for sensor in sensors if sensor.cascade != _CASCADE and not sensor.fails)
    made, said = await asyncio.gather(
        asyncio.to_thread(models.build, folder, signing.load_private(key)), asyncio.to_thread(talk.build, folder, nodes, _BUSY)
    )
    mqtt_port, http_port = site.free_port(), site.free_port()
    address = f"http://127.0.0.1:{http_port}"
    folders = json.dumps([str(made.folder), str(app.SHIPPED_CASCADES / "vibration")])
    settings = f'[cascades]\nfolders = {folders}\nkeys = ["{key}.pub"]\n[escalation]\nqueue_size = {8 * len(sensors)}\nworkers = 2'
    show = RolloutShow(sensors, address, _CASCADE)
    async with AsyncExitStack() as running:
        await running.enter_async_context(site.broker(folder, mqtt_port))
        ble = await running.enter_async_context(wireless.air(folder, show.message))
        await running.enter_async_context(site.gateway(folder, mqtt_port, http_port, f"{settings}\n{ble}"))
        await site.healthy(address)
        console.print(site.page(folder, address), highlight=False, soft_wrap=True)
        show.begin()
        watching = asyncio.get_running_loop().create_task(show.follow(mqtt_port))
        running.callback(watching.cancel)
        for sensor in sensors:
            images, inputs = [made.image], [f"audio:{said[sensor.node]}"]
            if sensor.cascade != _CASCADE:
                images.append(motor)
                inputs.append(f"{sensor.cascade}:{healthy if sensor.fails else sensor.wav}")  # since the first act it was mended
            more = ("--key", f"{key}.pub", "--vitals-s", "2", "--speed", str(SPEED), "--loop")
            command = site.node_command(folder, sensor.node, wireless.links(folder, sensor.node, mqtt_port), images, inputs, *more)
            await running.enter_async_context(site.process(command, folder / f"{sensor.node}.log"))
        settled = config.load(folder / "gatewayd.toml")
        store = running.enter_context(Store(settled.store, settled.store_url))
        place = _Site(folder / "gatewayd.toml", show, Ledger(store))
        with Live(show, console=console, refresh_per_second=4):
            await _all_ready(show, len(sensors))
            await asyncio.sleep(_BASELINE_S)
            outcome = {"rollout_good": await _roll_out(place, made.better), "rollout_bad": await _roll_out(place, made.spoilt)}
        for one in outcome.values():
            console.print(f"\n[bold]$ gatewayctl rollout explain {one['id']}[/]")
            console.print(await _gatewayctl(place, "explain", one["id"]), markup=False, highlight=False)
        if not once:
            with Live(show, console=console, refresh_per_second=4):
                await watching
    return outcome


async def _all_ready(show: RolloutShow, count: int) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(_START_TIMEOUT_S):
        while len(show.ready) < count:  # noqa: ASYNC110 -- what passes the broker fills it
            await asyncio.sleep(0.1)


async def _roll_out(place: _Site, bundle: Path) -> dict[str, Any]:
    """Start a rollout as an operator does, watch it to its end, and say how it ended."""
    began = time.monotonic()
    id_ = json.loads(await _gatewayctl(place, "start", str(bundle), *_RULES, "--yes", "--json"))["id"]
    while True:
        stored, updates, history, words = await asyncio.to_thread(_look, place.ledger, id_)
        place.show.rollout(id_, updates, history, words)
        seconds = time.monotonic() - began
        if stored.closed or seconds > _ROLLOUT_TIMEOUT_S:
            break
        await asyncio.sleep(0.5)
    running = [node for node, slot in place.show.running.items() if slot.sha256 == stored.rollout.sha256]
    return proof.rolled_out(stored.rollout, updates.values(), running, seconds)


def _look(ledger: Ledger, id_: str) -> tuple[StoredRollout, dict[str, Update], list[Note], str]:
    """A rollout, its updates, its history, and what the gateway says of it now."""
    stored, note = ledger.rollout(id_), ledger.explanation(id_)
    assert stored is not None
    return stored, ledger.updates(id_), ledger.history(id_), note.text if note else ""


async def _gatewayctl(place: _Site, verb: str, *words: str) -> str:
    """What `gatewayctl rollout` prints. Raises ConfigError with what it complains of."""
    command = (sys.executable, "-m", "gatewayd.cli", "rollout", verb, *words, "-c", str(place.config))
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, complaint = await running.communicate()
    if running.returncode:
        raise ConfigError(f"gatewayctl rollout {verb}: {complaint.decode()}")
    return out.decode()
