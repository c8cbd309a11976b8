"""The installed service under its own unit, with the real BlueZ: three nodes are found, judged and updated, and whatever breaks heals."""

import asyncio
import json
import time

import pytest
from site_ble import UNIT

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

DELIVERY_S = 300
BOUND_S = 150  # to be whole again, on an emulated processor that others use too


async def show(site, name):
    return (await site.guest.run(f"systemctl show --value -p {name} {UNIT}")).strip()


@pytest.mark.short
async def test_it_starts_in_its_sandbox_as_its_user(site):
    status = dict(
        line.split(":\t", 1)
        for line in (await site.guest.run(f"cat /proc/$(systemctl show --value -p MainPID {UNIT})/status")).splitlines()
    )
    user = (await site.guest.run("id -u gatewayd; getent group bluetooth | cut -d: -f3")).split()
    assert {*status["Uid"].split()} == {user[0]}
    assert user[1] in status["Groups"].split()
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapBnd"], 16)) == ("1", "2", 0)
    await site.guest.run(f"systemd-analyze security --threshold=15 --no-pager {UNIT}", timeout_s=BOUND_S)


@pytest.mark.short
async def test_three_nodes_are_heard_and_judged(site):
    await site.whole(BOUND_S)
    assert await site.series("gatewayd_node_up") == 3
    assert await site.series("gatewayd_cascade_judged_total") >= 3


async def test_a_model_is_delivered(site):
    await site.guest.run("cat >/tmp/new.bundle", (site.folder / "new.bundle").read_bytes())
    command = "rollout start /tmp/new.bundle --yes --no-gate --soak 0s --groups 1,100%"
    await site.guest.run(f"runuser -u gatewayd -- gatewayctl {command}")
    deadline = time.monotonic() + DELIVERY_S
    while await site.series("gatewayd_ota_duration_seconds_count") < 3:  # confirmed
        assert time.monotonic() < deadline, await site.guest.run("gatewayctl rollout status 1")
        await asyncio.sleep(2)
    assert await site.series(r'gatewayd_ota_bytes_total\{transport="ble"\}') == 3 * len(site.image)
    await site.whole(BOUND_S)  # with the new model
    assert json.loads(await site.guest.run("gatewayctl rollout status 1 --json"))["state"] == "done"


async def kill(site):
    await site.guest.run(f"systemctl kill -s KILL --kill-whom=main {UNIT}")


async def bite(site):
    await site.guest.run(f"systemctl kill -s STOP --kill-whom=main {UNIT}")


@pytest.mark.parametrize("harm", [pytest.param(kill, marks=pytest.mark.short), bite])
async def test_it_is_restarted(site, harm):
    before = int(await show(site, "NRestarts"))
    await harm(site)
    await site.whole(BOUND_S)
    assert int(await show(site, "NRestarts")) == before + 1


async def restart(site):
    await site.guest.run("systemctl restart bluetooth")


async def crash(site):
    await site.guest.run("systemctl kill -s KILL bluetooth")


async def replug(site):
    await site.unplug("hci0")
    await asyncio.sleep(5)
    await site.plug("hci0")


@pytest.mark.parametrize("harm", [restart, crash, replug])
async def test_the_radio_comes_back(site, harm):
    before = await show(site, "MainPID")
    await harm(site)
    await site.whole(BOUND_S)
    assert await show(site, "MainPID") == before
