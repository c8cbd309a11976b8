"""The nodes as the API shows them: who is up and who is in trouble, looked at once a second at most, and how a node becomes a row."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple

from fastapi import Depends, Request

from gatewayd.api.schemas import FleetCounts, Model, NodeRow
from gatewayd.core.registry import Node, Registry
from gatewayd.core.types import SlotState
from gatewayd.metrics import running

LOW_BATTERY = 0.2
_FRESH_S = 1.0
_SLICE = 500  # nodes that are looked at before the loop may do other things
_CRASHES = frozenset({"watchdog", "fault"})


class Seen(NamedTuple):
    """A node, and how it was when the fleet was looked at."""

    node: Node
    up: bool
    trouble: tuple[str, ...]  # only of one that is up


class Fleet:
    """For the event loop only: the registry changes under whoever reads it from a thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seen: Sequence[Seen] = ()
        self._next_s = 0.0
        self._looking = asyncio.Lock()

    async def seen(self) -> Sequence[Seen]:
        """Every node, as of a moment ago."""
        async with self._looking:
            if time.monotonic() >= self._next_s:
                self._seen = [one async for one in self._look()]
                self._next_s = time.monotonic() + _FRESH_S
        return self._seen

    async def _look(self) -> AsyncIterator[Seen]:
        nodes, now_ms = [*self._registry], time.monotonic_ns() // 1_000_000
        for start in range(0, len(nodes), _SLICE):
            for node in nodes[start : start + _SLICE]:
                yield see(node, now_ms)
            await asyncio.sleep(0)

    def get(self, name: str) -> Seen | None:
        """One node, as of now."""
        node = self._registry.get(name)
        return None if node is None else see(node, time.monotonic_ns() // 1_000_000)

    async def counts(self) -> FleetCounts:
        """How many there are."""
        return count(await self.seen())


def see(node: Node, now_ms: int) -> Seen:
    """How it is now."""
    up = node.up(now_ms)
    return Seen(node, up, tuple(_trouble(node)) if up else ())


def count(seen: Collection[Seen]) -> FleetCounts:
    """How many there are of each kind."""
    return FleetCounts(
        total=len(seen),
        enrolled=sum(one.node.enrolled for one in seen),
        up=sum(one.up for one in seen),
        trouble=sum(bool(one.trouble) for one in seen),
    )


def _trouble(node: Node) -> Iterator[str]:
    info, vitals = node.info, node.vitals
    if vitals is not None:
        if vitals.battery is not None and vitals.battery < LOW_BATTERY:
            yield f"battery at {vitals.battery:.0%}"
        if vitals.dropped:
            yield f"{vitals.dropped} events dropped: its flash was full"
    if node.lost:
        yield f"{node.lost} events lost"
    if info is not None and (info.crash or info.reset_reason in _CRASHES):
        yield "it crashed"


def row(seen: Seen, labels: Mapping[str, Sequence[str]]) -> NodeRow:
    """As in the list. `labels` by node."""
    node = seen.node
    info, vitals = node.info, node.vitals
    return NodeRow(
        id=node.id,
        enrolled=node.enrolled,
        up=seen.up,
        state=node.state.value,
        transports=sorted(name for name, link in node.links.items() if link.state.value != "lost"),
        route=node.route or node.transport(),
        last_seen_s=node.heard_unix_s,
        board=info.board if info else "",
        firmware=info.firmware if info else "",
        models=[*_models(node)],
        labels=[*labels.get(node.id, ())],
        battery=vitals.battery if vitals else None,
        rssi_dbm=vitals.rssi_dbm if vitals else None,
        lost=node.lost,
        reboots=node.reboots,
        trouble=[*seen.trouble],
    )


def _models(node: Node) -> Iterator[Model]:
    for slot in running(node.info) if node.info else ():
        yield Model(
            cascade=slot.cascade or "",
            version=slot.version or "",
            model=(slot.sha256 or b"")[:8].hex(),
            state="test" if slot.state is SlotState.TEST else "confirmed",
        )


async def _watched(request: Request) -> Fleet:
    watched: Fleet = request.app.state.fleet
    return watched


Watched = Annotated[Fleet, Depends(_watched)]
