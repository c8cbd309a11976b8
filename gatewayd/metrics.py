"""Every metric's name, and the text that shows them.

What the gateway counts are `prometheus_client`'s objects. The series of the nodes are not: for thousands of nodes they are written as
text in one pass over the registry at scrape time, so that a node that is gone leaves nothing behind, and one that is down no vitals.
"""

import contextlib
import platform
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from cryptography import x509
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client import Info as Build
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gatewayd import __version__
from gatewayd.core import neighbours, rollout, segments, update, wire
from gatewayd.core.registry import Node
from gatewayd.core.rollout import Rollout
from gatewayd.core.types import Basis, Info, Opinion, Reason, Record, Slot, SlotState, Verdict
from gatewayd.core.update import Update
from gatewayd.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

_MODEL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_OVERHEAD_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_UPDATE_S = (10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 4 * 3_600.0, 86_400.0, 7 * 86_400.0)
_DISK_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0)

# The values of labels whose words come from elsewhere, a node included. What is not among them is "other".
OTHER = "other"
_OF_IMAGES = (
    *("size", "header", "tlv", "digest", "key", "signature", "cascade", "capacity", "counter", "arena", "operators"),
    *("front-end", "decision", "limits", "plan", "model", "self-test"),
)
REFUSALS = frozenset({  # docs/nodelink.md, "Images" and "Bundles"; disk: a bundle that cannot be read or unpacked here
    *_OF_IMAGES, *("oversized", "archive", "truncated", "damaged", "name", "duplicate", "compressed", "manifest", "missing", "extra"),
    *("member-size", "mismatch", "disk", OTHER),
})  # fmt: skip
FAILURES = frozenset({  # first words: of images; of a node's slots and of its answers (`update.refusal`); of silence and of broken links
    *_OF_IMAGES, *("flash", "reset", "deadline", "reverted"), *("offset", "confirmation", "test", "smp"),
    *("silent", "slept", "link", OTHER),
})  # fmt: skip
ROLLBACKS = frozenset({"gate", "errors", "operator", "reset", "deadline", "flash", "reverted", OTHER})
RESETS = frozenset({"power-on", "brown-out", "pin", "software", "watchdog", "fault", "unknown", OTHER})  # docs/nodelink.md, "Reset reasons"
BLE_REFUSALS = frozenset({*neighbours.REASONS, *segments.REASONS, *wire.REASONS, "code", "smp", "unpaired"})
HTTP_REFUSALS = frozenset({  # by limits, connections and who asks
    *("rate", "host", "origin", "body", "slow_body", "slow_reader"), *("connections", "http", "slow_head", "streams"),
    *("token", "tokens", "scope", "session", "csrf"),
})  # fmt: skip
BLE_FAILURES = frozenset({"timeout", "not_found", "slots", "in_progress", "services", OTHER})
SmpResult = Literal["ok", "refused", "timeout", "broken", "unasked"]  # broken: no link, or nonsense; unasked: nobody waited for it
_ON_TRIAL = frozenset({update.State.TRIAL, update.State.JUDGING, update.State.CONFIRMING})
Pause = Literal["operator", "evidence", "approval"]  # for what a rollout waits that does not go on by itself


class Http(NamedTuple):
    """What the HTTP server counts."""

    requests: Counter
    refused: Counter
    streams: Gauge


class Metrics:
    """All that is counted. One object a process; the counters may be used from any thread."""

    def __init__(self) -> None:
        self._registry = registry = _with_process()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"gatewayd_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"gatewayd_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"gatewayd_{name}", text, labels, buckets=buckets, registry=registry)

        self.messages = counter("messages", "Messages other than events that were understood.")
        self.duplicates = counter("duplicates", "Events that came again and were not processed again.")
        self.verdicts_unsent = counter("verdicts_unsent", "Verdicts for which there was no link.")
        self.homeassistant_dropped = counter("homeassistant_dropped", "Events that came faster than Home Assistant is told.")
        self.radio_changes = counter("radio_changes", "Times that a node was spoken to over another transport than before.")
        self.commands = counter("commands", "Verdicts that asked their node to act.", "cascade")
        self._rejected = counter("rejected_messages", "Messages that were refused.", "reason")
        # Of these two, a child with its labels costs three times its increment: keep it. Labels come from configuration and closed sets.
        self._events = cache(counter("cascade_events", "Events by why the node sent them.", "cascade", "reason").labels)
        verdicts = counter("verdicts", "Verdicts by whose judgement they are; overload: escalations dropped.", "cascade", "basis")
        self._verdicts = cache(verdicts.labels)
        self._judged = counter("cascade_judged", "Suspicions that the larger model judged.", "cascade")
        self._agreed = counter("cascade_agreed", "Suspicions that it shared.", "cascade")
        self._audits = counter("cascade_audit_samples", "Windows without a suspicion that it judged.", "cascade")
        self._missed = counter("cascade_audit_disagreed", "Windows in which it found what the node had not.", "cascade")

        self.escalation_queue_depth = gauge("escalation_queue_depth", "Events that are with or wait for a larger model.")
        self.queue_limit = gauge("queue_limit", "Most that a queue may hold.", "queue")
        self._latency = histogram("escalation_latency_seconds", "From an event's arrival to its verdict.", _MODEL_S, "cascade")
        self._wait = histogram("escalation_wait_seconds", "Of that, waiting for a free worker.", _MODEL_S, "cascade")
        self._overhead = histogram(
            "escalation_overhead_seconds",
            "From an event's arrival to its answer, its commit included, less waiting and model.",
            _OVERHEAD_S,
        )
        self.worker_restarts = counter("worker_restarts", "Worker processes that had to be replaced.", "kind")

        self.store_queue_depth = gauge("store_queue_depth", "Events that wait for the disk.")
        self._durable = histogram("durable_seconds", "From an event's arrival to its being on disk, without the larger model.", _DISK_S)
        self._commit = histogram("store_commit_seconds", "One transaction, with its sync.", _DISK_S)
        self._batch = histogram("store_batch_rows", "Events in one transaction.", (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000))
        self._store_errors = counter("store_errors", "Transactions that failed; what was in them is tried again.")

        self.ota_jobs = counter("ota_jobs", "Updates of a node that began.")
        self.ota_resumes = counter("ota_resumes", "Uploads that went on where they had stopped.")
        self.ota_duration = histogram("ota_duration_seconds", "From an update's beginning to its confirmation.", _UPDATE_S)
        self.ota_bytes = counter("ota_bytes", "Bytes of images that nodes took.", "transport")
        self._resets = counter("node_resets", "Times that a known node came back in another session, by why.", "reason")
        self._ota_failed = counter("ota_failed", "Updates that ended badly.", "reason")
        self._ota_rollbacks = counter("ota_rollbacks", "Updates that were taken back.", "reason")
        self._ota_refused = counter("ota_refused", "Images and bundles that this gateway refused.", "reason")
        self.rollouts_halted = counter("rollouts_halted", "Rollouts that stopped because something broke.")
        self._smp_requests = counter("smp_requests", "Requests to nodes over SMP by how they ended.", "result")
        self.listening_dropped = counter("listening_dropped", "Reports whose time listened found no room.")
        self._rollouts = _Rollouts(registry)
        self.adapter_restarts = counter("adapter_restarts", "Links and other adapters that were started again.", "adapter")
        self.ble_links = gauge("ble_links", "Connections with nodes.", "adapter")
        self._ble = {
            "advertisements": counter("ble_advertisements", "Advertisements of nodes, or of who says so.", "adapter"),
            "connections": counter("ble_connections", "Connections that were made.", "adapter"),
            "provisioned": counter("ble_provisioned", "Nodes that were told who they are.", "adapter"),
            "failures": counter("ble_connection_failures", "Connections that could not be made.", "reason"),
            "refused": counter("ble_refused", "Advertisements, identities and links that were refused.", "reason"),
            "scanner_restarts": counter("ble_scanner_restarts", "Scanners that heard nothing any more.", "adapter"),
            "restarts": self.adapter_restarts,
        }
        self.http = Http(
            counter("http_requests", "Requests by how they were answered; 499: not at all.", "route", "status"),
            counter("http_refused", "Requests and connections that were refused.", "reason"),
            gauge("http_streams", "Live streams that are open."),
        )
        self._show_all_reasons()
        self.mqtt_connected = gauge("mqtt_connected", "Whether there is a session with the broker.")
        self.certificates = _Certificates(registry)

    def _show_all_reasons(self) -> None:
        for known, family in (
            (REFUSALS, self._ota_refused),
            (FAILURES, self._ota_failed),
            (ROLLBACKS, self._ota_rollbacks),
            (RESETS, self._resets),
            (BLE_REFUSALS, self._ble["refused"]),
            (BLE_FAILURES, self._ble["failures"]),
            (HTTP_REFUSALS, self.http.refused),
        ):
            for reason in sorted(known):  # an alert on what grows sees no growth in a series that begins with 1
                family.labels(reason)

    def rejected(self, reason: str) -> None:
        """A message was refused; `reason` is one of a closed set."""
        self._rejected.labels(reason).inc()

    def ble(self, what: str, label: str) -> None:
        """Something happened on Bluetooth LE; `label` is an adapter's name or a reason of a closed set."""
        self._ble[what].labels(label).inc()

    def reset(self, reason: str) -> None:
        """A node came back after a reset; `reason` is its own word."""
        self._resets.labels(reason if reason in RESETS else OTHER).inc()

    def event(self, cascade: str, reason: Reason) -> None:
        """A new event came; `cascade` is one that is loaded here, or "unknown"."""
        self._events(cascade, reason.value).inc()

    def verdict(self, cascade: str, reason: Reason, verdict: Verdict, opinion: Opinion | None) -> None:
        """An event was decided."""
        self._verdicts(cascade, verdict.basis.value).inc()
        if verdict.action:
            self.commands.labels(cascade).inc()
        if opinion is None or verdict.basis is not Basis.GATEWAY:
            return
        if reason is Reason.TRIGGER:
            self._judged.labels(cascade).inc()
            self._agreed.labels(cascade).inc(opinion.accepted)
        elif reason is Reason.AUDIT:
            self._audits.labels(cascade).inc()
            self._missed.labels(cascade).inc(opinion.accepted)

    def stored(self, record: Record, durable_s: float) -> None:
        """An event is on disk, `durable_s` after it came."""
        opinion = record.opinion
        if opinion is None:
            self._durable.observe(durable_s)
            return
        overhead_s = max(0.0, durable_s - opinion.wait_s - opinion.model_s)
        self._durable.observe(overhead_s)
        self._latency.labels(record.event.cascade).observe(record.latency_s)
        self._wait.labels(record.event.cascade).observe(opinion.wait_s)
        self._overhead.observe(overhead_s)

    def ota_refused(self, reason: str) -> None:
        """An image or a bundle was refused here; `reason` is a RefusedError's, or "disk"."""
        self._ota_refused.labels(reason if reason in REFUSALS else OTHER).inc()

    def uploaded(self, transport: str, offset_bytes: int, before_bytes: int) -> None:
        """A node has so many bytes of an image by now, and had so many before."""
        self.ota_bytes.labels(transport).inc(max(0, offset_bytes - before_bytes))

    def update(self, before: Update, after: Update) -> None:
        """A node's update is in another state. Its reason may be the node's own words."""
        match after.state:
            case update.State.CONFIRMED if after.started_s is not None:
                self.ota_duration.observe(max(0.0, after.since_s - after.started_s))
            case update.State.ROLLED_BACK if before.state is not update.State.WAITING:
                self._ota_rollbacks.labels(_rollback(after.reason)).inc()
            case update.State.FAILED | update.State.REJECTED | update.State.TIMED_OUT:
                word = after.reason.split(" ", 1)[0]
                self._ota_failed.labels(word if word in FAILURES else OTHER).inc()
                if before.state is update.State.WAITING and after.state is update.State.REJECTED:
                    self.ota_refused(after.reason)

    def smp_request(self, result: SmpResult) -> None:
        """A request to a node ended."""
        self._smp_requests.labels(result).inc()

    def rollout(self, open_: Rollout, updates: Mapping[str, Update]) -> None:
        """An open rollout as it is now."""
        self._rollouts.open = {
            **self._rollouts.open,
            open_.id: _Open(open_, Tally(one.state for one in updates.values()), _oldest(updates)),
        }

    def rollout_ended(self, ended: Rollout) -> None:
        """Nothing is left to do for a rollout."""
        self._rollouts.open = {id_: one for id_, one in self._rollouts.open.items() if id_ != ended.id}

    def committed(self, rows: int, seconds: float, error: StoreError | None) -> None:
        """A transaction of the store ended; a `store.Observer`."""
        if error is not None:
            self._store_errors.inc()
            return
        self._commit.observe(seconds)
        self._batch.observe(rows)

    def exposition(self, nodes: Iterable[Node], now_ms: int) -> bytes:
        """The text that Prometheus reads. `now_ms` is the registry's clock."""
        return generate_latest(self._registry) + node_series(nodes, now_ms).encode()


def _with_process() -> CollectorRegistry:
    """A registry that has what runs, and what that takes."""
    disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each, which nobody asks for
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Build("gatewayd_build", "What runs.", registry=registry).info({"version": __version__, "python": platform.python_version()})
    return registry


def _rollback(reason: str) -> str:
    """The label of why an update was taken back: what its rollout says, or what the node does."""
    if reason.startswith("the gate has failed"):
        return "gate"
    if "went wrong" in reason:
        return "errors"
    word = "reset" if reason.startswith("reset by ") else reason
    return word if word in ROLLBACKS else OTHER


class _Rollouts(Collector):
    """The open rollouts: one that has ended leaves nothing behind. `open` is replaced, never changed: scrapes come from another thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open: Mapping[str, _Open] = {}
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What a scrape shows."""
        open_ = self.open.values()
        counts = Tally[tuple[str, update.State]]()
        oldest: dict[str, float] = {}
        for one, states, since_s in open_:
            counts.update({(one.cascade, state): count for state, count in states.items()})
            if since_s is not None:
                oldest[one.cascade] = min(since_s, oldest.get(one.cascade, since_s))
        nodes = GaugeMetricFamily("gatewayd_rollout_nodes", "Nodes of the open rollout of a cascade.", labels=("cascade", "state"))
        for labels, count in counts.items():
            nodes.add_metric(labels, count)
        yield nodes
        trial = GaugeMetricFamily(
            "gatewayd_rollout_oldest_trial_timestamp_seconds",
            "Unix time at which the oldest update began that is on trial now.",
            labels=("cascade",),
        )
        for cascade, since_s in oldest.items():
            trial.add_metric((cascade,), since_s)
        yield trial
        causes = Tally(_pause(one.rollout) for one in open_)
        paused = GaugeMetricFamily("gatewayd_rollout_paused", "Rollouts that wait for a person or for evidence.", labels=("cause",))
        for cause in get_args(Pause):
            paused.add_metric((cause,), causes[cause])
        yield paused


class _Open(NamedTuple):
    """An open rollout as it was when it was looked at."""

    rollout: Rollout
    states: Mapping[update.State, int]
    oldest_trial_s: float | None


def _oldest(updates: Mapping[str, Update]) -> float | None:
    """When the first of those began that are on trial."""
    return min((one.started_s for one in updates.values() if one.state in _ON_TRIAL and one.started_s is not None), default=None)


def _pause(open_: Rollout) -> Pause | None:
    if open_.state is rollout.State.AWAITING_APPROVAL:
        return "approval"
    if open_.state is not rollout.State.PAUSED:
        return None
    return "evidence" if open_.cause == rollout.NO_EVIDENCE else "operator"


class _Certificates(Collector):
    """When the certificates end, read anew at each scrape: who renews one replaces its file. One that cannot be read has no series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.files: Mapping[str, Path] = {}
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What a scrape shows."""
        ends = GaugeMetricFamily(
            "gatewayd_certificate_expiry_timestamp_seconds",
            "Unix time from which a certificate is not valid any more; of a file with several, the first to end.",
            labels=("certificate",),
        )
        for name, path in self.files.items():
            with contextlib.suppress(OSError, ValueError):
                found = x509.load_pem_x509_certificates(path.read_bytes())
                ends.add_metric((name,), min(one.not_valid_after_utc.timestamp() for one in found))
        yield ends


def node_series(nodes: Iterable[Node], now_ms: int) -> str:
    """The series of all `nodes`. An id needs no escaping, nor does a cascade's name: `core.wire` saw to it."""
    every = [(f'{{node="{node.id}"', node) for node in [*nodes]]  # copied at once: the event loop may add some meanwhile
    up = [node.up(now_ms) for _, node in every]
    told = [(label, node.info) for label, node in every if node.info is not None]
    well = [(label, node.vitals) for (label, node), there in zip(every, up, strict=True) if there and node.vitals is not None]
    # By name: a node that reports one cascade twice must not spoil the scrape of all.
    work = [(f'{label},cascade="{c.cascade}"', c) for label, v in well for c in {c.cascade: c for c in v.cascades}.values()]
    families: tuple[tuple[str, str, str, list[str]], ...] = (
        ("up", "gauge", "Whether the node is there.",
         [f"gatewayd_node_up{label}}} {there:d}" for (label, _), there in zip(every, up, strict=True)]),
        ("asleep", "gauge", "Whether it sleeps, as it said it would, and is not overdue.",
         [f"gatewayd_node_asleep{label}}} {node.asleep(now_ms):d}" for label, node in every]),
        ("enrolled", "gauge", "Whether the operator, or policy, has taken it in.",
         [f"gatewayd_node_enrolled{label}}} {node.enrolled:d}" for label, node in every]),
        ("reboots_total", "counter", "Times that it came back in another session.",
         [f"gatewayd_node_reboots_total{label}}} {node.reboots}" for label, node in every]),
        ("clock_skew_ratio", "gauge", "How much faster than the gateway's its clock runs: 0.01 gains a second in 100.",
         [f"gatewayd_node_clock_skew_ratio{label}}} {node.clock.skew:.9f}"
          for (label, node), there in zip(every, up, strict=True) if there and node.clock and node.clock.skew is not None]),
        ("last_seen_timestamp_seconds", "gauge", "Unix time of its newest message.",
         [f"gatewayd_node_last_seen_timestamp_seconds{label}}} {int(node.heard_unix_s)}" for label, node in every]),
        ("messages_total", "counter", "Messages that were understood.",
         [f"gatewayd_node_messages_total{label}}} {node.messages}" for label, node in every]),
        ("messages_lost_total", "counter", "Events that never came, by the gaps in their numbers.",
         [f"gatewayd_node_messages_lost_total{label}}} {node.lost}" for label, node in every]),
        ("info", "gauge", "What the node is.",
         [f'gatewayd_node_info{label},hardware="{_escape(info.hardware)}",board="{_escape(info.board)}",'
          f'firmware="{_escape(info.firmware)}"}} 1' for label, info in told]),
        ("events_queued", "gauge", "Events in its flash that the gateway does not have yet.",
         [f"gatewayd_node_events_queued{label}}} {vitals.queued}" for label, vitals in well]),
        ("events_dropped_total", "counter", "Events that its flash had no room for, since it booted.",
         [f"gatewayd_node_events_dropped_total{label}}} {vitals.dropped}" for label, vitals in well]),
        ("battery_ratio", "gauge", "Charge of its battery, 0 to 1.",
         [f"gatewayd_node_battery_ratio{label}}} {vitals.battery}" for label, vitals in well if vitals.battery is not None]),
        ("rssi_dbm", "gauge", "Strength of the signal that it hears.",
         [f"gatewayd_node_rssi_dbm{label}}} {vitals.rssi_dbm}" for label, vitals in well if vitals.rssi_dbm is not None]),
        ("heap_free_bytes", "gauge", "Heap that is free.",
         [f"gatewayd_node_heap_free_bytes{label}}} {v.heap_free_bytes}" for label, v in well if v.heap_free_bytes is not None]),
        ("stack_free_bytes", "gauge", "Stack that was never used since it booted.",
         [f"gatewayd_node_stack_free_bytes{label}}} {v.stack_free_bytes}" for label, v in well if v.stack_free_bytes is not None]),
        ("model_info", "gauge", "The model that a cascade runs on the node: confirmed, or on test.",
         [f'gatewayd_node_model_info{label},cascade="{slot.cascade}",model="{(slot.sha256 or b"")[:8].hex()}",'
          f'version="{_escape(slot.version or "")}",state="{slot.state.value}"}} 1' for label, info in told for slot in running(info)]),
        ("arena_used_bytes", "gauge", "Memory that a cascade's model works in.",
         [f"gatewayd_node_arena_used_bytes{label}}} {one.arena_bytes}" for label, one in work]),
        ("invoke_seconds", "summary", "Time in inference since it booted.",
         [f"gatewayd_node_invoke_seconds_sum{label}}} {one.invoke_us}e-6\ngatewayd_node_invoke_seconds_count{label}}} {one.invokes}"
          for label, one in work]),
    )  # fmt: skip
    text: list[str] = []
    for name, kind, help_, lines in families:
        if lines:
            text += (f"# HELP gatewayd_node_{name} {help_}", f"# TYPE gatewayd_node_{name} {kind}", *lines)
    return "\n".join([*text, ""]) if text else ""


def running(info: Info) -> Iterable[Slot]:
    """The slot that runs of each cascade: the one on test, else the confirmed one."""
    found: dict[str, Slot] = {}
    for slot in info.slots:
        if slot.cascade and (slot.state is SlotState.TEST or (slot.state is SlotState.CONFIRMED and slot.cascade not in found)):
            found[slot.cascade] = slot
    return found.values()


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
