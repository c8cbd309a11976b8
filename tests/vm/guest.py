"""A virtual machine that runs what image.py built: commands in it, its console, and its Bluetooth adapters, whose radios are ours."""

import asyncio
import base64
import contextlib
import json
import os
from pathlib import Path

import image
import pytest
from bumble.transport import open_transport

from gatewayd.demo import air

CONSOLE = pytest.StashKey()  # of the session's configuration: the file, which a failure shows
ADAPTERS = "hci0", "hci1"
MORTAL = "setpriv", "--pdeathsig", "KILL"  # what follows dies with us, however we end
BOOT_S = 300
QUIET = "e2scrub_reap.service", "getty@tty1.service", "serial-getty@ttyS0.service", "systemd-logind.service"  # of no use to anybody here


class Guest:
    """It runs from the RAM disk `initrd`. Its console's log, with its journal, is a file in `folder`.

    With a `port` it has a network, of which nothing is reached but its own port 80: at that port of this machine's loopback.
    """

    def __init__(self, folder: Path, initrd: Path, memory_mib: int = 2048, port: int = 0) -> None:
        self.folder, self.console = folder, folder / "console.log"
        self.address = f"http://localhost:{port}"
        self._initrd, self._memory_mib, self._port = initrd, memory_mib, port
        self._asking = asyncio.Lock()
        self._agent = None

    async def __aenter__(self):
        with (self.folder / "qemu.log").open("wb") as log:
            self._qemu = await asyncio.create_subprocess_exec(*self._command(), cwd=self.folder, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(BOOT_S):
                while not self._socket("agent").exists():
                    assert self._qemu.returncode is None, (self.folder / "qemu.log").read_text()
                    await asyncio.sleep(0.05)
                self._agent = await asyncio.open_unix_connection(self._socket("agent"), limit=16 << 20)
                await self.run("systemctl is-system-running --wait || systemctl --failed", timeout_s=BOOT_S)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc):
        if self._qemu.returncode is None:
            self._qemu.kill()
        await self._qemu.wait()
        if self._agent is not None:
            self._agent[1].close()
            await asyncio.gather(self._agent[1].wait_closed(), return_exceptions=True)

    def _socket(self, name: str) -> Path:
        """By a path that is short enough for a socket."""
        return Path(f"/proc/{self._qemu.pid}/cwd/{name}")

    def _command(self):
        # /dev/kvm alone says nothing: without these flags it cannot run a stock kernel.
        native = {"vmx", "svm"} & {*Path("/proc/cpuinfo").read_text().split()} and os.access("/dev/kvm", os.W_OK)
        yield from (
            "setpriv",
            "--pdeathsig",
            "KILL",
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        )
        yield from ("-machine", "q35", "-smp", "2", "-m", str(self._memory_mib))
        yield from ("-accel", "kvm", "-cpu", "host") if native else ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max")
        yield from ("-kernel", image.KERNEL, "-initrd", self._initrd)
        kernel = "console=ttyS0 panic=-1 quiet tsc=reliable random.trust_cpu=on mitigations=off"
        yield from (
            "-append",
            " ".join(
                [
                    kernel,
                    "systemd.journald.forward_to_console=1",
                    "systemd.journald.max_level_console=debug",
                    *(f"systemd.mask={unit}" for unit in QUIET),
                ]
            ),
        )
        yield from ("-serial", f"file:{self.console}", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci")
        for socket, port in {"agent": "org.qemu.guest_agent.0", **dict.fromkeys(ADAPTERS)}.items():
            yield from ("-chardev", f"socket,id={socket},path={socket},server=on,wait=off")
            yield from ("-device", f"virtserialport,chardev={socket},name={port or socket}")
        if self._port:
            yield from ("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:80")
            yield from ("-device", "virtio-net-pci,netdev=net,romfile=")

    @contextlib.asynccontextmanager
    async def plugged(self, adapter: str, controller: air.Controller):
        """A Bluetooth adapter with this controller, until it is pulled out."""
        transport = await open_transport(f"unix:{self._socket(adapter)}")
        transport.source.set_packet_sink(controller)
        controller.host = transport.sink
        try:
            yield
        finally:
            controller.host = None
            await transport.close()

    async def run(self, command: str, stdin: bytes = b"", timeout_s: float = 60) -> str:
        """What a root shell's `command` printed. Raises AssertionError where it fails."""
        async with asyncio.timeout(timeout_s):
            shell = {"path": "/bin/bash", "arg": ["-c", f"exec 2>&1\n{command}"]}
            started = await self._ask("guest-exec", **shell, **{"input-data": base64.b64encode(stdin).decode(), "capture-output": True})
            while not (done := await self._ask("guest-exec-status", **started))["exited"]:
                await asyncio.sleep(0.1)
        said = base64.b64decode(done.get("out-data", "")).decode(errors="replace")
        assert done.get("exitcode") == 0, f"{command}: {done.get('exitcode', done.get('signal'))}\n{said}"
        return said

    async def _ask(self, what, **arguments):
        reader, writer = self._agent
        async with self._asking:
            writer.write(json.dumps({"execute": what, "arguments": arguments}).encode() + b"\n")
            answer = json.loads(await reader.readline())
        assert "return" in answer, answer
        return answer["return"]
