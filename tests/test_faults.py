"""What goes wrong at a real site, with real processes: what was acknowledged is on disk, every event once, and life goes on."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from fake_model import DIE, HANG, RAISE, WAIT
from live import WINDOW, Live, Node, until, vitals

from gatewayd.core import wire
from gatewayd.core.types import Basis, GatewayState, NodeState, State
from gatewayd.demo import site

pytestmark = pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto")
LOAD = Path(__file__).parent / "load.py"
SHIM = r"""
/* A wall clock that is wrong by what a file says; every other clock goes on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset_s(void) {
    FILE *file = fopen(getenv("CLOCK_OFFSET_FILE"), "r");
    long seconds = 0;
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += offset_s();
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


class Load:
    """A publisher in a process of its own. Each `burst` is a line for it; `settled` waits until the broker has acknowledged all."""

    def __init__(self, process):
        self._process = process
        self.sent = self.acknowledged = 0

    def burst(self, count):
        self.sent += count
        self._process.stdin.write(b"%d\n" % count)

    async def settled(self):
        while self.acknowledged < self.sent:
            line = await asyncio.wait_for(self._process.stdout.readline(), 60)
            assert line, "the publisher ended"
            self.acknowledged = int(line.split()[1])


@asynccontextmanager
async def load(live, node="busy"):
    process = await asyncio.create_subprocess_exec(
        sys.executable, LOAD, str(live.mqtt_port), node, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Load(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def all_of(node, count):
    return {(node, 1, seq) for seq in range(count)}


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


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


# ---- nodes that misbehave


async def test_garbage_is_refused_counted_and_harms_nobody(tmp_path):
    live = Live(tmp_path)
    rng = random.Random(4)
    good = wire.encode(vitals())
    async with live.broker(), live.gateway() as gateway, Node(live) as node, Node(live, "bad") as bad:
        await node.birth()
        for _ in range(200):
            await bad.say(rng.choice(["event", "info", "state", "vitals"]), rng.randbytes(rng.randrange(200)), qos=rng.randrange(2))
        for cut in range(len(good)):
            await bad.say("vitals", good[:cut])
        await bad.say("vitals", good + b"\0")
        await bad.say("vitals", bytes(98_305))
        await bad.say("nonsense", good)
        await bad.say("vitals", good, name="NOT A NODE")
        await bad.say("vitals", good, name="x" * 40)
        await bad.say("vitals", good, name="")
        await bad.client.publish("nodelink/1/up/n1", good, qos=1)  # too few levels, too many: not even subscribed to
        await bad.client.publish("nodelink/1/up/n1/vitals/more", good, qos=1)
        for seq in range(5):
            await node.event(seq)
        assert len(await node.verdicts(5)) == 5
        refused = {reason: live.series(f'gatewayd_rejected_messages_total{{reason="{reason}"}}') for reason in (*wire.REASONS, "node_id")}
        assert refused["oversized"] == 1
        assert refused["node_id"] == 3
        assert sum(refused.values()) >= len(good) + 6
        assert live.series('gatewayd_node_up{node="n1"}') == 1
        assert live.series('gatewayd_node_messages_lost_total{node="n1"}') == 0
        assert gateway.returncode is None
    assert live.keys() == all_of("n1", 5)
    assert "Traceback" not in live.said()


async def test_the_will_of_a_connection_that_was_replaced_is_ignored(tmp_path):
    live = Live(tmp_path)
    async with live.broker(), live.gateway(), Node(live, session=8) as node, Node(live, "other") as other:
        await node.birth()
        await until(lambda: live.series('gatewayd_node_up{node="n1"}') == 1)
        await other.say("state", wire.encode(State(NodeState.LOST, 7)), name="n1")
        await node.event(0)
        await node.verdicts(1)
        assert live.series('gatewayd_node_up{node="n1"}') == 1
        await other.say("state", wire.encode(State(NodeState.LOST, 8)), name="n1")
        await until(lambda: live.series('gatewayd_node_up{node="n1"}') == 0)


async def test_no_node_speaks_for_another_where_access_is_controlled(tmp_path):
    """deploy/'s access list, with user names in place of keys."""
    live = Live(tmp_path, settings="")
    acl = tmp_path / "acl"
    shutil.copy(Path(__file__).parents[1] / "deploy/mosquitto/site/acl", acl)
    config = tmp_path / "acl.conf"
    config.write_text(f"listener {live.mqtt_port} 127.0.0.1\nallow_anonymous true\nacl_file {acl}\n")
    acl.chmod(0o644)
    log = tmp_path / "acl.log"
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    async with site.process([program, "-c", config], log) as running:
        await site.listening(live.mqtt_port, running, log)
        good, bad = Node(live, user="n1"), Node(live, "bad", user="bad")
        async with live.gateway(GATEWAYD_MQTT__USERNAME="gatewayd"), good, bad:
            await good.birth()
            await bad.say("state", wire.encode(State(NodeState.LOST, 1)), name="n1")
            await bad.say("event", wire.encode(vitals()), name="n1")
            await bad.event(0)  # in order behind them
            await good.event(0)
            assert len(await bad.verdicts(1)) == len(await good.verdicts(1)) == 1
            assert live.series('gatewayd_node_up{node="n1"}') == 1
            assert live.series('gatewayd_rejected_messages_total{reason="schema"}') is None


# ---- larger models that misbehave


async def test_a_larger_model_that_dies_hangs_or_raises_costs_its_own_event_only(tmp_path):
    live = Live(tmp_path, deadline_s=2.0)
    async with live.broker(), live.gateway(), Node(live) as node:
        await node.birth()
        await node.event(0)
        assert (await node.verdicts(1))[0].basis == Basis.GATEWAY
        for seq, label, basis in ((1, DIE, Basis.FAILED), (2, RAISE, Basis.FAILED), (3, HANG, Basis.TIMEOUT), (4, 0, Basis.GATEWAY)):
            await node.event(seq, label=label, score=0.9)
            (verdict,) = await node.verdicts(1)
            assert (verdict.seq, verdict.basis, verdict.accepted) == (seq, basis, True)
        assert live.series('gatewayd_worker_restarts_total{kind="fake"}') == 2
        for basis, count in (("failed", 2), ("timeout", 1), ("gateway", 2)):
            assert live.series(f'gatewayd_verdicts_total{{basis="{basis}",cascade="fake"}}') == count
    assert live.stored("seq, basis") == [(0, "gateway"), (1, "failed"), (2, "failed"), (3, "timeout"), (4, "gateway")]


async def test_the_worker_is_killed_in_the_middle_of_an_inference(tmp_path):
    live = Live(tmp_path)
    async with live.broker(), live.gateway() as gateway, Node(live) as node:
        await node.event(0)
        await node.verdicts(1)
        ((worker,),) = live.stored("heard")
        await node.event(1, label=WAIT)
        await until((live.cascade / "judging-1").exists)
        assert int(worker) in [child.pid for child in children(gateway)]
        os.kill(int(worker), signal.SIGKILL)
        assert (await node.verdicts(1))[0].basis == Basis.FAILED
        await node.event(2)
        assert (await node.verdicts(1))[0].basis == Basis.GATEWAY
        assert live.series('gatewayd_worker_restarts_total{kind="fake"}') == 1


async def test_a_larger_model_that_does_not_load_leaves_the_node_alone(tmp_path):
    live = Live(tmp_path, deadline_s=0.2)
    (live.cascade / "broken").touch()
    async with live.broker(), live.gateway(), Node(live) as node:
        for seq, score in ((0, 0.9), (1, 0.1)):
            await node.event(seq, score=score)
        assert [(v.basis, v.accepted) for v in await node.verdicts(2)] == [(Basis.TIMEOUT, True), (Basis.TIMEOUT, False)]
        await until(lambda: "weights are missing" in live.said())


async def test_more_than_the_larger_model_can_take_is_decided_without_it(tmp_path):
    live = Live(tmp_path, deadline_s=60.0)
    async with live.broker(), live.gateway(GATEWAYD_ESCALATION__QUEUE_SIZE="4"), Node(live) as node:
        for seq in range(10):
            await node.event(seq, label=WAIT)
        first = await node.verdicts(6)
        assert {verdict.basis for verdict in first} == {Basis.OVERLOAD}
        (live.cascade / "go").touch()
        assert {verdict.basis for verdict in await node.verdicts(4)} == {Basis.GATEWAY}
        assert live.series('gatewayd_verdicts_total{basis="overload",cascade="fake"}') == 6
    assert live.keys() == all_of("n1", 10)


# ---- clocks


@pytest.fixture
def library(tmp_path):
    """The shim, compiled."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    (tmp_path / "shim.c").write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"], check=True, cwd=tmp_path)
    return tmp_path / "shim.so"


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


# ---- enrolment


async def test_enrolment_is_noticed_while_the_gateway_runs(tmp_path):
    live = Live(tmp_path)
    async with live.broker(), live.gateway(GATEWAYD_GATEWAY__ENROLL="[]"), Node(live) as node, Node(live, "n2") as expected:
        await node.birth()
        await node.event(0)
        await until(lambda: live.stored("basis") == [(None,)] and live.known() == ["n1"])  # recorded, and no more
        assert await live.ctl("nodes", "enroll", "-c", live.config, "n1", "n2") == (
            0,
            "n1: enrolled\nn2: enrolled, though it was never heard\n",
        )
        await until(lambda: "n1 is enrolled" in live.said())
        await node.event(1)
        assert (await node.verdicts(1))[0].seq == 1
        await until(lambda: live.series('gatewayd_node_up{node="n2"}') == 0)
        await expected.event(0)
        assert len(await expected.verdicts(1)) == 1
        assert (await live.ctl("nodes", "dismiss", "-c", live.config, "n1"))[1] == "n1: dismissed\n"
        await until(lambda: "n1 is not enrolled any more" in live.said())
        await node.event(2)
        await until(lambda: len(live.stored()) == 4)
        assert live.stored("node, seq, basis")[-1] == ("n1", 2, None)
        assert not (live.cascade / "judging-2").exists()
