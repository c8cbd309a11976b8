"""What the demo shows while it runs: a row for each node, made from what passes the broker."""

import time
from dataclasses import dataclass, field

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gatewayd.core import wire
from gatewayd.core.types import Event, NodeState, Reason, State, Verdict
from gatewayd.demo.stage import Sensor
from gatewayd.errors import DecodeError

_WHY = {Reason.TRIGGER: "suspects", Reason.AUDIT: "audit", Reason.FOLLOW: "recorded"}


@dataclass
class _Row:
    state: str = "…"
    noticed: str = ""
    verdict: Text = field(default_factory=Text)
    action: str = ""
    latency_ms: float | None = None
    heard_s: dict[tuple[int, int], float] = field(default_factory=dict)  # (session, seq) -> when its event passed


class Show:
    """Follows the broker's messages. `answer_s` maps (node, session, seq) to the seconds between an event and its verdict."""

    def __init__(self, sensors: list[Sensor], address: str) -> None:
        self._sensors = sensors
        self._rows = {sensor.node: _Row() for sensor in sensors}
        self._address = address
        self._began = time.monotonic()
        self.answer_s: dict[tuple[str, int, int], float] = {}
        self.ready: set[str] = set()

    def message(self, direction: str, node: str, tail: str, payload: bytes) -> None:
        """Take in what passed the broker."""
        row = self._rows.get(node)
        if row is None:
            return
        try:
            said = wire.decode(tail, payload) if direction == "up" else wire.decode_as(Verdict, payload)
        except DecodeError:
            return
        now_s = time.monotonic()
        if isinstance(said, State):
            row.state = said.state.value
            (self.ready.add if said.state is NodeState.READY else self.ready.discard)(node)
        elif isinstance(said, Event):
            row.noticed = f"{_WHY[said.reason]} {said.score:.2f}"
            row.verdict, row.action = Text("" if said.reason is Reason.AUDIT else "…"), ""
            row.heard_s[said.session, said.seq] = now_s
        elif isinstance(said, Verdict):
            row.verdict = Text(f"{'yes' if said.accepted else 'no'} {said.label}", "bold green" if said.accepted else "red")
            if said.basis != "gateway":
                row.verdict.append(f" ({said.basis.value})", "yellow")
            row.action = said.action
            heard_s = row.heard_s.pop((said.session, said.seq), now_s)
            row.latency_ms = (now_s - heard_s) * 1_000
            self.answer_s[node, said.session, said.seq] = now_s - heard_s

    def __rich__(self) -> Group:
        """The picture of now."""
        seconds = time.monotonic() - self._began
        table = Table("node", "state", "what happens there", "node", "gateway", "action", "ms", expand=True)
        for sensor in self._sensors:
            row = self._rows[sensor.node]
            latency = "" if row.latency_ms is None else f"{row.latency_ms:.0f}"
            table.add_row(sensor.node, row.state, sensor.now(seconds), row.noticed, row.verdict, row.action, latency)
        return Group(table, Text(f"{seconds:4.0f} s   metrics: {self._address}/metrics   health: {self._address}/healthz   Ctrl-C ends it"))
