"""The seams between the rooms: what the pipeline asks of an adapter, at most eight members each."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from gatewayd.core.types import Event, Frame, Opinion, Verdict


class Transport(Protocol):
    """Carries frames from nodes and payloads to nodes."""

    name: str

    async def run(self) -> None:
        """Keep the link until cancelled. A broken link raises TransportError; the supervisor runs it again."""

    def frames(self) -> AsyncIterator[Sequence[Frame]]:
        """Batches of frames in order of arrival, without end."""

    async def send(self, node: str, tail: str, payload: bytes) -> None:
        """Hand `payload` to the link. Raises TransportError where there is none."""


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


class Store(Protocol):
    """Remembers. One writer, group commit."""

    async def append(self, node: str, event: Event, verdict: Verdict, opinion: Opinion | None, arrived_s: float) -> bool:
        """Returns once the event is on disk: True, or False where it was there already. Raises StoreError."""
