"""MQTT: paho's client on the asyncio loop, by its own socket hooks.

Messages of QoS 1 are acknowledged by hand, when the pipeline says that nothing depends on them any more (`Frame.done`); the session is
kept by the broker, so what was not acknowledged comes again after any crash, here or there. paho is driven from one thread, the loop's.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from gatewayd.config import Mqtt
from gatewayd.core import wire
from gatewayd.core.types import Frame, GatewayState
from gatewayd.errors import TransportError
from gatewayd.journal import Kind

ROOT = "nodelink/1"
_MAX_BACKLOG = 20_000  # frames read but not yet taken; above it telemetry (QoS 0) is dropped and counted
_CONNECT_TIMEOUT_S = 5.0
_MOST_READ = 256  # messages before the loop may look at other things
_GATHER_S = 0.004  # little beside the time between two commits
_QOS = {"verdict": 1, "smp": 0}
_log = logging.getLogger(__name__)


def _nothing() -> None:
    """Nobody waits for an acknowledgement of QoS 0."""


class _Receipt:
    """A message of QoS 1 that came, and whether all is done about it."""

    __slots__ = ("done", "mid")

    def __init__(self, mid: int) -> None:
        self.mid = mid
        self.done = False


class MqttTransport:
    """One connection to the site's broker. `dropped` counts frames that came faster than they were taken."""

    def __init__(self, settings: Mqtt, gateway_id: str) -> None:
        self.name = "mqtt"
        self.connected = False
        self.dropped = 0
        self._settings = settings
        self._state_topic = f"{ROOT}/gateway/{gateway_id}/state"
        self._unacknowledged: deque[_Receipt] = deque()  # of this connection, in order of arrival
        self._backlog: list[Frame] = []
        self._received = 0  # messages
        self._wake = asyncio.Event()
        self._closed: asyncio.Future[str] | None = None
        self._misc: asyncio.Task[None] | None = None
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"gatewayd-{gateway_id}",
            clean_session=False,
            protocol=paho.MQTTv311,
            manual_ack=True,
        )
        client.max_inflight_messages_set(1_000)
        client.max_queued_messages_set(10_000)
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.secret())
        if settings.ca_file is not None:
            client.tls_set(ca_certs=str(settings.ca_file))
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write

    async def run(self) -> None:
        """Connect and stay connected until cancelled; says `online` and, on an orderly end, `offline`. Raises TransportError."""
        loop = asyncio.get_running_loop()
        self._closed = loop.create_future()
        settings = self._settings
        self._client.will_set(self._state_topic, self._gateway_state("offline"), qos=1, retain=True)
        try:
            await self._connect(settings)
            reason = await self._closed
            raise TransportError(f"MQTT broker {settings.host}:{settings.port}: {reason}")
        except asyncio.CancelledError:
            await self._say_goodbye()
            raise
        finally:
            self.connected = False
            self._client.disconnect()
            if self._misc is not None:
                self._misc.cancel()
                self._misc = None

    async def _connect(self, settings: Mqtt) -> None:
        try:
            # paho resolves and connects with blocking calls: only towards a broker that has just answered.
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(settings.host, settings.port)
            address = writer.get_extra_info("peername")[0]
            writer.close()
            self._client.connect(settings.host if settings.ca_file else address, settings.port, keepalive=settings.keepalive_s)
        except (OSError, TimeoutError) as error:
            raise TransportError(f"MQTT broker {settings.host}:{settings.port}: {error}") from error

    async def _say_goodbye(self) -> None:
        if not self.connected:
            return
        self._client.publish(self._state_topic, self._gateway_state("offline"), qos=1, retain=True)
        deadline = time.monotonic() + 1.0
        while self._client.want_write() and time.monotonic() < deadline:
            self._client.loop_write()
            await asyncio.sleep(0.01)

    @staticmethod
    def _gateway_state(state: str) -> bytes:
        return wire.encode(GatewayState(state, int(time.time())))

    # ---- frames in

    async def frames(self) -> AsyncIterator[Sequence[Frame]]:
        """Batches of frames in order of arrival, without end."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._backlog = self._backlog, []
            if batch:
                yield batch

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self._received += 1
        acknowledge: Callable[[], None] = _nothing
        if message.qos:
            receipt = _Receipt(message.mid)
            self._unacknowledged.append(receipt)
            acknowledge = partial(self._acknowledge, self._unacknowledged, receipt)
        elif len(self._backlog) >= _MAX_BACKLOG:
            self.dropped += 1
            return
        parts = message.topic.split("/")  # nodelink/1/up/<node>/<tail>: the subscription admits nothing else
        self._backlog.append(Frame(parts[3], parts[4], bytes(message.payload), self.name, acknowledge, message.retain))
        if len(self._backlog) == 1:
            self._wake.set()

    def _acknowledge(self, connection: deque[_Receipt], receipt: _Receipt) -> None:
        """Acknowledge what is done, in order of arrival (MQTT-4.6.0-2: some brokers hang up on any other).

        Only on the connection that brought it: on another its number may be another's, which is not on disk yet.
        """
        receipt.done = True
        while connection and connection[0].done and connection is self._unacknowledged:
            self._client.ack(connection.popleft().mid, 1)

    # ---- payloads out

    def send(self, node: str, tail: str, payload: bytes) -> None:
        """Hand `payload` to the client. Raises TransportError where there is no connection."""
        if not self.connected:
            raise TransportError("MQTT: not connected")
        info = self._client.publish(f"{ROOT}/down/{node}/{tail}", payload, qos=_QOS[tail])
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise TransportError(f"MQTT: {paho.error_string(info.rc)}")

    def reaches(self, node: str) -> bool:  # noqa: ARG002 -- the broker has them all
        """Whether there is a connection."""
        return self.connected

    # ---- paho's callbacks, all on the loop

    def _on_connect(self, client: paho.Client, _userdata: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        if code.is_failure:
            self._fail(f"refused: {code}")
            return
        self._unacknowledged = deque()
        client.subscribe(f"{ROOT}/up/+/+", qos=1)
        client.publish(self._state_topic, self._gateway_state("online"), qos=1, retain=True)
        self.connected = True
        _log.info("connected to %s:%s", self._settings.host, self._settings.port, extra=Kind.BROKER_CONNECTED(TRANSPORT=self.name))

    def _on_disconnect(self, _client: paho.Client, _userdata: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self.connected = False
        self._fail(f"disconnected: {code}")

    def _fail(self, reason: str) -> None:
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(reason)

    def _on_socket_open(self, client: paho.Client, _userdata: Any, sock: Any) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.add_reader(sock, self._readable, client, sock)
        self._misc = loop.create_task(self._tick(), name="mqtt-keepalive")

    def _readable(self, client: paho.Client, sock: Any) -> None:
        """Take what is there. Where it was more than one message, let more gather before the next look (as Linux' NAPI does): a turn of the
        loop costs as much as a message, so in a flood many share one.
        """
        if self._read(client, sock) > 1 and sock.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(sock)
            loop.call_later(_GATHER_S, self._resume, client, sock)

    def _resume(self, client: paho.Client, sock: Any) -> None:
        if sock.fileno() >= 0:  # not closed meanwhile
            asyncio.get_running_loop().add_reader(sock, self._readable, client, sock)

    def _read(self, client: paho.Client, sock: Any) -> int:
        """Read until nothing more comes, but leave others their turn. Returns how many messages came."""
        began = self._received
        while self._received - began < _MOST_READ:
            before = self._received
            client.loop_read()
            if self._received == before and not (isinstance(sock, ssl.SSLSocket) and sock.pending()):  # pending: decrypted already
                break
        return self._received - began

    @staticmethod
    def _on_socket_close(_client: paho.Client, _userdata: Any, sock: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        loop.remove_writer(sock)

    @staticmethod
    def _on_register_write(client: paho.Client, _userdata: Any, sock: Any) -> None:
        asyncio.get_running_loop().add_writer(sock, client.loop_write)

    @staticmethod
    def _on_unregister_write(_client: paho.Client, _userdata: Any, sock: Any) -> None:
        asyncio.get_running_loop().remove_writer(sock)

    async def _tick(self) -> None:
        while self._client.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS:  # noqa: ASYNC110 -- paho wants to be asked
            await asyncio.sleep(1)
