"""gatewayd.homeassistant and core/homeassistant: what a broker is told, and what a running Home Assistant makes of it."""

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path

import aiomqtt
import pytest
from fake_model import ACCEPT
from live import Live, Node, until
from record_alerts import JudgedSite

from gatewayd.core import homeassistant as ha
from gatewayd.core import rollout, types, wire
from gatewayd.core.cascade import Command, Policy
from gatewayd.core.registry import Link
from gatewayd.core.registry import Node as Known
from gatewayd.core.types import Basis, CascadeVitals, Event, Info, NodeState, Reason, Record, Slot, SlotState, Verdict, Vitals
from gatewayd.core.update import State, Update
from gatewayd.demo import site

ROOT = Path(__file__).parent.parent
INSTANCE = ROOT / "build" / "homeassistant"
NAMES = ha.Names("homeassistant", "attic")
NOW_MS = 1_000_000
POLICY = Policy(action="listen", actions={"fire": "alarm"}, commands=(Command(name="on", phrase="lights on", action="lights:on"),))
SLOT = Slot(1, 0, SlotState.CONFIRMED, 65_536, "wakeword", bytes(32), "1.0.0", 1, 50_000)
TRIAL = Slot(1, 1, SlotState.TEST, 65_536, "wakeword", bytes(range(32)), "2.0.0", 1, 50_000)
WORK = CascadeVitals("wakeword", bytes(8), 100, 5_000_000, 20_000, 10, 0.1, 0.01, (0,) * 8)
UPDATE = Update("kitchen", bytes(32), 50_000, State.UPLOADING, 1_000.0, offset_bytes=20_000)
ROLLOUT = rollout.Rollout("1", "wakeword", "2.0.0", bytes(32), 50_000, (("kitchen",),), rollout.Rules(), rollout.State.RUNNING)
needs_broker = pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto")


def make_node(*, state=NodeState.READY, battery=0.5, slots=(SLOT,)):
    info = Info(7, "esp32s3", "devkit", "1.2.3", "power-on", bytes(16), 50_000, ("audio",), 60, slots)
    vitals = Vitals(7, 100, 1_000, 0, 0, (WORK,), battery, -62)
    return Known("kitchen", enrolled=True, session=7, info=info, vitals=vitals, links={"mqtt": Link(NOW_MS, state)})


# ---- payloads


def announced(node, policies=None, gone=None):
    payload, platforms = ha.node_config(NAMES, node, {"wakeword": POLICY} if policies is None else policies, gone or {})
    return json.loads(payload), platforms


def test_a_node_is_a_device_behind_its_gateway():
    config, platforms = announced(make_node())
    assert config["dev"] == {
        "ids": ["gatewayd_attic_kitchen"],
        "name": "kitchen",
        "via_device": "gatewayd_attic",
        "mdl": "devkit",
        "hw": "esp32s3",
        "sw": "1.2.3",
    }
    assert config["o"]["name"] == "gatewayd"
    assert platforms == {
        "connection": "binary_sensor",
        "battery": "sensor",
        "signal": "sensor",
        "action": "sensor",
        "wakeword_event": "event",
        "wakeword_model": "update",
    }
    assert {component["uniq_id"] for component in config["cmps"].values()} == {f"gatewayd_attic_kitchen_{name}" for name in platforms}
    assert json.loads(ha.gateway_config(NAMES, "attic"))["dev"]["ids"] == ["gatewayd_attic"]


def test_a_node_shows_only_what_it_has():
    _, platforms = announced(make_node(battery=None, slots=()), {})
    assert platforms == {"connection": "binary_sensor", "signal": "sensor"}


def test_what_a_node_has_no_more_is_taken_out():
    config, platforms = announced(make_node(battery=None), gone={"battery": "sensor", "signal": "sensor"})
    assert config["cmps"]["battery"] == {"p": "sensor"}
    assert "uniq_id" in config["cmps"]["signal"]
    assert ha.components(json.dumps(config).encode()) == platforms
    assert ha.components(b"[1]") == ha.components(b"{") == ha.components(b'{"cmps": 3}') == {}


def told(node, models=None):
    return json.loads(ha.node_state(node, models or {}, "lights:on", NOW_MS + 1))


def test_the_states_of_a_node():
    model = {
        "installed_version": "1.0.0",
        "latest_version": "1.0.0",
        "update_percentage": None,
        "in_progress": False,
        "release_summary": "",
    }
    assert told(make_node()) == {
        "connection": "ON",
        "battery": 50,
        "signal": -60,
        "action": "lights:on",
        "models": {"wakeword": model},
    }
    assert told(make_node(battery=None))["battery"] is None


def test_a_node_that_sleeps_as_it_said_is_there():
    assert [told(make_node(state=state))["connection"] for state in (NodeState.SLEEPING, NodeState.LOST)] == ["ON", "OFF"]


@pytest.mark.parametrize(
    ("update", "state", "slots", "latest", "percentage", "in_progress"),
    [
        (UPDATE._replace(state=State.WAITING), rollout.State.RUNNING, (SLOT,), "2.0.0", None, False),
        (UPDATE, rollout.State.RUNNING, (SLOT,), "2.0.0", 40, True),
        (UPDATE._replace(state=State.JUDGING), rollout.State.SOAKING, (SLOT, TRIAL), "2.0.0", None, True),
        (UPDATE._replace(state=State.REVERTING), rollout.State.ROLLING_BACK, (SLOT, TRIAL), "1.0.0", None, True),
        (UPDATE._replace(state=State.REJECTED), rollout.State.RUNNING, (SLOT,), "1.0.0", None, False),
        (UPDATE._replace(state=State.CONFIRMED), rollout.State.SOAKING, (SLOT._replace(version="2.0.0"),), "2.0.0", None, False),
    ],
)
def test_the_update_of_a_model(update, state, slots, latest, percentage, in_progress):
    model = ha.model("1.0.0", (ROLLOUT._replace(state=state), update))
    shown = told(make_node(slots=slots), {"wakeword": model})["models"]["wakeword"]
    assert (shown["latest_version"], shown["update_percentage"], shown["in_progress"]) == (latest, percentage, in_progress)
    assert shown["installed_version"] == slots[0].version


def test_an_event_is_what_was_decided_and_not_what_was_heard():
    seen = Event(1, 7, "wakeword", bytes(8), 0.5, 0, 0, Reason.TRIGGER)
    for accepted, action, kind in (
        (True, "lights:on", "lights:on"),
        (True, "", "accepted"),
        (False, "", "rejected"),
        (True, "odd", "accepted"),
    ):
        verdict = Verdict(1, 7, accepted, "on", 0.87654, action, 1_000, Basis.GATEWAY)
        said = json.loads(ha.event(Record("kitchen", seen, 0.0, verdict), POLICY))
        assert said == {"event_type": kind, "label": "on", "score": 0.877, "basis": "gateway"}
        assert kind in ha.event_types(POLICY)


def test_topics_say_whose_they_are():
    assert NAMES.node_of(NAMES.config(NAMES.device("kitchen"))) == "kitchen"
    assert NAMES.node_of(NAMES.config(NAMES.gateway)) is None
    assert NAMES.node_of("homeassistant/device/gatewayd_attics_kitchen/config") is None
    assert NAMES.node_of("homeassistant/device/lamp/config") is None


# ---- a broker


def at_home(live):
    """The gateway of `live` with Home Assistant's part on."""
    live.config.write_text(live.config.read_text() + "[homeassistant]\nenabled = true\n")
    return live


class Retained:
    """What the broker has under `homeassistant/` and `gatewayd/`, and all events, while the `async with` lasts."""

    def __init__(self, live):
        self.there, self.events, self.count = {}, [], 0
        self.client = aiomqtt.Client("127.0.0.1", live.mqtt_port, identifier="listener")

    async def __aenter__(self):
        await self.client.__aenter__()
        await self.client.subscribe([("homeassistant/#", 1), ("gatewayd/#", 1)])
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *exc):
        self._listening.cancel()
        await asyncio.wait((self._listening,))
        await self.client.__aexit__(*exc)

    async def _listen(self):
        async for message in self.client.messages:
            self.count += 1
            topic, payload = message.topic.value, message.payload
            if topic.count("/") == 4 and not topic.endswith(("/state", "/config")):
                self.events.append((topic, json.loads(payload)))
            elif payload:
                self.there[topic] = payload
            else:
                self.there.pop(topic, None)

    def state(self, node):
        return json.loads(self.there.get(f"gatewayd/demo/node/{node}/state", "{}"))


DEVICE = "homeassistant/device/gatewayd_demo_n1/config"


@needs_broker
async def test_a_node_comes_goes_and_is_dismissed(tmp_path):
    live = at_home(Live(tmp_path))
    async with live.broker(), Retained(live) as broker:
        async with live.gateway():
            async with Node(live) as node:
                await node.birth()
                await until(lambda: broker.state("n1").get("connection") == "ON" and broker.state("n1")["battery"] == 50, live.said)
                assert broker.there["gatewayd/demo/status"] == b"online"
                await node.event(0, label=ACCEPT)
                await node.event(1, reason=Reason.AUDIT)
                await until(lambda: broker.state("n1")["action"] == "act", live.said)
                await until(lambda: len(live.stored()) == 2, live.said)
                await node.say("state", wire.encode(types.State(NodeState.DISCONNECTED, 1)), retain=True)
            await until(lambda: json.loads(broker.there["gatewayd/demo/state"]) == {"up": 0, "nodes": 1}, live.said)
            await until(lambda: broker.state("n1")["connection"] == "OFF", live.said)
            assert [(topic, said["event_type"]) for topic, said in broker.events] == [("gatewayd/demo/node/n1/fake", "act")]
        await until(lambda: broker.there["gatewayd/demo/status"] == b"offline", live.said)
        assert DEVICE in broker.there
        assert (await live.ctl("nodes", "dismiss", "n1", "-c", live.config))[0] == 0  # while the gateway is away
        async with live.gateway():
            await until(lambda: DEVICE not in broker.there and not broker.state("n1"), live.said)
            assert (await live.ctl("nodes", "enroll", "n1", "-c", live.config))[0] == 0
            async with Node(live) as node:
                await node.birth()
                await until(lambda: DEVICE in broker.there, live.said)


@needs_broker
async def test_a_gateway_that_is_killed_is_offline_and_one_that_comes_back_repeats_nothing(tmp_path):
    live = at_home(Live(tmp_path))
    async with live.broker(), Node(live) as node, Retained(live) as broker:
        async with live.gateway() as gateway:
            await node.birth()
            await until(lambda: DEVICE in broker.there and broker.state("n1"), live.said)
            gateway.kill()
        await until(lambda: broker.there["gatewayd/demo/status"] == b"offline", live.said)
        before = broker.there[DEVICE]
        async with live.gateway():
            await until(lambda: broker.there["gatewayd/demo/status"] == b"online", live.said)
            await until(lambda: json.loads(broker.there["gatewayd/demo/state"])["nodes"] == 1, live.said)
            assert broker.there[DEVICE] == before  # though what it has is not known before its next report
            await node.birth()
            await until(lambda: live.series('gatewayd_node_battery_ratio{node="n1"}'), live.said)
            assert broker.there[DEVICE] == before
            count = broker.count
            await broker.client.publish("homeassistant/status", "online")
            await until(lambda: broker.count >= count + 4, live.said)  # the hello itself, both devices, the states


@needs_broker
async def test_many_nodes_are_told_one_after_the_other_and_a_flood_of_events_drops_the_oldest(tmp_path, host_build):
    live = at_home(JudgedSite(tmp_path))
    fleet = ("--cascade", "wakeword", "--event-rate", "300", "--window-bytes", "16", "--vitals-s", "2")
    async with live.broker(), live.gateway(), Retained(live) as broker, live.fleet(200, *fleet):
        began, count = asyncio.get_running_loop().time(), broker.count
        await until(lambda: live.series("gatewayd_homeassistant_dropped_total") > 0, live.said)
        took_s = asyncio.get_running_loop().time() - began
        assert broker.count - count <= 100 * (took_s + 3)


# ---- Home Assistant


class Assistant:
    """A running instance; `known()` is what it knows."""

    def __init__(self, live):
        self.live, self.log = live, live.folder / "homeassistant.log"
        self.folder = INSTANCE / "tmp" / live.folder.name

    @contextlib.asynccontextmanager
    async def running(self):
        self.folder.mkdir()
        program = INSTANCE / "tmp" / f"{self.live.folder.name}.py"
        shutil.copy(Path(__file__).with_name("ha_instance.py"), program)
        command = ("chroot", INSTANCE, "/ha/bin/python", f"/tmp/{program.name}", f"/tmp/{self.folder.name}")
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *map(str, command),
                str(self.live.mqtt_port),
                str(site.free_port()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=1 << 24,
            )
        try:
            async with asyncio.timeout(120):
                assert json.loads(await self.process.stdout.readline()) == {"mqtt": "create_entry"}, self.log.read_text()
            yield self
        finally:
            if self.process.returncode is None:
                self.process.stdin.close()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), 20)
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            shutil.rmtree(self.folder)
            program.unlink()

    async def known(self):
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(30):
            return json.loads(await self.process.stdout.readline())

    async def until(self, condition, timeout_s=90):
        """Wait for `condition(entities)`. Returns all that it knows."""
        known = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    known = await self.known()
                    with contextlib.suppress(KeyError):
                        if condition(known["entities"]):
                            return known
                    await asyncio.sleep(0.1)
        raise AssertionError(f"{json.dumps(known, indent=1)}\n{self.log.read_text()[-3000:]}")


@needs_broker
@pytest.mark.slow
@pytest.mark.skipif(not (INSTANCE / "version").is_file(), reason="needs scripts/homeassistant.sh")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for chroot")
async def test_a_running_home_assistant_knows_the_nodes_and_follows_an_update(tmp_path, host_build):
    live = at_home(JudgedSite(tmp_path))
    home = Assistant(live)
    fleet = ("--cascade", "wakeword", "--event-rate", "2", "--window-bytes", "64", "--vitals-s", "2")
    one = "gatewayd_demo_fleet-0"
    async with live.broker(), home.running(), live.gateway(), Node(live, "sensor") as sensor:
        async with live.fleet(3, *fleet):
            await sensor.birth()
            known = await home.until(lambda all_: all_["gatewayd_demo_nodes_up"]["state"] == "4" and all_["gatewayd_demo_sensor_battery"])
            assert known["devices"][one] == {"name": "fleet-0", "model": "posix", "via": "gatewayd demo"}
            entities = known["entities"]
            assert entities["gatewayd_demo_connection"]["state"] == entities[f"{one}_connection"]["state"] == "on"
            assert (entities["gatewayd_demo_sensor_battery"]["state"], entities["gatewayd_demo_sensor_signal"]["state"]) == ("50", "-60")
            model = entities[f"{one}_wakeword_model"]
            assert (model["state"], model["installed_version"], model["latest_version"]) == ("off", "1.0.0", "1.0.0")
            await home.until(lambda all_: all_[f"{one}_wakeword_event"]["event_type"] == all_[f"{one}_action"]["state"] == "listen")

            await asyncio.to_thread(live.rollout, "start", live.bundle, "--yes", "--no-gate", "--soak", "8s", "--groups", "100%")
            shown = (await home.until(lambda all_: all_[f"{one}_wakeword_model"]["in_progress"]))["entities"][f"{one}_wakeword_model"]
            assert (shown["state"], shown["installed_version"], shown["latest_version"]) == ("on", "1.0.0", "2.0.0")
            await home.until(lambda all_: all_[f"{one}_wakeword_model"]["installed_version"] == "2.0.0")
            shown = (await home.until(lambda all_: not all_[f"{one}_wakeword_model"]["in_progress"]))["entities"][f"{one}_wakeword_model"]
            assert (shown["state"], shown["latest_version"]) == ("off", "2.0.0")
        await home.until(lambda all_: all_[f"{one}_connection"]["state"] == "off")

        assert (await live.ctl("nodes", "dismiss", "sensor", "-c", live.config))[0] == 0
        known = await home.until(lambda all_: "gatewayd_demo_sensor_battery" not in all_)
        assert "gatewayd_demo_sensor" not in known["devices"]
        assert one in known["devices"]
        live_gateway = await home.known()
        assert live_gateway["entities"]["gatewayd_demo_connection"]["state"] == "on"
    said = [line for line in home.log.read_text().splitlines() if "mqtt" in line.lower() and ("WARNING" in line or "ERROR" in line)]
    assert said == []
