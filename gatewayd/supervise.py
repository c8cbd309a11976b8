"""Keeps one adapter running: what breaks is run again after a growing, jittered pause; a bug is raised, so that systemd restarts us all."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from gatewayd.errors import GatewaydError
from gatewayd.journal import Kind

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
_STABLE_S = 60.0  # a run as long as this forgives what went before
_log = logging.getLogger(__name__)


async def supervise(name: str, run: Callable[[], Awaitable[None]], on_restart: Callable[[], None] = lambda: None) -> None:
    """Run `run` again and again until cancelled. Only a GatewaydError is survived."""
    pause_s = FIRST_PAUSE_S
    while True:
        began = time.monotonic()
        try:
            await run()
            _log.warning("%s ended", name, extra=Kind.LINK_LOST(TRANSPORT=name))
        except GatewaydError as error:
            _log.warning("%s", error, extra=Kind.LINK_LOST(TRANSPORT=name))
        if time.monotonic() - began >= _STABLE_S:
            pause_s = FIRST_PAUSE_S
        on_restart()
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads reconnects, guards nothing
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
