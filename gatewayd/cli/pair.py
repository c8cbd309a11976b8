"""`gatewayctl node pair` and `unpair`: the operator's half of a pairing over Bluetooth LE; the daemon has the other half of the rows."""

import time
from collections.abc import Callable, Iterator

import typer

from gatewayd import audit, state
from gatewayd.cli.audit import operator
from gatewayd.cli.options import nearest
from gatewayd.config import Config
from gatewayd.core import wire
from gatewayd.core.pairing import ORDER_S, Pairing, Stage
from gatewayd.errors import ConfigError, TransportError
from gatewayd.pairings import Pairings
from gatewayd.store import Store

_LOOK_S = 0.2
_ABSENT = "it was not heard: does it advertise, and does gatewayd run with [ble]?"


def pair(config: Config, node: str, passkey: str | None) -> None:
    """Have it paired, and ask the operator what is needed for that. Raises ConfigError, StoreError, TransportError where it fails."""
    digits = check(config, node, passkey)
    with Store(config.store, config.store_url) as store:
        rows = Pairings(store)
        if not rows.order(node, digits, time.time()):
            raise ConfigError(f"{node} is paired; if it has lost its bond: gatewayctl node unpair {node}")
        audit.record(store, operator(), "node.pair", node)
        typer.echo(f"{node}: waiting for it to advertise", err=True)
        last = attend(rows, node)
    if last is None or last.stage is not Stage.PAIRED:
        raise TransportError(f"{node} has not paired: {last.cause if last else 'it was unpaired meanwhile'}")
    how = "authenticated" if last.authenticated else "encrypted only, since the node shows nothing that could be compared"
    typer.echo(f"{node}: paired, {how}")


def check(config: Config, node: str, passkey: str | None) -> int | None:
    """The passkey. Raises BadParameter, and ConfigError where there is no Bluetooth."""
    if not wire.valid_node_id(node):
        raise typer.BadParameter(f"{node!r} is not a node's name")
    if passkey is not None and not (len(passkey) == 6 and passkey.isascii() and passkey.isdigit() and int(passkey)):  # noqa: PLR2004
        raise typer.BadParameter(f"{passkey!r} is not six digits, or none but zeros")
    if not config.ble.on:
        raise ConfigError("Bluetooth is off: set ble.adapters or ble.hci")
    if not state.held(config.gateway.state_dir):
        typer.echo("gatewayd does not run on this machine, and it is who speaks to nodes: systemctl start gatewayd", err=True)
    return int(passkey) if passkey else None


def attend(rows: Pairings, node: str, tell: Callable[[], bytes] = bytes) -> Pairing | None:
    """Answer what the daemon asks until the order is over, and give it up where that takes too long. `tell` gives what a node is to be
    told.
    """
    last = None
    try:
        for last in _progress(rows, node):
            if last.stage is Stage.COMPARE:
                rows.answer(last, same=typer.confirm(f"The gateway has the number {last.number:06}. The same on the node?"))
            elif last.stage is Stage.ASKED:
                rows.give(last, tell())
    finally:
        if last is not None and last.stage is not Stage.TOLD:
            rows.fail(last, _ABSENT if last.stage is Stage.WANTED else "nobody waits for it any more")
            last = rows.get(node)
    return last


def _progress(rows: Pairings, node: str) -> Iterator[Pairing]:
    """Where it is, whenever that has changed, until it is over."""
    before, until_s = None, time.monotonic() + ORDER_S
    while (now := rows.get(node)) is not None and time.monotonic() < until_s:
        if now != before:
            yield now
        if not now.stage.ordered:
            return
        before = now
        time.sleep(_LOOK_S)


def unpair(config: Config, node: str) -> None:
    """Forget a bond; the daemon does within a second. Raises StoreError, and BadParameter where there is none."""
    with Store(config.store, config.store_url) as store:
        if not Pairings(store).forget(node):
            raise typer.BadParameter(f"{node!r} is not paired{nearest(node, [one.node for one in Pairings(store).all()])}")
        audit.record(store, operator(), "node.unpair", node)
    typer.echo(f"{node}: unpaired; what the node itself remembers, a reset to its factory's state removes")
