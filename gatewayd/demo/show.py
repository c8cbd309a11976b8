"""What the demo shows while it runs: a row for each node, made from what passes the broker and the radio chips, and how a rollout goes."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiomqtt
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gatewayd.core import wire
from gatewayd.core.types import Basis, Event, Info, Message, NodeState, Reason, Slot, SlotState, State, Verdict
from gatewayd.core.update import Update
from gatewayd.demo.stage import Sensor
from gatewayd.errors import DecodeError
from gatewayd.ledger import Note
from gatewayd.transports.mqtt import ROOT

_PLACE = re.compile(r"^(rollout .*), for ", re.MULTILINE)  # in what is told of a move; and the gate's word
_GATE = re.compile(r"^(gate: \w+)", re.MULTILINE)
_WHY = {Reason.TRIGGER: "suspects", Reason.AUDIT: "audit", Reason.FOLLOW: "recorded"}


@dataclass
class _Row:
    state: str = "…"
    radio: str = ""
    noticed: str = ""
    verdict: Text = field(default_factory=Text)
    action: str = ""
    latency_ms: float | None = None
    heard_s: dict[tuple[int, int], float] = field(default_factory=dict)  # (session, seq) -> when its event passed


class Show:
    """Follows the broker's messages. `answer_s` maps (node, session, seq) to the seconds between an event and its verdict."""

    def __init__(self, sensors: Sequence[Sensor], address: str) -> None:
        self._sensors = sensors
        self._rows = {sensor.node: _Row() for sensor in sensors}
        self._address = address
        self._began = time.monotonic()
        self.answer_s: dict[tuple[str, int, int], float] = {}
        self.heard: dict[str, set[str]] = {"mqtt": set(), "ble": set()}  # nodes, by radio
        self.events: dict[str, set[tuple[str, int, int]]] = {"mqtt": set(), "ble": set()}  # by the radio that brought them
        self.ready: set[str] = set()

    def begin(self) -> None:
        """Its time begins now."""
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    async def follow(self, port: int) -> None:
        """Take in what passes the broker until cancelled."""
        async with aiomqtt.Client("127.0.0.1", port, identifier="demo-show") as client:
            for direction in ("up", "down"):
                await client.subscribe(f"{ROOT}/{direction}/#", qos=0)
            async for message in client.messages:
                _, _, direction, node, tail = message.topic.value.split("/")
                self.message(direction, node, tail, bytes(message.payload))

    def message(self, direction: str, node: str, tail: str, payload: bytes, radio: str = "mqtt") -> None:
        """Take in what passed the broker, or a radio chip."""
        if node not in self._rows or tail == "smp":
            return
        try:
            said = wire.decode(tail, payload) if direction == "up" else wire.decode_as(Verdict, payload)
        except DecodeError:
            return
        if isinstance(said, Event):
            self.events[radio].add((node, said.session, said.seq))
        if not isinstance(said, State) or said.state is not NodeState.LOST:  # a will is the broker's
            self._rows[node].radio = radio
            self.heard[radio].add(node)
        self._take(node, said)

    def _take(self, node: str, said: Message | Verdict) -> None:
        row, now_s = self._rows[node], time.monotonic()
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
            if row.radio == "mqtt":  # over the other it is also the time in the air
                self.answer_s[node, said.session, said.seq] = now_s - heard_s

    def __rich__(self) -> Group:
        """The picture of now."""
        table = Table("node", "radio", "state", "what happens there", "node", "gateway", "action", "ms", expand=True)
        for sensor in self._sensors:
            row = self._rows[sensor.node]
            latency = "" if row.latency_ms is None else f"{row.latency_ms:.0f}"
            table.add_row(sensor.node, row.radio, row.state, sensor.now(self.seconds), row.noticed, row.verdict, row.action, latency)
        return Group(table, self._footer())

    def _footer(self) -> Text:
        return Text(f"{self.seconds:4.0f} s   {self._address}   /metrics   Ctrl-C ends it")


class RolloutShow(Show):
    """Which model of a cascade runs where, how often the gateway agreed with it, and how its rollout goes."""

    def __init__(self, sensors: Sequence[Sensor], address: str, cascade: str) -> None:
        super().__init__(sensors, address)
        self._cascade = cascade
        self.running: dict[str, Slot] = {}  # node -> the slot that runs
        self._asked: dict[tuple[str, int, int], bytes] = {}  # (node, session, seq) of a trigger -> the model that fired
        self._judged: Counter[tuple[str, bytes]] = Counter()  # (node, model) -> triggers that the gateway judged
        self._agreed: Counter[tuple[str, bytes]] = Counter()
        self.began_unix_s = time.time()
        self._updates: Mapping[str, Update] = {}
        self._moves: dict[str, list[str]] = {}  # of each rollout
        self._words = ""

    def _take(self, node: str, said: Message | Verdict) -> None:
        super()._take(node, said)
        if isinstance(said, Info):
            slots = {slot.state: slot for slot in said.slots if slot.cascade == self._cascade}
            if slot := slots.get(SlotState.TEST) or slots.get(SlotState.CONFIRMED):
                self.running[node] = slot
        elif isinstance(said, Event) and said.cascade == self._cascade and said.reason is Reason.TRIGGER:
            self._asked[node, said.session, said.seq] = said.model
        elif isinstance(said, Verdict) and (model := self._asked.pop((node, said.session, said.seq), b"")):
            self._judged[node, model] += said.basis is Basis.GATEWAY
            self._agreed[node, model] += said.basis is Basis.GATEWAY and said.accepted

    def rollout(self, id_: str, updates: Mapping[str, Update], history: Sequence[Note], words: str) -> None:
        """Take in how a rollout is now, where it has been, and what the gateway says of it."""
        self._updates, self._words = updates, words.partition("\n")[2]
        self._moves[id_] = [
            f"{note.at_s - self.began_unix_s:4.0f} s  {', '.join(place + _GATE.findall(note.text))}"
            for note in history
            if (place := _PLACE.findall(note.text))
        ]

    def __rich__(self) -> Group:
        """The picture of now."""
        table = Table("node", "radio", "model", "update", "agreed", "node", "gateway", "action", expand=True)
        for sensor in self._sensors:
            row, slot, update = self._rows[sensor.node], self.running.get(sensor.node), self._updates.get(sensor.node)
            key = sensor.node, (slot.sha256 or b"")[:8] if slot else b""
            table.add_row(
                sensor.node,
                row.radio,
                slot.version if slot else "…",
                update.state.replace("_", " ") if update and update.started_s else "",
                f"{self._agreed[key]} of {self._judged[key]}",
                row.noticed,
                row.verdict,
                row.action,
            )
        moves = [line for lines in self._moves.values() for line in lines]
        return Group(table, *map(Text, moves), Text(self._words, "dim"), self._footer())
