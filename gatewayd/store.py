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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import OperationalError

from gatewayd import config
from gatewayd.core.registry import Node
from gatewayd.core.types import Record, Window
from gatewayd.database import connect, events, listened, nodes, translated, vitals, windows
from gatewayd.errors import StoreError
from gatewayd.records import (
    Counts,
    Page,
    StoredEvent,
    StoredNode,
    insert_events,
    insert_windows,
    stored_event,
    stored_node,
    upsert_nodes,
    window_row,
)

_log = logging.getLogger(__name__)

_MAX_BATCH = 1_024  # events in one transaction: bounds how long the next one waits
_SWEEP_INTERVAL_S = 60.0
_SWEEP_EVENTS, _SWEEP_CLIPS = 500, 16  # deleted in one transaction: appends wait for it
_FREE_PAGES, _VACUUM_PAGES = 4_096, 256  # SQLite: free pages that stay for reuse; how many go back to the disk at once
_LOOK_ROWS = 200_000  # rows of events among which a page is looked for
_NODES_PER_COMMIT = 500
_DAY_S = 86_400.0
_VITALS_S, _VITALS_ROWS = 30 * _DAY_S, 1_000_000
_LISTENED_S = 60 * _DAY_S  # the gate looks back four weeks before a rollout, which may try for two


Callback = Callable[[bool | StoreError], None]
Observer = Callable[[int, float, StoreError | None], None]  # rows, seconds, why the batch was not written; from the writer's thread


class Store:
    """The database. `with` opens an existing one for reads and rare writes; `async with` also makes it and starts the writer."""

    def __init__(self, settings: config.Store, url: str, observe: Observer = lambda _rows, _seconds, _error: None) -> None:
        self._settings = settings
        self._url = url
        self._observe = observe
        self._engine: Engine | None = None
        self._lock = threading.Lock()  # one write at a time in this process: SQLite's own waiting is by polling
        self._pending: deque[tuple[Record, Callback]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._write_forever, name="store")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsaved: dict[str, StoredNode] = {}
        self._clip_bytes = 0

    # ---- life ----

    def __enter__(self) -> Self:
        self._open(create=False)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._close()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._open, create=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Writes what is pending, then closes."""
        self._stopping = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)
        self._close()

    def _open(self, *, create: bool) -> None:
        with translated():
            self._engine = connect(self._url, create=create)
            with self._engine.connect() as connection:
                self._clip_bytes = connection.scalar(select(sa.func.coalesce(sa.func.sum(windows.c.size_bytes), 0))) or 0

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that only reads. Blocks."""
        assert self._engine is not None, "the store is not open"
        with translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all of it is on the disk when the block has ended, or none where it raised. Blocks."""
        assert self._engine is not None, "the store is not open"
        with translated(), self._lock, self._engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
            yield connection

    # ---- events, in ----

    def submit(self, record: Record, callback: Callback) -> None:
        """Queue one event, from the event loop, which calls `callback` once: with True when the event is on disk, with False when it
        was there already, with StoreError when it is not and a later attempt may succeed. Raises StoreError where the queue is full.
        """
        if len(self._pending) >= self._settings.queue_size or self._stopping:
            raise StoreError(f"{len(self._pending)} events wait for the disk, {'it is closing' if self._stopping else 'no more may'}")
        self._pending.append((record, callback))
        if not self._wake.is_set():
            self._wake.set()

    def pending(self) -> int:
        """Events that wait for the disk."""
        return len(self._pending)

    def _write_forever(self) -> None:
        """The writer's thread. Commits at once when it was idle, then not before the commit interval is over."""
        next_commit = next_sweep = time.monotonic()
        while not self._stopping or self._wake.is_set():
            if self._wake.wait(max(0.0, next_sweep - time.monotonic())):
                time.sleep(max(0.0, 0.0 if self._stopping else next_commit - time.monotonic()))
                next_commit = time.monotonic() + self._settings.commit_ms / 1_000
                self._wake.clear()  # before the queue is read: what comes later sets it again
                batch = [self._pending.popleft() for _ in range(min(len(self._pending), _MAX_BATCH))]
                self._commit(batch)
                if self._save_nodes() or self._pending:
                    self._wake.set()
            if time.monotonic() >= next_sweep and not self._stopping:
                next_sweep = time.monotonic() + (0.0 if self._sweep(time.time()) else _SWEEP_INTERVAL_S)

    def _commit(self, batch: Sequence[tuple[Record, Callback]]) -> None:
        """Write one batch and tell its submitters. Never raises: whatever happens, the next batch gets its chance."""
        if not batch:
            return
        begun = time.monotonic()
        error: StoreError | None = None
        results: Sequence[bool | StoreError]
        try:
            results = self._write([record for record, _ in batch])
        except StoreError as exc:
            error, results = exc, [exc] * len(batch)
        except Exception as exc:  # noqa: BLE001 - a bug; its submitters must hear of it like of a full disk
            _log.exception("the store failed")
            error = StoreError(f"{type(exc).__name__}: {exc}")
            results = [error] * len(batch)
        self._observe(len(batch), time.monotonic() - begun, error)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(_tell, batch, results)

    def _write(self, records: Sequence[Record]) -> Sequence[bool | StoreError]:
        """All in one transaction; where one of them is there already or cannot be written, once more one by one."""
        clip_bytes = 0
        try:
            with self.writing() as connection:
                if all_new := insert_events(connection, records) == len(records):
                    clip_bytes = insert_windows(connection, self._clips(records))
                else:
                    connection.rollback()
        except StoreError as exc:
            if isinstance(exc.__cause__, OperationalError):
                raise  # the disk or the lock, not a record
            all_new = False
        if not all_new:
            return self._write_each(records)
        self._clip_bytes += clip_bytes
        return [True] * len(records)

    def _write_each(self, records: Sequence[Record]) -> Sequence[bool | StoreError]:
        results: list[bool | StoreError] = []
        clip_bytes = 0
        with self.writing() as connection:
            for record in records:
                try:
                    with translated(), connection.begin_nested():
                        stored = insert_events(connection, [record]) == 1
                        clip_bytes += insert_windows(connection, self._clips([record])) if stored else 0
                    results.append(stored)
                except StoreError as exc:
                    if isinstance(exc.__cause__, OperationalError):
                        raise
                    results.append(exc)
        self._clip_bytes += clip_bytes
        return results

    def _clips(self, records: Iterable[Record]) -> list[tuple[Any, ...]]:
        if not self._settings.clips_days:
            return []
        return [window_row(node, event, event.window) for node, event, *_ in records if event.window is not None]

    # ---- retention ----

    def _sweep(self, now_s: float) -> bool:
        """Delete one chunk of what is too old or too much. Returns whether there may be more. Never raises."""
        try:
            with self.writing() as connection:
                if self._sweep_clips(connection, now_s - self._settings.clips_days * _DAY_S):
                    return True
                if self._sweep_events(connection, now_s - self._settings.events_days * _DAY_S):
                    return True
                if self._sweep_listened(connection, now_s - _LISTENED_S):
                    return True
                if self._sweep_vitals(connection, now_s - _VITALS_S):
                    return True
                return connection.dialect.name == "sqlite" and self._vacuum(connection)
        except StoreError as exc:
            _log.warning("retention: %s", exc)
            return False

    @staticmethod
    def _vacuum(connection: Connection) -> bool:
        """Give a few of SQLite's free pages back to the file system."""
        if connection.exec_driver_sql("PRAGMA freelist_count").scalar_one() <= _FREE_PAGES:
            return False
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()  # a step a page: SQLAlchemy would take only one
        return True

    def _sweep_clips(self, connection: Connection, cutoff_s: float) -> int:
        oldest = select(windows.c.event_id, windows.c.arrived_s, windows.c.size_bytes).order_by(windows.c.arrived_s)
        excess = self._clip_bytes - self._settings.clips_max_bytes
        doomed: list[int] = []
        for event_id, arrived_s, size_bytes in connection.execute(oldest.limit(_SWEEP_CLIPS)):
            if arrived_s >= cutoff_s and excess <= 0:
                break
            doomed.append(event_id)
            excess -= size_bytes
        connection.execute(sa.delete(windows).where(windows.c.event_id.in_(doomed)))
        self._clip_bytes = excess + self._settings.clips_max_bytes
        return len(doomed)

    def _sweep_events(self, connection: Connection, cutoff_s: float) -> int:
        """Looks at the oldest by id, so a record stamped by a clock that was ahead does not hold back those behind it."""
        newest = connection.scalar(select(sa.func.max(events.c.id))) or 0
        oldest = select(events.c.id, events.c.arrived_s).order_by(events.c.id).limit(_SWEEP_EVENTS)
        doomed = [
            id_ for id_, arrived_s in connection.execute(oldest) if arrived_s < cutoff_s or id_ <= newest - self._settings.events_max_rows
        ]
        clips = windows.c.event_id.in_(doomed)  # deleted with their events, by the foreign key
        self._clip_bytes -= connection.scalar(select(sa.func.coalesce(sa.func.sum(windows.c.size_bytes), 0)).where(clips)) or 0
        connection.execute(sa.delete(events).where(events.c.id.in_(doomed)))
        return len(doomed)

    @staticmethod
    def _sweep_listened(connection: Connection, cutoff_s: float) -> int:
        """The oldest hour at once: as many rows as there are nodes and models."""
        oldest = select(sa.func.min(listened.c.hour)).scalar_subquery()
        return connection.execute(sa.delete(listened).where(listened.c.hour == oldest, listened.c.hour < cutoff_s // 3_600)).rowcount

    @staticmethod
    def _sweep_vitals(connection: Connection, cutoff_s: float) -> int:
        newest = connection.scalar(select(sa.func.max(vitals.c.id))) or 0
        oldest = select(vitals.c.id, vitals.c.at_s).order_by(vitals.c.id).limit(_SWEEP_EVENTS)
        doomed = [id_ for id_, at_s in connection.execute(oldest) if at_s < cutoff_s or id_ <= newest - _VITALS_ROWS]
        connection.execute(sa.delete(vitals).where(vitals.c.id.in_(doomed)))
        return len(doomed)

    # ---- events, out ----

    def recent(
        self, limit: int = 50, *, node: str | None = None, cascade: str | None = None, since_id: int | None = None
    ) -> list[StoredEvent]:
        """The newest events, newest first; with `since_id` those after it, oldest first. Blocks."""
        query = select(events).order_by(events.c.id.desc() if since_id is None else events.c.id).limit(limit)
        for wanted, column_ in ((node, events.c.node), (cascade, events.c.cascade)):
            if wanted is not None:
                query = query.where(column_ == wanted)
        if since_id is not None:
            query = query.where(events.c.id > since_id)
        with self.reading() as connection:
            return [stored_event(row) for row in connection.execute(query)]

    def event(self, id_: int) -> tuple[StoredEvent, Window | None] | None:
        """One event and its raw window, while that is kept. Blocks."""
        with self.reading() as connection:
            row = connection.execute(select(events).where(events.c.id == id_)).one_or_none()
            if row is None:
                return None
            clip = connection.execute(select(windows).where(windows.c.event_id == id_)).one_or_none()
        if clip is None:
            return stored_event(row), None
        shape = tuple(json.loads(clip.shape))
        return stored_event(row), Window(clip.kind, clip.rate_hz, clip.channels, shape, clip.data, clip.scale, clip.zero_point)

    def page(
        self,
        limit: int,
        *,
        before: int | None = None,
        node: str | None = None,
        cascade: str | None = None,
        reason: str | None = None,
        agreed: bool | None = None,
    ) -> Page:
        """Events that match, newest first, each with the kind of its window while that is kept. Blocks.

        Of what no index leads to only so much is looked at; `next` says where to go on, None where nothing is left.
        """
        query = select(events, windows.c.kind).join_from(events, windows, windows.c.event_id == events.c.id, isouter=True)
        for wanted, column_ in ((node, events.c.node), (cascade, events.c.cascade), (reason, events.c.reason)):
            if wanted is not None:
                query = query.where(column_ == wanted)
        if agreed is not None:
            shared = sa.case((events.c.reason == "trigger", events.c.accepted), (events.c.reason == "audit", ~events.c.accepted))
            query = query.where(events.c.basis == "gateway", shared == agreed)
        with self.reading() as connection:
            first, last = connection.execute(select(sa.func.min(events.c.id), sa.func.max(events.c.id))).one()
            if last is None:
                return Page([], None)
            before = last + 1 if before is None else min(before, last + 1)
            floor = max(first, before - _LOOK_ROWS)
            found = query.where(events.c.id < before, events.c.id >= floor).order_by(events.c.id.desc()).limit(limit)
            items = [(stored_event(row), row.kind) for row in connection.execute(found)]
        end = items[-1][0].id if len(items) == limit else floor
        return Page(items, end if end > first else None)

    def id_of(self, node: str, session: int, seq: int) -> int | None:
        """The id of an event by its name. Blocks."""
        named = (events.c.node == node) & (events.c.session == session) & (events.c.seq == seq)
        with self.reading() as connection:
            found: int | None = connection.scalar(select(events.c.id).where(named))
            return found

    def counts(self) -> Counts:
        """How much there is. Blocks, and reads a whole index."""
        with self.reading() as connection:
            of = [connection.scalar(select(sa.func.count()).select_from(table)) or 0 for table in (nodes, events, windows)]
            return Counts(of[0], of[1], of[2], connection.scalar(select(sa.func.coalesce(sa.func.sum(windows.c.size_bytes), 0))) or 0)

    # ---- nodes ----

    def nodes(self) -> list[StoredNode]:
        """Every node, by id. Blocks."""
        with self.reading() as connection:
            return [stored_node(row) for row in connection.execute(select(nodes).order_by(nodes.c.id))]

    def load_nodes(self, newest: int = 64) -> list[StoredNode]:
        """Every node with the keys of its `newest` events, for the registry to recognise redelivered ones. Blocks."""
        keys: dict[str, list[tuple[int, int]]] = {}
        query = text(
            "SELECT e.node, e.session, e.seq FROM nodes n JOIN events e ON e.node = n.id AND e.id >= coalesce("
            "(SELECT o.id FROM events o WHERE o.node = n.id ORDER BY o.id DESC LIMIT 1 OFFSET :others), 0)"
        )
        with self.reading() as connection:
            for node, session, seq in connection.execute(query, {"others": newest - 1}):
                keys.setdefault(node, []).append((session, seq))
        return [node._replace(keys=tuple(keys.get(node.id, ()))) for node in self.nodes()]

    def save_nodes(self, changed: Iterable[Node]) -> None:
        """Queue what is known of nodes, from the event loop. The enrolment of one that is on disk stays as it is: see enroll()."""
        for node in changed:
            heard_s, transports = node.heard_unix_s, tuple(sorted(node.links))
            self._unsaved[node.id] = StoredNode(node.id, node.enrolled, heard_s, heard_s, node.session, node.info, transports=transports)
        self._wake.set()

    def _save_nodes(self) -> bool:
        """Write one chunk of the nodes that wait; whether there may be more at once. Never raises: what failed waits for the next wake."""
        taken = [self._unsaved.pop(node) for node in list(self._unsaved)[:_NODES_PER_COMMIT]]
        if not taken:
            return False
        try:
            with self.writing() as connection:
                upsert_nodes(connection, taken)
        except StoreError as exc:
            _log.warning("nodes not saved: %s", exc)
            for row in taken:
                self._unsaved.setdefault(row.id, row)  # unless a newer one came
            return False
        return bool(self._unsaved)

    def enroll(self, node: str, enrolled: bool, now_s: float) -> bool:
        """Let a node in, or out. Returns whether it was known; where it was not, it is now. Blocks."""
        with self.writing() as connection:
            known = connection.execute(sa.update(nodes).where(nodes.c.id == node).values(enrolled=enrolled)).rowcount == 1
            if not known:
                connection.execute(sa.insert(nodes).values(id=node, enrolled=enrolled, first_seen_s=now_s, last_seen_s=now_s))
            count_change(connection)
        return known

    def label(self, node: str, add: Collection[str], remove: Collection[str]) -> tuple[str, ...] | None:
        """Give a node labels, and take some. Returns all that it has now, None where it is not known. Blocks."""
        with self.writing() as connection:
            before = connection.scalar(select(nodes.c.labels).where(nodes.c.id == node).with_for_update())
            if before is None:
                return None
            labels = tuple(sorted({*before.split(), *add} - {*remove}))
            connection.execute(sa.update(nodes).where(nodes.c.id == node).values(labels=" ".join(labels)))
        return labels

    def changes(self) -> int:
        """A number that grows with every enroll(), every new rollout and every order, by whatever process. Blocks for microseconds."""
        with self.reading() as connection:
            return connection.scalar(text("SELECT value FROM meta WHERE key = 'enrolments'")) or 0

    def node(self, id_: str) -> StoredNode | None:
        """One node; None where it was never heard or enrolled. Blocks."""
        with self.reading() as connection:
            row = connection.execute(select(nodes).where(nodes.c.id == id_)).one_or_none()
        return None if row is None else stored_node(row)

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Node id -> labels, of those that have some. Blocks."""
        with self.reading() as connection:
            rows = connection.execute(select(nodes.c.id, nodes.c.labels).where(nodes.c.labels != ""))
            return {row.id: tuple(row.labels.split()) for row in rows}

    def enrolments(self) -> dict[str, bool]:
        """Node id -> enrolled. Blocks."""
        with self.reading() as connection:
            return {row.id: row.enrolled for row in connection.execute(select(nodes.c.id, nodes.c.enrolled))}


def count_change(connection: Connection) -> None:
    """Let changes() grow. Whoever else does so waits until this transaction has ended."""
    connection.execute(text("UPDATE meta SET value = value + 1 WHERE key = 'enrolments'"))


def _tell(batch: Sequence[tuple[Record, Callback]], results: Sequence[bool | StoreError]) -> None:
    for (_, callback), result in zip(batch, results, strict=True):
        callback(result)
