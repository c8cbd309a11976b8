"""gatewayctl: every command on a real store, a real broker and what is wrong with them."""

import asyncio
import importlib
import json
import os
import shutil

import pytest
from live import WINDOW, Live, Node, event, info, until

from gatewayd import __version__, config, signing
from gatewayd.cli.watch import describe
from gatewayd.core import wire
from gatewayd.core.registry import Link
from gatewayd.core.registry import Node as KnownNode
from gatewayd.core.types import Basis, Crash, GatewayState, Limits, NodeState, Opinion, Record, Slot, SlotState, State, Verdict
from gatewayd.errors import StoreError
from gatewayd.store import Store
from gatewayd.transports.mqtt import MqttTransport
from gatewayd.transports.replay import ReplayTransport, read_frames

needs_mosquitto = pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto")
doctor = importlib.import_module("gatewayd.cli.doctor")  # its package has a function of that name
SLOT = Slot(1, 0, SlotState.CONFIRMED, 65_536, "wakeword", bytes(range(32)), "1.2.0", 1, 50_000)


@pytest.fixture
def store(tmp_path):
    """Two nodes, three events, one of them judged."""
    judged = Verdict(1, 3, True, "okay_nabu", 0.97, "listen", 3_000, Basis.GATEWAY)
    opinion = Opinion(True, "okay_nabu", 0.97, "head 1", "okay nabu", "", (("vad", 0.01),))
    records = [
        Record("n1", event(1, 3), 1.8e9, judged, opinion, 0.123),
        Record("n1", event(2, 3, cascade="vibration"), 1.8e9, judged._replace(accepted=False, label="healthy"), None, 0.001),
        Record("stranger", event(0), 1.8e9),
    ]

    async def fill():
        async with Store(config.Store(), f"sqlite:///{tmp_path / 'gatewayd.db'}") as store:
            stored = [asyncio.get_running_loop().create_future() for _ in records]
            for record, done in zip(records, stored, strict=True):
                store.submit(record, done.set_result)
            known = info(3)._replace(
                board="board[/]",  # no markup of the table's
                reset_reason="fault",
                slots=(SLOT,),
                limits=Limits(1_024, 512, 6, 1 << 28, 1),
                crash=Crash(0x2F3C, 0x2F11, 0x8200, 3_480),
            )
            store.save_nodes(
                [
                    KnownNode("n1", enrolled=True, session=3, info=known, links={"mqtt": Link(0), "ble": Link(0)}, heard_unix_s=1.8e9),
                    KnownNode("stranger"),
                ]
            )
            assert await asyncio.gather(*stored) == [True] * 3

    asyncio.run(fill())


def rows(out):
    """The cells of a rich table."""
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in out.splitlines() if line[:1] in "│┃"]


def test_version(ctl):
    assert ctl("version") == (0, f"{__version__}\n", "")


def test_help_names_every_command(ctl):
    status, out, _ = ctl("--help")
    assert status == 0
    for command in ("run", "nodes", "events", "watch", "doctor", "version"):
        assert f"\n  {command} " in out


# ---- what the store remembers


@pytest.mark.usefixtures("store")
def test_nodes(ctl):
    status, out, _ = ctl("nodes", "list")
    head, first, second = rows(out)
    assert (status, head) == (0, ["node", "enrolled", "last heard", "on", "session", "reset", "board", "firmware", "models"])
    assert (first[0], first[1], first[3:]) == ("n1", "yes", ["ble mqtt", "3", "fault at 0x2f3c", "board[/]", "1.0", "wakeword 1.2.0"])
    assert (second[0], second[1], second[3:]) == ("stranger", "no", ["", "", "", "", "", ""])


@pytest.mark.usefixtures("store")
def test_nodes_as_json(ctl):
    status, out, _ = ctl("nodes", "list", "--json")
    first, second = map(json.loads, out.splitlines())
    assert (status, first["id"], first["enrolled"], first["info"]["board"]) == (0, "n1", True, "board[/]")
    assert first["info"]["slots"][0]["sha256"] == bytes(range(32)).hex()
    assert first["info"]["limits"] == {"tensors": 1_024, "operators": 512, "rank": 6, "work": 1 << 28, "plan_version": 1}
    assert (first["info"]["reset_reason"], first["info"]["crash"]) == (
        "fault",
        {"pc": 0x2F3C, "lr": 0x2F11, "status": 0x8200, "stack_bytes": 3_480},
    )
    assert (first["transports"], second["transports"]) == (["ble", "mqtt"], [])
    assert (second["id"], second["enrolled"], second["info"]) == ("stranger", False, None)


@pytest.mark.usefixtures("store")
def test_events(ctl):
    status, out, _ = ctl("events")
    assert (status, rows(out)[0]) == (0, ["when", "node", "cascade", "why", "node says", "verdict", "by", "heard", "action", "ms"])
    assert [row[1:] for row in rows(out)[1:]] == [
        ["n1", "fake", "trigger", "0.50", "yes okay_nabu", "gateway", "okay nabu", "listen", "123"],
        ["n1", "vibration", "trigger", "0.50", "no healthy", "gateway", "", "listen", "1"],
        ["stranger", "fake", "trigger", "0.50", "", "", "", "", "0"],
    ]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ((), [("n1", 1), ("n1", 2), ("stranger", 0)]),
        (("--node", "n1"), [("n1", 1), ("n1", 2)]),
        (("--cascade", "fake"), [("n1", 1), ("stranger", 0)]),
        (("-n", "1"), [("stranger", 0)]),
        (("--node", "nobody"), []),
    ],
)
def test_events_as_json(ctl, arguments, keys):
    status, out, _ = ctl("events", "--json", *arguments)
    events = [json.loads(line) for line in out.splitlines()]
    assert (status, [(one["node"], one["seq"]) for one in events]) == (0, keys)
    assert all(one["model"] == b"12345678".hex() for one in events)


@pytest.mark.usefixtures("store")
def test_enroll_and_dismiss(ctl):
    assert ctl("nodes", "enroll", "stranger", "new")[:2] == (0, "stranger: enrolled\nnew: enrolled, though it was never heard\n")
    assert ctl("nodes", "dismiss", "n1")[:2] == (0, "n1: dismissed\n")
    nodes = map(json.loads, ctl("nodes", "list", "--json")[1].splitlines())
    assert {node["id"]: node["enrolled"] for node in nodes} == {"n1": False, "new": True, "stranger": True}


@pytest.mark.parametrize("name", ["UPPER", "x", "a/b", "a b", ""])
@pytest.mark.usefixtures("store")
def test_what_can_be_no_node_is_not_enrolled(ctl, name):
    status, _, err = ctl("nodes", "enroll", name)
    assert status != 0
    assert "is not a node's name" in err
    assert len(ctl("nodes", "list", "--json")[1].splitlines()) == 2


@pytest.mark.usefixtures("store")
def test_labels(ctl):
    assert ctl("nodes", "label", "n1", "stranger", "--add", "mains", "--add", "ground-floor") == (
        0,
        "n1: ground-floor mains\nstranger: ground-floor mains\n",
        "",
    )
    assert ctl("nodes", "label", "n1", "--remove", "mains", "--remove", "ground-floor")[1] == "n1: no labels\n"
    assert [row[-1] for row in rows(ctl("nodes", "list")[1])] == ["labels", "", "ground-floor mains"]
    nodes = map(json.loads, ctl("nodes", "list", "--json")[1].splitlines())
    assert {node["id"]: node["labels"] for node in nodes} == {"n1": [], "stranger": ["ground-floor", "mains"]}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("n1", "--add", "Mains"), "'Mains' is not a label"),
        (("n1", "--remove", "a b"), "'a b' is not a label"),
        (("n1", "--add", "x" * 32), "is not a label: up to 31"),
        (("n1", "nobody", "--add", "mains"), "'nobody' was never heard"),
    ],
)
def test_what_can_be_no_label(ctl, arguments, said):
    status, _, err = ctl("nodes", "label", *arguments)
    assert status != 0
    assert said in err
    assert json.loads(ctl("nodes", "list", "--json")[1].splitlines()[0])["labels"] == []


@pytest.mark.parametrize("command", [("nodes", "list"), ("nodes", "enroll", "n1"), ("nodes", "label", "n1"), ("events",)])
def test_without_a_store_it_says_so(ctl, command):
    status, out, err = ctl(*command)
    assert (status, out) == (1, "")
    assert "has gatewayd run yet?" in err


@pytest.mark.parametrize("command", [("nodes", "list"), ("events",), ("watch",), ("run",), ("nodes", "enroll", "n1")])
def test_an_unknown_key_names_the_nearest(ctl, command):
    status, out, err = ctl(*command, "-s", "mqtt.hots=x")
    assert (status, out) == (os.EX_CONFIG, "")
    assert err == "gatewayctl: command line: unknown key 'mqtt.hots'; did you mean 'mqtt.host'?\n"


# ---- doctor


def findings(out):
    """(ok or BAD, what, advice) of each finding."""
    lines = out.splitlines()
    return [
        (*line.split(None, 1), following.split("→ ", 1)[1] if "→" in following else "")
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if "→" not in line
    ]


@needs_mosquitto
async def test_a_healthy_site(tmp_path):
    live = Live(tmp_path)
    async with live.broker():
        async with live.gateway():
            pass
        status, out = await live.ctl("doctor", "-c", live.config)
    assert (status, [finding for finding in findings(out) if finding[0] != "ok"]) == (0, [])
    for part in ("Python 3.", "configuration", "clock says", "GB free", "database: 0 nodes", f":{live.mqtt_port}", "model fake loads"):
        assert part in out


async def test_an_ill_site(tmp_path):
    live = Live(tmp_path)
    (live.cascade / "broken").touch()
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    text = (live.cascade / "cascade.toml").read_text()
    (unknown / "cascade.toml").write_text(text.replace('kind = "fake"', 'kind = "wakewrod"').replace('name = "fake"', 'name = "other"'))
    folders = [str(folder) for folder in (live.cascade, unknown, tmp_path / "none")]
    status, out = await live.ctl("doctor", "-c", live.config, "-s", f"cascades.folders={json.dumps(folders)}")
    assert status == 1
    bad = [(what, advice) for state, what, advice in findings(out) if state == "BAD"]
    assert len(bad) == 5
    (database, run), (broker, start), (_, load), (_, kind), (_, none) = bad
    assert (database, "gatewayctl run" in run) == ("database", True)
    assert broker.startswith(f"MQTT broker 127.0.0.1:{live.mqtt_port}")
    assert "systemctl status mosquitto" in start
    assert load == "its model does not load: weights are missing"
    assert "did you mean 'wakeword'" in kind
    assert "cascade.toml" in none


@pytest.mark.usefixtures("store")
def test_doctor_of_clock_disk_and_configuration(ctl, monkeypatch, tmp_path):
    settings = ("-s", f'cascades.folders=["{tmp_path}"]', "-s", "mqtt.port=1")
    monkeypatch.setattr(doctor.time, "time", lambda: 3_600.0)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    status, out, _ = ctl("doctor", *settings)
    advice = " ".join(text for _, _, text in findings(out))
    assert status == 1
    for part in ("set-ntp true", "clips_max_bytes", "daemon's user"):
        assert part in advice
    status, out, _ = ctl("doctor", "-s", "mqtt.hots=x")
    assert (status, findings(out)[-1][:2]) == (1, ("BAD", "configuration"))
    assert "did you mean 'mqtt.host'" in out


def test_doctor_of_a_password_that_cannot_be_read(ctl, tmp_path):
    _, out, _ = ctl("doctor", "-s", f"mqtt.password_file={tmp_path / 'none'}", "-s", f'cascades.folders=["{tmp_path}"]')
    assert "mqtt.password_file: [Errno 2]" in out


def test_doctor_of_keys(ctl, tmp_path):
    public = signing.make(tmp_path / "key.pem")
    keys = [str(tmp_path / name) for name in (public, "key.pem", "none.pub")]
    _, out, _ = ctl("doctor", "-s", f"cascades.keys={json.dumps(keys)}", "-s", f'cascades.folders=["{tmp_path}"]', "-s", "mqtt.port=1")
    assert [(state, advice.split(":")[0]) for state, what, advice in findings(out) if what.startswith("key ")] == [
        ("ok", ""),
        ("BAD", "that is the private key"),
        ("BAD", "key"),
    ]


# ---- watch


@pytest.mark.parametrize(
    ("topic", "payload", "said"),
    [
        ("up/n1/state", wire.encode(State(NodeState.READY, 3)), "→ [bold]n1[/] [yellow]state[/] state=ready session=3"),
        ("up/n1/event", wire.encode(event(9, window=WINDOW)), "seq=9 session=1 cascade=fake model=3132333435363738 score=0.500 label=0"),
        ("up/n1/event", b"\x80", "[red]schema: Event: not a map"),
        ("up/n1/smp", b"1234", "[red]schema: no messages under 'smp'[/]"),
        ("down/n1/smp", b"1234", "← [bold]n1[/] [dim]smp[/] 4 bytes"),
        ("gateway/g1/state", wire.encode(GatewayState("online", 5)), "· [bold]g1[/] [yellow]state[/] state=online unix_s=5"),
        ("up/\\[bold]/x[/]", b"", "no messages under 'x"),
        ("up", b"", "[red]"),
        ("", b"", "0 bytes"),
    ],
)
def test_a_line_for_whatever_passes(topic, payload, said):
    assert said in describe(topic.split("/"), payload)


@needs_mosquitto
async def test_watch_shows_and_records_what_replay_plays(tmp_path):
    live = Live(tmp_path)
    record = tmp_path / "day.cbor"
    async with live.broker(), Node(live) as node:
        watching = asyncio.create_task(live.ctl("watch", "-c", live.config, "--record", record, "--seconds", "6"))
        broker = MqttTransport(config.Mqtt(port=live.mqtt_port), "g1")
        running = asyncio.create_task(broker.run())
        await until(lambda: broker.connected)
        # What is retained comes to whoever watches, however late; then it is there for the rest.
        await node.say("state", wire.encode(State(NodeState.READY, 1)), retain=True)
        await until(lambda: record.exists() and record.stat().st_size == 0)
        while not await asyncio.to_thread(watching.done):
            await node.event(0)
            await node.client.publish("nodelink/1/up/n1", b"too few levels")
            await node.client.publish("nodelink/1/up/n1/event/more", b"too many levels")
            await node.client.publish("nodelink/1", b"none at all")
            broker.send("n1", "verdict", wire.encode(Verdict(0, 1, True, "yes", 0.5, "act", 1_000, Basis.GATEWAY)))
            await asyncio.sleep(0.1)
        status, out = await watching
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert status == 0, out
    for part in ("n1 state state=ready", "n1 event seq=0", "n1 verdict seq=0", "g1 state state=online"):
        assert part in out
    recorded = [frame[1:] for frame in read_frames(record.read_bytes())]
    assert set(recorded) == {("n1", "state", wire.encode(State(NodeState.READY, 1))), ("n1", "event", wire.encode(event(0)))}
    played = [frame async for batch in ReplayTransport(record, speed=0).frames() for frame in batch]
    assert [(frame.node, frame.tail, frame.payload) for frame in played] == recorded


def test_watch_without_a_broker_is_an_error(ctl):
    status, _, err = ctl("watch", "-s", "mqtt.port=1")
    assert status == 1
    assert err.startswith("gatewayctl: MQTT broker 127.0.0.1:1:")


def test_a_bug_is_not_hidden(ctl, monkeypatch):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("gatewayd.cli.records.show_nodes", broken)
    with pytest.raises(ZeroDivisionError):
        ctl("nodes", "list")
    monkeypatch.setattr("gatewayd.cli.records.show_nodes", lambda *_a, **_k: (_ for _ in ()).throw(StoreError("disk I/O error")))
    assert ctl("nodes", "list") == (1, "", "gatewayctl: disk I/O error\n")
