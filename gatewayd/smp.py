"""SMP over a transport's frames: what `smpclient.SMPClient` needs to talk to a node, one frame a message, one request in flight."""

import asyncio
from collections.abc import Callable

from gatewayd.errors import TransportError

FIRST_FRAME_BYTES, LEAST_FRAME_BYTES, MOST_FRAME_BYTES = (
    512,
    128,
    16_384,
)  # before a node has said how large its buffer is; what is believed
_HEADER_BYTES, _SEQUENCE = 8, 6  # byte of the sequence in the header
Send = Callable[[str, bytes], None]  # node, frame; raises TransportError


class NodeLink:
    """smpclient's `SMPTransport` to one node. The node's name is the address."""

    _smp_server_transport_buffer_size: int | None = None

    def __init__(self, links: "SmpLinks") -> None:
        self._links = links
        self._node = ""
        self._answer: asyncio.Future[bytes] | None = None
        self._sequence = -1

    async def connect(self, address: str, timeout_s: float) -> None:  # noqa: ARG002 -- there is nothing to wait for
        """Take the node's answers. Raises TransportError where somebody else does."""
        self._links.take(address, self)
        self._node = address

    async def disconnect(self) -> None:
        """Let the node's answers go."""
        self._links.release(self._node, self)

    async def send(self, data: bytes) -> None:
        """Send a request; the answer to any earlier one will not be heard any more. Raises TransportError."""
        self._answer, self._sequence = asyncio.get_running_loop().create_future(), data[_SEQUENCE]
        self._links.send(self._node, data)

    async def receive(self) -> bytes:
        """The answer to the newest request."""
        assert self._answer is not None, "nothing was asked"
        return await self._answer

    async def send_and_receive(self, data: bytes) -> bytes:
        """Ask, and wait for the answer. Raises TransportError."""
        await self.send(data)
        return await self.receive()

    def deliver(self, frame: bytes) -> bool:
        """Hear a frame; whether it was waited for. One that comes late answers an earlier request: the sequence tells."""
        if self._answer is None or self._answer.done() or len(frame) < _HEADER_BYTES or frame[_SEQUENCE] != self._sequence:
            return False
        self._answer.set_result(frame)
        return True

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

    def deliver(self, node: str, frame: bytes) -> bool:
        """Hand over what a node answered; whether somebody waited for it."""
        link = self._links.get(node)
        return link is not None and link.deliver(frame)
