"""A machine stood still, and its memory: as much of GDB's remote protocol as that takes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S = 30
_PACKET_BYTES = 1_024  # QEMU takes twice as much


class Stopped:
    """The machine behind QEMU's GDB stub: it stands still in the block, and goes on afterwards."""

    def __init__(self, stub: Path) -> None:
        self._stub = stub

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(self._stub)  # QEMU stops it for who connects
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._ask("D")
        self._writer.close()

    async def read(self, address: int, size: int) -> bytes:
        pieces = [(at, min(_PACKET_BYTES, address + size - at)) for at in range(address, address + size, _PACKET_BYTES)]
        return b"".join([bytes.fromhex(await self._ask(f"m{at:x},{length:x}")) for at, length in pieces])

    async def write(self, address: int, data: bytes) -> None:
        said = await self._ask(f"M{address:x},{len(data):x}:{data.hex()}")
        assert said == "OK", said

    async def _ask(self, packet: str) -> str:
        self._writer.write(f"${packet}#{sum(packet.encode()) % 256:02x}".encode())
        async with asyncio.timeout(_PATIENCE_S):
            while (said := await self._packet()).startswith("T"):  # unasked: it stopped
                pass
        return said

    async def _packet(self) -> str:
        await self._reader.readuntil(b"$")
        said = (await self._reader.readuntil(b"#"))[:-1].decode()
        await self._reader.readexactly(2)
        self._writer.write(b"+")
        return said
