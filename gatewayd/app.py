"""The composition root: the only file that names concrete adapters.

Start: cascades, store (with the nodes, their newest events and the active bundles), workers, /metrics, transports, READY. Stop (SIGTERM,
SIGINT): no more frames are taken, escalations under way drain, the broker hears `offline`, the store commits what waits.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatewayd import __version__, bundle, history, presence, signing, state
from gatewayd.api.gateway import Gateway
from gatewayd.api.server import serve
from gatewayd.config import Config
from gatewayd.core.escalation import Escalations
from gatewayd.core.listening import Listened, Listener, Listening
from gatewayd.core.pairing import Trust
from gatewayd.core.registry import Link, Node, Registry
from gatewayd.core.types import NodeState
from gatewayd.errors import StoreError
from gatewayd.escalators.workers import WorkerPool
from gatewayd.homeassistant import HomeAssistant
from gatewayd.journal import Kind
from gatewayd.judges import Judges
from gatewayd.ledger import Ledger
from gatewayd.metrics import Metrics
from gatewayd.pairings import Desk, Pairings
from gatewayd.pipeline import Pipeline
from gatewayd.publish import NodePublisher
from gatewayd.rollouts import Rollouts
from gatewayd.shelf import Shelf
from gatewayd.store import Store
from gatewayd.supervise import supervise
from gatewayd.transports.mqtt import MqttTransport

if TYPE_CHECKING:
    from gatewayd.ports import Transport
    from gatewayd.transports.ble import BleTransport

DRAIN_S = 5.0
MAX_NODES = 20_000
WAITING_PER_NODE = 8
SHIPPED_CASCADES = Path(__file__).resolve().parents[1] / "cascades"
_WATCHDOG_S = 10.0
_LISTENING_S = 5.0
_SWITCH_S = 0.0005  # a busy loop must not keep the store's thread from the interpreter: at 5 ms, the default, commits starve
_GC_ALLOCATIONS = 20_000  # between two looks of the collector: a flood's messages have come and gone by then
_log = logging.getLogger(__name__)


async def run(config: Config) -> None:
    """Run the gateway until SIGTERM or SIGINT. Raises CascadeError, ConfigError, StoreError for what makes a start impossible."""
    stopping = _stop_signals()
    sys.setswitchinterval(_SWITCH_S)
    folders = bundle.read_all(cascade_folders(config))
    metrics = _metrics(config)
    shelf = Shelf(config.bundles, signing.keyring(config.cascades.keys), metrics.ota_refused)
    registry = Registry(MAX_NODES)
    escalations = Escalations(config.escalation.queue_size, WAITING_PER_NODE)
    listening = Listening()
    mqtt = MqttTransport(config.mqtt, config.gateway.id)
    async with AsyncExitStack() as rooms:
        rooms.enter_context(state.hold(config.gateway.state_dir))
        store = await rooms.enter_async_context(Store(config.store, config.store_url, metrics.committed))
        desk = Desk(Pairings(store), Trust(required=config.ble.pairing == "required"), store.changes)
        ble = _bluetooth(config, metrics, registry, desk)
        transports: dict[str, Transport] = {mqtt.name: mqtt} | ({ble.name: ble} if ble else {})
        await asyncio.to_thread(_restore, registry, store)
        ledger = Ledger(store)
        cascades = await asyncio.to_thread(lambda: shelf.overlay(folders, ledger.active()))
        judges = await rooms.enter_async_context(Judges(cascades, lambda folder: _pool(folder, config, metrics)))
        publisher = NodePublisher(transports, metrics.radio_changes.inc)
        rollouts = Rollouts(
            registry=registry,
            ledger=ledger,
            shelf=shelf,
            judges=judges,
            folders=folders,
            publisher=publisher,
            metrics=metrics,
            clock=_steady_clock(),
        )
        home = _home(config, registry, judges, rollouts, metrics)
        pipeline = Pipeline(
            registry=registry,
            judges=judges.current,
            store=store,
            publisher=publisher,
            metrics=metrics,
            enrolls=config.gateway.enrolls,
            escalations=escalations,
            listening=listening,
            managed=rollouts.managed,
            changed=rollouts.changed,
            kept=home.event if home else lambda _record: None,
        )

        def scrape() -> bytes:
            metrics.mqtt_connected.set(mqtt.connected)
            for adapter, links in ble.links().items() if ble else ():
                metrics.ble_links.labels(adapter).set(links)
            metrics.escalation_queue_depth.set(escalations.depth)
            metrics.store_queue_depth.set(store.pending())
            return metrics.exposition(registry, _now_ms())

        def problems() -> list[str]:
            waiting = [] if mqtt.connected else ["no broker"]
            waiting += ble.problems() if ble else []
            return waiting + [f"{name}: no larger model yet" for name in judges.waited_for()]

        seen = Gateway(
            config=config,
            registry=registry,
            store=store,
            ledger=ledger,
            judges=judges,
            metrics=metrics,
            scrape=scrape,
            problems=problems,
            broker=lambda: mqtt.connected,
            escalating=lambda: escalations.depth,
            verdict=rollouts.verdict,
        )
        port = await rooms.enter_async_context(serve(seen))
        scheme, host = "https" if config.http.tls else "http", config.http.host
        _log.info(
            "gatewayd %s, cascades %s, %s://%s:%d",
            __version__,
            ", ".join(cascades),
            scheme,
            host,
            port,
            extra=Kind.STARTED(VERSION=__version__),
        )
        work = {
            **{name: supervise(name, transport.run, metrics.adapter_restarts.labels(name).inc) for name, transport in transports.items()},
            "tick": pipeline.tick(),
            "enrolments": _follow_enrolments(registry, store),
            "listening": _remember_listening(listening, ledger),
            "history": history.remember(registry, store),
            "rollouts": rollouts.run(),
            "presence": presence.watch(registry, _now_ms),
            "systemd": _tell_systemd(registry, mqtt),
        }
        if ble:
            work["pairings"] = desk.follow(ble.review)
        if home:
            work["homeassistant"] = supervise("homeassistant", home.run)
        working = [await rooms.enter_async_context(_task(name, one)) for name, one in work.items()]
        async with AsyncExitStack() as sources:
            reading = [
                await sources.enter_async_context(_task(f"read-{name}", pipeline.read(transport))) for name, transport in transports.items()
            ]
            _settle_memory()
            notify("READY=1")
            await _first(stopping, *working, *reading)
            notify("STOPPING=1")
        await pipeline.drain(DRAIN_S)
    _log.info("stopped", extra=Kind.STOPPED())


def cascade_folders(config: Config) -> list[Path]:
    """The configured folders, or those that are part of this distribution."""
    return list(config.cascades.folders) or sorted(file.parent for file in SHIPPED_CASCADES.glob("*/cascade.toml"))


def _bluetooth(config: Config, metrics: Metrics, registry: Registry, desk: Desk) -> "BleTransport | None":
    """The second radio, if there is one. Raises MissingPackageError."""
    if not config.ble.on:
        return None
    from gatewayd.transports import ble  # noqa: PLC0415 -- an extra

    return ble.BleTransport(
        config.ble,
        ble.stacks(config.ble, config.gateway.id, config.gateway.state_dir),
        desk,
        count=metrics.ble,
        sighted=lambda node: registry.sighted(node, "ble", _now_ms(), time.time()),
        lost=lambda node: registry.lost(node, "ble"),
    )


def _home(config: Config, registry: Registry, judges: Judges, rollouts: Rollouts, metrics: Metrics) -> HomeAssistant | None:
    if not config.homeassistant.enabled:
        return None
    return HomeAssistant(
        settings=config.homeassistant,
        mqtt=config.mqtt,
        gateway_id=config.gateway.id,
        registry=registry,
        judges=judges.current,
        coming=rollouts.coming,
        dropped=metrics.homeassistant_dropped.inc,
    )


def _metrics(config: Config) -> Metrics:
    """The counters, with what does not change while the gateway runs."""
    metrics = Metrics()
    metrics.queue_limit.labels("escalation").set(config.escalation.queue_size)
    metrics.queue_limit.labels("store").set(config.store.queue_size)
    files = {"mqtt-ca": config.mqtt.ca_file, "http": config.http.tls_certificate}
    metrics.certificates.files = {name: path for name, path in files.items() if path}
    return metrics


def _pool(folder: bundle.Folder, config: Config, metrics: Metrics) -> WorkerPool:
    model = folder.cascade.gateway
    assert model is not None
    on_restart: Callable[[], None] = metrics.worker_restarts.labels(model.kind).inc
    return WorkerPool(model.kind, bundle.gateway_settings(folder, model), config.escalation.workers, on_restart)


def _restore(registry: Registry, store: Store) -> None:
    """Nodes as the store knows them; whether they are there is for the broker's retained states to say."""
    for row in store.load_nodes():
        node = Node(row.id, known=True, enrolled=row.enrolled, session=row.session, info=row.info, heard_unix_s=row.last_seen_s)
        node.links = {transport: Link(_now_ms(), NodeState.LOST) for transport in row.transports}
        registry.restore(node, row.keys)


async def _follow_enrolments(registry: Registry, store: Store) -> None:
    """Notice within a second what gatewayctl enrolled or dismissed."""
    seen = -1
    while True:
        with contextlib.suppress(StoreError):  # the disk's trouble is told by what it makes fail
            changes = await asyncio.to_thread(store.changes)
            if changes != seen:
                seen = changes
                for node_id, enrolled in (await asyncio.to_thread(store.enrolments)).items():
                    node = registry.get(node_id)
                    if node is None:  # enrolled before it was ever heard: expected, and not there
                        registry.restore(Node(node_id, known=True, enrolled=enrolled), ())
                    elif node.enrolled != enrolled:
                        node.enrolled = enrolled
                        kind = Kind.NODE_ENROLLED if enrolled else Kind.NODE_DISMISSED
                        _log.info("%s is %s", node_id, "enrolled" if enrolled else "not enrolled any more", extra=kind(NODE=node_id))
        await asyncio.sleep(1)


async def _remember_listening(listening: Listening, ledger: Ledger) -> None:
    """Write down how long each model has listened; what the disk refuses is offered again."""
    times: Mapping[Listener, Listened] = {}
    while True:
        await asyncio.sleep(_LISTENING_S)
        times = times or listening.take()
        with contextlib.suppress(StoreError):
            await asyncio.to_thread(ledger.listen, times)
            times = {}


# ---- processes, signals, systemd


def _settle_memory() -> None:
    """Spare the collector what stays for ever: it would walk all modules and nodes again and again while messages wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS)
    gc.enable()


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _steady_clock() -> Callable[[], float]:
    """Unix time as it was known now, and what has passed since: a Raspberry Pi may learn what day it is when it is up."""
    offset_s = time.time() - time.monotonic()
    return lambda: offset_s + time.monotonic()


@contextlib.asynccontextmanager
async def _task(name: str, work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """A task that is cancelled, and has ended, when the block ends."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _first(stopping: asyncio.Future[None], *tasks: asyncio.Task[None]) -> None:
    """Wait for the stop signal. A task that ends before it, or an exception that nobody caught, is a bug and is raised."""
    ended, _ = await asyncio.wait((stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
    for future in ended:
        future.result()
        if future is not stopping:
            raise RuntimeError(f"task {future.get_name()} ended" if isinstance(future, asyncio.Task) else "a task ended")


def _stop_signals() -> asyncio.Future[None]:
    """Done at SIGTERM or SIGINT; raises what no callback or task of the loop caught, so that systemd restarts us."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopping.done():
            stopping.set_result(None)

    def bug(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        if not stopping.done():
            stopping.set_exception(context.get("exception") or RuntimeError(context["message"]))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.set_exception_handler(bug)
    return stopping


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


async def _tell_systemd(registry: Registry, mqtt: MqttTransport) -> None:
    """Pet the watchdog at half its interval, so that a loop that hangs is restarted, and say how the fleet is."""
    interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6 or _WATCHDOG_S
    while True:
        up = sum(node.up(_now_ms()) for node in registry)
        notify(f"WATCHDOG=1\nSTATUS={up} of {len(registry)} nodes up, broker {'' if mqtt.connected else 'not '}connected")
        await asyncio.sleep(interval_s)
