"""The composition root: the only file that names concrete adapters.

Start: configuration, store (nodes and their newest events), workers, /metrics, transports; READY once the store stands and the first
broker connection was tried. Stop (SIGTERM, SIGINT): no more frames, escalations drain, the store commits, `offline`.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
import tomllib
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from gatewayd import __version__
from gatewayd.config import Config
from gatewayd.core import cascade as cascades
from gatewayd.core.cascade import Cascade
from gatewayd.core.escalation import Escalations
from gatewayd.core.registry import Node, Registry
from gatewayd.core.types import NodeState
from gatewayd.errors import CascadeError
from gatewayd.escalators.workers import WorkerPool
from gatewayd.metrics import Metrics, serve
from gatewayd.pipeline import Pipeline
from gatewayd.publish import NodePublisher
from gatewayd.store import Store
from gatewayd.supervise import supervise
from gatewayd.transports.mqtt import MqttTransport

DRAIN_S = 10.0
_MAX_NODES = 20_000
_WAITING_PER_NODE = 8
_log = logging.getLogger(__name__)


def load_cascades(folders: Iterable[Path]) -> dict[str, tuple[Cascade, Path]]:
    """The cascades in `folders`, by name, each with its folder. Raises CascadeError."""
    found: dict[str, tuple[Cascade, Path]] = {}
    for folder in folders:
        file = folder / "cascade.toml"
        try:
            document = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise CascadeError(f"{file}: {error}") from error
        cascade = cascades.parse(document, str(file))
        if cascade.name in found:
            raise CascadeError(f"{file}: cascade {cascade.name!r} is also in {found[cascade.name][1]}")
        found[cascade.name] = (cascade, folder)
    return found


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


async def _watchdog(status: "Status") -> None:
    """Pet systemd's watchdog at half its interval: a loop that hangs is restarted."""
    interval_us = int(os.environ.get("WATCHDOG_USEC", "0")) or 20_000_000
    while True:
        notify(f"WATCHDOG=1\nSTATUS={status}")
        await asyncio.sleep(interval_us / 2e6)


class Status:
    """One line for `systemctl status`."""

    def __init__(self, registry: Registry, mqtt: MqttTransport) -> None:
        self._registry = registry
        self._mqtt = mqtt

    def __str__(self) -> str:
        now_ms = time.monotonic_ns() // 1_000_000
        up = sum(node.up(now_ms) for node in self._registry)
        broker = "connected" if self._mqtt.connected else "not connected"
        return f"{up} of {len(self._registry)} nodes up, broker {broker}"


@contextlib.asynccontextmanager
async def _background(*coroutines: asyncio.Task[None]) -> AsyncIterator[None]:
    """Tasks that end, cancelled, with the block."""
    try:
        yield
    finally:
        for task in coroutines:
            task.cancel()
        await asyncio.gather(*coroutines, return_exceptions=True)
