"""Who is in the air, and who is connected next: with time as an argument, and an attacker."""

import pytest

from gatewayd.core.beacon import Beacon, build, crc_of
from gatewayd.core.neighbours import FRESH_MS, MAX_NEWCOMERS, MAX_PEERS, MAX_STRANGERS, Neighbours, Peer, Urgency
from gatewayd.core.pairing import Pairing, Stage, Trust
from gatewayd.errors import DecodeError


class Air:
    """Neighbours, with a clock of its own."""

    def __init__(self) -> None:
        self.trust = Trust()
        self.all = Neighbours(self.trust)
        self.now_ms = 1_000_000
        self.all.open("hci0", self.now_ms)

    def wait(self, ms: int, *, quiet: bool = False) -> None:
        self.now_ms += ms
        if not quiet:
            self.all.clocks["hci0"].hear(self.now_ms)  # somebody's headphones

    def hear(self, address: str, node: str, session: int = 1, adapter: str = "hci0", **flags: bool) -> Peer | None:
        beacon = Beacon(session & 0xFF, crc_of(node), **flags)
        self.all.clocks[adapter].hear(self.now_ms)
        return self.all.hear(adapter, address, f"device of {address}", -60, build(beacon), self.now_ms)

    def next(self, adapter: str = "hci0") -> Peer | None:
        return self.all.next(adapter, self.now_ms)

    def known(self, address: str, node: str) -> Peer:
        stranger = self.hear(address, node)
        assert stranger is not None
        assert not stranger.id
        peer = self.all.identify(stranger, node, self.now_ms)
        peer.session = 1
        return peer


def refused(reason: str):
    return pytest.raises(DecodeError, match=f"^{reason}:")


def test_a_stranger_is_asked_once_and_known_from_then_on() -> None:
    air = Air()
    stranger = air.hear("A", "kitchen-1")
    assert air.next() is None  # heard once: perhaps made up
    air.wait(600)
    assert air.hear("A", "kitchen-1") is stranger
    assert air.next() is stranger
    assert stranger.urgency is Urgency.STRANGER
    peer = air.all.identify(stranger, "kitchen-1", air.now_ms)
    assert air.hear("A", "kitchen-1") is peer
    assert peer.urgency is Urgency.TELEMETRY  # it has not said what it is
    peer.session = 1
    assert peer.urgency is None
    assert air.next() is None


def test_who_is_not_provisioned_is_left_alone() -> None:
    air = Air()
    assert air.hear("A", "new", provisioned=False) is None
    air.wait(600)
    assert air.next() is None


def wanting(air: Air, address: str = "") -> None:
    air.trust.load([Pairing("kitchen-1", Stage.WANTED, 0.0, provision=True, address=address)], 1.0)


def test_one_that_is_not_provisioned_is_taken_when_no_other_was_heard_for_a_while() -> None:
    air = Air()
    wanting(air)
    peer = air.hear("A", "", provisioned=False)
    assert peer is not None
    air.wait(2_900)
    air.hear("A", "", provisioned=False)
    assert air.next() is None
    air.wait(200)
    air.hear("A", "", provisioned=False)
    assert air.next() is peer
    assert (peer.urgency, peer.pairing, peer.nobody) == (Urgency.PAIRING, "kitchen-1", True)
    assert air.all.obstacle(peer, air.now_ms) == ""
    peer.busy = True
    air.all.released(peer, air.now_ms)
    air.hear("A", "", provisioned=False)  # it came back as it was: the choice begins anew
    assert air.next() is None


def test_of_several_that_are_not_provisioned_it_must_be_said_which() -> None:
    air = Air()
    wanting(air)
    for _ in range(4):
        for address in ("A", "B"):
            air.hear(address, "", provisioned=False)
        air.wait(1_100)
    peer = air.next()
    assert peer is not None
    assert "A (-60 dBm), B (-60 dBm)" in air.all.obstacle(peer, air.now_ms)
    wanting(air, "B")
    assert air.hear("A", "", provisioned=False) is None
    peer = air.hear("B", "", provisioned=False)
    assert peer is not None
    assert air.all.obstacle(peer, air.now_ms) == ""
    wanting(air)
    air.hear("B", "", provisioned=False)
    assert air.all.obstacle(peer, air.now_ms) != ""
    air.hear("A", "kitchen-2")  # A is one now
    assert air.all.obstacle(peer, air.now_ms) == ""
    air.trust.load([], 1.0)
    assert "not wanted" in air.all.obstacle(peer, air.now_ms)


def test_nobody_becomes_a_node_that_is_here() -> None:
    air = Air()
    air.known("C", "kitchen-1")
    wanting(air)
    for _ in range(4):
        peer = air.hear("A", "", provisioned=False)
        air.hear("C", "kitchen-1")
        air.wait(1_100)
    assert peer is not None
    assert "kitchen-1 is here already, as C" in air.all.obstacle(peer, air.now_ms)


def test_a_flood_of_those_who_are_not_provisioned_takes_no_memory_and_no_connection() -> None:
    air = Air()
    wanting(air)
    for number in range(10 * MAX_NEWCOMERS):
        air.hear(f"{number}", "", provisioned=False)
    assert len(air.all._newcomers) == MAX_NEWCOMERS
    air.wait(600)
    assert air.next() is None


def test_verdicts_before_telemetry_before_updates_before_strangers() -> None:
    air = Air()
    update, _telemetry, verdict = (air.known(*who) for who in (("A", "node-a"), ("B", "node-b"), ("C", "node-c")))
    air.hear("D", "node-d")
    air.wait(600)
    for address, node in (("A", "node-a"), ("C", "node-c"), ("D", "node-d")):
        air.hear(address, node)
    air.hear("B", "node-b", wants=True)
    update.requests.append((air.now_ms, b"frame"))
    verdict.verdicts.append(b"payload")
    order = []
    while (peer := air.next()) is not None:
        order.append(peer.address)
        peer.busy = True
    assert order == ["C", "B", "A", "D"]


def test_a_new_session_wants_to_be_told() -> None:
    air = Air()
    peer = air.known("A", "kitchen-1")
    air.hear("A", "kitchen-1", session=2)
    assert air.next() is peer


def test_only_a_fresh_device_is_connected() -> None:
    air = Air()
    peer = air.known("A", "kitchen-1")
    air.hear("A", "kitchen-1", wants=True)
    air.wait(FRESH_MS + 1)
    assert air.next() is None
    air.hear("A", "kitchen-1", wants=True)
    assert air.next() is peer
    peer.busy = True
    air.all.released(peer, air.now_ms)
    assert air.next() is None  # it has to advertise again


def test_failures_make_patient() -> None:
    air = Air()
    peer = air.known("A", "kitchen-1")
    pauses_s = []
    for _ in range(8):
        air.hear("A", "kitchen-1", wants=True)
        air.all.failed(peer, "hci0", air.now_ms, air.now_ms)
        began_ms = air.now_ms
        while air.next() is None:
            air.wait(500)
            air.hear("A", "kitchen-1", wants=True)
        pauses_s.append((air.now_ms - began_ms) // 1_000)
    assert pauses_s == [1, 2, 4, 8, 16, 32, 60, 60]


def test_silence_is_judged_while_the_scanner_works() -> None:
    air = Air()
    peer = air.known("A", "kitchen-1")
    air.wait(60_000, quiet=True)
    assert list(air.all.silent(air.now_ms)) == [peer]  # a scanner that has just begun is believed
    air.wait(1_000)
    air.hear("A", "kitchen-1")
    assert not peer.lost
    air.wait(600_000, quiet=True)
    assert list(air.all.silent(air.now_ms)) == []  # nothing at all was heard: it may be the scanner
    air.all.pause("hci0", air.now_ms)
    air.wait(600_000, quiet=True)
    air.all.open("hci0", air.now_ms)
    air.wait(1_000)
    air.hear("A", "kitchen-1")
    assert list(air.all.silent(air.now_ms)) == []
    air.wait(300_000)
    assert list(air.all.silent(air.now_ms)) == [peer]
    assert list(air.all.silent(air.now_ms)) == []  # told once


def test_who_is_connected_is_not_silent() -> None:
    air = Air()
    peer = air.known("A", "kitchen-1")
    peer.busy = True
    air.wait(600_000)
    assert list(air.all.silent(air.now_ms)) == []
    air.all.released(peer, air.now_ms)
    assert list(air.all.silent(air.now_ms)) == []


def test_an_address_that_claims_a_node_which_is_here_is_refused() -> None:
    air = Air()
    peer = air.known("A", "kitchen-1")
    for _ in range(3):
        with refused("impostor"):
            air.hear("E", "kitchen-1")
        air.wait(600)
        air.hear("A", "kitchen-1")
    assert air.next() is None
    assert air.all.get("kitchen-1") is peer
    assert peer.address == "A"


def test_an_address_that_lies_in_its_identity_is_refused() -> None:
    air = Air()
    air.known("A", "kitchen-1")
    stranger = air.hear("E", "attic-1")
    assert stranger is not None
    with refused("identity"):
        air.all.identify(stranger, "kitchen-1", air.now_ms)
    stranger.beacon = None
    with refused("impostor"):
        air.all.identify(stranger, "kitchen-1", air.now_ms)


def test_a_node_that_comes_back_with_another_address_is_the_same() -> None:
    air = Air()
    peer = air.known("A", "kitchen-1")
    peer.verdicts.append(b"payload")
    air.wait(300_000)
    stranger = air.hear("B", "kitchen-1")
    assert stranger is not None
    assert air.all.identify(stranger, "kitchen-1", air.now_ms) is peer
    assert air.hear("B", "kitchen-1") is peer
    with refused("impostor"):
        air.hear("A", "kitchen-1")


def test_a_device_that_was_given_another_id_is_another_node() -> None:
    air = Air()
    air.known("A", "kitchen-1")
    stranger = air.hear("A", "attic-1")
    assert stranger is not None
    peer = air.all.identify(stranger, "attic-1", air.now_ms)
    assert air.all.get("attic-1") is peer
    assert air.all.get("kitchen-1") is None
    assert [known.id for known in air.all] == ["attic-1"]


def test_a_flood_of_addresses_costs_bounded_memory_and_no_known_node_its_turn() -> None:
    air = Air()
    peer = air.known("A", "kitchen-1")
    asked = 0
    for number in range(20_000):
        air.hear(f"flood {number % 5_000}", f"flood-{number % 5_000}")
        air.wait(1)
        if number % 100 == 0:
            air.hear("A", "kitchen-1", wants=True)
            assert air.next() is peer
            air.hear("A", "kitchen-1")
            stranger = air.next()
            if stranger is not None:
                asked += 1
                air.all.failed(stranger, "hci0", air.now_ms - 2_000, air.now_ms)
    assert len(air.all._strangers) <= MAX_STRANGERS
    assert asked <= 20_000 / 6_000 + 1
    newcomer = air.hear("N", "attic-1")
    air.wait(600)
    assert air.hear("N", "attic-1") is newcomer


def test_a_newcomer_comes_before_those_that_failed() -> None:
    air = Air()
    for round_ in range(2):
        for number in range(50):
            stranger = air.hear(f"E{number}", f"evil-{number}")
            assert stranger is not None
            if round_:
                air.all.failed(stranger, "hci0", air.now_ms, air.now_ms)
        air.wait(600)
    newcomer = air.hear("N", "attic-1")
    air.wait(10_000)
    for number in range(50):
        air.hear(f"E{number}", f"evil-{number}")
    air.hear("N", "attic-1")
    assert air.next() is newcomer


def test_who_is_heard_steadily_comes_before_what_is_made_up() -> None:
    air = Air()
    for _ in range(2):
        for number in range(50):
            air.hear(f"E{number}", f"evil-{number}")
        newcomer = air.hear("N", "attic-1")
        air.wait(600)
    air.hear("N", "attic-1")
    assert air.next() is newcomer


def test_many_identities_of_one_device_find_an_end() -> None:
    air = Air()
    for number in range(MAX_PEERS):
        air.known(f"E{number}", f"evil-{number}")
    stranger = air.hear("N", "attic-1")
    assert stranger is not None
    with refused("crowded"):
        air.all.identify(stranger, "attic-1", air.now_ms)
    air.wait(300_000)
    stranger = air.hear("N", "attic-1")
    assert stranger is not None
    assert air.all.identify(stranger, "attic-1", air.now_ms).id == "attic-1"
    assert len(list(air.all)) == MAX_PEERS


def test_an_adapter_that_is_gone_takes_what_it_heard_with_it() -> None:
    air = Air()
    air.all.open("hci1", air.now_ms)
    peer = air.known("A", "kitchen-1")
    air.hear("A", "kitchen-1", adapter="hci1", wants=True)
    air.all.close("hci0")
    assert air.next() is None
    assert air.next("hci1") is peer
    assert air.all.present(peer, air.now_ms)
    air.all.close("hci1")
    assert list(air.all.silent(air.now_ms)) == []  # nobody listens: that is no silence


def test_who_is_connected_without_a_visit_is_asked_at_once() -> None:
    air = Air()
    assert air.all.attached("hci0", "A", "device", air.now_ms)
    stranger = air.next()
    assert stranger is not None
    stranger.busy = True
    assert not air.all.attached("hci0", "A", "device", air.now_ms)
    air.all.failed(stranger, "hci0", air.now_ms, air.now_ms)
    air.all.released(stranger, air.now_ms)
    air.wait(60_000)
    assert air.next() is None
    assert air.all.attached("hci0", "A", "device", air.now_ms)
    assert not air.all.attached("hci0", "A", "device", air.now_ms)  # a moment ago
    assert air.next() is stranger
    assert air.all.identify(stranger, "kitchen-1", air.now_ms).address == "A"


def test_a_node_whose_link_was_not_closed_is_asked_again() -> None:
    air = Air()
    peer = air.known("A", "kitchen-1")
    peer.busy, peer.session = True, 1
    assert not air.all.attached("hci0", "A", "device", air.now_ms)
    air.all.released(peer, air.now_ms)
    air.wait(60_000)
    assert [*air.all.silent(air.now_ms)] == [peer]
    assert air.next() is None
    assert air.all.attached("hci0", "A", "device", air.now_ms)
    assert air.next() is peer
    assert not peer.lost
