"""`gatewayctl node add`, `rotate` and `revoke`: a node's key, from the first day to the last, for the node and for the broker."""

import asyncio
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import aiomqtt
import segno
import typer

from gatewayd import audit, provisioning, signing
from gatewayd.cli.audit import operator
from gatewayd.cli.node import broker_of, write_new
from gatewayd.cli.options import nearest
from gatewayd.cli.records import require_labels
from gatewayd.cli.watch import broker_client
from gatewayd.config import Config, Mqtt
from gatewayd.core import wire
from gatewayd.core.types import Provisioning, Security
from gatewayd.errors import ConfigError, TransportError
from gatewayd.nodekeys import NodeKeys, new_key
from gatewayd.pairings import Pairings
from gatewayd.store import Store
from gatewayd.transports.mqtt import ROOT


class Handover(NamedTuple):
    """What a node is given with its key, and how. None: as the configuration says."""

    node: str
    broker: str | None
    keys: list[Path] | None
    output: Path | None
    qr: bool
    force: bool


def add(config: Config, handover: Handover, labels: list[str]) -> None:
    """Give a new node its key, and enrol it before it is ever heard. Raises ConfigError, StoreError, and BadParameter."""
    require_labels(labels)
    node = handover.node
    keys = NodeKeys(config.enrolment)
    with Store(config.store, config.store_url) as store:
        made = _hand_over(config, handover, keys.add)
        store.enroll(node, enrolled=True, now_s=time.time())
        store.label(node, labels, ())
        audit.record(store, operator(), "node.add", node, " ".join(labels))
    _tell_broker(keys)
    _show(made, handover)


def rotate(config: Config, handover: Handover) -> None:
    """Give a node another key, without which it is off. Raises ConfigError, StoreError, TransportError, and BadParameter."""
    keys = NodeKeys(config.enrolment)
    with Store(config.store, config.store_url) as store:
        made = _hand_over(config, handover, keys.replace)
        audit.record(store, operator(), "node.rotate", handover.node)
    _show(made, handover)
    keys.reload()
    asyncio.run(_cut_off(config.mqtt, handover.node))


def revoke(config: Config, node: str) -> None:
    """Take a node's key and all trust in it away, and cut it off. Said again, it does again what may not have been done.

    Raises ConfigError, StoreError, TransportError where the broker could not be told, and BadParameter where nobody knows it.
    """
    keys = NodeKeys(config.enrolment)
    with Store(config.store, config.store_url) as store:
        enrolled = store.enrolments().get(node)
        if not keys.remove(node) and enrolled is None:
            raise typer.BadParameter(f"{node!r} has no key and was never heard{nearest(node, store.enrolments())}")
        if enrolled:
            store.enroll(node, enrolled=False, now_s=time.time())
        Pairings(store).forget(node)
        audit.record(store, operator(), "node.revoke", node)
    keys.reload()
    asyncio.run(_cut_off(config.mqtt, node, *wire.RETAINED))
    typer.echo(f"{node}: revoked; it has no key and no connection, and what it says is not believed")


def _hand_over(config: Config, handover: Handover, give: Callable[[str, bytes], None]) -> Provisioning:
    """Write the node's file, and `give` the broker its key. All of it is right before any of it is done."""
    host, port = broker_of(config, handover.broker)
    if not wire.valid_node_id(handover.node):
        raise typer.BadParameter(f"{handover.node!r} is not a node's name")
    public = tuple(signing.raw(signing.load_public(path)) for path in handover.keys or config.cascades.keys)
    made = Provisioning(handover.node, host, port, Security.PSK, keys=public, psk=new_key())
    output = _output(handover)
    if output.exists() and not handover.force:
        raise ConfigError(f"{output} is there already: --force overwrites it")
    fresh = output.with_name(f"{output.name}.new")
    write_new(fresh, provisioning.flash_image(made), force=True)
    try:
        assert made.psk is not None
        give(made.id, made.psk)
    except BaseException:
        fresh.unlink()  # a key that no broker has; one that was there before may be good
        raise
    fresh.replace(output)
    return made


def _output(handover: Handover) -> Path:
    return handover.output or Path(f"{handover.node}.flash")


def _tell_broker(keys: NodeKeys) -> None:
    try:
        keys.reload()
    except TransportError as error:
        typer.echo(f"warning: {error}", err=True)


def _show(made: Provisioning, handover: Handover) -> None:
    typer.echo(f"{_output(handover)}: for the flash of {made.id}, with its key: who reads it can be {made.id}", err=True)
    if not made.keys:
        typer.echo(f"warning: {made.id} trusts no key and will run no model: cascades.keys, or --key", err=True)
    if not handover.qr:
        return
    drawn = io.StringIO()
    segno.make_qr(provisioning.enrolment_code(made), error="m").terminal(drawn, compact=True)
    for line in drawn.getvalue().splitlines():
        typer.secho(line, fg="bright_white", bg="black")
    typer.echo("This code has the key, too: show it to nobody but the node, and clear the screen.", err=True)


async def _cut_off(mqtt: Mqtt, node: str, *forgotten: str) -> None:
    """End a connection that the node may have, and what waits for it, by taking its client id; then forget these retained messages."""
    try:
        async with broker_client(mqtt, node) as client:
            for tail in forgotten:
                await client.publish(f"{ROOT}/up/{node}/{tail}", b"", qos=1, retain=True)
    except aiomqtt.MqttError as error:
        raise TransportError(f"MQTT broker {mqtt.host}:{mqtt.port}: {error}; {node} may be connected until it restarts") from error
