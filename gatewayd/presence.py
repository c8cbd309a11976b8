"""Tells the journal which nodes went silent and which came back, and when somebody set the clock."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from gatewayd.core.registry import Node
from gatewayd.journal import Kind

LOOK_S = 5.0
MANY = 10  # of which one line tells
_JUMP_S = 2.0  # NTP slews what is less
_log = logging.getLogger(__name__)


class Presence:
    """Who was here at the last look. A node of which it was never told that it is lost does not come back."""

    def __init__(self) -> None:
        self._up: set[str] = set()
        self._lost: set[str] = set()

    def look(self, nodes: Iterable[Node], now_ms: int) -> tuple[Sequence[str], Sequence[str]]:
        """Who has gone since, and who has come back."""
        up = {node.id for node in nodes if node.up(now_ms)}
        gone, back = self._up - up, self._lost & up
        self._up, self._lost = up, (self._lost | gone) - up
        return sorted(gone), sorted(back)


async def watch(nodes: Iterable[Node], now_ms: Callable[[], int]) -> None:
    """Look again and again until cancelled."""
    presence = Presence()
    offset_s = time.time() - time.monotonic()
    while True:
        gone, back = presence.look(nodes, now_ms())
        _tell(logging.WARNING, gone, "lost", Kind.NODE_LOST)
        _tell(logging.INFO, back, "back", Kind.NODE_BACK)
        jump_s = time.time() - time.monotonic() - offset_s
        if abs(jump_s) > _JUMP_S:
            _log.warning("the clock was set by %+.0f s", jump_s, extra=Kind.CLOCK_SET(JUMP_S=round(jump_s)))
            offset_s += jump_s
        await asyncio.sleep(LOOK_S)


def _tell(level: int, names: Sequence[str], word: str, kind: Kind) -> None:
    if len(names) > MANY:
        _log.log(level, "%d nodes are %s: %s and others", len(names), word, ", ".join(names[:MANY]), extra=kind(COUNT=len(names)))
        return
    for name in names:
        _log.log(level, "%s is %s", name, word, extra=kind(NODE=name))
