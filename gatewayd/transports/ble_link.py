"""One connection with a node: messages in segments, SMP as it comes, and what is most urgent is written first."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.exc import BleakCharacteristicNotFoundError, BleakError
from dbus_fast.errors import DBusFastError

from gatewayd.core import wire
from gatewayd.core.beacon import SERVICE_UUID
from gatewayd.core.neighbours import Urgency
from gatewayd.core.segments import Receiver, Sender
from gatewayd.core.types import GatewayState, Stored
from gatewayd.errors import DecodeError, GatewaydError, NodeRefusedError, TransportError

IDENTITY, UP, DOWN, FLOW = (f"{SERVICE_UUID[:7]}{digit}{SERVICE_UUID[8:]}" for digit in "bcde")
SMP = "da2e7828-fbce-4e01-ae9e-261174997c48"
IMPROV = "00467768-6228-2272-4663-277478268000"
IMPROV_STATE, IMPROV_ERROR = f"{IMPROV[:-1]}1", f"{IMPROV[:-1]}2"
_PROVISIONED = b"\x04"  # Improv's state
_REFUSALS = {1: "what it was told is damaged, or not for it", 4: "it takes that only from who has paired"}  # Improv's errors
TAILS = {1: "state", 2: "info", 3: "vitals", 4: "event"}  # what a node says, by its code
_STATE, _VERDICT, _STORED, _PROVISIONING = 1, 2, 3, 4  # what we say
_MOST_SEQS = 16
_GATHER_S = 0.005  # what was stored in that time is said at once
_ANSWER_S = 10.0
_LEAVE_S = 12.0
_TICK_S = 0.25
_QUIET_MS = 1_000
_TURN_MS = 60_000  # after which a place that others want is theirs
_MOST_WRITTEN = 512  # the longest value of an attribute; BlueZ offers 514, which stacks drop without a word
_SMP_HEADER_BYTES, _MOST_SMP_BYTES = 8, 16_384
_BROKEN = (BleakError, DBusFastError, OSError, EOFError, AttributeError, AssertionError)  # the last two where a link dies under bleak
Deliver = Callable[[str, bytes], None]  # tail, payload of a message or an SMP frame; may raise DecodeError
_SMP_PAUSE_MS = 2_000  # a frame of which nothing has come for so long has lost a piece


@asynccontextmanager
async def answered(what: str, within_s: float = _ANSWER_S) -> AsyncIterator[None]:
    """Whatever bleak, and what is under it, raise when a link or a stack breaks becomes a TransportError, and so does silence."""
    try:
        async with asyncio.timeout(within_s):
            yield
    except TimeoutError as error:
        raise TransportError(f"Bluetooth: {what}: no answer") from error
    except _BROKEN as error:
        raise TransportError(f"Bluetooth: {what}: {str(error) or type(error).__name__}") from error


class SmpFrames:
    """Puts SMP frames together: the header says how long one is."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._heard_ms = 0

    def take(self, piece: bytes, now_ms: int) -> Iterator[bytes]:
        """The frames that `piece` completes. Raises DecodeError."""
        if now_ms - self._heard_ms > _SMP_PAUSE_MS:
            self._data.clear()
        self._heard_ms = now_ms
        self._data += piece
        while len(self._data) >= _SMP_HEADER_BYTES:
            size = _SMP_HEADER_BYTES + int.from_bytes(self._data[2:4], "big")
            if size > _MOST_SMP_BYTES:
                raise DecodeError("smp", f"a frame of {size} bytes")
            if len(self._data) < size:
                return
            yield bytes(self._data[:size])
            del self._data[:size]


class Link:
    """A connection, for as long as `run` serves it."""

    def __init__(self, idle_s: float) -> None:
        self.owed = 0  # events that were delivered and are not on disk yet
        self.heard = False  # anything at all
        self._deliver: Deliver = lambda _tail, _payload: None
        self._idle_ms = round(idle_s * 1_000)
        self._client: BleakClient | None = None
        self._characteristics: dict[str, BleakGATTCharacteristic] = {}
        self._sender = Sender(20)
        self._receiver = Receiver(1 + wire.MAX_PAYLOAD_BYTES)
        self._frames = SmpFrames()
        self._unheard: list[bytes] = []  # verdicts that may not have arrived
        self._requests = deque[bytes]()  # SMP, in pieces
        self._stored: dict[int, list[int]] = {}
        self._began_ms = self._said_ms = self._managed_ms = _now_ms()
        self._wake = asyncio.Event()
        self._end: GatewaydError | None = None
        self.leaving = False

    # ---- its life

    async def identify(self, client: BleakClient) -> str:
        """Ask a stranger for its id. Raises DecodeError, TransportError."""
        async with answered("read identity"):
            text = bytes(await client.read_gatt_char(IDENTITY)).decode("latin-1")
        if not wire.valid_node_id(text):
            raise DecodeError("identity", f"{text[:40]!r} is not a node's name")
        return text

    async def run(self, client: BleakClient, deliver: Deliver) -> None:
        """Serve until nothing was said for too long, or `leave`; `deliver` gets what the node says.

        Raises TransportError where the link breaks, DecodeError where the node misbehaves.
        """
        self._deliver = deliver
        await self._subscribe(client, {SMP: self._on_smp, FLOW: self._on_flow, UP: self._on_up})
        self._say(_STATE, wire.encode(GatewayState("online", int(time.time()))))
        while self._end is None and not self.leaving and not self._idle():
            await self._go_on()
        if self._end is not None:
            raise self._end

    async def provision(self, client: BleakClient, data: bytes) -> None:
        """Tell a node that is nobody yet who it is. Raises NodeRefusedError where it says no, TransportError."""
        done = asyncio.Event()

        def judge(state: bytes) -> None:
            if state[:1] == _PROVISIONED:
                done.set()
                self._wake.set()

        def refuse(error: bytes) -> None:
            if any(error):
                raise NodeRefusedError(_REFUSALS.get(error[0], f"it cannot keep it (Improv's error {error[0]})"))

        await self._subscribe(client, {IMPROV_STATE: judge, IMPROV_ERROR: refuse, FLOW: self._on_flow})
        self._say(_PROVISIONING, data)
        async with answered("provision"):
            while self._end is None and not done.is_set():
                await self._go_on()
        if self._end is not None and not done.is_set():
            raise self._end

    async def _subscribe(self, client: BleakClient, takes: dict[str, Callable[[bytes], None]]) -> None:
        self._client = client
        self._said_ms = _now_ms()
        async with answered("subscribe"):
            for uuid in (DOWN, *takes):
                characteristic = client.services.get_characteristic(uuid)
                if characteristic is None:
                    raise BleakCharacteristicNotFoundError(uuid)
                self._characteristics[uuid] = characteristic
            for uuid, take in takes.items():
                await client.start_notify(uuid, self._guarded(take))

    async def _go_on(self) -> None:
        """Write something, or wait for a moment."""
        self._sender.tick(_now_ms())
        if not await self._write():
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._wake.wait()

    def end(self, reason: GatewaydError) -> None:
        """End it; the first who asks says why."""
        self._end = self._end or reason
        self._wake.set()

    def leave(self) -> None:
        """Let others have its place."""
        self.leaving = True
        self._wake.set()

    def _idle(self) -> bool:
        return (
            self._sender.idle and not self._requests and not self.owed and _now_ms() - max(self._said_ms, self._managed_ms) > self._idle_ms
        )

    @property
    def urgency(self) -> Urgency:
        """What it is good for now; IDLE: its place may be another's."""
        now_ms = _now_ms()
        if not self._sender.idle or self.owed or now_ms - self._said_ms < _QUIET_MS:
            return Urgency.TELEMETRY if now_ms - self._began_ms < _TURN_MS else Urgency.UPDATE
        return Urgency.UPDATE if self._requests or now_ms - self._managed_ms < _QUIET_MS else Urgency.IDLE

    @property
    def quiet_ms(self) -> int:
        """How long nothing was said."""
        return _now_ms() - max(self._said_ms, self._managed_ms)

    # ---- out

    def verdict(self, payload: bytes) -> None:
        """Tell the node a verdict."""
        self._unheard.append(payload)
        self._say(_VERDICT, payload)

    def unheard(self) -> list[bytes]:
        """Verdicts that may not have arrived, when the link has ended."""
        return [] if self._sender.idle else self._unheard

    def request(self, frame: bytes) -> None:
        """Send an SMP request."""
        self._requests.append(frame)
        self._wake.set()

    def stored(self, session: int, seq: int) -> None:
        """An event is on disk; the node is told so, with others."""
        self.owed -= 1
        if not self._stored:
            asyncio.get_running_loop().call_later(_GATHER_S, self._tell_stored)
        self._stored.setdefault(session, []).append(seq)

    def _tell_stored(self) -> None:
        for session, seqs in self._stored.items():
            for start in range(0, len(seqs), _MOST_SEQS):
                self._say(_STORED, wire.encode(Stored(session, tuple(seqs[start : start + _MOST_SEQS]))))
        self._stored.clear()

    def _say(self, code: int, payload: bytes) -> None:
        self._sender.put(bytes((code,)) + payload)
        self._said_ms = _now_ms()
        self._wake.set()

    async def _write(self) -> bool:
        """Write the most urgent piece; whether there was one."""
        if (flow := self._receiver.flow()) is not None:
            await self._put(FLOW, flow)
        elif self._sender.ready:
            self._sender.segment_bytes = self._room(DOWN)
            segment = self._sender.next(_now_ms())
            assert segment is not None
            await self._put(DOWN, segment)
        elif self._requests:
            frame, room = self._requests.popleft(), self._room(SMP)
            if len(frame) > room:
                self._requests.appendleft(frame[room:])
            self._managed_ms = _now_ms()
            await self._put(SMP, frame[:room])
        else:
            return False
        return True

    def _room(self, uuid: str) -> int:
        return min(self._characteristics[uuid].max_write_without_response_size, _MOST_WRITTEN)

    async def _put(self, uuid: str, data: bytes) -> None:
        assert self._client is not None
        async with answered("write"):
            await self._client.write_gatt_char(self._characteristics[uuid], data, response=False)

    # ---- in: callbacks of bleak, on the loop

    def _guarded(self, take: Callable[[bytes], None]) -> Callable[[BleakGATTCharacteristic, bytearray], None]:
        def taken(_characteristic: BleakGATTCharacteristic, data: bytearray) -> None:
            if self._end is None:
                try:
                    take(bytes(data))
                except GatewaydError as error:
                    self.end(error)

        return taken

    def _on_up(self, segment: bytes) -> None:
        message = self._receiver.take(segment)
        self._said_ms = _now_ms()
        self._wake.set()
        if message is not None:
            tail = TAILS.get(message[0])
            if tail is None:
                raise DecodeError("code", f"no messages of code {message[0]}")
            self.heard = True
            self._deliver(tail, message[1:])

    def _on_flow(self, flow: bytes) -> None:
        self._sender.heard(flow, _now_ms())
        if self._sender.idle:
            self._unheard.clear()
        self._wake.set()

    def _on_smp(self, piece: bytes) -> None:
        self._managed_ms = _now_ms()
        for frame in self._frames.take(piece, self._managed_ms):
            self._deliver("smp", frame)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
