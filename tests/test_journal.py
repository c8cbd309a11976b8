"""journal: kinds of events, systemd's catalog and the docs agree, and a real journald gets them with their fields."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gatewayd.core.registry import Link, Registry
from gatewayd.core.registry import Node as KnownNode
from gatewayd.core.types import NodeState
from gatewayd.journal import JournalHandler, Kind
from gatewayd.presence import MANY, Presence, _tell

ROOT = Path(__file__).parents[1]
CATALOG = ROOT / "systemd" / "gatewayd.catalog"
JOURNALD = Path("/usr/lib/systemd/systemd-journald")


def catalog():
    """Message id -> its text."""
    parts = re.split(r"^-- (\w+)\n", CATALOG.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def documented():
    """Kind -> its row in the docs: what, fields, message id."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| `(\w+)` \|$", (ROOT / "docs" / "journal.md").read_text(), flags=re.MULTILINE)
    return {row[0]: row[1:] for row in rows}


def test_ids_are_what_systemd_takes_and_no_two_are_alike():
    assert all(re.fullmatch("[0-9a-f]{32}", kind.value) for kind in Kind)
    assert len({kind.value for kind in Kind}) == len(Kind)


def test_the_catalog_explains_every_kind_and_no_other():
    explained = catalog()
    assert set(explained) == {kind.value for kind in Kind}
    for text in explained.values():
        assert text.startswith("Subject: ")
        assert "\nDefined-By: gatewayd\n" in text
        assert "\nWhat to do: " in text


def test_the_docs_name_every_kind_and_its_fields():
    rows = documented()
    assert {name: row[2] for name, row in rows.items()} == {kind.name: kind.value for kind in Kind}
    explained = catalog()
    for kind in Kind:
        fields = set(re.findall(r"`(\w+)`", rows[kind.name][1]))
        assert set(re.findall(r"@(\w+)@", explained[kind.value])) <= fields, kind


def test_every_kind_is_said_somewhere_with_the_fields_that_the_docs_name():
    said = {}
    for file in (ROOT / "gatewayd").rglob("*.py"):
        for name, fields in re.findall(r"\bKind\.([A-Z_]+)(?:\(([^)]*))?", file.read_text()):
            said.setdefault(name, set()).update(re.findall(r"(\w+)=", fields or ""))
    rows = documented()
    assert set(said) == set(rows)
    for name, fields in said.items():
        assert fields <= set(re.findall(r"`(\w+)`", rows[name][1])), name


# ---- to journald


def entries(sock):
    """What came, as journald would take it apart."""
    found = []
    while True:
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            return found
        fields = {}
        while data:
            line, _, data = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                size = int.from_bytes(data[:8], "little")
                value, data = data[8 : 8 + size], data[9 + size :]
            fields[name.decode()] = value.decode()
        found.append(fields)


@pytest.fixture
def logger(tmp_path, monkeypatch):
    """A logger to a socket of our own, and that socket."""
    from logging_journald import JournaldTransport  # noqa: PLC0415

    path = tmp_path / "socket"
    monkeypatch.setattr(JournaldTransport, "SOCKET_PATH", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.setblocking(False)
        logger = logging.getLogger("gatewayd.test")
        logger.setLevel("INFO")
        handler = JournalHandler()
        logger.addHandler(handler)
        yield logger, sock
        logger.removeHandler(handler)
        handler._journald.socket.close()


def test_a_record_has_its_fields(logger):
    log, sock = logger
    log.warning("%s is lost", "kitchen-1", extra=Kind.NODE_LOST(NODE="kitchen-1"))
    log.info("two\nlines")
    try:
        raise ValueError("deep down")  # noqa: TRY301
    except ValueError:
        log.exception("a bug")
    lost, lines, bug = entries(sock)
    assert lost["MESSAGE"] == "kitchen-1 is lost"
    assert (lost["PRIORITY"], lost["SYSLOG_IDENTIFIER"], lost["LOGGER"], lost["NODE"]) == ("4", "gatewayd", "gatewayd.test", "kitchen-1")
    assert (lost["MESSAGE_ID"], lost["KIND"]) == (Kind.NODE_LOST.value, "NODE_LOST")
    assert lost["CODE_FUNC"] == "test_a_record_has_its_fields"
    assert (lines["MESSAGE"], "MESSAGE_ID" in lines) == ("two\nlines", False)
    assert bug["MESSAGE"].startswith("a bug\nTraceback")
    assert "deep down" in bug["MESSAGE"]


def test_a_field_of_a_strangers_words_cannot_make_another_field(logger):
    log, sock = logger
    log.info("x", extra=Kind.ROLLOUT_MOVED(STATE="done\nPRIORITY=0\n_UID=0"))
    (entry,) = entries(sock)
    assert entry["STATE"] == "done\nPRIORITY=0\n_UID=0"
    assert (entry["PRIORITY"], "_UID" in entry) == ("6", False)


def test_where_journald_does_not_listen_it_goes_to_stderr(logger, tmp_path, capsys):
    log, sock = logger
    (tmp_path / "socket").unlink()
    handler = log.handlers[0]
    handler.setStream(sys.stderr)
    log.error("still heard", extra=Kind.STORE_REFUSES())
    assert capsys.readouterr().err == "still heard\n"
    assert entries(sock) == []


SCRIPT = """
set -e
mount -t tmpfs none /run
mount -t tmpfs none /usr/lib/systemd/catalog
mount -t tmpfs none /var/lib/systemd
mkdir -p /run/systemd/journal /run/log/journal /var/lib/systemd/catalog
cp {catalog} /usr/lib/systemd/catalog/
journalctl --update-catalog
{journald} >/dev/null 2>&1 &
trap "kill $!" EXIT
until [ -S /run/systemd/journal/stdout ]; do sleep 0.05; done
{python} {program}
journal="$(echo /run/log/journal/*/system.journal)"
until journalctl --file "$journal" --no-pager CODE_FUNC=app | grep -q yyyy; do sleep 0.05; done
journalctl --file "$journal" -o json --all --no-pager CODE_FUNC=app
echo ----
journalctl --file "$journal" -x --no-pager KIND=NODE_LOST
"""
PROGRAM = """
import logging, os, socket, sys
sock = socket.socket(socket.AF_UNIX)  # stderr as systemd gives it to a service
sock.connect("/run/systemd/journal/stdout")
sock.sendall(b"gatewayd\\n\\n6\\n1\\n0\\n0\\n0\\n")
os.dup2(sock.fileno(), 2)
about = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{about.st_dev}:{about.st_ino}"
import importlib
run = importlib.import_module("gatewayd.cli.run")  # its package has a function of that name
from gatewayd.config import Config
from gatewayd.journal import Kind
async def app(config):
    logging.getLogger("gatewayd.x").warning("kitchen-1 is lost", extra=Kind.NODE_LOST(NODE="kitchen-1"))
    logging.getLogger("gatewayd.x").info("y" * 300_000)
run.app.run = app
run.run_daemon(Config())
"""


@pytest.mark.skipif(not JOURNALD.exists() or os.geteuid() != 0, reason="needs systemd-journald, and to be root")
def test_a_real_journald_takes_them_and_explains(tmp_path):
    """In a mount namespace of its own, with its own /run."""
    (tmp_path / "program.py").write_text(PROGRAM)
    script = SCRIPT.format(catalog=CATALOG, journald=JOURNALD, python=sys.executable, program=tmp_path / "program.py")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    entries, _, explained = done.stdout.partition("----\n")
    lost, long = (json.loads(line) for line in entries.splitlines())
    assert (lost["NODE"], lost["MESSAGE_ID"], lost["PRIORITY"], lost["_TRANSPORT"]) == ("kitchen-1", Kind.NODE_LOST.value, "4", "journal")
    assert long["MESSAGE"] == "y" * 300_000  # more than a datagram takes
    assert " Subject: kitchen-1 is silent\n" in explained
    assert "gatewayctl doctor" in explained


# ---- who is here


def node(name, heard_ms):
    return KnownNode(name, known=True, links={"mqtt": Link(heard_ms, NodeState.READY)})


def test_who_went_and_who_came_back():
    presence, registry = Presence(), Registry(10)
    a, b = node("a", 0), node("b", 0)
    registry.restore(a, ())
    assert presence.look(registry, 1_000) == ([], [])
    registry.restore(b, ())  # new, but not back
    assert presence.look(registry, 2_000) == ([], [])
    a.links["mqtt"].state = NodeState.LOST
    assert presence.look(registry, 3_000) == (["a"], [])
    assert presence.look(registry, 4_000) == ([], [])
    a.links["mqtt"].state = NodeState.READY
    assert presence.look(registry, 5_000) == ([], ["a"])
    assert presence.look(registry, 10_000_000) == (["a", "b"], [])


def test_many_at_once_are_one_line(caplog):
    few, many = [f"n{i}" for i in range(MANY)], [f"n{i}" for i in range(MANY + 1)]
    _tell(logging.WARNING, few, "lost", Kind.NODE_LOST)
    assert [record.journal["NODE"] for record in caplog.records] == few
    caplog.clear()
    _tell(logging.WARNING, many, "lost", Kind.NODE_LOST)
    (record,) = caplog.records
    assert record.journal["COUNT"] == MANY + 1
    assert record.getMessage().startswith("11 nodes are lost: n0, n1")
