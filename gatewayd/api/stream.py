"""The live stream: what has changed, told to every open page as server-sent events.

Once a second, while anybody listens, the fleet, the newest events and the open rollouts are compared with what they were. So a node is told
of at most once a second however much it says, and all nodes together at most NODES times: the others have their turn a second later.
Whoever is too slow for that hears `lagged` in place of what it missed, and loads again.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from gatewayd.api import events, fleet, rollouts
from gatewayd.api.auth import READ, Reader, still_admitted
from gatewayd.api.fleet import Fleet, Seen
from gatewayd.api.gateway import Daemon, Gateway
from gatewayd.api.health import Healthy
from gatewayd.api.schemas import RolloutRow, Schema
from gatewayd.errors import StoreError
from gatewayd.records import Page

MOST = 32  # streams
NODES, EVENTS = 100, 100  # told of in a second
TICK_S = 1.0
_WAITING = 512  # messages that may wait for one client
_PING_S = 15.0
_RETRY_MS = 3_000
_log = logging.getLogger(__name__)
router = APIRouter(prefix="/stream", tags=["stream"], dependencies=[READ])


class Client:
    """One stream."""

    def __init__(self, admitted: Callable[[], bool]) -> None:
        self.admitted = admitted  # blocks: whether its token and its session still count
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)

    def tell(self, message: bytes) -> None:
        """Queue a message; where there is no room, all that waits gives way to the word that it did."""
        if self._queue.full():
            self._clear()
            self._queue.put_nowait(_message("lagged", "{}"))
        self._queue.put_nowait(message)

    def end(self) -> None:
        """Tell it nothing any more."""
        self._clear()
        self._queue.put_nowait(None)

    def _clear(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()

    async def told(self) -> AsyncIterator[bytes]:
        """What it hears, until the end."""
        while True:
            message: bytes | None = KEEPALIVE_COMMENT
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PING_S):
                    message = await self._queue.get()
            if message is None:
                return
            yield message


class _Read(NamedTuple):
    """What the store says, and what was changed of the nodes."""

    page: Page
    open: Mapping[str, RolloutRow]
    ended: list[RolloutRow]
    labels: Mapping[str, tuple[str, ...]]
    changed: list[str]
    gone: list[Client]


class Streams:
    """Every open stream, and what they were told last."""

    def __init__(self, gateway: Gateway, watched: Fleet) -> None:
        self._gateway = gateway
        self._fleet = watched
        self._clients: set[Client] = set()
        self._closed = False
        self._looking = asyncio.Lock()
        self._newest = 0  # event
        self._nodes: dict[str, tuple[Any, ...]] = {}  # as they were last seen
        self._untold: dict[str, None] = {}  # nodes that have changed since they were told of
        self._rollouts: Mapping[str, RolloutRow] = {}

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return self._closed or len(self._clients) >= MOST

    @contextlib.asynccontextmanager
    async def join(self, admitted: Callable[[], bool]) -> AsyncIterator[Client]:
        """A new stream: it hears of all that changes from now on."""
        client = Client(admitted)
        async with self._looking:
            if not self._clients:
                await self._changes()
                self._untold.clear()
            self._clients.add(client)
        self._gateway.metrics.http.streams.set(len(self._clients))
        if self._closed:
            client.end()
        try:
            yield client
        finally:
            self._clients.discard(client)
            self._gateway.metrics.http.streams.set(len(self._clients))

    def close(self) -> None:
        """End every stream at once, and let no other begin."""
        self._closed = True
        for client in self._clients:
            client.end()

    async def run(self) -> None:
        """Tell every client what changes, until cancelled. What the disk refuses to say is told later."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._clients:
                with contextlib.suppress(StoreError):
                    async with self._looking:
                        for message in await self._changes():
                            for client in self._clients:
                                client.tell(message)

    async def _changes(self) -> list[bytes]:
        """What is to be told since the last time. Raises StoreError."""
        seen = {one.node.id: one for one in await self._fleet.seen()}
        read = await asyncio.to_thread(self._read, seen, [*self._clients])
        for client in read.gone:
            client.end()
        judges = self._gateway.judges.current
        newest = [(event, window) for event, window in reversed(read.page.items) if event.id > self._newest]
        messages = [_message("lagged", "{}")] if self._newest and len(newest) == EVENTS else []
        messages += [_message("event", events.row(event, window, judges)) for event, window in newest]
        if newest:
            self._newest = newest[-1][0].id
        moved = [row for id_, row in read.open.items() if row != self._rollouts.get(id_)]
        messages += [_message("rollout", row) for row in (*moved, *read.ended)]
        self._rollouts = read.open
        self._untold.update(dict.fromkeys(read.changed))
        for name in [*self._untold][:NODES]:
            del self._untold[name]
            if (one := self._fleet.get(name)) is not None:
                messages.append(_message("node", fleet.row(one, read.labels)))
        return messages

    def _read(self, seen: Mapping[str, Seen], clients: list[Client]) -> _Read:
        """All that blocks or takes long, in a thread."""
        ledger, labels = self._gateway.ledger, self._gateway.store.labels()
        open_ = ledger.open_rollouts()
        ended = [stored for id_ in self._rollouts.keys() - {one.rollout.id for one in open_} if (stored := ledger.rollout(id_))]
        counts = ledger.counts([one.rollout.id for one in (*open_, *ended)])
        rows = {one.rollout.id: rollouts.row(one, counts.get(one.rollout.id, {})) for one in (*open_, *ended)}
        now = {name: (one.up, one.trouble, one.node.enrolled, one.node.messages, labels.get(name)) for name, one in seen.items()}
        changed = [name for name, how in now.items() if self._nodes.get(name) != how]
        self._nodes = now
        return _Read(
            page=self._gateway.store.page(EVENTS),
            open={one.rollout.id: rows[one.rollout.id] for one in open_},
            ended=[rows[one.rollout.id] for one in ended],
            labels=labels,
            changed=changed,
            gone=[client for client in clients if not client.admitted()],
        )


def _message(name: str, said: Schema | str) -> bytes:
    return format_sse_event(event=name, data_str=said if isinstance(said, str) else said.model_dump_json())


async def _streams(request: Request) -> Streams:
    streams: Streams = request.app.state.streams
    return streams


@router.get("", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
async def listen(
    request: Request, gateway: Daemon, caller: Reader, healthy: Healthy, streams: Annotated[Streams, Depends(_streams)]
) -> EventSourceResponse:
    """What changes, as it does: hello (Health), node (NodeRow), event (EventRow), rollout (RolloutRow), lagged ({}: load again)."""
    if streams.full:
        gateway.metrics.http.refused.labels("streams").inc()
        raise HTTPException(503, f"there are {MOST} streams already")
    admitted = still_admitted(request, caller)

    async def told() -> AsyncIterator[bytes]:
        async with streams.join(admitted) as client:
            yield format_sse_event(event="hello", data_str=(await healthy.now()).model_dump_json(), retry=_RETRY_MS)
            async for message in client.told():
                yield message

    return EventSourceResponse(told())
