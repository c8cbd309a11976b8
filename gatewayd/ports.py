"""The seams between the rooms: what the pipeline asks of an adapter, at most eight members each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from gatewayd.core.cascade import Cascade
from gatewayd.core.pairing import Pairing, Trust
from gatewayd.core.registry import Node
from gatewayd.core.types import Event, Frame, Opinion, Record
from gatewayd.errors import StoreError


class Transport(Protocol):
    """Carries frames from nodes and payloads to nodes."""

    name: str

    async def run(self) -> None:
        """Keep the link until cancelled. A broken link raises TransportError; the supervisor runs it again."""

    def frames(self) -> AsyncIterator[Sequence[Frame]]:
        """Batches of frames in order of arrival, without end."""

    def send(self, node: str, tail: str, payload: bytes) -> None:
        """Hand `payload` to the link, which keeps it in order. Raises TransportError where there is no link or no room."""

    def reaches(self, node: str) -> bool:
        """Whether what is sent to `node` now has a way, as far as is known here."""


class PairingDesk(Protocol):
    """Knows what the operator wants to pair, and asks them while that goes on."""

    trust: Trust

    def passkey(self, node: str) -> int | None:
        """What the operator said that the node shows."""

    async def compare(self, node: str, number: int) -> bool:
        """Whether the operator says, soon enough, that the node shows the same number."""

    async def provisioning(self, node: str) -> bytes | None:
        """What whoever has paired is to be told that it becomes `node`, or None."""

    async def told(self, node: str, adapter: str, address: str) -> bool:
        """It is told that now, and comes back as `node`; False where that is not wanted any more."""

    async def paired(self, node: str, adapter: str, address: str, *, authenticated: bool) -> bool:
        """It has paired, or came back; False where that was not wanted any more."""

    async def failed(self, node: str, cause: str, *, final: bool) -> None:
        """It has not, and is not to try again where that is `final`."""

    async def judged(self, bond: Pairing, cause: str) -> None:
        """What is wrong with a bond, or "" when it holds."""


class Model(Protocol):
    """A larger model, as its worker process holds it. Built by its module's `load()`; may block, holds no locks."""

    def classify(self, event: Event) -> Opinion:
        """Judge one event. Any exception counts as a failed escalation."""


class ModelModule(Protocol):
    """A module in `escalators/`: what `plugins` finds by kind."""

    def load(self, settings: Mapping[str, Any]) -> Model:
        """Build the model in the worker process. Raises MissingPackageError, CascadeError."""


class Escalator(Protocol):
    """Asks a larger model for its opinion."""

    async def classify(self, event: Event, deadline_s: float) -> Opinion:
        """Raises WorkerTimeoutError or WorkerCrashedError."""


class Pool(Escalator, AbstractAsyncContextManager["Pool"], Protocol):
    """An Escalator with a life, `async with`: the larger model of one cascade, whoever runs it."""

    ready: asyncio.Event  # the model has come up
    problem: str  # why it has not, as far as that is known
    settings: Mapping[str, Any]  # for what is loaded from now on

    async def drain(self) -> None:
        """Wait until nobody asks: no longer than the deadline of the last who asked."""


class Judge(NamedTuple):
    """Who judges a cascade's events, and by which policy; they change together."""

    cascade: Cascade
    escalator: Escalator | None  # None where the cascade has no larger model


class Store(Protocol):
    """Remembers. One writer, group commit."""

    def submit(self, record: Record, done: Callable[[bool | StoreError], None]) -> None:
        """Queue `record`; `done` is called on the loop after the commit: True, or False where the event was there already.

        A StoreError given to `done` (or raised here, when too much is waiting) means that nothing was kept.
        """

    def save_nodes(self, nodes: Sequence[Node]) -> None:
        """Queue what is known of `nodes`."""


class Publisher(Protocol):
    """Tells nodes what was decided, and asks them, over one of the transports."""

    def route(self, node: Node) -> str:
        """The transport over which the node is spoken to now."""

    def reaches(self, node: Node, transport: str) -> bool:
        """Whether it could be."""

    def verdict(self, node: Node, record: Record) -> None:
        """Tell the node. Raises TransportError."""

    def smp(self, node: Node, transport: str, frame: bytes) -> None:
        """Send it an SMP request. Raises TransportError."""
