"""Three real nodes on Bluetooth LE, on a motor that is damaged for half of the time, and a gateway in the guest that tells them to stop it."""

import asyncio
import contextlib
import re
import time

import numpy as np
from guest import Guest

from cascades.vibration import simulator
from gatewayd import bundle, signing
from gatewayd.demo import air, radio
from gatewayd.demo import site as processes

NAMES = "mill", "pump", "saw"
VIBRATION = processes.BROKER_FILES.parent.parent / "cascades" / "vibration"
ACTION = ": vibration: action "


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
        private, shipped = signing.load_private(self.key), bundle.read(VIBRATION)
        decision = shipped.cascade.node.decision.model_copy(update={"audit_s": 0})
        node = shipped.cascade.node.model_copy(update={"decision": decision})
        old = shipped._replace(cascade=shipped.cascade.model_copy(update={"node": node}))
        (folder / "old.img").write_bytes(bundle.node_image(old, key=private))
        (folder / "new.bundle").write_bytes(bundle.build(shipped, counter=2, key=private))
        damage = np.repeat([0.0, 2.0], 12 * simulator.RATE_HZ)  # one event, of 32 KB, each time that it begins
        simulator.write_wav(folder / "motor.wav", simulator.record(simulator.machine(0, 200), 24, 1, "outer race", damage))

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
        return [self.program, "--id", name, *paths, "--input", f"vibration:{self.folder / 'motor.wav'}", "--loop", "--vitals-s", "600"]

    async def plug(self):
        await self.adapter.enter_async_context(self.guest.plugged(self.controller))

    async def unplug(self):
        await self.adapter.aclose()

    # ---- what is seen

    def _log(self, name):
        return self.folder / f"{name}.log"

    def actions(self):
        """How often each node was told to act. It takes an event, a larger model's opinion on it, and a verdict that came in time."""
        return {name: self._log(name).read_text().count(ACTION) for name in NAMES}

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
