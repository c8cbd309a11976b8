"""Three real nodes on Bluetooth LE, on a motor whose bearing fails again and again, and a gateway in the guest that judges them."""

import asyncio
import contextlib
import io
import re
import shutil
import tarfile
import time

import numpy as np
from guest import MORTAL, Guest

from cascades.vibration import simulator
from gatewayd import bundle, signing
from gatewayd.demo import air, radio
from gatewayd.demo import site as processes

NAMES = "mill", "pump", "saw"
VIBRATION = processes.BROKER_FILES.parent.parent / "cascades" / "vibration"
JUDGED = ": vibration: action stop-motor (outer race)"  # alone, without a larger model, it would not know the fault


class Site:
    """`folder` has the operator's key, the nodes' image, and the bundle of another version."""

    def __init__(self, folder, build):
        self.folder, self.guest = folder, Guest(folder)
        self.program = build / "ports" / "posix" / "gateway-node"
        self.air = air.Air(interval_ms=15)
        self.controller = air.Controller("gateway", self.air, "00:11:22:33:44:55")
        self.adapter = contextlib.AsyncExitStack()  # what is closed when it is unplugged
        self.key = folder / "operator.pem"
        signing.make(self.key)
        (folder / "old.img").write_bytes(bundle.node_image(self._cascade("1.0.0"), key=signing.load_private(self.key)))
        (folder / "new.bundle").write_bytes(bundle.build(self._cascade("1.1.0"), counter=2, key=signing.load_private(self.key)))
        self.image = bundle.open_bundle(folder / "new.bundle", None).members[bundle.NODE_IMAGE]
        damage = np.concatenate([np.zeros(12 * simulator.RATE_HZ), np.linspace(0, 3, 12 * simulator.RATE_HZ)])
        simulator.write_wav(folder / "motor.wav", simulator.record(simulator.machine(0, 200), 24, 1, "outer race", damage))

    def _cascade(self, version):
        """The shipped one, with more patience for a larger model on an emulated processor."""
        copy = self.folder / version / "vibration"
        shutil.copytree(VIBRATION, copy)
        text = (copy / bundle.CASCADE).read_text().replace("1.0.0", version).replace("deadline_s = 2.0", "deadline_s = 20.0")
        (copy / bundle.CASCADE).write_text(text)
        return bundle.read(copy)

    async def install(self):
        """What an operator has to say before the service may start: whose models it may run, and which."""
        await self.guest.run("cat >/etc/gatewayd/operator.pem.pub", (self.folder / "operator.pem.pub").read_bytes())
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(self.folder / "1.0.0" / "vibration", "vibration")
        await self.guest.run("tar -xC /etc/gatewayd --no-same-owner", packed.getvalue())

    @contextlib.asynccontextmanager
    async def up(self):
        radios = [self.folder / f"{name}.radio" for name in NAMES]
        async with self.guest, self.adapter, radio.cell(self.air, radios), contextlib.AsyncExitStack() as nodes:
            await self.plug()
            for name in NAMES:
                await nodes.enter_async_context(processes.process(self._node(name), self._log(name)))
            yield

    def _node(self, name):
        files = {"radio": f"{name}.radio", "flash": f"{name}.flash", "key": "operator.pem.pub", "image": "old.img"}
        paths = [word for option, file in files.items() for word in (f"--{option}", self.folder / file)]
        return [
            *MORTAL,
            self.program,
            "--id",
            name,
            *paths,
            "--input",
            f"vibration:{self.folder / 'motor.wav'}",
            "--loop",
            "--vitals-s",
            "600",
        ]

    async def plug(self):
        await self.adapter.enter_async_context(self.guest.plugged(self.controller))

    async def unplug(self):
        await self.adapter.aclose()

    # ---- what is seen

    def _log(self, name):
        return self.folder / f"{name}.log"

    def actions(self):
        """How often each node was told to act. It takes an event, a larger model's opinion on it, and a verdict that came in time."""
        return {name: self._log(name).read_text().count(JUDGED) for name in NAMES}

    async def whole(self, bound_s):
        """Until each node has been told once more. Raises AssertionError when that takes longer."""
        before, began = self.actions(), time.monotonic()
        while not all(count > before[name] for name, count in self.actions().items()):
            assert time.monotonic() - began < bound_s, f"{before}, {bound_s} s later {self.actions()}\n{await self.metrics()}"
            await asyncio.sleep(0.2)
        print(f"whole after {time.monotonic() - began:.1f} s")

    async def metrics(self):
        """What the gateway says on /metrics."""
        return await self.guest.run(r"exec 3<>/dev/tcp/127.0.0.1/8460; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3")

    async def series(self, name):
        """Its sum there."""
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", await self.metrics(), re.MULTILINE))
