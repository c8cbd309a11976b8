"""The demo: the main job on real input, two rollouts, the accounting of both, and the broker for machines without mosquitto."""

import asyncio
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import aiomqtt
import pytest
from rich.console import Console

from gatewayd import bundle, signing
from gatewayd.core import wire
from gatewayd.core.rollout import Rollout, Rules, State
from gatewayd.core.segments import Sender
from gatewayd.core.types import Basis, Event, Info, Reason, Slot, SlotState, Verdict
from gatewayd.core.update import State as Progress
from gatewayd.core.update import Update
from gatewayd.demo import models, proof, site, stage, wireless
from gatewayd.demo.line import Chip, Host
from gatewayd.demo.show import RolloutShow, Show
from gatewayd.ledger import Note
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


DONE = Rollout("1", "wakeword", "1.1.0", b"b" * 32, 9, (("kitchen",), ("press", "pump")), Rules(), State.DONE, group=1, cleared=True)
BACK = DONE._replace(id="2", version="1.2.0", state=State.ROLLED_BACK, group=0, cleared=False, cause="the gate has failed: precision")
NAMES = ("kitchen", "press", "pump")


def updates(state, attempted=NAMES):
    return [Update(name, b"b" * 32, 9, state, 0.0, started_s=5.0 if name in attempted else None) for name in NAMES]


GOOD_END = proof.rolled_out(DONE, updates(Progress.CONFIRMED), NAMES, 80.4)
BAD_END = proof.rolled_out(BACK, updates(Progress.ROLLED_BACK, ("kitchen",)), (), 12.0)


def outcome(events, **more):
    counts = proof.account([KITCHEN, PRESS, PUMP], events, {("kitchen", 1, 0): 0.102})
    ble = {"ble_nodes": 4, "ble_events": 9, "radio_changes": 1}
    return {"nodes": 3, "lost": 0, **ble, **counts, "rollout_good": GOOD_END, "rollout_bad": BAD_END, **more}


def test_a_good_run_is_proved_and_its_overhead_is_what_is_not_the_model():
    result = outcome(GOOD)
    assert proof.shortfalls(result, 3) == []
    assert result["escalation_overhead_p50_ms"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("events", "more", "missing"),
    [
        (GOOD, {"nodes": 2}, "all 3 nodes are up"),
        (GOOD, {"lost": 1}, "no event was lost"),
        (GOOD, {"ble_nodes": 3}, "4 nodes were heard over Bluetooth LE"),
        (GOOD, {"ble_events": 0}, "events came over Bluetooth LE"),
        (GOOD, {"radio_changes": 0}, "a node that lost one radio was spoken to over the other"),
        (GOOD[:1] + GOOD[2:], {}, "of the commands were understood"),
        ([*GOOD, stored(seq=9, reason="follow", verdict_label="lights_off")], {}, "no command was taken for another"),
        ([*GOOD, stored(seq=9, reason="follow", verdict_label="lights_on")], {}, "no command was taken for another"),  # said once
        ([*GOOD, stored(node="pump", cascade="vibration")], {}, "no healthy motor was blamed"),
        (GOOD[:-1], {}, "the failing bearing was found"),
        (GOOD[:2] + GOOD[3:], {}, "suspicions were rejected"),
        (GOOD[:3] + GOOD[4:], {}, "audit samples were judged"),
        ([*GOOD, stored(seq=9, basis="timeout")], {}, "every escalation got its opinion"),
        (GOOD, {"rollout_good": GOOD_END | {"gate": "hold"}}, "the gate let the better model pass"),
        (GOOD, {"rollout_good": GOOD_END | {"running_it": 2}}, "all 3 nodes run the better model"),
        (GOOD, {"rollout_bad": BAD_END | {"state": "paused"}}, "the gate halted the spoilt model"),
        (GOOD, {"rollout_bad": BAD_END | {"attempted": 2}}, "only canaries tried the spoilt model"),
        (GOOD, {"rollout_bad": BAD_END | {"running_it": 1}}, "no node runs the spoilt model"),
    ],
)
def test_what_is_missing_is_said(events, more, missing):
    (said,) = proof.shortfalls(outcome(events, **more), 3)
    assert missing in said


def test_how_a_rollout_ended():
    assert GOOD_END == {
        "id": "1",
        "version": "1.1.0",
        "state": "done",
        "group": 2,
        "gate": "pass",
        "canaries": 1,
        "attempted": 3,
        "confirmed": 3,
        "running_it": 3,
        "because": "",
        "seconds": 80,
    }
    assert (BAD_END["gate"], BAD_END["attempted"], BAD_END["confirmed"]) == ("fail", 1, 0)


def test_the_picture_tells_which_model_runs_where_and_how_often_the_gateway_agreed_with_it():
    show = RolloutShow([KITCHEN, PUMP], "http://gateway", "wakeword")
    old = Slot(1, 0, SlotState.CONFIRMED, 99, cascade="wakeword", sha256=b"a" * 32, version="1.0.0")
    new = old._replace(slot=1, state=SlotState.TEST, sha256=b"b" * 32, version="1.1.0")
    info = Info(1, "posix", "posix", "1", "power-on", b"", 9, ("audio",), 2, (old, new))
    show.message("up", "kitchen", "info", wire.encode(info))
    for seq, (accepted, basis) in enumerate([(True, Basis.GATEWAY), (False, Basis.GATEWAY), (True, Basis.TIMEOUT)]):
        show.message("up", "kitchen", "event", wire.encode(Event(seq, 1, "wakeword", b"b" * 8, 0.3, 0, 0, Reason.TRIGGER)))
        show.message("down", "kitchen", "verdict", wire.encode(Verdict(seq, 1, accepted, "okay_nabu", 0.9, "", 9, basis)))
    moved = Note(show.began_unix_s + 7, "start\nrollout 1 of wakeword 1.1.0: soaking, group 1 of 2, for 0 s\ngate: hold: too early")
    show.rollout("1", {"kitchen": updates(Progress.JUDGING)[0]}, [moved], "rollout 1\nbecause: of this")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(show)
    said = console.export_text()
    assert show.running["kitchen"] == new
    assert re.search("kitchen +│ mqtt +│ 1.1.0 +│ judging +│ 1 of 2 ", said)
    assert "7 s  rollout 1 of wakeword 1.1.0: soaking, group 1 of 2, gate: hold\n" in said
    assert "because: of this" in said


@pytest.mark.slow
def test_the_models_differ_in_their_networks_alone_and_are_all_signed(tmp_path):
    signing.make(tmp_path / "key.pem")
    made = models.build(tmp_path, signing.load_private(tmp_path / "key.pem"))
    keys = signing.keyring([tmp_path / "key.pem.pub"])
    better, spoilt = (bundle.open_bundle(path, keys) for path in (made.better, made.spoilt))
    assert (better.image.version, spoilt.image.version) == (models.BETTER, models.SPOILT)
    assert better.image.payload != spoilt.image.payload
    for part in ("cascade", "arena_bytes", "operators", "front_end", "decision", "counter"):
        assert getattr(better.image, part) == getattr(spoilt.image, part)


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
@pytest.mark.timeout(1500)
def test_the_demo_proves_the_whole_path(host_build):
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd.cli", "demo", "--once"], cwd=ROOT, capture_output=True, text=True, timeout=1440, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["nodes"] == 12
    assert result["commands"] <= result["commands_spoken"] == 16
    good, bad = result["rollout_good"], result["rollout_bad"]
    assert (good["state"], good["gate"], good["confirmed"], good["running_it"]) == ("done", "pass", 12, 12)
    assert (bad["state"], bad["gate"], bad["attempted"], bad["confirmed"], bad["running_it"]) == ("rolled_back", "fail", 4, 0, 0)
    assert "precision" in bad["because"]


def test_what_is_overheard_on_a_chips_line_is_shown():
    show = Show([KITCHEN, PUMP], "http://gateway")
    tap = wireless._Tap("kitchen", show.message)
    event = b"\x04" + wire.encode(Event(0, 1, "wakeword", b"b" * 8, 0.3, 0, 0, Reason.TRIGGER))
    verdict = b"\x02" + wire.encode(Verdict(0, 1, True, "okay_nabu", 0.9, "listen", 9, Basis.GATEWAY))
    for _ in range(2):  # counters begin anew with each connection; the event that is said again is one
        tap(Chip.CONNECTED, b"")
        up, down = Sender(20), Sender(20)
        up.put(event)
        down.put(verdict)
        while (segment := up.next(0)) is not None:
            tap(Host.NOTIFY, b"\x01" + segment)
            tap(Host.NOTIFY, b"\x01" + segment)  # and repeated
        tap(Chip.WRITTEN, b"\x02\xff")  # what cannot be is left out
        while (segment := down.next(0)) is not None:
            tap(Chip.WRITTEN, b"\x02" + segment)
    assert (show.heard["ble"], show.events["ble"]) == ({"kitchen"}, {("kitchen", 1, 0)})
    assert show.answer_s == {}  # which is the broker's
    console = Console(file=io.StringIO(), width=160)
    console.print(show)
    (row,) = [line for line in console.file.getvalue().splitlines() if "kitchen" in line]
    assert "ble" in row
    assert "yes okay_nabu" in row


async def test_a_relay_that_is_cut():
    async def echo(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(9):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, wireless.Relay(server.sockets[0].getsockname()[1]) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"there")
        assert await reader.read(9) == b"there"
        waiting, silent = await asyncio.open_connection("127.0.0.1", relay.port)
        silent.write(b"h")
        assert await waiting.read(9) == b"h"
        silent.write(b"more")
        relay.cut()
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionResetError):
                assert await waiting.read(9) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", relay.port)
        writer.close()
        silent.close()
