"""What the store remembers, and how it becomes rows and is made of rows."""

import json
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, text

from gatewayd.core import wire
from gatewayd.core.types import Event, Info, Record, Window
from gatewayd.database import events
from gatewayd.errors import DecodeError


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
    accepted: bool | None  # None here and below: there was no verdict
    verdict_label: str | None
    verdict_score: float | None
    action: str | None
    basis: str | None
    judge: str | None  # what model the opinion is of
    heard: str | None  # its text, for people
    stages: tuple[tuple[str, float], ...]  # (stage, seconds)
    latency_s: float  # arrival to verdict
    wait_s: float  # of it, for a free worker
    model_s: float  # of it, in the larger model


class Page(NamedTuple):
    """Some events, newest first, each with the kind of its window; and the id before which the next page begins."""

    items: list[tuple[StoredEvent, str | None]]
    next: int | None


class StoredNode(NamedTuple):
    """What outlives a restart of a node's entry in the registry."""

    id: str
    enrolled: bool
    first_seen_s: float
    last_seen_s: float
    session: int | None
    info: Info | None
    keys: tuple[tuple[int, int], ...] = ()  # (session, seq) of its newest events; load_nodes() fills it
    labels: tuple[str, ...] = ()
    transports: tuple[str, ...] = ()  # on which it was heard


class Counts(NamedTuple):
    """How much there is."""

    nodes: int
    events: int
    clips: int
    clip_bytes: int


def insert_events(connection: Connection, records: Sequence[Record]) -> int:
    """Returns how many were not there yet.

    As few statements as can be, of few sizes, so that the driver keeps them compiled: between two statements the thread must get the
    interpreter's lock back, and while the event loop is busy that takes milliseconds.
    """
    rows = [_event_row(record) for record in records]
    inserted = first = 0
    while first < len(rows):
        size = 1 << ((len(rows) - first).bit_length() - 1)
        parameters = tuple(chain.from_iterable(rows[first : first + size]))
        inserted += connection.exec_driver_sql(_insert_sql(connection.dialect.paramstyle, size), parameters).rowcount
        first += size
    return inserted


@cache
def _insert_sql(paramstyle: str, rows: int) -> str:
    mark = "?" if paramstyle == "qmark" else "%s"
    row = f"({', '.join([mark] * (len(events.c) - 1))})"
    names = ", ".join(events.c.keys()[1:])
    values = ", ".join([row] * rows)  # marks only: nothing in the statement comes from outside
    return f"INSERT INTO events ({names}) VALUES {values} ON CONFLICT (node, session, seq) DO NOTHING"  # noqa: S608


def _event_row(record: Record) -> tuple[Any, ...]:
    """In the order of the table's columns, without the id."""
    node, event, arrived_s, verdict, opinion, latency_s = record
    judged = (opinion.model, opinion.text, json.dumps(opinion.stages)) if opinion else (None, None, None)
    return (
        *(node, event.session, event.seq, arrived_s, event.cascade, event.model, event.score, event.label, event.t_ms),
        *(event.reason, event.ref),
        *((verdict.accepted, verdict.label, verdict.score, verdict.action, verdict.basis) if verdict else (None,) * 5),
        *judged,
        latency_s,
        *((opinion.wait_s, opinion.model_s) if opinion else (0.0, 0.0)),
    )


def insert_windows(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Returns their bytes."""
    if rows:
        mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
        connection.exec_driver_sql(
            "INSERT INTO windows (event_id, arrived_s, size_bytes, kind, rate_hz, channels, shape, scale, zero_point, data)"
            " SELECT id, arrived_s, @, @, @, @, @, @, @, @ FROM events WHERE node = @ AND session = @ AND seq = @".replace("@", mark),
            list(rows),
        )
    return sum(row[0] for row in rows)


def window_row(node: str, event: Event, window: Window) -> tuple[Any, ...]:
    """What insert_windows() takes."""
    kind, rate_hz, channels, shape, data, scale, zero_point = window
    return (len(data), kind, rate_hz, channels, json.dumps(shape), scale, zero_point, data, node, event.session, event.seq)


def upsert_nodes(connection: Connection, rows: Sequence[StoredNode]) -> None:
    """Insert or update; the enrolment, the labels and the first sight of one that is there stay as they are."""
    connection.execute(
        text(
            "INSERT INTO nodes (id, enrolled, first_seen_s, last_seen_s, session, info, transports)"
            " VALUES (:id, :enrolled, :first_seen_s, :last_seen_s, :session, :info, :transports)"
            " ON CONFLICT (id) DO UPDATE SET last_seen_s = excluded.last_seen_s, session = excluded.session, info = excluded.info,"
            " transports = excluded.transports"
        ),
        [{**row._asdict(), "info": wire.encode(row.info) if row.info else None, "transports": " ".join(row.transports)} for row in rows],
    )


def stored_event(row: sa.Row[Any]) -> StoredEvent:
    """A row of the table of events, whole."""
    stages = tuple((stage, seconds) for stage, seconds in json.loads(row.stages or "[]"))
    return StoredEvent(**{**{name: getattr(row, name) for name in StoredEvent._fields}, "stages": stages})


def stored_node(row: sa.Row[Any]) -> StoredNode:
    """A row of the table of nodes, whole."""
    try:
        info = wire.decode_as(Info, row.info) if row.info else None
    except DecodeError:  # written by another version, whose nodelink was another
        info = None
    return StoredNode(**{**row._asdict(), "info": info, "labels": tuple(row.labels.split()), "transports": tuple(row.transports.split())})
