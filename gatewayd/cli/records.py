"""`gatewayctl nodes` and `gatewayctl events`: what the store remembers; works beside a running daemon and without one."""

import json
import re
import time
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from gatewayd import audit
from gatewayd.cli.audit import operator
from gatewayd.cli.options import nearest
from gatewayd.config import Config
from gatewayd.core import wire
from gatewayd.records import StoredEvent, StoredNode
from gatewayd.store import Store

_COLUMNS = "node", "enrolled", "last heard", "on", "session", "reset", "board", "firmware", "models", "labels"
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,30}", re.ASCII)


def show_nodes(config: Config, *, as_json: bool) -> None:
    """Print every node. Raises StoreError."""
    with Store(config.store, config.store_url) as store:
        nodes = store.nodes()
    if as_json:
        for node in nodes:
            typer.echo(json.dumps(facts(node)))
        return
    rows = [_row(node) for node in nodes]
    said = [name for name in _COLUMNS if any(row[name] for row in rows)] or [
        *_COLUMNS
    ]  # a column of which nobody says anything is left out
    table = Table(*said)
    for row in rows:
        table.add_row(*(row[name] for name in said))
    Console(markup=False).print(table)  # a stranger's words are among these


def _row(node: StoredNode) -> dict[str, str]:
    info = node.info
    models = ", ".join(f"{slot.cascade} {slot.version or ''}".strip() for slot in info.slots if slot.cascade) if info else ""
    reset, board, firmware = (info.reset_reason, info.board, info.firmware) if info else ("", "", "")
    if info and info.crash:
        reset += f" at {info.crash.pc:#x}"
    when, enrolled = _when(node.last_seen_s), "yes" if node.enrolled else "no"
    heard = " ".join(node.transports), str(node.session or "")
    return dict(zip(_COLUMNS, (node.id, enrolled, when, *heard, reset, board, firmware, models, " ".join(node.labels)), strict=True))


def enroll(config: Config, nodes: list[str], *, enrolled: bool) -> None:
    """Enrol or dismiss nodes; a running daemon notices within a second. Raises StoreError, and BadParameter for what can be no node."""
    for node in nodes:
        if not wire.valid_node_id(node):
            raise typer.BadParameter(f"{node!r} is not a node's name")
    with Store(config.store, config.store_url) as store:
        names = store.enrolments()
        for node in nodes:
            known = store.enroll(node, enrolled, time.time())
            audit.record(store, operator(), "node.enroll" if enrolled else "node.dismiss", node)
            word = "enrolled" if enrolled else "dismissed"
            typer.echo(f"{node}: {word}" if known else f"{node}: {word}, though it was never heard{nearest(node, names)}")


def label(config: Config, nodes: list[str], add: list[str], remove: list[str]) -> None:
    """Give nodes labels and take some. Raises StoreError, and BadParameter for what can be no label or no node."""
    require_labels(add + remove)
    with Store(config.store, config.store_url) as store:
        known = {node.id for node in store.nodes()}
        for node in nodes:
            if node not in known:
                raise typer.BadParameter(f"{node!r} was never heard{nearest(node, known)}")
        for node in nodes:
            labels = " ".join(store.label(node, add, remove) or ())
            audit.record(store, operator(), "node.label", node, labels)
            typer.echo(f"{node}: {labels or 'no labels'}")


def require_labels(words: list[str]) -> None:
    """Raises BadParameter where one can be no label."""
    for word in words:
        if not _LABEL.fullmatch(word):
            raise typer.BadParameter(f"{word!r} is not a label: up to 31 of a-z, 0-9 and -")


def show_events(config: Config, *, node: str | None, cascade: str | None, limit: int, as_json: bool) -> None:
    """Print the newest events, the newest last. Raises StoreError."""
    with Store(config.store, config.store_url) as store:
        events = store.recent(node=node, cascade=cascade, limit=limit)
        if node is not None and not events and node not in (names := store.enrolments()):
            typer.echo(f"{node!r} was never heard{nearest(node, names)}", err=True)
    events = sorted(events, key=lambda event: event.id)
    if as_json:
        for event in events:
            typer.echo(json.dumps(_event(event)))
        return
    table = Table("when", "node", "cascade", "why", "node says", "verdict", "by", "heard", "action", "ms")
    for event in events:
        accepted = {None: "", True: "[green]yes[/] ", False: "[red]no[/] "}[event.accepted]
        table.add_row(
            _when(event.arrived_s),
            event.node,
            event.cascade,
            event.reason,
            f"{event.score:.2f}",
            f"{accepted}{event.verdict_label or ''}",
            event.basis or "",
            event.heard or "",
            event.action or "",
            f"{event.latency_s * 1_000:.0f}",
        )
    Console().print(table)


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


def facts(node: StoredNode) -> dict[str, Any]:
    """All that is known of a node, for JSON."""
    plain = node._asdict()
    del plain["keys"]
    info = node.info
    if info:
        limits = info.limits._asdict() if info.limits else None
        slots = [_slot(slot) for slot in info.slots]
        crash = info.crash._asdict() if info.crash else None
        plain["info"] = {**info._asdict(), "operators": info.operators.hex(), "slots": slots, "limits": limits, "crash": crash}
    return plain


def _slot(slot: Any) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in slot._asdict().items()}


def _event(event: StoredEvent) -> dict[str, Any]:
    return {**event._asdict(), "model": event.model.hex()}
