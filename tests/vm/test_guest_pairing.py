"""Pairing by the real BlueZ and its agent, with an operator at the guest's keyboard: who has paired is heard, nobody else, and it lasts."""

import asyncio
import contextlib
import re
import time

import pytest
import pytest_asyncio
from site_ble import CTL, GUARDED, UNIT
from table import Table

from gatewayd.demo.line import Chip

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

BOUND_S = 150  # to be whole again, on an emulated processor that others use too


class Shop:
    """The site, with the policy that nodes have to pair, and two nodes that can, each on a table."""

    def __init__(self, site, tables):
        self.site, self.tables = site, tables

    async def pair(self, name, *more):
        """Begin `gatewayctl node pair`. Returns the task of what it says."""
        return await self.tables[name].order("pair", name, *more)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(site):
    async with contextlib.AsyncExitStack() as running:
        await running.enter_async_context(site.configured(["hci0"], pairing="required"))
        processes = {name: await running.enter_async_context(site.node(name, "--pairing", how)) for name, how in GUARDED.items()}
        yield Shop(site, {name: Table(site, name, process) for name, process in processes.items()})


async def test_who_has_not_paired_is_not_connected(shop):
    await shop.site.refused("unpaired", BOUND_S)
    assert not await shop.site.series("gatewayd_ble_connections_total")
    assert not await shop.site.series("gatewayd_node_up")


async def test_a_number_that_is_not_the_same(shop):
    pairing = await shop.pair("lathe")
    await shop.tables["lathe"].number()
    await shop.tables["lathe"].answer("n")
    with pytest.raises(AssertionError, match="the numbers are not the same"):
        await pairing


async def test_numbers_are_compared(shop):
    pairing = await shop.pair("lathe")
    await shop.tables["lathe"].number()
    await shop.tables["lathe"].answer("y")
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
    for table in shop.tables.values():
        table.said.clear()
    await shop.site.guest.run(f"systemctl restart {service}", timeout_s=BOUND_S)
    await shop.site.whole(BOUND_S, GUARDED)
    for table in shop.tables.values():
        assert Chip.SECURED in table.said
        assert Chip.COMPARE not in table.said
    assert await shop.site.series("gatewayd_node_up") == len(GUARDED)


async def test_a_node_that_has_lost_its_bond(shop):
    await shop.tables["press"].lose_bonds()
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
    await shop.site.refused("unpaired", BOUND_S)
    began = time.monotonic()
    while "F0:00:00:00:00:04" in await shop.site.guest.run("bluetoothctl devices Paired"):
        assert time.monotonic() - began < BOUND_S
        await asyncio.sleep(1)
    await shop.site.whole(BOUND_S, ["press"])
