"""What core.update asks of a node, said over SMP by smpclient: `Courier` has a verb for each of its actions, and reads the node's slots.

A refusal is a NodeRefusedError with the node's reason; a link that breaks is a TransportError, silence a TimeoutError.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from smpclient import SMPClient
from smpclient.exceptions import SMPUploadError
from smpclient.generics import success
from smpclient.requests.image_management import ImageErase, ImageStatesRead, ImageStatesWrite

from gatewayd.core import update
from gatewayd.core.types import SlotState
from gatewayd.errors import GatewaydError, NodeRefusedError, TransportError
from gatewayd.metrics import SmpResult
from gatewayd.smp import NodeLink, SmpLinks

TIMEOUT_S = 5.0
_PATIENCE_S = 30.0  # the first piece of an upload may wait for an erase, the last is answered when the node has verified the image
_MOST_STALLS = 8  # answers that bring an upload no further
_SLOTS_OF_AN_IMAGE = 2  # MCUmgr counts slots through all images


@asynccontextmanager
async def conversation(links: SmpLinks, node: str, count: Callable[[SmpResult], None]) -> AsyncIterator["Courier"]:
    """A conversation with `node`; `count` hears the result of every request. Raises TransportError, also where there is one already."""
    client = SMPClient(NodeLink(links), node, TIMEOUT_S)
    try:
        with _translated():
            await client.connect()  # asks for the size of its buffer
        yield Courier(client, count)
    finally:
        await client.disconnect()


class Courier:
    """One conversation with a node about its images."""

    def __init__(self, client: SMPClient, count: Callable[[SmpResult], None]) -> None:
        self._client = client
        self._count = count
        self.frame_bytes = client._transport.max_unencoded_size  # noqa: SLF001 -- smpclient has no other way to ask

    async def states(self) -> dict[bytes, SlotState]:
        """What is in the node's slots, by the image's SHA-256. Asking lets a trial's deadline begin anew."""
        return await self._ask(ImageStatesRead())

    async def upload(self, data: bytes, image: int) -> AsyncIterator[int]:
        """Bring `data`, from where the node has it; yields how many bytes it has by now. Ends when the node has verified them."""
        furthest, stalls = -1, 0
        with self._counted():
            async for offset in self._client.upload(data, slot=image, first_timeout_s=_PATIENCE_S, subsequent_timeout_s=_PATIENCE_S):
                self._count("ok")
                furthest, stalls = max(furthest, offset), 0 if offset > furthest else stalls + 1
                if offset > len(data) or stalls > _MOST_STALLS:
                    raise TransportError(f"SMP: the upload stays at {furthest} of {len(data)} bytes")
                yield offset

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
            if not success(answer):
                raise NodeRefusedError(_reason(answer))
        self._count("ok")
        return {bytes(one.hash): _state(one) for one in getattr(answer, "images", ()) if one.hash is not None}

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            with _translated():
                yield
        except SMPUploadError as refused:
            self._count("refused")
            raise NodeRefusedError(_reason(refused.args[0])) from refused
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
    """Whatever smpclient makes of a node's bytes becomes a TransportError."""
    try:
        yield
    except (TimeoutError, GatewaydError, SMPUploadError):  # the last one carries the node's answer
        raise
    except Exception as broken:  # smp lets through what cbor2, struct and enum raise
        raise TransportError(f"SMP: {type(broken).__name__}: {broken}") from broken


def _state(slot: Any) -> SlotState:
    if slot.confirmed:
        return SlotState.CONFIRMED
    return SlotState.TEST if slot.active else SlotState.VERIFIED


def _reason(answer: Any) -> str:
    refused = getattr(answer, "err", None)
    return update.refusal(int(refused.group), int(refused.rc)) if refused else f"smp rc {getattr(answer, 'rc', answer)}"
