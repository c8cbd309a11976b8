"""The path of a message, from a transport's bytes to the node's answer. Read it from top to bottom.

    take      decode, observe in the registry, admit         ordered, fast, nothing waits
    _judge    ask the larger model, decide                   one task for each escalation, bounded by admission
    _keep     hand to the store                              grouped commits
    _kept     acknowledge to the broker, answer the node     only now: what was acknowledged is on disk

What could not be stored stays here, unacknowledged, and is offered again every second; the broker bounds how much that can be.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from gatewayd.core import wire
from gatewayd.core.cascade import Cascade
from gatewayd.core.decision import decide
from gatewayd.core.escalation import Admission, Escalations
from gatewayd.core.listening import Listening
from gatewayd.core.registry import DEFAULT_VITALS_INTERVAL_S, Node, Registry, Seen
from gatewayd.core.types import Basis, Event, EventKey, Frame, Info, Message, Opinion, Record, Vitals
from gatewayd.errors import DecodeError, EscalationError, StoreError, TransportError
from gatewayd.journal import Kind
from gatewayd.metrics import Metrics
from gatewayd.ports import Judge, Publisher, Store, Transport

TICK_S = 1.0
_SLICE = 256  # frames taken before the loop may look at other things
_SAVE_EVERY_TICKS = 30
_log = logging.getLogger(__name__)


class _Job(NamedTuple):
    """An event on its way."""

    node: Node
    event: Event
    done: Callable[[], object]
    arrived_s: float  # Unix time
    began: float  # perf_counter


class Pipeline:
    """Everything between the transports and the store. `read` and `tick` run side by side; `drain` after them.

    `judges`, by cascade, may change between two frames. `managed` gets what enrolled nodes answer over SMP, `changed` the id
    of each node that said what it is or where it is in its life, `kept` every event that is on disk.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        judges: Mapping[str, Judge],
        store: Store,
        publisher: Publisher,
        metrics: Metrics,
        enrolls: Callable[[str], bool],
        escalations: Escalations,
        listening: Listening,
        managed: Callable[[Frame], object] = lambda _frame: None,
        changed: Callable[[str], object] = lambda _node: None,
        kept: Callable[[Record], object] = lambda _record: None,
    ) -> None:
        self._registry = registry
        self._judges = judges
        self._store = store
        self._publisher = publisher
        self._metrics = metrics
        self._enrolls = enrolls
        self._escalations = escalations
        self._listening = listening
        self._managed = managed
        self._changed = changed
        self._on_kept = kept
        self._pending: dict[EventKey, list[Callable[[], object]]] = {}  # not on disk yet; the redeliveries that wait for it too
        self._unstored: list[tuple[_Job, Record]] = []
        self._judging: set[asyncio.Task[None]] = set()
        self._dirty: set[str] = set()  # nodes that the store does not know as they are
        self._ticks = 0

    # ---- in: ordered and fast

    async def read(self, transport: Transport) -> None:
        """Take what `transport` brings until cancelled."""
        async for batch in transport.frames():
            for start in range(0, len(batch), _SLICE):
                if start:
                    await asyncio.sleep(0)
                self.take(batch[start : start + _SLICE])

    def take(self, frames: Sequence[Frame]) -> None:
        """Decode, observe and admit `frames` in their order."""
        now_ms, unix_s = time.monotonic_ns() // 1_000_000, time.time()
        for frame in frames:
            node = self._registry.get(frame.node)
            if node is None and not wire.valid_node_id(frame.node):
                self._refuse(frame, "node_id", "not a node's name")
                continue
            if frame.tail == "smp":
                self._manage(node, frame, now_ms, unix_s)
                continue
            try:
                message = wire.decode(frame.tail, frame.payload)
            except DecodeError as error:
                self._refuse(frame, error.reason, error.detail)
                continue
            vitals, info = (node.vitals, node.info) if node else (None, None)
            seen = self._registry.observe(frame.node, message, frame.transport, now_ms, unix_s, retained=frame.retained)
            node = self._registry.get(frame.node)
            if seen is Seen.FULL or node is None:
                self._refuse(frame, "registry_full", "no room for another node")
                continue
            if not node.known:
                self._discover(node)
            if isinstance(message, Event):
                self._event(_Job(node, message, frame.done, unix_s, time.perf_counter()), seen)
                continue
            self._metrics.messages.inc()
            if isinstance(message, Vitals):
                self._listened(node, vitals, message, unix_s)
            elif seen is Seen.NEW:
                self._told(node, info, message)
            frame.done()

    def _manage(self, node: Node | None, frame: Frame, now_ms: int, unix_s: float) -> None:
        """An SMP frame is for whoever manages the node: it is not part of nodelink."""
        if frame.retained:  # the answer to a question of long ago
            frame.done()
            return
        if node is None or not node.enrolled:
            self._refuse(frame, "not_enrolled", "its node is not enrolled")
            return
        self._metrics.messages.inc()
        self._registry.sighted(node.id, frame.transport, now_ms, unix_s)
        self._managed(frame)
        frame.done()

    def _listened(self, node: Node, before: Vitals | None, vitals: Vitals, unix_s: float) -> None:
        if before is None or not node.enrolled:  # what comes from other nodes is not judged
            return
        interval_s = node.info.vitals_interval_s if node.info else DEFAULT_VITALS_INTERVAL_S
        if not self._listening.observe(node.id, before, vitals, interval_s, unix_s):
            self._metrics.listening_dropped.inc()

    def _told(self, node: Node, before: Info | None, message: Message) -> None:
        if isinstance(message, Info):
            self._dirty.add(node.id)
            if before and before.session != message.session and node.enrolled:
                self._reset(node.id, message)
        self._changed(node.id)

    def _reset(self, node: str, info: Info) -> None:
        self._metrics.reset(info.reset_reason)
        if info.crash or info.reset_reason in ("watchdog", "fault"):
            where = "pc {:#010x}, lr {:#010x}, status {:#010x}, {} bytes of stack".format(*info.crash) if info.crash else "no record of it"
            _log.warning("%s is back after a crash (%r): %s", node, info.reset_reason, where, extra=Kind.NODE_CRASHED(NODE=node))

    def _refuse(self, frame: Frame, reason: str, detail: str) -> None:
        if frame.payload or frame.tail not in wire.RETAINED:  # one without a payload clears what was retained, and says nothing
            self._metrics.rejected(reason)
        _log.debug("refused %s from %s: %s: %s", frame.tail, frame.node, reason, detail)
        frame.done()  # it will not become better

    def _discover(self, node: Node) -> None:
        node.known = True
        node.enrolled = self._enrolls(node.id)
        self._dirty.add(node.id)
        trusted = "" if node.enrolled else ", not enrolled"
        _log.info("discovered %s on %s%s", node.id, node.transport(), trusted, extra=Kind.NODE_APPEARED(NODE=node.id))

    def _event(self, job: _Job, seen: Seen) -> None:
        key = EventKey(job.node.id, job.event.session, job.event.seq)
        if seen is Seen.DUPLICATE:
            self._metrics.duplicates.inc()
            waiting = self._pending.get(key)
            if waiting is None:
                job.done()  # it is on disk
            else:
                waiting.append(job.done)
            return
        self._pending[key] = [job.done]
        judge = self._judges.get(job.event.cascade)
        self._metrics.event(job.event.cascade if judge else "unknown", job.event.reason)
        admission = self._escalations.admit(job.node, job.event, judge.cascade if judge else None)
        if admission is Admission.RECORD or judge is None:
            self._keep(job, Record(job.node.id, job.event, job.arrived_s))
        elif admission is Admission.DECIDE:
            self._decide(job, judge.cascade, None, Basis.NODE)
        elif admission is Admission.OVERLOAD:
            self._decide(job, judge.cascade, None, Basis.OVERLOAD)
        else:
            task = asyncio.get_running_loop().create_task(self._judge(job, judge), name=f"judge-{key}")
            self._judging.add(task)
            task.add_done_callback(self._judged)

    # ---- the larger model and the verdict

    async def _judge(self, job: _Job, judge: Judge) -> None:
        cascade, escalator = judge  # from here on they may be replaced: this event is theirs
        assert cascade.gateway is not None
        assert escalator is not None
        opinion, basis = None, Basis.GATEWAY
        try:
            opinion = await escalator.classify(job.event, cascade.gateway.deadline_s)
        except EscalationError as error:
            basis = Basis(error.reason)
            _log.warning("%s: no opinion on event %d of %s: %s", cascade.name, job.event.seq, job.node.id, error)
        finally:
            self._escalations.release(job.node.id)
        self._decide(job, cascade, opinion, basis)

    def _judged(self, task: asyncio.Task[None]) -> None:
        self._judging.discard(task)
        if not task.cancelled():
            task.result()  # a bug goes to the loop's exception handler

    def _decide(self, job: _Job, cascade: Cascade, opinion: Opinion | None, basis: Basis) -> None:
        verdict = decide(job.event, cascade, opinion, basis)
        self._metrics.verdict(cascade.name, job.event.reason, verdict, opinion)
        self._keep(job, Record(job.node.id, job.event, job.arrived_s, verdict, opinion, time.perf_counter() - job.began))

    # ---- the store, and only then the answers

    def _keep(self, job: _Job, record: Record) -> None:
        try:
            self._store.submit(record, partial(self._kept, job, record))
        except StoreError as error:
            self._kept(job, record, error)

    def _kept(self, job: _Job, record: Record, result: bool | StoreError) -> None:
        if isinstance(result, StoreError):
            if not self._unstored:
                _log.error("events wait in memory: %s", result, extra=Kind.STORE_REFUSES())
            self._unstored.append((job, record))
            return
        for done in self._pending.pop(EventKey(record.node, record.event.session, record.event.seq), ()):
            done()
        if not result:  # an earlier life of this gateway has stored it; then the node has, or had, its answer
            self._metrics.duplicates.inc()
            return
        self._metrics.stored(record, time.perf_counter() - job.began)
        self._on_kept(record)
        if record.verdict is None or record.event.reason == "audit":
            return
        try:
            self._publisher.verdict(job.node, record)
        except TransportError as error:
            self._metrics.verdicts_unsent.inc()
            _log.warning("verdict for %s not sent: %s", record.node, error)

    # ---- time

    async def tick(self) -> None:
        """Once a second until cancelled: count what is lost for good, offer the store again what it refused, save the nodes."""
        while True:
            await asyncio.sleep(TICK_S)
            now_ms = time.monotonic_ns() // 1_000_000
            self._registry.tick(now_ms)
            unstored, self._unstored = self._unstored, []
            for job, record in unstored:
                self._keep(job, record)
            self._ticks += 1
            if self._ticks % _SAVE_EVERY_TICKS == 0:
                self._save([node for node in self._registry if now_ms - node.heard_ms < 2_000 * _SAVE_EVERY_TICKS])
            elif self._dirty:
                self._save([node for node in map(self._registry.get, self._dirty) if node is not None])

    def _save(self, nodes: Sequence[Node]) -> None:
        self._dirty.clear()
        try:
            self._store.save_nodes(nodes)
        except StoreError as error:
            self._dirty.update(node.id for node in nodes)
            _log.warning("nodes not saved: %s", error)

    async def drain(self, timeout_s: float) -> None:
        """Let escalations under way end, commit and be answered. What does not in time is not acknowledged: it comes again."""
        deadline = time.monotonic() + timeout_s
        if self._judging:
            await asyncio.wait(self._judging, timeout=timeout_s)
        for task in self._judging:
            task.cancel()
        while self._pending and time.monotonic() < deadline:  # noqa: ASYNC110 -- the store's callbacks empty it
            await asyncio.sleep(0.01)
        self._save([*self._registry])
