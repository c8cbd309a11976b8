"""gatewayctl rollout: on a real store and a real bundle, with a daemon that is played by the ledger."""

import asyncio
import contextlib
import functools
import hashlib
import io
import json
import os
import time

import pytest
from cryptography.hazmat.primitives import serialization
from hostile_images import COUNTER, KEY, STRANGER
from test_bundle import FOLDER

from gatewayd import bundle, config
from gatewayd.cli import rollouts
from gatewayd.cli.options import duration
from gatewayd.core import rollout, update
from gatewayd.core.listening import Listened, Listener
from gatewayd.core.registry import Node
from gatewayd.core.rollout import Command, Rules, State
from gatewayd.core.types import Info, Slot, SlotState
from gatewayd.ledger import Ledger
from gatewayd.store import Store

U = update.State
OLD = b"o" * 32


@functools.cache
def made(key=KEY):
    return bundle.build(FOLDER, counter=COUNTER, key=key)


@functools.cache
def image():
    return bundle.parse_bundle(made(), None).image


def info(board="devkit", *, arena_bytes=1 << 20, confirmed=OLD, cascade="vibration"):
    slots = (
        Slot(1, 0, SlotState.CONFIRMED, 65_536, cascade, confirmed, "1.0.0", COUNTER, 10),
        Slot(1, 1, SlotState.EMPTY, 65_536),
    )
    return Info(1, "host", board, "1.0", "power", b"\xff" * 32, arena_bytes, ("audio", "vibration"), 60, slots)


@pytest.fixture
def site(tmp_path):
    """A store with twelve nodes that take the bundle and some that do not; a bundle, and the operator's keys."""
    nodes = [Node(f"m{number:02}", enrolled=True, info=info(), heard_unix_s=time.time()) for number in range(12)]
    nodes += [
        Node("small", enrolled=True, info=info("nano", arena_bytes=5), heard_unix_s=time.time()),
        Node("done", enrolled=True, info=info(confirmed=image().sha256), heard_unix_s=time.time()),
        Node("stranger", info=info(), heard_unix_s=time.time()),
        Node("ear", enrolled=True, info=info(cascade="wakeword"), heard_unix_s=time.time()),
    ]

    async def fill():
        async with Store(config.Store(), f"sqlite:///{tmp_path / 'gatewayd.db'}") as store:
            store.save_nodes(nodes)

    asyncio.run(fill())
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "operator.pub").write_bytes(public)
    (tmp_path / "good.bundle").write_bytes(made())
    return tmp_path


@pytest.fixture
def run(ctl, site):
    """gatewayctl rollout, with the operator's key trusted."""

    def run(*arguments):
        status, out, err = ctl("rollout", *arguments, "-s", f'cascades.keys=["{site / "operator.pub"}"]')
        assert "Traceback" not in err
        return status, out, err

    return run


@contextlib.contextmanager
def ledger(site):
    with Store(config.Store(), f"sqlite:///{site / 'gatewayd.db'}") as store:
        yield Ledger(store)


def play(site, state, **updates):
    """The daemon: carry out what was ordered, then let the rollout be where the test wants it."""
    with ledger(site) as book:
        one = book.rollout("1").rollout
        for order in book.orders():
            one = rollout.command(one, order.command, time.time(), order.cause)
            book.move(one, time.time(), order.command, order.id)
        one = one._replace(state=state, since_s=time.time())
        book.move(one, time.time(), f"now {state}")
        saved = book.updates("1")
        book.save("1", [saved[node]._replace(**fields) for node, fields in updates.items()])
        return one


def kept(site):
    return sorted((site / "bundles").iterdir()) if (site / "bundles").exists() else []


def one_line(said):
    status, out, err = said
    assert (status, out) == (1, "")
    assert err.startswith("gatewayctl: ")
    assert err.count("\n") == 1
    return err.removeprefix("gatewayctl: ").rstrip()


# ---- start


def test_start_keeps_the_bundle_and_a_draft_with_the_order_to_start_it(run, site):
    status, out, _ = run("start", site / "good.bundle", "--yes")
    assert status == 0
    assert "to 12 nodes:\n  group 1: m00\n  group 2: m01\n  group 3: m02, m03, m04" in out
    assert "left out, has it already: done; arena: small" in out
    assert out.endswith("rollout 1 is in gatewayd's hands; `gatewayctl rollout watch 1` shows how it goes\n")
    (file,) = kept(site)
    assert file.read_bytes() == made()
    assert file.name == f"{hashlib.sha256(made()).hexdigest()}.bundle"
    with ledger(site) as book:
        (stored,) = book.rollouts()
        one = stored.rollout
        assert (one.cascade, one.version, one.sha256, one.size_bytes) == ("vibration", image().version, image().sha256, image().size_bytes)
        assert (one.state, stored.bundle_sha256, one.rules) == (State.DRAFT, file.stem, Rules())
        assert [len(group) for group in one.groups] == [1, 1, 10]
        upload = hashlib.sha256(bundle.parse_bundle(made(), None).members[bundle.NODE_IMAGE]).digest()
        assert {(each.state, each.upload_sha256) for each in book.updates("1").values()} == {(U.WAITING, upload)}
        assert [order.command for order in book.orders()] == [Command.START]


def test_every_option_has_its_effect(run, site, ctl):
    ctl("nodes", "label", "m03", "m04", "m05", "--add", "mains")
    status, out, _ = run(
        *("start", site / "good.bundle", "--yes", "--json", "--node", "m03", "--node", "m04", "--label", "mains", "--board", "devkit"),
        *(
            "--groups",
            "1,2",
            "--soak",
            "90s",
            "--success",
            "0.5",
            "--error-limit",
            "0.2",
            "--min-attempted",
            "3",
            "--approval",
            "--no-gate",
        ),
        *("--gate-patience", "2h", "--margin", "0.2", "--concurrent", "9", "--bytes-per-hour", "1000", "--min-battery", "0.5"),
        *("--sleep-limit", "30m"),
    )
    assert status == 0
    said = json.loads(out)
    assert (said["id"], said["groups"], said["left_out"]) == ("1", [["m03"], ["m04"]], {})
    with ledger(site) as book:
        assert book.rollout("1").rollout.rules == Rules(0.5, 3, 0.2, 90.0, False, 0.2, 7_200.0, True, 9, 1_000, 0.5, 1_800.0)


def test_it_asks_first(run, site, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    status, out, err = run("start", site / "good.bundle")
    assert (status, kept(site)) == (1, [])
    assert "group 1: m00" in out
    assert "Start it? [y/N]" in err
    with ledger(site) as book:
        assert book.rollouts() == []
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("start", site / "good.bundle")[0] == 0


def test_a_second_one_of_the_cascade_is_refused_before_anything_is_asked(run, site):
    run("start", site / "good.bundle", "--yes")
    assert one_line(run("start", site / "good.bundle")) == "rollout 1 of vibration is draft: it must end first"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--node", "m0"], "m0 cannot take part: it was never heard"),
        (["--node", "stranger"], "stranger cannot take part: it is not enrolled"),
        (["--node", "ear"], "ear cannot take part: it has no slot for 'vibration'"),
        (["--board", "dvekit"], "no node of this cascade has board 'dvekit'; there are: devkit, nano"),
        (["--label", "mains"], "no node of this cascade has label 'mains'; there are: none"),
        (["--node", "small", "--node", "done"], "no node is left: has it already: done; arena: small"),
        (["--groups", "1,ten"], "groups '1,ten': 'ten' is neither a number of nodes nor a percentage"),
        (["--groups", "1,50%"], "groups '1,50%': they end at 6 of 12 nodes; end with 100%"),
    ],
)
def test_what_is_mistyped_is_said_in_a_line_and_nothing_is_kept(run, site, arguments, said):
    assert one_line(run("start", site / "good.bundle", "--yes", *arguments)) == said
    assert kept(site) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--soak", value) for value in ("5", "1w", "-1d", "1d2h", "", "nan", "1e3s", "\u0661d")),
        *(("--success", value) for value in ("0", "1.1", "90%", "nan")),
        ("--concurrent", "0"),
        ("--bytes-per-hour", "-1"),
        ("--min-battery", "2"),
        ("--margin", "0"),
    ],
)
def test_a_value_that_makes_no_sense_names_its_option(run, site, option, value):
    status, _, err = run("start", site / "good.bundle", "--yes", option, value)
    assert status == 2
    assert f"'{option}'" in err or "nan is not a number" in err
    assert kept(site) == []


def test_a_bundle_must_be_signed_by_a_trusted_key(run, ctl, site):
    (site / "other.bundle").write_bytes(made(STRANGER))
    assert one_line(run("start", site / "other.bundle", "--yes")).startswith("key: ")
    (site / "broken.bundle").write_bytes(made()[:-1])
    one_line(run("start", site / "broken.bundle", "--yes"))
    assert "No such file" in one_line(run("start", site / "none.bundle", "--yes"))
    status, _, err = ctl("rollout", "start", site / "good.bundle", "--yes")
    assert (status, "cascades.keys: no public key is trusted" in err) == (os.EX_CONFIG, True)
    assert kept(site) == []


def test_a_disk_that_refuses_keeps_nothing(run, site):
    (site / "bundles").write_text("a file where the folder belongs")
    assert "bundle not kept" in one_line(run("start", site / "good.bundle", "--yes", "--json"))
    with ledger(site) as book:
        assert book.rollouts() == []


def test_the_canary_is_the_node_that_is_known_best(run, site):
    arrived_s = time.time() - 3_600
    with ledger(site) as book:
        covered = Listened(60.0, arrived_s - 30, arrived_s + 30)
        book.listen({Listener(node, "vibration", b"\0", int(arrived_s // 3_600)): covered for node in ("m03", "m07")})
    with ledger(site) as book, book._store.writing() as connection:
        for seq, node in enumerate(["m07", "m07", "m03"]):
            connection.exec_driver_sql(
                "INSERT INTO events (node, session, seq, arrived_s, cascade, model, score, label, t_ms, reason, accepted, basis, latency_s,"
                " wait_s, model_s) VALUES (?, 1, ?, ?, 'vibration', x'00', 0.5, 0, 0, 'trigger', 1, 'gateway', 0, 0, 0)",
                (node, seq, arrived_s),
            )
    run("start", site / "good.bundle", "--yes", "--groups", "1,2,3,100%")
    with ledger(site) as book:
        assert book.rollout("1").rollout.groups[:3] == (("m07",), ("m03",), ("m00",))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("1d", 86_400), ("1.5h", 5_400), ("0s", 0)])
def test_durations(text, seconds):
    assert duration(text) == seconds


# ---- orders


def test_orders_wait_for_the_daemon(run, site):
    run("start", site / "good.bundle", "--yes")
    status, out, _ = run("pause", "1", "--because", " guests\n in the  hall ")
    assert (status, out) == (0, "rollout 1 is to pause; `gatewayctl rollout explain 1` tells when it does\n")
    assert run("resume", "1")[0] == 0
    with ledger(site) as book:
        assert [(order.command, order.cause) for order in book.orders()] == [
            (Command.START, ""),
            (Command.PAUSE, "guests in the hall"),
            (Command.RESUME, "operator"),
        ]


@pytest.mark.parametrize(
    ("state", "command", "fits"),
    [
        (State.RUNNING, "pause", True),
        (State.RUNNING, "resume", False),
        (State.PAUSED, "resume", True),
        (State.RUNNING, "approve", False),
        (State.AWAITING_APPROVAL, "approve", True),
        (State.SOAKING, "abort", True),
        (State.ROLLING_BACK, "abort", False),
        (State.SOAKING, "rollback", True),
        (State.ROLLED_BACK, "rollback", False),
        (State.DONE, "rollback", True),
    ],
)
def test_an_order_that_does_not_fit_is_refused_at_once(run, site, state, command, fits):
    run("start", site / "good.bundle", "--yes")
    play(site, state)
    said = run(command, "1")
    if fits:
        assert said[0] == 0
    else:
        words = {"rollback": "roll back"}.get(command, command)
        assert one_line(said) == f"rollout 1 is {state}: it cannot {words}"
    with ledger(site) as book:
        assert len(book.orders()) == fits


def test_a_closed_rollout_is_rolled_back_unless_another_came_after_it(run, site):
    run("start", site / "good.bundle", "--yes")
    play(site, State.DONE)
    with ledger(site) as book:
        book.close("1")
    assert run("rollback", "1")[0] == 0
    play(site, State.ROLLED_BACK)
    play(site, State.DONE)
    with ledger(site) as book:
        book.close("1")
    run("start", site / "good.bundle", "--yes")
    assert one_line(run("rollback", "1")) == "rollout 2 of vibration came after it: that one can be rolled back"
    with ledger(site) as book:
        second = book.rollout("2").rollout
        book.move(second._replace(state=State.ROLLED_BACK), time.time(), "", book.orders()[0].id)
        book.close("2")
    assert run("rollback", "1")[0] == 0


@pytest.mark.parametrize("command", ["status", "watch", "explain", "pause", "resume", "approve", "abort", "rollback"])
def test_there_is_no_such_rollout(run, site, command):
    words = "there is no rollout {!r}; `gatewayctl rollout list` shows those there are"
    assert one_line(run(command, "7")) == words.format("7")
    assert one_line(run(command, "vibration")) == words.format("vibration")


@pytest.mark.parametrize("command", [("list",), ("status", "1"), ("pause", "1"), ("explain", "1"), ("watch", "1")])
def test_without_a_store_it_says_so(ctl, command):
    status, out, err = ctl("rollout", *command)
    assert (status, out) == (1, "")
    assert "has gatewayd run yet?" in err


# ---- what is known


def cells(out):
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in out.splitlines() if line[:1] in "│┃"]


def test_list(run, site):
    run("start", site / "good.bundle", "--yes")
    one = play(
        site, State.PAUSED, m00={"state": U.CONFIRMED}, m01={"state": U.REVERTING}, m02={"state": U.TRIAL}, m03={"state": U.ADMITTED}
    )
    head, row = cells(run("list")[1])
    assert head[6:] == ["nodes", "waiting", "sending", "on trial", "confirmed", "went wrong", "because"]
    assert (row[0], row[2], row[4:]) == ("1", "vibration", ["paused", "1 of 3", "12", "8", "1", "1", "1", "1", ""])
    (said,) = map(json.loads, run("list", "--json")[1].splitlines())
    assert (said["id"], said["state"], said["closed"], said["sha256"]) == ("1", "paused", False, one.sha256.hex())
    assert said["rules"]["soak_s"] == 86_400
    assert [len(group) for group in said["groups"]] == [1, 1, 10]


def test_status(run, site):
    run("start", site / "good.bundle", "--yes")
    assert "draft, group 1 of 3: gatewayd has not taken it up yet" in run("status", "1")[1]
    half = image().size_bytes // 2
    play(
        site,
        State.RUNNING,
        m00={"state": U.UPLOADING, "offset_bytes": half, "asleep": True},
        m02={"state": U.REJECTED, "reason": "[bold]digest"},
    )
    status, out, _ = run("status", "1")
    assert (status, out.splitlines()[0]) == (0, f"rollout 1: vibration {image().version}: running, group 1 of 3, for 0s")
    rows = cells(out)
    assert rows[1] == ["1", "1", "", "1", "", "", ""]
    assert rows[3] == ["3", "10", "9", "", "", "", "1"]
    nodes = {row[1]: row for row in rows[5:]}
    assert (nodes["m00"][0], nodes["m00"][2:4]) == ("1", ["uploading, asleep", "50%"])
    assert (nodes["m02"][0], nodes["m02"][2], nodes["m02"][5]) == ("3", "rejected", "[bold]digest")
    assert len(nodes) == 12
    said = json.loads(run("status", "1", "--json")[1])
    assert {one["node"]: one["state"] for one in said["updates"]}["m00"] == "uploading"
    assert said["updates"][0]["sha256"] == image().sha256.hex()


def test_explain_tells_the_newest_with_its_age_then_the_history(run, site):
    run("start", site / "good.bundle", "--yes")
    assert run("explain", "1")[1] == "gatewayd has not looked at it yet: is it running?\n"
    play(site, State.SOAKING)
    with ledger(site) as book:
        book.explain("1", time.time() - 2, "it soaks\nfor another hour")
        book.log("1", time.time(), "line one\nline two")
    lines = run("explain", "1")[1].splitlines()
    assert lines[:2] == ["it soaks", "for another hour"]
    assert lines[2] in ("(as of 2s ago)", "(as of 3s ago)")
    assert [line[21:] for line in lines[5:]] == ["start", "now soaking", "line one", "line two"]
    said = json.loads(run("explain", "1", "--json")[1])
    assert (said["explanation"]["text"], len(said["history"])) == ("it soaks\nfor another hour", 3)


def test_an_old_explanation_of_an_open_rollout_is_doubted(run, site):
    run("start", site / "good.bundle", "--yes")
    play(site, State.DONE)
    with ledger(site) as book:
        book.explain("1", time.time() - 7_200, "it soaks")
    assert "(as of 2.0h ago: is gatewayd running?)" in run("explain", "1")[1]
    with ledger(site) as book:
        book.close("1")
    assert "(as of 2.0h ago)" in run("explain", "1")[1]


@pytest.mark.parametrize(("end", "exit_status"), [(State.DONE, 0), (State.ROLLED_BACK, 1)])
def test_watch_shows_it_until_it_is_closed(run, site, monkeypatch, end, exit_status):
    run("start", site / "good.bundle", "--yes")
    play(site, State.RUNNING, m00={"state": U.UPLOADING, "offset_bytes": 10})
    looks = []

    def sleep(_seconds):  # what the daemon does between two looks
        looks.append(len(looks))
        if len(looks) == 2:
            play(site, end, m00={"state": U.ROLLED_BACK, "reason": "deadline"})
        elif len(looks) == 3:
            with ledger(site) as book:
                book.close("1")

    monkeypatch.setattr(rollouts.time, "sleep", sleep)
    status, out, _ = run("watch", "1")
    assert (status, looks) == (exit_status, [0, 1, 2])
    assert f"{end.replace('_', ' ')}, group 1 of 3" in out
    assert [row[1:3] for row in cells(out) if row[1] == "m00"] == [["m00", "rolled back"]]


def test_watch_ends_quietly_at_ctrl_c(run, site, monkeypatch):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    run("start", site / "good.bundle", "--yes")
    monkeypatch.setattr(rollouts.time, "sleep", interrupt)
    assert run("watch", "1")[0] == 0


def test_help_names_every_command(ctl):
    status, out, _ = ctl("rollout", "--help")
    assert status == 0
    for command in ("start", "list", "status", "watch", "explain", "pause", "resume", "approve", "abort", "rollback"):
        assert f"\n  {command} " in out
