"""SMP over a transport's frames: what `smpclient.SMPClient` needs to talk to a node, one frame a message, and several requests in flight
for who can use them.
"""

import asyncio
from collections.abc import Callable

from gatewayd.errors import TransportError

FIRST_FRAME_BYTES, LEAST_FRAME_BYTES, MOST_FRAME_BYTES = (
    512,
    128,
    16_384,
)  # before a node has said how large its buffer is; what is believed
_HEADER_BYTES, _SEQUENCE = 8, 6  # byte of the sequence in the header
Send = Callable[[str, str, bytes], None]  # node, transport, frame; raises TransportError


class NodeLink:
    """smpclient's `SMPTransport` to one node, over one of the gateway's transports. The node's name is the address."""

    _smp_server_transport_buffer_size: int | None = None

    def __init__(self, links: "SmpLinks", transport: str) -> None:
        self.transport = transport
        self.sequence = 0  # of the newest request
        self._links = links
        self._node = ""
        self._asked: set[int] = set()  # sequences that have no answer yet
        self._answers: asyncio.Queue[bytes | TransportError] = asyncio.Queue()

    async def connect(self, address: str, timeout_s: float) -> None:  # noqa: ARG002 -- there is nothing to wait for
        """Take the node's answers. Raises TransportError where somebody else does."""
        self._links.take(address, self)
        self._node = address

    async def disconnect(self) -> None:
        """Let the node's answers go."""
        self._links.release(self._node, self)

    def post(self, data: bytes) -> None:
        """Send a request beside those that are in flight. Raises TransportError."""
        self.sequence = data[_SEQUENCE]
        self._asked.add(self.sequence)
        self._links.send(self._node, self.transport, data)

    async def send(self, data: bytes) -> None:
        """Send a request; the answer to any earlier one will not be heard any more. Raises TransportError."""
        self._asked.clear()
        while not self._answers.empty():
            self._raised(self._answers.get_nowait())
        self.post(data)

    async def receive(self) -> bytes:
        """The next answer. Raises TransportError where the transport does not reach the node any more."""
        return self._raised(await self._answers.get())

    async def send_and_receive(self, data: bytes) -> bytes:
        """Ask, and wait for the answer. Raises TransportError."""
        await self.send(data)
        return await self.receive()

    def deliver(self, frame: bytes) -> bool:
        """Hear a frame; whether it was waited for: the sequence tells what it answers."""
        if len(frame) < _HEADER_BYTES or frame[_SEQUENCE] not in self._asked:
            return False
        self._asked.remove(frame[_SEQUENCE])
        self._answers.put_nowait(frame)
        return True

    def fail(self) -> None:
        """No answer will come any more."""
        self._answers.put_nowait(TransportError(f"{self._node}: not reached over {self.transport} any more"))

    @staticmethod
    def _raised(answer: bytes | TransportError) -> bytes:
        if isinstance(answer, TransportError):
            raise answer
        return answer

    def initialize(self, smp_server_transport_buffer_size: int) -> None:
        """Take the node's word for its buffer, within reason."""
        self._smp_server_transport_buffer_size = min(max(smp_server_transport_buffer_size, LEAST_FRAME_BYTES), MOST_FRAME_BYTES)

    @property
    def mtu(self) -> int:
        """The largest frame, bytes."""
        return self._smp_server_transport_buffer_size or FIRST_FRAME_BYTES

    @property
    def max_unencoded_size(self) -> int:
        """The same: nothing is encoded."""
        return self.mtu


class SmpLinks:
    """Whose answers are waited for: at most one conversation with a node."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self._links: dict[str, NodeLink] = {}

    def take(self, node: str, link: NodeLink) -> None:
        """Raises TransportError where a conversation with `node` is under way."""
        if node in self._links:
            raise TransportError(f"{node}: somebody is talking to it already")
        self._links[node] = link

    def release(self, node: str, link: NodeLink) -> None:
        """The end of a conversation."""
        if self._links.get(node) is link:
            del self._links[node]

    def deliver(self, node: str, transport: str, frame: bytes) -> bool:
        """Hand over what a node answered; whether somebody waited for it, there."""
        link = self._links.get(node)
        return link is not None and link.transport == transport and link.deliver(frame)

    def check(self, reaches: Callable[[str, str], bool]) -> None:
        """Break the conversations whose transport does not reach (node, transport) its node any more: they need not wait for silence."""
        for node, link in self._links.items():
            if not reaches(node, link.transport):
                link.fail()
