"""Two adapters of the real BlueZ: the nodes are heard on both, and when one is unplugged they go on over the other."""

import asyncio
import time

import pytest
import pytest_asyncio
from site_ble import UNIT

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

BOUND_S = 150  # to be whole again, on an emulated processor that others use too


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def both(site):
    await site.plug("hci1")
    async with site.configured(["hci0", "hci1"]):
        yield site
    await site.unplug("hci1")


async def counts(site, series, adapter):
    """Until that adapter's count has grown."""
    name = rf'{series}\{{adapter="{adapter}"\}}'
    before, began = await site.series(name), time.monotonic()
    while await site.series(name) <= before:
        assert time.monotonic() - began < BOUND_S, await site.metrics()
        await asyncio.sleep(0.5)


async def test_nodes_are_heard_by_both_and_connected_by_both(both):
    await both.whole(BOUND_S)
    for adapter in ("hci0", "hci1"):
        await counts(both, "gatewayd_ble_advertisements_total", adapter)
        await counts(both, "gatewayd_ble_connections_total", adapter)


@pytest.mark.parametrize(("gone", "left"), [("hci0", "hci1"), ("hci1", "hci0")])
async def test_one_is_unplugged(both, gone, left):
    before = (await both.guest.run(f"systemctl show --value -p MainPID {UNIT}")).strip()
    await both.unplug(gone)
    await both.whole(BOUND_S)
    assert await both.series("gatewayd_node_up") == 3
    await counts(both, "gatewayd_ble_connections_total", left)
    await both.plug(gone)
    await counts(both, "gatewayd_ble_connections_total", gone)
    assert (await both.guest.run(f"systemctl show --value -p MainPID {UNIT}")).strip() == before
