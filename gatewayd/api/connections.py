"""A guard for uvicorn's connections: there are only so many, and none waits for ever, for a request or for its answer to be taken."""

import asyncio
import contextlib
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from gatewayd.metrics import Metrics

MOST, OF_ONE_CLIENT = 256, 64
HEAD_S = 10.0  # for a request's head to be there whole
TAKE_S = 30.0  # for a client to take what was sent to it


class Listener(socket.socket):
    """Takes only so many connections, those that have not yet shaken hands included."""

    def __init__(self, metrics: Metrics, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._metrics = metrics
        self._open: list[tuple[socket.socket, str]] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """As the event loop calls it: BlockingIOError where there is none to take."""
        connection, address = super().accept()
        self._open = [(one, client) for one, client in self._open if one.fileno() >= 0]
        of_one = sum(client == address[0] for _, client in self._open)
        if len(self._open) >= MOST or of_one >= OF_ONE_CLIENT:
            self._metrics.http.refused.labels("connections").inc()
            connection.close()
            raise BlockingIOError
        self._open.append((connection, address[0]))
        return connection, address


class Guard(H11Protocol):
    """One connection: uvicorn's own deadline is for the time between two requests only."""

    def __init__(self, metrics: Metrics, **named: Any) -> None:
        super().__init__(**named)
        self._metrics = metrics
        self._head: asyncio.TimerHandle | None = None  # both are deadlines
        self._taken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as H11Protocol has it
        """It is there."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        _cancel(self._head)
        _cancel(self._taken)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something of a request."""
        if self._head is None and self.conn.their_state is h11.IDLE:
            self._await_head()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            _cancel(self._head)
            self._head = None

    def pause_writing(self) -> None:
        """The client is behind."""
        super().pause_writing()
        self._taken = self.loop.call_later(TAKE_S, self._end, "slow_reader")

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        _cancel(self._taken)
        self._taken = None

    def on_response_complete(self) -> None:
        """Hang up on a client that still sends of what it was answered already."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._metrics.http.refused.labels("http").inc()
        with contextlib.suppress(h11.LocalProtocolError):  # an answer was on its way
            super().send_400_response(msg)
        self.transport.close()

    def shutdown(self) -> None:
        """End soon; at once where the client is behind."""
        super().shutdown()
        if self._taken is not None:
            self.transport.abort()

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_S, self._end, "slow_head")

    def _end(self, reason: str) -> None:
        self._metrics.http.refused.labels(reason).inc()
        self.transport.abort()


def _cancel(deadline: asyncio.TimerHandle | None) -> None:
    if deadline is not None:
        deadline.cancel()
