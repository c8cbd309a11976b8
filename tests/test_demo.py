"""The demo: the main job on real input, the accounting of it, and the broker for machines without mosquitto."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import aiomqtt
import pytest

from gatewayd.demo import proof, site, stage
from gatewayd.records import StoredEvent

ROOT = Path(__file__).parent.parent


def stored(**fields):
    plain = dict.fromkeys(StoredEvent._fields)
    plain |= {"id": 1, "node": "kitchen", "session": 1, "seq": 0, "cascade": "wakeword", "reason": "trigger", "basis": "gateway"}
    return StoredEvent(**{**plain, "accepted": True, "wait_s": 0.0, "model_s": 0.1, **fields})


KITCHEN = stage.Sensor("kitchen", "wakeword", Path("k.wav"), (stage.Line(1, "okay nabu, lights", "lights_on"), stage.Line(9, "okay maybe")))
PRESS = stage.Sensor("press", "vibration", Path("p.wav"), (), fails=True)
PUMP = stage.Sensor("pump", "vibration", Path("q.wav"))
GOOD = [
    stored(),
    stored(seq=1, reason="follow", verdict_label="lights_on"),
    stored(seq=2, accepted=False),
    stored(seq=3, reason="audit", accepted=False),
    stored(node="press", cascade="vibration"),
]


def outcome(events, **more):
    counts = proof.account([KITCHEN, PRESS, PUMP], events, {("kitchen", 1, 0): 0.102})
    return {"nodes": 3, "lost": 0, **counts, **more}


def test_a_good_run_is_proved_and_its_overhead_is_what_is_not_the_model():
    result = outcome(GOOD)
    assert proof.shortfalls(result, 3) == []
    assert result["escalation_overhead_p50_ms"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("events", "more", "missing"),
    [
        (GOOD, {"nodes": 2}, "all 3 nodes are up"),
        (GOOD, {"lost": 1}, "no event was lost"),
        (GOOD[:1] + GOOD[2:], {}, "of the commands were understood"),
        ([*GOOD, stored(seq=9, reason="follow", verdict_label="lights_off")], {}, "no command was taken for another"),
        ([*GOOD, stored(seq=9, reason="follow", verdict_label="lights_on")], {}, "no command was taken for another"),  # said once
        ([*GOOD, stored(node="pump", cascade="vibration")], {}, "no healthy motor was blamed"),
        (GOOD[:-1], {}, "the failing bearing was found"),
        (GOOD[:2] + GOOD[3:], {}, "suspicions were rejected"),
        (GOOD[:3] + GOOD[4:], {}, "audit samples were judged"),
        ([*GOOD, stored(seq=9, basis="timeout")], {}, "every escalation got its opinion"),
    ],
)
def test_what_is_missing_is_said(events, more, missing):
    (said,) = proof.shortfalls(outcome(events, **more), 3)
    assert missing in said


async def test_without_mosquitto_another_broker_carries_whole_windows(tmp_path, monkeypatch):
    pytest.importorskip("iotcore")
    monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: None)
    port = site.free_port()
    payload = bytes(98_304)
    async with site.broker(tmp_path, port), aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("nodelink/1/up/+/+", qos=1)
        await client.publish("nodelink/1/up/n1/event", payload, qos=1)
        assert (await anext(aiter(client.messages))).payload == payload


@pytest.mark.slow
def test_the_demo_proves_the_whole_path(host_build):
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd.cli", "demo", "--once"], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["nodes"] == 12
    assert result["commands"] <= result["commands_spoken"] == 16
