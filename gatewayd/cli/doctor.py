"""`gatewayctl doctor`: looks at everything that a gateway stands on, and says what to do about what is wrong."""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import aiomqtt
import typer
from rich.console import Console
from rich.markup import escape

from gatewayd import app, bundle, plugins, signing
from gatewayd.cli.options import load_config
from gatewayd.config import Config
from gatewayd.core.pairing import Stage
from gatewayd.errors import GatewaydError, MissingPackageError, TransportError
from gatewayd.pairings import Pairings
from gatewayd.store import Store

_LOW_DISK_BYTES = 200_000_000
_BUILT_S = 1_760_000_000  # a clock that stands before this project's first release is not set
_BROKER_TIMEOUT_S = 5
_BLUETOOTH_ADVICE = (
    "is bluetoothd running (systemctl status bluetooth), the adapter there and powered (bluetoothctl list, power on), and the user in group"
    " bluetooth? a controller of ble.hci must not be BlueZ's or a running gateway's"
)


class Finding(NamedTuple):
    """One thing that was looked at. `advice` is empty where all is well."""

    ok: bool
    what: str
    advice: str = ""


def examine(path: Path | None, overrides: list[str] | None, *, as_json: bool) -> int:
    """Print all findings; the exit status says whether all is well."""
    console = Console(soft_wrap=True)
    well = True
    for finding in findings(path, overrides):
        well = well and finding.ok
        if as_json:
            typer.echo(json.dumps(finding._asdict()))
            continue
        console.print(f"{'[green]ok[/]  ' if finding.ok else '[red]BAD[/] '} {escape(finding.what)}", highlight=False)
        if finding.advice:
            console.print(f"     → {escape(finding.advice)}", highlight=False)
    return 0 if well else 1


def findings(path: Path | None, overrides: list[str] | None) -> Iterator[Finding]:
    """Everything that was looked at, one by one."""
    python = sys.version.split()[0]
    yield Finding(sys.version_info >= (3, 11), f"Python {python}", "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")
    try:
        config: Config = load_config(path, overrides)
    except GatewaydError as error:
        yield Finding(ok=False, what="configuration", advice=str(error))
        return
    yield Finding(ok=True, what="configuration")
    looks: tuple[Callable[[Config], Iterator[Finding]], ...] = (_clock, _disk, _store, _broker, _bluetooth, _cascades, _keys)
    for look in looks:
        yield from look(config)


def _clock(_config: Config) -> Iterator[Finding]:
    now_s = time.time()
    if now_s < _BUILT_S:
        yield Finding(
            ok=False, what=f"clock says {time.ctime(now_s)}", advice="enable NTP (timedatectl set-ntp true) or fit a real-time clock"
        )
    else:
        yield Finding(ok=True, what=f"clock says {time.ctime(now_s)}")


def _disk(config: Config) -> Iterator[Finding]:
    folder = config.gateway.state_dir
    there = next((parent for parent in (folder, *folder.parents) if parent.exists()), Path("/"))
    if not os.access(there, os.W_OK):
        yield Finding(ok=False, what=f"{there} is not writable", advice="run as the daemon's user, or set gateway.state_dir")
    free = shutil.disk_usage(there).free
    ok = free >= _LOW_DISK_BYTES
    advice = "" if ok else "free some space, or lower store.clips_max_bytes and store.events_max_rows"
    yield Finding(ok, f"{free / 1e9:.1f} GB free for {folder}", advice)


def _store(config: Config) -> Iterator[Finding]:
    try:
        with Store(config.store, config.store_url) as store:
            counts = store.counts()
            bonds = [one for one in Pairings(store).all() if one.stage is Stage.PAIRED]
    except GatewaydError as error:
        yield Finding(ok=False, what="database", advice=f"{error} (a first `gatewayctl run` makes it)")
        return
    yield Finding(
        ok=True, what=f"database: {counts.nodes} nodes, {counts.events} events, {counts.clips} clips ({counts.clip_bytes / 1e6:.0f} MB)"
    )
    for bond in bonds:
        advice = f"if it was reset: gatewayctl node unpair {bond.node}, and pair it again" if bond.cause else ""
        yield Finding(not bond.cause, f"pairing with {bond.node}{bond.cause and ': '}{bond.cause}", advice)


def _broker(config: Config) -> Iterator[Finding]:
    mqtt = config.mqtt
    where = f"MQTT broker {mqtt.host}:{mqtt.port}"

    async def connect() -> None:
        tls = aiomqtt.TLSParameters(ca_certs=str(mqtt.ca_file)) if mqtt.ca_file else None
        client = aiomqtt.Client(
            mqtt.host, mqtt.port, username=mqtt.username, password=mqtt.secret(), tls_params=tls, timeout=_BROKER_TIMEOUT_S
        )
        async with client:
            pass

    try:
        asyncio.run(connect())
    except aiomqtt.MqttError as error:
        advice = "is mosquitto running (systemctl status mosquitto), are mqtt.host, mqtt.port and the credentials right?"
        yield Finding(ok=False, what=f"{where}: {error}", advice=advice)
    except GatewaydError as error:
        yield Finding(ok=False, what=where, advice=str(error))
    else:
        yield Finding(ok=True, what=where)


def _bluetooth(config: Config) -> Iterator[Finding]:
    if not config.ble.on:
        return
    try:
        from gatewayd.transports import ble  # noqa: PLC0415 -- an extra

        stacks = ble.stacks(config.ble, config.gateway.id, config.gateway.state_dir)
    except MissingPackageError as error:
        yield Finding(ok=False, what="Bluetooth", advice=str(error))
        return
    for stack in stacks:
        what = f"Bluetooth adapter {stack.name}"
        try:
            asyncio.run(ble.probe(stack))
        except TransportError as error:
            yield Finding(ok=False, what=f"{what}: {error}", advice=_BLUETOOTH_ADVICE)
        else:
            yield Finding(ok=True, what=f"{what} scans")


def _cascades(config: Config) -> Iterator[Finding]:
    folders = app.cascade_folders(config)
    if not folders:
        yield Finding(ok=False, what="no cascades", advice="set cascades.folders")
    for path in folders:
        try:
            folder = bundle.read(path)
        except GatewaydError as error:
            yield Finding(ok=False, what=f"cascade {path}", advice=str(error))
            continue
        what = f"cascade {folder.cascade.name} {folder.cascade.version}"
        model = folder.cascade.gateway
        if model is None:
            yield Finding(ok=True, what=f"{what}: no gateway model")
            continue
        try:
            plugins.escalator(model.kind).load(bundle.gateway_settings(folder, model))
        except MissingPackageError as error:
            yield Finding(ok=False, what=what, advice=str(error))
        except Exception as error:  # noqa: BLE001 -- whatever a model cannot do is what we look for
            yield Finding(ok=False, what=what, advice=f"its model does not load: {error}")
        else:
            yield Finding(ok=True, what=f"{what}: model {model.kind} loads")


def _keys(config: Config) -> Iterator[Finding]:
    for path in config.cascades.keys:
        try:
            signing.load_public(path)
        except GatewaydError as error:
            yield Finding(ok=False, what=f"key {path}", advice=str(error))
            continue
        private = b"PRIVATE KEY" in path.read_bytes()
        advice = "that is the private key: keep it off the gateway, its .pub is enough" if private else ""
        yield Finding(not private, f"key {path}", advice)
