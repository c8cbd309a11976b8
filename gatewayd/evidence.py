"""What the gate of one rollout looks at: the counts of the old model on each node, and those of the new one since it runs there."""

import asyncio
import time
from collections.abc import Mapping

from gatewayd.core import gate
from gatewayd.core.rollout import Rollout
from gatewayd.core.update import Update
from gatewayd.ledger import Ledger

BASELINE_S = 28 * 86_400.0
_MODEL_BYTES = 8  # of an image's SHA-256 in events
_REST = 10.0  # times as long as an answer took there is none: the database has other work

Cells = list[tuple[bytes, gate.Cell]]


class Evidence:
    """Asks the ledger for counts and the gate for its verdict."""

    def __init__(self, ledger: Ledger, rollout: Rollout, created_s: float) -> None:
        self._ledger = ledger
        self._cascade, self._new, self._created_s = rollout.cascade, rollout.sha256[:_MODEL_BYTES], created_s
        self._before: Cells | None = None  # the rollout
        self._baseline: tuple[frozenset[str], gate.Baseline] | None = None  # and of which nodes
        self._next_s = 0.0
        self._verdict = gate.NO_EVIDENCE

    async def verdict(self, updates: Mapping[str, Update], margin: float) -> gate.Verdict:
        """The gate's answer of now, or of a moment ago. Raises StoreError."""
        began = time.monotonic()
        if began >= self._next_s:
            self._verdict = await asyncio.to_thread(
                self._judge, {node: one.previous[:_MODEL_BYTES] for node, one in updates.items()}, margin
            )
            self._next_s = time.monotonic() + _REST * (time.monotonic() - began)
        return self._verdict

    def _judge(self, old: Mapping[str, bytes], margin: float) -> gate.Verdict:
        if self._before is None:
            self._before = self._ledger.cells(self._cascade, self._created_s - BASELINE_S, self._created_s)
        since = self._ledger.cells(self._cascade, self._created_s, float("inf"))
        new = [cell for model, cell in since if model == self._new and cell.node in old]
        nodes = frozenset(cell.node for cell in new)
        if self._baseline is None or self._baseline[0] != nodes:
            cells = (cell for model, cell in self._before + since if cell.node in nodes and model == old[cell.node])
            self._baseline = nodes, gate.Baseline(cells)
        return gate.judge(self._baseline[1], new, margin) if new else gate.NO_EVIDENCE
