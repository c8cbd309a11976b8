"""Pairing by the real BlueZ and its agent, with an operator at the guest's keyboard: who has paired is heard, nobody else, and it lasts."""

import asyncio
import contextlib
import re
import signal
import time

import pytest
import pytest_asyncio
from site_ble import CTL, GUARDED, UNIT

from gatewayd.demo.line import Chip

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

BOUND_S = 150  # to be whole again, on an emulated processor that others use too
ORDER_S = 130  # an operator's order stands for two minutes
REFUSED = r'gatewayd_ble_refused_total\{reason="unpaired"\}'


class Shop:
    """The site, with the policy that nodes have to pair, and two nodes that can; `said` is what their chips told them, by node."""

    def __init__(self, site, processes):
        self.site, self.processes = site, processes
        self.said = {name: [] for name in GUARDED}
        for name, said in self.said.items():
            site.chips[name].overhear = lambda kind, _payload, said=said: said.append(kind)

    async def pair(self, name, *more):
        """Begin `gatewayctl node pair`, with a screen and a keyboard that are files. Returns the task of what it says."""
        await self.site.guest.run("rm -f /tmp/keyboard /tmp/screen; mkfifo /tmp/keyboard")  # another number would stand there
        command = f"{CTL} node pair {name} {' '.join(more)} <>/tmp/keyboard | tee /tmp/screen"
        return asyncio.create_task(self.site.guest.run(f"set -o pipefail\n{command}", timeout_s=ORDER_S))

    async def number(self, name):
        """The number that the gateway shows, when the node shows the same."""
        async with asyncio.timeout(ORDER_S):
            while not (shown := re.search(r"has the number (\d{6})", await self.site.guest.run("cat /tmp/screen || true"))):
                await asyncio.sleep(0.2)
            while f"does the peer show {shown[1]}?" not in self.site.log(name).read_text():
                await asyncio.sleep(0.2)

    async def answer(self, name, word):
        """The operator presses the node's button, and a key."""
        self.processes[name].send_signal(signal.SIGUSR1)
        await self.site.guest.run(f"echo {word} >/tmp/keyboard")

    async def refused(self):
        """Until advertisements of the unpaired were refused once more."""
        before, began = await self.site.series(REFUSED), time.monotonic()
        while await self.site.series(REFUSED) <= before:
            assert time.monotonic() - began < BOUND_S, await self.site.metrics()
            await asyncio.sleep(0.5)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(site):
    async with contextlib.AsyncExitStack() as running:
        await running.enter_async_context(site.configured(["hci0"], pairing="required"))
        processes = {name: await running.enter_async_context(site.node(name, "--pairing", how)) for name, how in GUARDED.items()}
        yield Shop(site, processes)


async def test_who_has_not_paired_is_not_connected(shop):
    await shop.refused()
    assert not await shop.site.series("gatewayd_ble_connections_total")
    assert not await shop.site.series("gatewayd_node_up")


async def test_a_number_that_is_not_the_same(shop):
    pairing = await shop.pair("lathe")
    await shop.number("lathe")
    await shop.answer("lathe", "n")
    with pytest.raises(AssertionError, match="the numbers are not the same"):
        await pairing


async def test_numbers_are_compared(shop):
    pairing = await shop.pair("lathe")
    await shop.number("lathe")
    await shop.answer("lathe", "y")
    assert "lathe: paired, authenticated" in await pairing
    await shop.site.whole(BOUND_S, ["lathe"])


@pytest.mark.parametrize("digits", ["123457", ""])
async def test_a_passkey_that_is_wrong_or_missing(shop, digits):
    with pytest.raises(AssertionError, match="press has not paired"):
        await (await shop.pair("press", *(["--passkey", digits] if digits else [])))


async def test_a_passkey(shop):
    assert "press: paired, authenticated" in await (await shop.pair("press", "--passkey", GUARDED["press"]))
    await shop.site.whole(BOUND_S, GUARDED)


@pytest.mark.parametrize("service", ["bluetooth", UNIT])
async def test_a_bond_outlives(shop, service):
    for said in shop.said.values():
        said.clear()
    await shop.site.guest.run(f"systemctl restart {service}", timeout_s=BOUND_S)
    await shop.site.whole(BOUND_S, GUARDED)
    for said in shop.said.values():
        assert Chip.SECURED in said
        assert Chip.COMPARE not in said
    assert await shop.site.series("gatewayd_node_up") == len(GUARDED)


async def test_a_node_that_has_lost_its_bond(shop):
    await shop.site.chips["press"]._bonds.delete_all()
    await shop.site.chips["press"].restart()
    began = time.monotonic()
    while not re.search("pairing with press: .* does not have the key", said := await shop.site.guest.run(f"{CTL} doctor || true")):
        assert time.monotonic() - began < BOUND_S, said
        await asyncio.sleep(2)
    await shop.site.whole(BOUND_S, ["lathe"])  # although Linux 6.1 may kill bluetoothd whenever a key is missing
    await shop.site.guest.run(f"{CTL} node unpair press")
    assert "press: paired, authenticated" in await (await shop.pair("press", "--passkey", GUARDED["press"]))
    await shop.site.whole(BOUND_S, GUARDED)


async def test_a_bond_is_taken_back(shop):
    await shop.site.guest.run(f"{CTL} node unpair lathe")
    await shop.refused()
    began = time.monotonic()
    while "F0:00:00:00:00:04" in await shop.site.guest.run("bluetoothctl devices Paired"):
        assert time.monotonic() - began < BOUND_S
        await asyncio.sleep(1)
    await shop.site.whole(BOUND_S, ["press"])
