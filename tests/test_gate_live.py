"""The gate at a real site: what the larger model thinks of real events decides over a rollout, by way of store, ledger and engine."""

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest
from fake_model import ACCEPT, DENY
from live import WINDOW, Live, Node, until
from smp_node import SmpNode

from gatewayd import bundle, signing
from gatewayd.core import wire
from gatewayd.core.types import CascadeVitals, Event, NodeState, Reason, SlotState, State, Vitals

pytestmark = [
    pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto"),
    pytest.mark.slow,
]
ROOT = Path(__file__).parent.parent
VITALS_S = 60
GOOD, BAD = 0.85, 0.4  # of the triggers, the larger model agrees with so many


class Talker(SmpNode):
    """A node of the cascade `fake` that triggers as often as its model would; its clock runs ahead, so that minutes hold hours."""

    def __init__(self, live, name, agreed):
        super().__init__(cascade="fake")
        self.agreed = agreed  # by model, the share of its triggers that the larger model agrees with
        self.rng = random.Random(name)
        self.link = Node(live, name)
        self.seq = self.clock_ms = self.invokes = 0
        self.over = False  # told so: Python 3.11's wait_for() may swallow a cancellation

    async def run(self):
        async with self.link as link:
            await self.tell()
            await link.say("state", wire.encode(State(NodeState.READY, 1)), retain=True)
            answering = asyncio.create_task(self.answer())
            while not self.over:
                await self.listen()
                await asyncio.sleep(0.25)
            answering.cancel()
            await asyncio.wait((answering,), timeout=5)

    async def tell(self):
        await self.link.say("info", wire.encode(self.info()), retain=True)

    async def answer(self):
        """SMP requests; verdicts are not acted on."""
        async for message in self.link.client.messages:
            if message.topic.value.endswith("/smp"):
                said = self.handle(message.payload)
                await self.tell()
                await self.link.say("smp", said, qos=0)

    def running(self):
        return self.sha256 if self.state in (SlotState.TEST, SlotState.CONFIRMED) else self.previous

    async def listen(self):
        """Two minutes of its clock with ten triggers, and then a report."""
        model = self.running()
        for _ in range(10):
            label = ACCEPT if self.rng.random() < self.agreed[model == self.previous] else DENY
            await self.link.say(
                "event", wire.encode(Event(self.seq, 1, "fake", model[:8], 0.5, label, self.clock_ms, Reason.TRIGGER, WINDOW))
            )
            self.seq += 1
        self.clock_ms += 2 * VITALS_S * 1_000
        self.invokes += 1_000
        work = CascadeVitals("fake", model[:8], self.invokes, 1_000, 500, 10, 0.1, 0.01, (1,) * 8)
        await self.link.say("vitals", wire.encode(Vitals(1, self.clock_ms // 1_000, self.clock_ms, 0, 0, (work,), 0.5, -60)), qos=0)


def site(folder):
    """Returns a Live whose gateway trusts a key, and a bundle of the next version of its cascade signed with it."""
    live = Live(folder, settings=f'keys = ["{folder / "operator.pem.pub"}"]\n')
    signing.make(folder / "operator.pem")
    toml = live.cascade / "cascade.toml"
    old = toml.read_text().replace("arena_bytes = 1", "arena_bytes = 65536")
    toml.write_text('license = "Apache-2.0"\n' + old.replace('version = "1"', 'version = "2.0.0"'))
    shutil.copy(ROOT / "cascades" / "vibration" / "node.tflite", live.cascade)
    (live.cascade / "CARD.md").write_text("fake\n")
    path = folder / "new.bundle"
    path.write_bytes(bundle.build(bundle.read(live.cascade), counter=1, key=signing.load_private(folder / "operator.pem")))
    toml.write_text(old)
    return live, path


async def rolled_out(folder, agreed):
    """The rollout's last state and its explanation, with two canaries of four nodes."""
    live, path = site(folder)
    async with live.broker(), live.gateway(), asyncio.TaskGroup() as tasks:
        nodes = {name: Talker(live, name, agreed) for name in ("n1", "n2", "n3", "n4")}
        for node in nodes.values():
            tasks.create_task(node.run())
        await until(lambda: len(live.stored()) > 1_500 and live._rows("SELECT count(*) FROM listened")[0][0] > 0, live.said)
        status, said = await live.ctl(
            *("rollout", "start", path, "--yes", "--soak", "0s", "--margin", "0.3", "--groups", "2,100%", "-c", live.config)
        )
        assert status == 0, said
        await until(lambda: live._rows("SELECT closed FROM rollouts") == [(1,)], live.said, 120)
        _, explained = await live.ctl("rollout", "explain", "1", "-c", live.config)
        for node in nodes.values():
            node.over = True
    assert sum(node.repeated for node in nodes.values()) == 0
    return live._rows("SELECT state FROM rollouts")[0][0], explained, nodes


async def test_a_model_as_good_passes_and_reaches_everybody(tmp_path):
    state, explained, nodes = await rolled_out(tmp_path, {True: GOOD, False: GOOD})
    assert state == "done", explained
    assert all(node.state is SlotState.CONFIRMED for node in nodes.values())
    assert "gate: passed" in explained


async def test_a_worse_model_is_stopped_at_its_canaries_and_taken_back(tmp_path):
    state, explained, nodes = await rolled_out(tmp_path, {True: GOOD, False: BAD})
    assert state == "rolled_back", explained
    assert all(node.confirmed == node.previous for node in nodes.values())
    assert sum("test" in node.asked for node in nodes.values()) == 2
    assert "the gate has failed: precision 8" in explained
