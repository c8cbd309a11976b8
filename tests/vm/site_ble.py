"""Real nodes on Bluetooth LE, on a motor whose bearing fails again and again, and a gateway in the guest that judges them."""

import asyncio
import contextlib
import io
import json
import re
import shutil
import tarfile
import time

import numpy as np
from bumble import hci
from guest import ADAPTERS, MORTAL

from cascades.vibration import simulator
from gatewayd import bundle, signing
from gatewayd.demo import air, radio
from gatewayd.demo import site as processes

NAMES = "mill", "pump", "saw"  # always there
GUARDED = {"lathe": "compare", "press": "123456"}  # there when a test needs them: what a central must have done
NEWCOMERS = "grinder", "twin"  # there when a test needs them: nobody yet
CTL = "runuser -u gatewayd -- gatewayctl"
CONFIG = "/etc/gatewayd/gatewayd.toml"
UNIT = "gatewayd.service"
START_S = 300  # on an emulated processor that others use too
VIBRATION = processes.BROKER_FILES.parent.parent / "cascades" / "vibration"
JUDGED = ": vibration: action stop-motor (outer race)"  # alone, without a larger model, it would not know the fault


class Site:
    """`folder` has the operator's key, the nodes' image, and the bundle of another version."""

    def __init__(self, folder, build, guest):
        self.folder, self.guest = folder, guest
        self.program = build / "ports" / "posix" / "gateway-node"
        self.air = air.Air(interval_ms=15)
        self._controllers = {name: air.Controller(name, self.air, f"00:11:22:33:44:5{n}") for n, name in enumerate(ADAPTERS)}
        self._adapters = {name: contextlib.AsyncExitStack() for name in ADAPTERS}  # each closed when it is unplugged
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
        await self.guest.run(f"systemctl start {UNIT}", timeout_s=START_S)  # until it is READY

    @contextlib.asynccontextmanager
    async def configured(self, adapters, pairing="open"):
        """The service with another [ble], and then as it was."""
        section = f"[ble]\nadapters = {json.dumps(adapters)}\npairing = {json.dumps(pairing)}\n"
        await self.guest.run(f"cp {CONFIG} /tmp/before.toml && sed -i '/^.ble/,/^$/d' {CONFIG} && cat >>{CONFIG}", section.encode())
        try:
            await self.guest.run(f"systemctl restart {UNIT}", timeout_s=START_S)
            yield
        finally:
            await self.guest.run(f"cp /tmp/before.toml {CONFIG} && systemctl restart {UNIT}", timeout_s=START_S)

    @contextlib.asynccontextmanager
    async def up(self):
        names = *NAMES, *GUARDED, *NEWCOMERS
        async with self.guest, contextlib.AsyncExitStack() as here:
            for adapter in self._adapters.values():
                await here.enter_async_context(adapter)
            chips = await here.enter_async_context(radio.cell(self.air, [self.folder / f"{name}.radio" for name in names]))
            self.chips = dict(zip(names, chips, strict=True))
            await self.plug("hci0")
            for name in NAMES:
                await here.enter_async_context(self.node(name))
            await self.install()
            yield

    @contextlib.asynccontextmanager
    async def node(self, name, *more):
        """Its process."""
        files = {"radio": f"{name}.radio", "flash": f"{name}.flash", "image": "old.img"}
        paths = [word for option, file in files.items() for word in (f"--{option}", self.folder / file)]
        motor = "--input", f"vibration:{self.folder / 'motor.wav'}", "--loop"
        who = () if name in NEWCOMERS else self.named(name)
        command = [*MORTAL, self.program, *who, *paths, *motor, "--vitals-s", "600", *more]
        async with processes.process(command, self.log(name)) as running:
            yield running

    def named(self, node):
        """The options of a process that is that node without being provisioned."""
        return "--id", node, "--key", self.key.with_suffix(".pem.pub")

    async def plug(self, adapter):
        """Until it is there: the first that is plugged in gets the first name."""
        self.air.add_controller(self._controllers[adapter])
        await self._adapters[adapter].enter_async_context(self.guest.plugged(adapter, self._controllers[adapter]))
        await self.guest.run(f"until test -e /sys/class/bluetooth/{adapter}; do sleep 0.1; done")

    async def unplug(self, adapter):
        """Until it is gone. A moment before, it is deaf: Linux 6.1 has a bug (in hci_chan_del) where an adapter goes with links up."""
        controller = self._controllers[adapter]
        self.air.remove_controller(controller)
        for link in tuple(controller.le_connections.values()):
            controller.on_le_disconnected(link, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)
        await asyncio.sleep(1)
        await self._adapters[adapter].aclose()
        await self.guest.run(f"until ! test -e /sys/class/bluetooth/{adapter}; do sleep 0.1; done")

    # ---- what is seen

    def log(self, name):
        return self.folder / f"{name}.log"

    def actions(self):
        """How often each node was told to act. It takes an event, a larger model's opinion on it, and a verdict that came in time."""
        return {name: file.read_text().count(JUDGED) for name in self.chips if (file := self.log(name)).exists()}

    async def whole(self, bound_s, nodes=NAMES):
        """Until each node has been told once more. Raises AssertionError when that takes longer."""
        before, began = self.actions(), time.monotonic()
        while not all(self.actions()[name] > before[name] for name in nodes):
            assert time.monotonic() - began < bound_s, f"{before}, {bound_s} s later {self.actions()}\n{await self.metrics()}"
            await asyncio.sleep(0.2)
        print(f"whole after {time.monotonic() - began:.1f} s")

    async def refused(self, reason, bound_s):
        """Until somebody was refused once more for that. Raises AssertionError when that takes longer."""
        name = rf'gatewayd_ble_refused_total\{{reason="{reason}"\}}'
        before, began = await self.series(name), time.monotonic()
        while await self.series(name) <= before:
            assert time.monotonic() - began < bound_s, await self.metrics()
            await asyncio.sleep(0.5)

    async def metrics(self):
        """What the gateway says on /metrics."""
        return await self.guest.run(r"exec 3<>/dev/tcp/127.0.0.1/8460; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3")

    async def series(self, name):
        """Its sum there."""
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", await self.metrics(), re.MULTILINE))
