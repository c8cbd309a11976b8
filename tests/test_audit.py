"""gatewayd.audit, and gatewayctl's part in it."""

import json

import pytest
from test_ledger import DRAFT
from test_store import NOW_S

from gatewayd import audit, config
from gatewayd.cli.audit import operator
from gatewayd.ledger import Ledger
from gatewayd.pairings import Pairings
from gatewayd.store import Store


@pytest.fixture
async def store(url):
    async with Store(config.Store(), url) as store:
        yield store


async def test_the_newest_come_first_and_by_page(store):
    for number in range(5):
        audit.record(store, "ann", "node.enroll", f"n{number}", "x" * 1_000, "10.0.0.1")
    entries = audit.entries(store, 2)
    assert [entry.target for entry in entries] == ["n4", "n3"]
    assert [entry.target for entry in audit.entries(store, 9, before=entries[-1].id)] == ["n2", "n1", "n0"]
    assert (entries[0].who, entries[0].what, entries[0].address) == ("ann", "node.enroll", "10.0.0.1")
    assert entries[0].detail == "x" * 500


async def test_the_oldest_are_forgotten(store, monkeypatch):
    monkeypatch.setattr(audit, "KEPT", 3)
    for number in range(5):
        audit.record(store, "ann", "node.enroll", f"n{number}")
    assert [entry.target for entry in audit.entries(store)] == ["n4", "n3", "n2"]


def test_who_is_behind_sudo(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ann")
    assert operator() == "cli:ann"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setenv("LOGNAME", "ben")
    assert operator() == "cli:ben"


async def test_gatewayctl_lists_them(ctl, tmp_path):
    async with Store(config.Store(), f"sqlite:///{tmp_path / 'gatewayd.db'}") as store:
        audit.record(store, "ann", "node.enroll", "kitchen", "[red]", "10.0.0.1")
    status, out, _ = ctl("audit", "--json")
    assert status == 0
    assert json.loads(out) | {"id": 1, "at_s": 0} == {
        "id": 1, "at_s": 0, "who": "ann", "what": "node.enroll", "target": "kitchen", "detail": "[red]", "address": "10.0.0.1",
    }  # fmt: skip
    assert "[red]" in ctl("audit")[1]


async def test_each_change_by_gatewayctl_is_remembered(ctl, tmp_path, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ann")
    async with Store(config.Store(), f"sqlite:///{tmp_path / 'gatewayd.db'}") as store:
        ledger = Ledger(store)
        assert ctl("nodes", "enroll", "n1", "n2")[0] == 0
        assert ctl("nodes", "label", "n1", "--add", "ground")[0] == 0
        assert ctl("nodes", "dismiss", "n2")[0] == 0
        added = ledger.add(DRAFT, "bundle", b"file", NOW_S)
        assert ctl("rollout", "pause", added.id, "--because", "guests")[0] == 0
        assert ctl("rollout", "pause", added.id)[0] == 1  # refused, and so nothing was changed
        Pairings(store).order("n1", None, NOW_S)
        assert ctl("node", "unpair", "n1")[0] == 0
        assert ctl("node", "unpair", "n1")[0] == 2
        said = [(entry.who, entry.what, entry.target, entry.detail) for entry in reversed(audit.entries(store))]
    assert said == [
        ("cli:ann", "node.enroll", "n1", ""),
        ("cli:ann", "node.enroll", "n2", ""),
        ("cli:ann", "node.label", "n1", "ground"),
        ("cli:ann", "node.dismiss", "n2", ""),
        ("cli:ann", "rollout.pause", "1", "guests"),
        ("cli:ann", "node.unpair", "n1", ""),
    ]
