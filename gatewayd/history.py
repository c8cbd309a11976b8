"""Nodes' vitals over time, for people to look at: a sample now and then, as rows that the store sweeps when they are old."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import select

from gatewayd.core.registry import Node, Registry
from gatewayd.core.types import Vitals
from gatewayd.database import vitals
from gatewayd.errors import StoreError
from gatewayd.store import Store

ROWS_PER_DAY = 300_000
INTERVAL_S = 300.0  # between two samples of a node; longer where the fleet is large
YOUNG_S, YOUNG_INTERVAL_S, YOUNG_NODES = 3_600.0, 60.0, 500  # after a start a small fleet is sampled more often: somebody sets it up
MOST_POINTS = 1_000
_LOOK_S = 10.0
_AT_ONCE = 500  # nodes that are looked at, and rows in one transaction: other things wait for both


class Sample(NamedTuple):
    """Columns of the table, without its id."""

    node: str
    at_s: float
    battery: float | None
    rssi_dbm: int | None
    heap_free_bytes: int | None
    stack_free_bytes: int | None
    queued: int | None
    uptime_s: int | None
    invoke_us: float | None  # mean time of an inference, all cascades


def sample(node: str, at_s: float, now: Vitals) -> Sample:
    """What is remembered of a report."""
    invokes = sum(one.invokes for one in now.cascades)
    invoke_us = sum(one.invoke_us for one in now.cascades) / invokes if invokes else None
    memory = now.heap_free_bytes, now.stack_free_bytes
    return Sample(node, at_s, now.battery, now.rssi_dbm, *memory, now.queued, now.uptime_s, invoke_us)


def samples(store: Store, node: str, since_s: float) -> list[Sample]:
    """Those of a node, oldest first; evenly fewer where there are too many. Blocks; raises StoreError."""
    of = (vitals.c.node == node) & (vitals.c.at_s >= since_s)
    with store.reading() as connection:
        rows = connection.execute(select(*[vitals.c[name] for name in Sample._fields]).where(of).order_by(vitals.c.at_s)).all()
    return [Sample(*row) for row in rows[:: -(-len(rows) // MOST_POINTS) or 1]]


def interval_s(nodes: int, running_s: float) -> float:
    """How long after a sample of a node comes the next, in a fleet of so many."""
    if running_s < YOUNG_S and nodes <= YOUNG_NODES:
        return YOUNG_INTERVAL_S
    return max(INTERVAL_S, nodes * 86_400.0 / ROWS_PER_DAY)


class Sampler:
    """Who was sampled when."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[float, Vitals]] = {}  # node -> when (monotonic), what

    def take(self, nodes: Iterable[Node], now_s: float, after_s: float) -> Iterator[tuple[str, Vitals]]:
        """Those that are up, have said something since their last sample, and had that so long ago. `now_s` is monotonic."""
        for node in nodes:
            at_s, before = self._taken.get(node.id, (float("-inf"), None))
            if node.vitals is not None and node.vitals is not before and now_s - at_s >= after_s and node.up(int(now_s * 1_000)):
                self._taken[node.id] = now_s, node.vitals
                yield node.id, node.vitals


async def remember(registry: Registry, store: Store) -> None:
    """Sample the fleet until cancelled. What the disk refuses is missing, and no more."""
    sampler, began_s = Sampler(), time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_S)
        nodes, now_s = [*registry], time.monotonic()
        after_s = interval_s(len(nodes), now_s - began_s)
        for start in range(0, len(nodes), _AT_ONCE):
            taken = sampler.take(nodes[start : start + _AT_ONCE], now_s, after_s)
            rows = [sample(node, time.time(), said)._asdict() for node, said in taken]
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(_insert, store, rows)


def _insert(store: Store, rows: list[dict[str, object]]) -> None:
    if rows:
        with store.writing() as connection:
            connection.execute(sa.insert(vitals), rows)
