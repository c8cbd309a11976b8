"""What goes wrong at a real site, with real processes: what was acknowledged is on disk, every event once, and life goes on."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from fake_model import HANG, WAIT
from live import WINDOW, Live, Node, all_of, children, load, until

from gatewayd.core import wire
from gatewayd.core.types import Basis, GatewayState
from gatewayd.demo import site

pytestmark = pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto")
WALL_CLOCK = Path(__file__).with_name("wall_clock.c")


# ---- the gateway


@pytest.mark.slow
async def test_the_gateway_is_killed_twenty_times_under_load(tmp_path):
    live = Live(tmp_path)
    rng = random.Random(20)
    orphans = []
    async with live.broker(), load(live) as busy:
        async with live.gateway():
            pass  # its session is the broker's from now on
        for life in range(20):
            before = len(live.stored())
            busy.burst(275)
            async with live.start() as gateway:
                if life % 2:  # in the middle of its commits and acknowledgements
                    await until(lambda: len(live.stored()) > before, live.said)  # noqa: B023
                else:  # anywhere between its connection and its first commits
                    connections = live.said().count("connected to")
                    await until(lambda: live.said().count("connected to") > connections, live.said)  # noqa: B023
                    await asyncio.sleep(rng.uniform(0, 0.05))
                orphans += children(gateway)
                gateway.kill()
                await gateway.wait()
            busy.burst(10)  # while there is none
        await busy.settled()
        assert busy.acknowledged >= 5_000
        async with live.gateway():
            await until(lambda: len(live.stored()) >= busy.acknowledged, lambda: f"{len(live.stored())} of {busy.acknowledged}")
            assert live.series("gatewayd_store_queue_depth") == 0
        assert live.keys() == all_of("busy", busy.acknowledged)
        assert len(live.stored()) == busy.acknowledged
        async with live.gateway() as gateway:  # nothing was left unacknowledged at the broker
            busy.burst(1)
            await until(lambda: len(live.stored()) > busy.acknowledged)
            assert live.series("gatewayd_duplicates_total") == 0
            assert await site.end(gateway) == 0
    await until(lambda: not any(worker.is_running() for worker in orphans), "orphans to end")


async def test_sigterm_lets_what_was_accepted_end_and_be_answered(tmp_path):
    live = Live(tmp_path)
    async with live.broker(), live.gateway() as gateway, Node(live) as node:
        await node.birth()
        for seq in range(3):
            await node.event(seq, label=WAIT)
        await until((live.cascade / "judging-0").exists)
        await until(lambda: live.series("gatewayd_escalation_queue_depth") == 3)
        gateway.send_signal(signal.SIGTERM)
        (live.cascade / "go").touch()
        assert await asyncio.wait_for(gateway.wait(), 60) == 0
        assert [(verdict.seq, verdict.basis) for verdict in await node.verdicts(3)] == [(seq, Basis.GATEWAY) for seq in range(3)]
    assert live.stored("seq, basis, accepted") == [(seq, "gateway", 1) for seq in range(3)]
    assert "Traceback" not in live.said()


async def test_sigterm_does_not_wait_for_a_model_that_hangs(tmp_path):
    live = Live(tmp_path, deadline_s=3_600)
    async with live.broker():
        async with live.gateway() as gateway, Node(live) as node:
            await node.event(0, label=HANG)
            await until((live.cascade / "judging-0").exists)
            workers = children(gateway)
            gateway.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(gateway.wait(), 60) == 0
        await until(lambda: not any(worker.is_running() for worker in workers), "workers to end")
        assert live.stored() == []  # it was not acknowledged: it comes again
        (live.cascade / "judging-0").unlink()
        async with live.gateway() as gateway:
            await until((live.cascade / "judging-0").exists)
            gateway.kill()


async def test_a_restart_forgets_nothing(tmp_path):
    live = Live(tmp_path)
    async with live.broker(), Node(live) as node:
        async with live.gateway():
            await node.birth()
            for seq in range(5):
                await node.event(seq)
            assert len(await node.verdicts(5)) == 5
        async with live.gateway():
            await until(lambda: live.series('gatewayd_node_up{node="n1"}') == 1, live.said)  # the broker remembers its state
            for seq in (4, 3, 5):  # two that were answered once come again
                await node.event(seq)
            assert [verdict.seq for verdict in await node.verdicts(1)] == [5]
            assert live.series("gatewayd_duplicates_total") == 2
            assert live.series('gatewayd_node_messages_lost_total{node="n1"}') == 0
        assert live.keys() == all_of("n1", 6)
        async with live.gateway():
            await node.event(9)  # a gap across a restart would be seen
            await node.verdicts(1)
            assert live.series("gatewayd_duplicates_total") == 0


# ---- the broker


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_broker_stops_and_starts(tmp_path, number):
    live = Live(tmp_path)
    async with contextlib.AsyncExitStack() as brokers:
        broker = await brokers.enter_async_context(live.broker())
        async with live.gateway() as gateway, load(live) as busy:
            for turn in range(2):
                busy.burst(400)
                if number == signal.SIGKILL:  # what the broker had acknowledged and not delivered dies with it: let it deliver
                    await busy.settled()
                    await until(lambda: len(live.stored()) >= busy.acknowledged)
                await site.end(broker, number)
                busy.burst(100)
                await until(lambda: live.series("gatewayd_mqtt_connected") == 0)
                with pytest.raises(OSError, match="503"):
                    live.get("/healthz")
                broker = await brokers.enter_async_context(live.broker())
                await until(lambda: live.series("gatewayd_mqtt_connected") == 1)
                await busy.settled()
                await until(lambda: len(live.stored()) >= busy.acknowledged, lambda: f"{len(live.stored())} of {busy.acknowledged}")
                assert live.keys() == all_of("busy", busy.acknowledged)
                assert live.series('gatewayd_adapter_restarts_total{adapter="mqtt"}') > turn
                async with Node(live) as watcher:
                    await gateway_is("online", watcher)
            assert gateway.returncode is None


async def gateway_is(state, node):
    """Wait until `node` hears that its gateway is in `state`."""
    await node.client.subscribe("nodelink/1/gateway/+/state", qos=1)
    async with asyncio.timeout(60):
        async for message in node.client.messages:
            if wire.decode_as(GatewayState, message.payload).state == state:
                return


async def test_a_gateway_that_is_killed_is_offline_to_its_nodes_and_one_that_ends_too(tmp_path):
    live = Live(tmp_path)
    for number in (signal.SIGKILL, signal.SIGTERM):
        async with live.broker(), live.gateway() as gateway:
            await site.end(gateway, number)
            async with Node(live) as node:
                await gateway_is("offline", node)


# ---- the disk


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "state"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "gatewayd-test", disk], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs to mount a tmpfs: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(ballast):
    """Take all that is left of a disk."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4_096))


async def test_the_disk_is_full(tmp_path, small_disk):
    live = Live(tmp_path)
    async with live.broker(), live.gateway() as gateway, Node(live) as node:
        await node.birth()
        await node.event(0)
        await until(lambda: len(live.stored()) == 1)
        ballast = small_disk / "ballast"
        fill(ballast)
        for seq in range(1, 40):
            await node.event(seq, window=WINDOW._replace(shape=(4_096,), data=bytes(8_192)))
        await until(lambda: live.series("gatewayd_store_errors_total") > 1, live.said)
        assert "events wait in memory" in live.said()
        assert gateway.returncode is None
        kept = len(live.stored())
        assert kept < 40
        ballast.unlink()
        await until(lambda: len(live.stored()) == 40, live.said)
        assert live.keys() == all_of("n1", 40)
        assert await site.end(gateway) == 0
    assert "Traceback" not in live.said()


# ---- clocks


@pytest.fixture
def library(tmp_path):
    """The shim, compiled."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    library = tmp_path / "wall_clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, WALL_CLOCK, "-ldl"], check=True)
    return library


async def test_a_wall_clock_that_jumps_only_changes_timestamps(tmp_path, library):
    live = Live(tmp_path, deadline_s=60.0)
    offset = tmp_path / "offset"
    env = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset)}
    async with live.broker(), live.gateway(**env) as gateway, Node(live) as node:
        await node.birth()
        day_s = 86_400
        for seq, jump_s in enumerate((0, day_s, -day_s, 20 * day_s, 0)):
            await node.event(2 * seq, label=WAIT)  # with the larger model while the clock jumps
            await until((live.cascade / f"judging-{2 * seq}").exists)
            offset.write_text(str(jump_s))
            assert live.series('gatewayd_node_up{node="n1"}') == 1  # nobody was silent for a day
            await node.event(2 * seq + 1, window=None)
            assert (await node.verdicts(1))[0].seq == 2 * seq + 1
            (live.cascade / "go").touch()
            (verdict,) = await node.verdicts(1)
            assert (verdict.seq, verdict.basis) == (2 * seq, Basis.GATEWAY)
            (live.cascade / "go").unlink()
            assert live.series('gatewayd_node_up{node="n1"}') == 1
        assert gateway.returncode is None
        assert live.series("gatewayd_mqtt_connected") == 1
        assert live.series('gatewayd_adapter_restarts_total{adapter="mqtt"}') in (None, 0)
        arrived = dict(live.stored("seq, arrived_s"))
        assert arrived[3] - arrived[1] > 0.9 * day_s  # the clock did jump,
        assert arrived[5] < arrived[1]
        assert all(latency_s < 60 for (latency_s,) in live.stored("latency_s"))  # and no duration noticed
    assert live.keys() == all_of("n1", 10)
