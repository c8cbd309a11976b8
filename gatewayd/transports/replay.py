"""Replays recorded frames: a day of a site in a minute, for benches, bug reports and tests.

A recording is a CBOR sequence (RFC 8742) of `[ms since the start, node, tail, payload]`; `gatewayctl watch --record` makes one.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import IO

import cbor2

from gatewayd.core.types import Frame
from gatewayd.errors import TransportError

_BATCH = 256


def write_frame(file: IO[bytes], at_ms: int, node: str, tail: str, payload: bytes) -> None:
    """Append one frame to a recording."""
    file.write(cbor2.dumps([at_ms, node, tail, payload]))


def read_frames(data: bytes) -> Iterator[tuple[int, str, str, bytes]]:
    """The frames of a recording. Raises TransportError where it is damaged."""
    stream = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(stream, max_depth=1, allow_indefinite=False)
    while stream.tell() < len(data):
        at = stream.tell()
        try:
            at_ms, node, tail, payload = decoder.decode()
        except (cbor2.CBORDecodeError, TypeError, ValueError) as error:
            raise TransportError(f"recording is damaged at byte {at}: {error}") from error
        if not (isinstance(at_ms, int) and isinstance(node, str) and isinstance(tail, str) and isinstance(payload, bytes)):
            raise TransportError(f"recording is damaged at byte {at}: not [ms, node, tail, payload]")
        yield at_ms, node, tail, payload


class ReplayTransport:
    """Plays a file once. `speed` 1 keeps its pace, 0 does not wait at all. What is sent to nodes is kept in `sent`."""

    def __init__(self, file: Path, speed: float = 1.0) -> None:
        self.name = "replay"
        self.acknowledged = 0
        self.sent: list[tuple[str, str, bytes]] = []
        self._file = file
        self._speed = speed

    async def run(self) -> None:
        """Nothing to keep alive."""
        await asyncio.Event().wait()

    async def frames(self) -> AsyncIterator[Sequence[Frame]]:
        """The recording's frames, as fast as `speed` says; then none."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        batch: list[Frame] = []
        for at_ms, node, tail, payload in read_frames(await asyncio.to_thread(self._file.read_bytes)):
            early_s = began + at_ms / 1_000 / self._speed - loop.time() if self._speed else 0
            if batch and (early_s > 0 or len(batch) >= _BATCH):
                yield batch
                batch = []
            if early_s > 0:
                await asyncio.sleep(early_s)
            batch.append(Frame(node, tail, payload, self.name, self._acknowledge))
        if batch:
            yield batch

    def _acknowledge(self) -> None:
        self.acknowledged += 1

    def send(self, node: str, tail: str, payload: bytes) -> None:
        """Keep what would have been sent."""
        self.sent.append((node, tail, payload))

    def reaches(self, node: str) -> bool:  # noqa: ARG002
        """Nothing is in the way."""
        return True
