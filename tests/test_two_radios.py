"""One node, two radios: an update that begins over one goes on over the other, with real parts: daemon, broker, C node, radio chip, air."""

import asyncio
import contextlib
import os
import shutil
import sys

import pytest
from fleet_site import FleetSite
from live import until

from gatewayd.core.update import State
from gatewayd.demo import site

pytestmark = [
    pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto"),
    pytest.mark.slow,
]
PART_BYTES = 12_000  # more than a few sectors, less than a third of the image
SECTOR_BYTES = 4_096  # what was not in flash as a whole sector is lost with a reset
INTERVAL_MS = 60.0  # of the connection: an update takes long enough to be interrupted


class Tap:
    """The node's way to the broker, which is cut after so many bytes to the node."""

    def __init__(self, broker_port):
        self.broker_port = broker_port
        self.carry(0)

    def carry(self, most_bytes):
        self.left, self.cut = most_bytes, asyncio.Event()

    @contextlib.asynccontextmanager
    async def open(self):
        async with await asyncio.start_server(self._connected, "127.0.0.1") as server:
            self.port = server.sockets[0].getsockname()[1]
            yield

    async def _connected(self, reader, writer):
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.broker_port)
            ways = [asyncio.create_task(self._carry(reader, back, 0)), asyncio.create_task(self._carry(there, writer, 1))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            back.close()
        writer.close()

    async def _carry(self, reader, writer, weight):
        while (data := await reader.read(512)) and self.left > 0:
            self.left -= weight * len(data)
            writer.write(data)
            await writer.drain()
        if self.left <= 0:
            self.cut.set()


class TwoRadios(FleetSite):
    """A gateway and one node, of which each radio may work or not."""

    def __init__(self, folder):
        super().__init__(folder)
        self.hci_port, self.socket, self.tap = site.free_port(), folder / "radio", Tap(self.mqtt_port)
        with self.config.open("a") as config:
            config.write(f'[ble]\nhci = "tcp-client:127.0.0.1:{self.hci_port}"\n')

    def chip(self):
        options = ("--hci-port", str(self.hci_port), "--interval-ms", str(INTERVAL_MS))
        return site.process([sys.executable, "-m", "gatewayd.demo.radio", self.socket, *options], self.folder / "radio.log", self.env)

    def node(self):
        ways = ("--broker", f"127.0.0.1:{self.tap.port}", "--radio", self.socket, "--flash", self.folder / "flash", "--vitals-s", "5")
        return site.process(
            [site.NODE_PROGRAM, "--id", "both", *ways, "--image", self.image, "--key", f"{self.key}.pub"], self.folder / "node.log"
        )

    def works(self, radio):
        return self.broker() if radio == "mqtt" else self.chip()

    def brought(self, radio):
        return self.series(f'gatewayd_ota_bytes_total{{transport="{radio}"}}') or 0

    async def begun(self, radio):
        """Some of the image has come over that radio, and not all."""
        if radio == "mqtt":
            await self.tap.cut.wait()
        else:
            before = self.brought("ble")
            await until(lambda: self.brought("ble") >= before + PART_BYTES, self.said, 120)

    def update(self):
        ((state, reason),) = self._rows("SELECT state, reason FROM updates")
        return state, reason


@pytest.mark.parametrize(
    ("radios", "reset"),
    [(("ble", "mqtt"), True), (("mqtt", "ble"), True), (("mqtt", "ble", "mqtt"), False), (("ble", "mqtt", "ble"), True)],
)
async def test_an_update_goes_on_over_the_other_radio(tmp_path, host_build, radios, reset):
    place = TwoRadios(tmp_path)
    async with place.tap.open(), place.start(), contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(place.node())
        for step, radio in enumerate(radios):
            last = step == len(radios) - 1
            async with place.works(radio):
                place.tap.carry(10**9 if last else PART_BYTES)
                if step == 0:
                    await until(lambda: place.known() == ["both"], place.said)
                    place.rollout("start", place.bundle, "--yes", "--no-gate", "--soak", "0s", "--groups", "1")
                if last:
                    await until(lambda: place.update()[0] == State.CONFIRMED, lambda: f"{place.update()}\n{place.said()[-3000:]}", 120)
                else:
                    await place.begun(radio)
                if reset and not last:
                    node.kill()
                    await node.wait()
            if reset and not last:
                node = await stack.enter_async_context(place.node())
        again = SECTOR_BYTES * (len(radios) - 1) if reset else 0
        assert all(place.brought(radio) > 0 for radio in radios)
        assert sum(place.brought(radio) for radio in {*radios}) <= len(place.bundle_image()) + again
        assert place.series("gatewayd_ota_resumes_total") >= len(radios) - 1
        assert place.series("gatewayd_radio_changes_total") >= len(radios) - 1
        assert place.series("gatewayd_ota_jobs_total") == 1
    assert "Traceback" not in place.said()
