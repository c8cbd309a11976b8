"""What core.update asks of a node, said over SMP: `Courier` has a verb for each of its actions, and reads the node's slots.

smpclient says all of it but the upload, which is core.upload's. A refusal is a NodeRefusedError with the node's reason; a link that breaks
is a TransportError, silence a TimeoutError.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from smpclient import SMPClient
from smpclient.generics import success
from smpclient.requests.image_management import ImageErase, ImageStatesRead, ImageStatesWrite
from smpclient.requests.os_management import MCUMgrParametersRead

from gatewayd.core import update
from gatewayd.core.types import SlotState
from gatewayd.core.upload import NOT_HEARD, Upload
from gatewayd.errors import NodeRefusedError, TransportError
from gatewayd.metrics import SmpResult
from gatewayd.smp import NodeLink, SmpLinks

TIMEOUT_S = 5.0
_PATIENCE_S = 30.0  # a radio may have to connect first; an upload's first piece waits for an erase, its last for the image's verification
_MOST_IN_FLIGHT = 8  # requests, whatever a node says of its buffers
_MOST_STALLS = 8  # answers that bring an upload no further
_SLOTS_OF_AN_IMAGE = 2  # MCUmgr counts slots through all images


@asynccontextmanager
async def conversation(links: SmpLinks, node: str, transport: str, count: Callable[[SmpResult], None]) -> AsyncIterator["Courier"]:
    """A conversation with `node` over that transport; `count` hears the result of every request.

    Raises TransportError, also where there is one already.
    """
    link = NodeLink(links, transport)
    courier = Courier(SMPClient(link, node, TIMEOUT_S), link, count)
    await link.connect(node, TIMEOUT_S)
    try:
        await courier.meet()
        yield courier
    finally:
        await link.disconnect()


class Courier:
    """One conversation with a node about its images."""

    def __init__(self, client: SMPClient, link: NodeLink, count: Callable[[SmpResult], None]) -> None:
        self.transport = link.transport
        self._client = client
        self._link = link
        self._count = count
        self._window = 1

    @property
    def frame_bytes(self) -> int:
        """The largest request that the node takes."""
        return self._link.mtu

    async def meet(self) -> None:
        """Ask how large its buffer is, and how many it has."""
        with self._counted():
            said = await self._client.request(MCUMgrParametersRead(), timeout_s=_PATIENCE_S)
        if success(said):
            self._link.initialize(said.buf_size)
            self._window = min(max(said.buf_count, 1), _MOST_IN_FLIGHT)

    async def states(self) -> dict[bytes, SlotState]:
        """What is in the node's slots, by the image's SHA-256. Asking lets a trial's deadline begin anew."""
        return await self._ask(ImageStatesRead())

    async def upload(self, data: bytes, image: int) -> AsyncIterator[int]:
        """Bring `data`, from where the node has it; yields how many bytes it has by now. Ends when the node has verified them."""
        upload = Upload(data, image, frame_bytes=self.frame_bytes, window=self._window, sequence=self._link.sequence + 1)
        with self._counted():
            while not upload.done:
                for frame in upload.requests():
                    self._link.post(frame)
                async with asyncio.timeout(_PATIENCE_S):
                    answer = await self._link.receive()
                upload.answered(answer)
                self._count("ok")
                if upload.stalls > _MOST_STALLS:
                    raise TransportError(f"SMP: the upload stays at {upload.offset} of {len(data)} bytes")
                yield upload.offset

    async def test(self, sha256: bytes) -> bool:
        """Let the image run on trial; whether it does."""
        return (await self._ask(ImageStatesWrite(hash=sha256))).get(sha256) is SlotState.TEST

    async def confirm(self, sha256: bytes) -> None:
        """Make the image the confirmed one: that on trial, or one that was confirmed before."""
        await self._ask(ImageStatesWrite(hash=sha256, confirm=True))

    async def erase(self, image: int, slot: int) -> None:
        """Forget what is in a slot that does not run."""
        await self._ask(ImageErase(slot=_SLOTS_OF_AN_IMAGE * image + slot))

    async def _ask(self, request: Any) -> dict[bytes, SlotState]:
        """The states that the answer tells of, if it does."""
        with self._counted():
            answer = await self._client.request(request)
            if (missed := NOT_HEARD.get(getattr(answer, "rc", 0))) is not None:
                raise TransportError(f"SMP: the node says {missed}")
            if not success(answer):
                raise NodeRefusedError(_reason(answer))
        self._count("ok")
        return {bytes(one.hash): _state(one) for one in getattr(answer, "images", ()) if one.hash is not None}

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            with _translated():
                yield
        except NodeRefusedError:
            self._count("refused")
            raise
        except TimeoutError:
            self._count("timeout")
            raise
        except TransportError:
            self._count("broken")
            raise


@contextmanager
def _translated() -> Iterator[None]:
    """What is no answer becomes a TransportError."""
    try:
        yield
    except (TimeoutError, NodeRefusedError, TransportError):
        raise
    except Exception as broken:  # DecodeError; smp lets through what cbor2, struct and enum raise
        raise TransportError(f"SMP: {type(broken).__name__}: {broken}") from broken


def _state(slot: Any) -> SlotState:
    if slot.confirmed:
        return SlotState.CONFIRMED
    return SlotState.TEST if slot.active else SlotState.VERIFIED


def _reason(answer: Any) -> str:
    refused = getattr(answer, "err", None)
    return update.refusal(int(refused.group), int(refused.rc)) if refused else f"smp rc {getattr(answer, 'rc', answer)}"
