"""Nodes and larger models that misbehave at a real site, and who is trusted: with real processes."""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from fake_model import DIE, HANG, RAISE, WAIT
from live import Live, Node, all_of, children, until, vitals

from gatewayd.core import wire
from gatewayd.core.types import Basis, NodeState, State
from gatewayd.demo import site
from gatewayd.nodekeys import access_list

pytestmark = pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto")


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
    acl.write_bytes(access_list((Path(__file__).parents[1] / "deploy/mosquitto/site/acl").read_text(), ("n1", "bad")))
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
