"""A microcontroller under QEMU, with what a laboratory has around one: power, reset, network cable, microphone, console, debugger."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import m4
from gdb import Stopped
from live import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    import numpy.typing as npt

FLASH_BYTES = 16 << 20
BOARDS = {  # by preset
    "qemu-m4": "mps2-an386",
    "qemu-m4-ble": "mps2-an386",
    "qemu-m4-plain": "mps2-an386",
    "qemu-m4-x509": "mps2-an386",
    "qemu-m3": "mps2-an385",
}
RADIO = ("-chardev", "socket,id=radio,path=radio,server=off,reconnect=1", "-serial", "chardev:radio")  # at the second UART
BOOTED = ", reset: "  # once in every life of a board that is provisioned
HANG, FAULT = bytes.fromhex("fee7"), bytes.fromhex("00de")  # Thumb: `b .` and `udf #0`
_PATIENCE_S = 60


@functools.cache
def firmware(preset: str) -> Path:
    """The firmware, up to date. Raises m4.Missing where what builds or runs it is not installed."""
    return m4.build(preset, "node") / "ports" / "mps2" / "node.elf"


class Machine:
    """One board. Its flash, its console's log and what it hears are files in `folder`, and outlive its power. With Bluetooth LE it
    looks for its radio chip at `radio` in there.
    """

    def __init__(self, folder: Path, provisioning: bytes, preset: str = "qemu-m4", network: str = "user") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.preset, self.network = folder, preset, network
        self.flash, self.console, self.audio = folder / "flash", folder / "uart.log", folder / "audio.raw"
        self._powered = 0  # where in the log
        with self.flash.open("wb") as file:
            file.write(provisioning)
            file.truncate(FLASH_BYTES)
        self.console.touch()
        self.audio.touch()

    # ---- power

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def start(self, *wrapper: str) -> None:
        """Power on; `wrapper` are words before QEMU's."""
        self._powered = self.console.stat().st_size
        with (self.folder / "qemu.log").open("ab") as log:
            self._qemu = await asyncio.create_subprocess_exec(
                *wrapper, *self._command(), cwd=self.folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        await self._qmp("qmp_capabilities")

    async def kill(self) -> None:
        """Power off, at once."""
        if self._qemu.returncode is None:
            self._qemu.kill()
        await self._qemu.wait()

    def _command(self) -> list[str]:
        return [
            *("qemu-system-arm", "-M", f"{BOARDS[self.preset]},memory-backend=nor", "-display", "none"),
            *("-kernel", str(firmware(self.preset))),
            *("-object", f"memory-backend-file,id=nor,size={FLASH_BYTES},mem-path={self.flash},share=on"),
            *("-nic", f"{self.network},model=lan9118,id=net", "-chardev", "null,id=nowhere"),
            *("-chardev", f"file,id=uart,path={self.console},append=on", "-serial", "chardev:uart", "-qmp", "stdio"),
            *(RADIO if self.preset == "qemu-m4-ble" else ()),
            *("-gdb", "unix:gdb,server=on,wait=off"),
            *("-semihosting-config", "enable=on,target=native"),
        ]

    async def _qmp(self, command: str, **arguments: Any) -> Any:
        assert self._qemu.stdin is not None
        assert self._qemu.stdout is not None
        self._qemu.stdin.write(json.dumps({"execute": command, "arguments": arguments}).encode())
        async with asyncio.timeout(_PATIENCE_S):
            while line := await self._qemu.stdout.readline():
                said = json.loads(line)
                assert "error" not in said, said
                if "return" in said:  # and not the greeting, or an event
                    return said["return"]
        raise AssertionError((self.folder / "qemu.log").read_text())

    # ---- reset

    async def reset(self) -> None:
        """Press the button."""
        lives = self.lives()
        await self._qmp("system_reset")
        await self._boot(lives)

    @contextlib.asynccontextmanager
    async def resets(self) -> AsyncIterator[None]:
        """What is done in the block makes it reset by itself."""
        lives = self.lives()
        yield
        await self._boot(lives)

    async def _boot(self, lives: int) -> None:
        await until(lambda: self.lives() > lives, self.console.read_text)

    # ---- what is plugged in

    async def cable(self, *, plugged: bool) -> None:
        """Of the network, at the board."""
        await self._qmp("set_link", name="net", up=plugged)

    async def switch(self, *, works: bool) -> None:
        """Of the network, behind the cable, where the board cannot see what becomes of its frames."""
        if works:
            await self._qmp("object-del", id="broken")
        else:
            filtered = {"qom-type": "filter-redirector", "netdev": "net", "queue": "all", "outdev": "nowhere"}
            await self._qmp("object-add", id="broken", **filtered)

    def say(self, samples: npt.NDArray[np.int16]) -> None:
        """Into its microphone."""
        with self.audio.open("ab") as file:
            file.write(samples.astype("<i2").tobytes())

    def lives(self) -> int:
        """How often it has booted since it has power."""
        return self._log().count(BOOTED)

    def said(self) -> str:
        """On the console, in this life."""
        return self._log().rpartition(BOOTED)[2]

    def _log(self) -> str:
        return self.console.read_bytes()[self._powered :].decode(errors="replace")

    async def until_said(self, words: str, times: int = 1) -> None:
        """In this life. Raises AssertionError with the log."""
        await until(lambda: self.said().count(words) >= times, self.console.read_text)

    # ---- the debugger

    def stopped(self) -> Stopped:
        """Its memory, while it stands still in the block."""
        return Stopped(Path(f"/proc/{self._qemu.pid}/cwd/gdb"))  # a socket's path is at most 107 bytes

    def function(self, name: str) -> int:
        """Where one of the firmware's functions begins."""
        return {name: address for address, name in self._functions().items()}[name]

    def function_at(self, address: int) -> str:
        """The one that has the instruction at `address`."""
        return next(name for begin, name in reversed(self._functions().items()) if begin <= address)

    def _functions(self) -> dict[int, str]:
        return m4.functions(firmware(self.preset))

    async def patch(self, function: str, instruction: bytes) -> None:
        """Write over the beginning of a function: a defect, until the next reset loads the program anew."""
        async with self.stopped() as memory:
            await memory.write(self.function(function), instruction)
