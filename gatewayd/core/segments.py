"""Messages as segments over Bluetooth LE (docs/nodelink.md, "Segments"): one direction's two ends, alike on node and gateway.

Go-back-N: a Receiver takes segments in order only and says with its `flow` byte which it expects next; a Sender keeps what it has not heard
of again. Neither does I/O. What a peer must not do raises DecodeError, and the link is to be dropped.
"""

from collections import deque

from gatewayd.errors import DecodeError, TransportError

WINDOW = 16  # segments beyond the newest that was acknowledged
PATIENCE_MS = 2_000
_MOST_RETURNS = 5  # in a row without progress
_ACKNOWLEDGE_EVERY = 8
_FIRST, _LAST, _MISSING = 0x80, 0x40, 0x80
_COUNTER = 0x3F
REASONS = ("segment_counter", "segment_first", "segment_empty", "segment_oversized", "flow")  # of DecodeError, a metric's label values


class Sender:
    """The sending end. Whoever owns it calls `next` while the link takes more, `heard` for each flow byte, and `tick` now and then."""

    def __init__(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes  # ATT_MTU - 3; may change
        self._messages: deque[bytes] = deque()  # the first may be cut in part
        self._cut = 0  # bytes of the first
        self._segments: deque[bytes] = deque()  # cut and not acknowledged
        self._sent = 0  # of them, since the sender went back last
        self._counter = 0  # of the segment that is cut next
        self._returns = 0
        self._since_ms = 0  # without progress

    def put(self, message: bytes) -> None:
        """Queue a message, which is not empty."""
        self._messages.append(message)

    @property
    def idle(self) -> bool:
        """Whether all was said and acknowledged."""
        return not self._messages and not self._segments

    @property
    def ready(self) -> bool:
        """Whether `next` has a segment."""
        return self._sent < len(self._segments) or (bool(self._messages) and len(self._segments) < WINDOW)

    def next(self, now_ms: int) -> bytes | None:
        """The segment to write now, None while there is none or the window is full."""
        if not self.ready:
            return None
        if self._sent == len(self._segments):
            self._segments.append(self._cut_one())
        if self._sent == 0:
            self._since_ms = now_ms
        self._sent += 1
        return self._segments[self._sent - 1]

    def _cut_one(self) -> bytes:
        message, start = self._messages[0], self._cut
        self._cut += self.segment_bytes - 1
        header = self._counter | (_FIRST if start == 0 else 0)
        if self._cut >= len(message):
            header |= _LAST
            self._messages.popleft()
            self._cut = 0
        self._counter = (self._counter + 1) & _COUNTER
        return bytes((header,)) + message[start : start + self.segment_bytes - 1]

    def heard(self, flow: bytes, now_ms: int) -> None:
        """Take the peer's flow byte. Raises DecodeError for what it cannot have got, TransportError where nothing gets through."""
        if len(flow) != 1 or flow[0] & 0x40:
            raise DecodeError("flow", f"{flow[:8].hex()!r} is not a flow byte")
        acknowledged = (flow[0] - self._counter + len(self._segments)) & _COUNTER
        if acknowledged > len(self._segments):
            raise DecodeError("flow", f"acknowledges {acknowledged} segments of {len(self._segments)}")
        for _ in range(acknowledged):
            self._segments.popleft()
        self._sent = max(self._sent - acknowledged, 0)
        if acknowledged:
            self._returns, self._since_ms = 0, now_ms
        if flow[0] & _MISSING:
            self._go_back(now_ms)

    def tick(self, now_ms: int) -> None:
        """Go back where nothing was heard for too long. Raises TransportError where that did not help."""
        if self._sent and now_ms - self._since_ms >= PATIENCE_MS:
            self._go_back(now_ms)

    def _go_back(self, now_ms: int) -> None:
        if not self._segments:
            return
        if self._returns == _MOST_RETURNS:
            raise TransportError(f"the peer has heard nothing of {len(self._segments)} segments, {_MOST_RETURNS} times over")
        self._returns += 1
        self._sent, self._since_ms = 0, now_ms


class Receiver:
    """The receiving end: `take` each segment; what `flow` gives then is to be written at once."""

    def __init__(self, max_message_bytes: int) -> None:
        self._flow: int | None = None  # to be said
        self._max_message_bytes = max_message_bytes
        self._next = 0
        self._message = bytearray()
        self._unsaid = 0  # segments since the last flow byte
        self._told = False  # that one is missing

    def flow(self) -> bytes | None:
        """The flow byte to be written, once; a newer one takes the place of one that was not asked for."""
        flow, self._flow = self._flow, None
        return None if flow is None else bytes((flow,))

    def take(self, segment: bytes) -> bytes | None:
        """Take one segment; the message that it ends. Raises DecodeError."""
        if len(segment) < 2:  # noqa: PLR2004 -- its header and something
            raise DecodeError("segment_empty", f"{segment.hex()!r} carries nothing")
        header = segment[0]
        ahead = (header - self._next) & _COUNTER
        if ahead:
            self._out_of_order(ahead)
            return None
        if bool(header & _FIRST) == bool(self._message):
            raise DecodeError("segment_first", "a message inside a message" if self._message else "a segment of no message")
        if len(self._message) + len(segment) - 1 > self._max_message_bytes:
            raise DecodeError("segment_oversized", f"a message of more than {self._max_message_bytes} bytes")
        self._message += segment[1:]
        self._next = (self._next + 1) & _COUNTER
        self._told = False
        self._unsaid += 1
        if not header & _LAST:
            if self._unsaid >= _ACKNOWLEDGE_EVERY:
                self._say()
            return None
        self._say()
        message, self._message = bytes(self._message), bytearray()
        return message

    def _out_of_order(self, ahead: int) -> None:
        if ahead > _COUNTER - WINDOW:  # it came before
            self._say()
        elif ahead >= WINDOW:
            raise DecodeError("segment_counter", f"{ahead} segments ahead of the one that comes next")
        elif not self._told:
            self._told = True
            self._say(_MISSING)

    def _say(self, missing: int = 0) -> None:
        self._unsaid = 0
        if self._flow is not None and self._flow & _COUNTER == self._next:
            missing |= self._flow & _MISSING
        self._flow = self._next | missing
