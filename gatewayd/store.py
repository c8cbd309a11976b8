"""Durable state: what nodes there are, what they noticed and what was made of it.

One thread writes events. All that was submitted since the last commit goes into one transaction, so that a full sync of the
disk is shared by hundreds of events; a submitter hears of it on its event loop after the commit. Reads and the rare other
writes run in the caller's thread on connections of their own, also from another process (gatewayctl).
"""

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy import BindParameter, Connection, Engine, column, select, table, text
from sqlalchemy.exc import NoSuchModuleError, OperationalError, SQLAlchemyError

from gatewayd import config
from gatewayd.core import wire
from gatewayd.core.types import Event, Info, Opinion, Verdict, Window
from gatewayd.errors import ConfigError, DecodeError, MissingPackageError, StoreError
from gatewayd.migrations import migrate

_log = logging.getLogger(__name__)

_MAX_BATCH = 1_024  # events in one transaction: bounds how long the next one waits
_ROWS_PER_STATEMENT = (64, 8, 1)  # sqlite3 drops the interpreter lock once a statement: few statements, few chances to wait for it
_SWEEP_INTERVAL_S = 60.0
_SWEEP_EVENTS, _SWEEP_CLIPS = 500, 16  # deleted in one transaction: appends wait for it
_FREE_PAGES, _VACUUM_PAGES = 4_096, 256  # SQLite: free pages that stay for reuse; how many go back to the disk at once
_NODES_PER_COMMIT = 500
_DAY_S = 86_400.0

_events = table(
    "events",
    *map(column, ("id", "node", "session", "seq", "arrived_s", "cascade", "model", "score", "label", "t_ms", "reason", "ref")),
    *map(column, ("accepted", "verdict_label", "verdict_score", "action", "basis", "judge", "heard", "stages", "latency_ms")),
)
_windows = table(
    "windows",
    *map(column, ("event_id", "arrived_s", "size_bytes", "kind", "rate_hz", "channels", "shape", "scale", "zero_point", "data")),
)
_nodes = table("nodes", *map(column, ("id", "enrolled", "first_seen_s", "last_seen_s", "session", "info")))


class Record(NamedTuple):
    """One event and all that was made of it."""

    node: str
    event: Event
    verdict: Verdict
    opinion: Opinion | None
    arrived_s: float  # Unix time
    latency_ms: float | None = None  # arrival to verdict


class StoredEvent(NamedTuple):
    """One row of the table of events."""

    id: int
    node: str
    session: int
    seq: int
    arrived_s: float
    cascade: str
    model: bytes
    score: float
    label: int
    t_ms: int
    reason: str
    ref: int | None
    accepted: bool
    verdict_label: str
    verdict_score: float
    action: str
    basis: str
    judge: str | None  # what model the opinion is of
    heard: str | None  # its text, for people
    stages: tuple[tuple[str, float], ...]  # (stage, seconds)
    latency_ms: float | None


class StoredNode(NamedTuple):
    """What outlives a restart of a node's entry in the registry."""

    id: str
    enrolled: bool
    first_seen_s: float
    last_seen_s: float
    session: int | None
    info: Info | None
    keys: tuple[tuple[int, int], ...] = ()  # (session, seq) of its newest events; only load_nodes() fills it


class Counts(NamedTuple):
    """How much there is."""

    nodes: int
    events: int
    clips: int
    clip_bytes: int


Callback = Callable[[bool | StoreError], None]
Observer = Callable[[int, float, StoreError | None], None]  # rows, seconds, why the batch was not written; from the writer's thread
