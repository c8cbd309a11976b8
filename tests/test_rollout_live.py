"""Rollouts at a real site: the daemon, a broker, hundreds of nodes of the C core, and an operator at the command line."""

import asyncio
import os
import random
import shutil

import pytest
from fleet_site import FleetSite
from live import until

from gatewayd.core.update import State

pytestmark = [
    pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto"),
    pytest.mark.slow,
]


def closed(site):
    return site._rows("SELECT closed FROM rollouts WHERE id = 1") == [(1,)]


def states(site):
    return dict(site._rows("SELECT state, count(*) FROM updates GROUP BY state"))


async def test_the_gateway_is_killed_thirty_times_in_a_rollout_to_two_hundred_nodes(tmp_path, host_build):
    site, rng, kills = FleetSite(tmp_path), random.Random(30), 0
    async with site.broker(), site.fleet(200):
        async with site.gateway():
            await until(lambda: site.series("gatewayd_messages_total") and len(site.known()) == 200, site.said)
        site.rollout("start", site.bundle, "--yes", "--no-gate", "--soak", "0s", "--groups", "1,10%,100%", "--concurrent", "2")
        for _ in range(30):
            begun = 200 - states(site).get(State.WAITING, 0)
            goal = min(199, begun + rng.randint(1, 10))
            async with site.start() as gateway:
                await until(lambda: 200 - states(site).get(State.WAITING, 0) >= goal, site.said)  # noqa: B023
                await asyncio.sleep(rng.uniform(0, 0.3))
                gateway.kill()
                await gateway.wait()
            kills += not closed(site)
        async with site.gateway():
            await until(lambda: closed(site), lambda: f"{states(site)}\n{site.said()[-3000:]}", 240)
        assert states(site) == {State.CONFIRMED: 200}
    says = site.fleet_says()
    assert kills == 30
    assert (says["verified"], says["tests"], says["confirms"], says["repeated"]) == (200, 200, 200, 0)
    assert (says["rejected"], says["reverts"]) == (0, 0)
    assert "Traceback" not in site.said()
