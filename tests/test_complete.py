"""What the shell offers, and what gatewayctl says to a word that is nearly right, to the wrong user, and where no daemon runs."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from live import Live, event, until

from gatewayd import config, state
from gatewayd.core.types import Basis, Record, Verdict
from gatewayd.records import insert_events
from gatewayd.store import Store
from gatewayd.tokens import Tokens

VERDICT = Verdict(1, 1, True, "word", 0.9, "act", 1_000, Basis.GATEWAY)


async def fill(url):
    async with Store(config.Store(), url) as store:
        for node in ("kitchen-1", "kitchen-2", "attic-1"):
            store.enroll(node, enrolled=True, now_s=1.0)
        store.label("attic-1", ["upstairs", "cold"], ())
        Tokens(store).add("page", "read")
        with store.writing() as connection:
            for cascade, seq in (("wakeword", 1), ("vibration", 2), ("vibration", 3)):
                insert_events(connection, [Record("attic-1", event(seq, cascade=cascade), 1.0, VERDICT)])


@pytest.fixture
def site(tmp_path):
    asyncio.run(fill(f"sqlite:///{tmp_path / 'gatewayd.db'}"))
    (tmp_path / "gatewayd.toml").write_text(f'[gateway]\nstate_dir = "{tmp_path}"\n')
    return tmp_path


def offered(words, **env):
    """What bash is offered for the last word."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from gatewayd.cli import main; sys.argv[0] = 'gatewayctl'; main()"],
        env={
            **os.environ,
            **env,
            "_GATEWAYCTL_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["gatewayctl", *words]),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["nodes", "enroll", "kit"], ["kitchen-1", "kitchen-2"]),
        (["nodes", "label", "attic-1", "--remove", ""], ["cold", "upstairs"]),
        (["node", "unpair", "a"], ["attic-1"]),
        (["events", "--node", "x"], []),
        (["events", "--cascade", ""], ["vibration", "wakeword"]),
        (["rollout", "status", ""], []),
        (["token", "revoke", ""], ["page"]),
    ],
)
def test_names_come_from_the_database(site, words, found):
    assert offered(words, GATEWAYD_CONFIG=str(site / "gatewayd.toml")) == found


def test_it_looks_where_the_command_would(site, tmp_path):
    assert offered(["nodes", "enroll", "-c", str(site / "gatewayd.toml"), "att"], GATEWAYD_CONFIG="/none") == ["attic-1"]
    assert offered(["nodes", "enroll", "-s", f"gateway.state_dir={site}", "att"], GATEWAYD_CONFIG="/none") == ["attic-1"]
    assert offered(["nodes", "enroll", "att"], GATEWAYD_CONFIG="/none", GATEWAYD_GATEWAY__STATE_DIR=str(site)) == ["attic-1"]


def test_whatever_is_wrong_is_silence(site):
    file = site / "gatewayd.toml"
    assert offered(["nodes", "enroll", ""], GATEWAYD_CONFIG="/none/at/all") == []
    file.write_text("no TOML")
    assert offered(["nodes", "enroll", ""], GATEWAYD_CONFIG=str(file)) == []
    file.write_text(f'gateway.state_dir = "{site}"')
    (site / "gatewayd.db").write_bytes(b"no database" * 1_000)
    assert offered(["nodes", "enroll", ""], GATEWAYD_CONFIG=str(file)) == []


def test_nothing_heavy_is_imported_for_it():
    code = "import sys, gatewayd.cli; print([name for name in ('pydantic', 'sqlalchemy', 'numpy', 'paho') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- words that are nearly right


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "command",
    [
        ("nodes", "label", "kitchen-3", "--add", "x"),
        ("nodes", "enroll", "kitchen-3"),
        ("events", "--node", "kitchen-3"),
        ("token", "revoke", "pge"),
    ],
)
def test_the_nearest_is_named(ctl, command):
    _, out, err = ctl(*command)
    assert "did you mean " in " ".join((out + err).split())


# ---- the wrong user, no daemon


AS_NOBODY = """
import contextlib, os, sys
from gatewayd.cli import main
with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):
    main()  # once as root, so that all is imported: a Python in root's home is not for everybody
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
main()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root, to become somebody else")
@pytest.mark.parametrize("closed", ["gatewayd.toml", "gatewayd.db", "state"])
def test_another_user_is_told_which(site, closed):
    for above in (site, *site.parents):
        if above.name.startswith(("pytest-", "test_")):
            above.chmod(0o755)
    folder = site / "state"
    folder.mkdir()
    (site / "gatewayd.db").rename(folder / "gatewayd.db")
    (site / "gatewayd.toml").write_text(f'[gateway]\nstate_dir = "{folder}"\n')
    (folder / "gatewayd.db").chmod(0o600 if closed == "gatewayd.db" else 0o666)
    folder.chmod(0o750 if closed == "state" else 0o777)
    (site / "gatewayd.toml").chmod(0o640 if closed == "gatewayd.toml" else 0o644)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "nodes", "list", "-c", site / "gatewayd.toml"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode in (1, os.EX_CONFIG)
    assert done.stderr.endswith("is not for this user: run this as root, or as user gatewayd\n")
    assert done.stderr.count("\n") == 1


async def test_whether_a_daemon_runs_is_seen_without_touching_its_lock(tmp_path):
    live = Live(tmp_path)
    assert not state.held(live.state)
    async with live.start():
        await until(lambda: live.series("gatewayd_mqtt_connected") == 0, live.said)
        assert state.held(live.state)
    assert not state.held(live.state)
    assert not state.held(tmp_path / "none")


# ---- every list as JSON, too


def test_doctor_as_json(site, ctl):
    status, out, _ = ctl("doctor", "--json", "-s", "mqtt.port=1", "-s", f'cascades.folders=["{site}"]')
    findings = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert {finding["what"].split()[0]: finding["ok"] for finding in findings}["Python"] is True
    assert any(not finding["ok"] and finding["advice"] for finding in findings)
