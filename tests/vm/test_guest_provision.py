"""Provisioning by the real BlueZ and its agent, beside three nodes that do not notice: a node that is nobody yet becomes one, and lasts.

Both radios of such a node are seen in tests/test_provision_ble.py: the guest has no network, so there is no broker here.
"""

from pathlib import Path

import pytest
import pytest_asyncio
from site_ble import NAMES, UNIT
from table import Table

from gatewayd import provisioning, signing
from gatewayd.demo.line import Chip

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

BOUND_S = 150  # to be whole again, on an emulated processor that others use too
COMPARES = "--pairing", "compare"
GRINDER, TWIN = "F0:00:00:00:00:06", "F0:00:00:00:00:07"
PSK = Path("/srv/broker/psk")  # in the guest
PROVISIONED, REFUSED = "gatewayd_ble_provisioned_total", r'gatewayd_ble_refused_total\{reason="unprovisioned"\}'


class Shop:
    """The site, and a node on the table that is nobody yet."""

    def __init__(self, site, table):
        self.site, self.table = site, table

    async def provision(self, *more):
        """Begin `gatewayctl node provision` for the grinder. Returns the task of what it says."""
        return await self.table.order("provision", "grinder", "--broker", "127.0.0.1:9", "--psk-file", str(PSK), *more)

    def sector(self):
        """What the node's flash says that it is."""
        with (self.site.folder / "grinder.flash").open("rb") as flash:
            return flash.read(provisioning.SECTOR_BYTES)

    async def knows_nobody(self):
        """The node is nobody as before: neither it, nor the broker, nor BlueZ has a key."""
        assert self.sector() == b"\xff" * provisioning.SECTOR_BYTES
        assert await self.site.guest.run(f"cat {PSK}") == ""
        assert GRINDER not in await self.site.guest.run("bluetoothctl devices Paired")
        assert not await self.site.series(PROVISIONED)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(site):
    async with site.node("grinder", *COMPARES) as process:
        await site.guest.run(f"install -d -o gatewayd -g gatewayd {PSK.parent} && install -m 600 -o gatewayd -g gatewayd /dev/null {PSK}")
        yield Shop(site, Table(site, "grinder", process))


async def test_one_that_offers_itself_too_is_not_taken_for_it(shop):
    async with shop.site.node("twin", *COMPARES):
        with pytest.raises(AssertionError, match=rf"which: {GRINDER} .*, {TWIN} "):
            await (await shop.provision())
    assert await shop.site.series(REFUSED)
    await shop.knows_nobody()


async def test_a_number_that_is_not_the_same(shop):
    before = await shop.site.series(REFUSED)
    operator = await shop.provision("--address", GRINDER)
    await shop.table.number()
    await shop.table.answer("n")
    with pytest.raises(AssertionError, match="the numbers are not the same"):
        await operator
    assert await shop.site.series(REFUSED) > before
    await shop.knows_nobody()


async def test_an_answer_that_comes_too_late(shop):
    await shop.site.whole(BOUND_S)
    operator = await shop.provision("--address", GRINDER)
    await shop.table.number()
    await shop.site.refused("unprovisioned", BOUND_S)
    await shop.table.answer("y")
    with pytest.raises(AssertionError, match="nobody said that the numbers are the same"):
        await operator
    await shop.knows_nobody()
    assert "is lost" not in await shop.site.guest.run(f"journalctl -u {UNIT}")  # although BlueZ did not scan
    await shop.site.whole(BOUND_S)


async def test_numbers_are_compared(shop):
    shop.table.said.clear()
    operator = await shop.provision("--address", GRINDER)
    await shop.table.number()
    await shop.table.answer("y")
    assert "grinder: provisioned, and here" in await operator
    assert await shop.site.series(PROVISIONED) == 1
    found = provisioning.read(shop.sector())
    assert (found.id, found.keys) == ("grinder", (signing.raw(signing.load_public(shop.site.folder / "operator.pem.pub")),))
    assert await shop.site.guest.run(f"cat {PSK}") == f"grinder:{found.psk.hex()}\n"
    await shop.site.whole(BOUND_S, [*NAMES, "grinder"])
    assert await shop.site.series("gatewayd_node_up") == 4
    assert shop.table.said.count(Chip.COMPARE) == 1  # it came back by its bond


@pytest.mark.parametrize("service", ["bluetooth", UNIT])
async def test_it_outlives(shop, service):
    shop.table.said.clear()
    await shop.site.guest.run(f"systemctl restart {service}", timeout_s=BOUND_S)
    await shop.site.whole(BOUND_S, [*NAMES, "grinder"])
    assert Chip.SECURED in shop.table.said
    assert Chip.COMPARE not in shop.table.said
    assert await shop.site.series("gatewayd_node_up") == 4


async def test_an_imitator_is_refused(shop):
    heard = Table(shop.site, "twin", None).said
    async with shop.site.node("twin", *shop.site.named("grinder")):
        await shop.site.refused("unpaired", BOUND_S)
        await shop.site.whole(BOUND_S, [*NAMES, "grinder"])
        await shop.site.refused("unpaired", BOUND_S)
    assert Chip.CONNECTED not in heard
    assert not shop.site.actions()["twin"]
