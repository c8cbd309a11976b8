"""Pairings as rows and as trust: whom the gateway connects, and how operator and daemon meet."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from gatewayd import pairings as module
from gatewayd.config import Store as Settings
from gatewayd.core.beacon import crc_of
from gatewayd.core.pairing import ORDER_S, Pairing, Stage, Trust
from gatewayd.errors import DecodeError
from gatewayd.pairings import Desk, Pairings
from gatewayd.store import Store

BOND = Pairing("n-1", Stage.PAIRED, 1_000.0, adapter="hci0", address="A", authenticated=True)
NOW_S = 2_000.0


def trust(*pairings, required=True):
    made = Trust(required=required)
    made.load(pairings, NOW_S)
    return made


# ---- whom to trust


def test_only_who_has_paired_is_admitted_where_that_is_required():
    made = trust(BOND)
    assert made.admit("A", crc_of("n-1")) == ""
    for address, node in (("B", "n-1"), ("B", "n-2")):
        with pytest.raises(DecodeError, match="unpaired"):
            made.admit(address, crc_of(node))


def test_where_it_is_not_required_strangers_are_admitted_but_not_those_who_claim_a_bond():
    made = trust(BOND, required=False)
    assert made.admit("B", crc_of("n-2")) == ""
    with pytest.raises(DecodeError, match="unpaired"):
        made.admit("B", crc_of("n-1"))


def test_a_bond_that_nobody_looked_at_is_none_where_pairing_is_required():
    encrypted = BOND._replace(authenticated=False)
    assert trust(encrypted, required=False).bond("A") == encrypted
    assert trust(encrypted).bond("A") is None


@pytest.mark.parametrize("stage", [Stage.WANTED, Stage.COMPARE, Stage.AGREED])
def test_an_order_admits_for_two_minutes(stage):
    order = Pairing("n-1", stage, NOW_S - ORDER_S + 1)
    assert trust(order).admit("B", crc_of("n-1")) == "n-1"
    with pytest.raises(DecodeError):
        trust(order._replace(at_s=NOW_S - ORDER_S)).admit("B", crc_of("n-1"))


# ---- the rows


def test_an_order_its_number_and_its_end(url):
    with open_store(url) as store:
        rows = Pairings(store)
        assert rows.order("n-1", 123_456, NOW_S)
        order = rows.get("n-1")
        assert order == Pairing("n-1", Stage.WANTED, NOW_S, 123_456)
        assert rows.change(order, [Stage.WANTED], stage=Stage.COMPARE, number=42)
        assert not rows.change(order, [Stage.WANTED], stage=Stage.COMPARE, number=43)
        shown = rows.get("n-1")
        rows.answer(shown._replace(number=41), same=True)  # that of an earlier attempt
        assert rows.get("n-1").stage is Stage.COMPARE
        rows.answer(shown, same=True)
        assert rows.get("n-1").stage is Stage.AGREED
        rows.fail(order, "because")
        assert (rows.get("n-1").stage, rows.get("n-1").cause, rows.get("n-1").passkey) == (Stage.FAILED, "because", None)


def test_who_is_paired_is_not_ordered_again_before_it_is_forgotten(url):
    with open_store(url) as store:
        rows = Pairings(store)
        assert rows.order("n-1", None, NOW_S)
        assert rows.order("n-1", None, NOW_S + 1)  # the newer one counts
        assert not rows.change(Pairing("n-1", Stage.WANTED, NOW_S), [Stage.WANTED], stage=Stage.PAIRED)
        assert rows.change(rows.get("n-1"), [Stage.WANTED], stage=Stage.PAIRED)
        assert not rows.order("n-1", None, NOW_S + 2)
        rows.fail(rows.get("n-1"), "too late")
        assert rows.all() == [Pairing("n-1", Stage.PAIRED, NOW_S + 1)]
        assert rows.forget("n-1")
        assert not rows.forget("n-1")
        assert rows.all() == []


def test_a_key_that_is_not_needed_any_more_leaves_no_trace(sqlite_url):
    given, file = os.urandom(300), Path(sqlite_url.removeprefix("sqlite:///"))
    with open_store(sqlite_url) as store:
        rows = Pairings(store)
        assert rows.order("n-1", None, NOW_S, provision=True)
        assert rows.change(rows.get("n-1"), [Stage.WANTED], stage=Stage.ASKED)
        rows.give(rows.get("n-1"), given)
    assert given in file.read_bytes()
    with open_store(sqlite_url) as store:
        Pairings(store).fail(Pairing("n-1", Stage.GIVEN, NOW_S), "because")
    assert given[:16] not in file.read_bytes()
    assert given[-16:] not in file.read_bytes()


def open_store(url):
    class Made(Store):
        def _open(self, *, create):
            super()._open(create=True)

    return Made(Settings(), url)


# ---- the desk


@pytest.fixture
async def desk(sqlite_url):
    async with Store(Settings(), sqlite_url) as store:
        rows = Pairings(store)
        made = Desk(rows, Trust(required=True), store.changes)
        reviews = []

        async def review(gone):
            reviews.append([one.node for one in gone])

        following = asyncio.create_task(made.follow(review))
        yield made, rows, reviews
        following.cancel()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_orders_and_what_is_taken_back_are_noticed(desk):
    made, rows, reviews = desk
    assert rows.order("n-1", 123_456, time.time())
    await until(lambda: made.passkey("n-1") == 123_456)
    assert await made.paired("n-1", "hci0", "A", authenticated=True)
    assert made.trust.bond("A").node == "n-1"
    assert made.passkey("n-1") is None
    await until(lambda: not made.trust.orders)
    await made.judged(made.trust.bond("A"), "it is odd")
    assert rows.get("n-1").cause == "it is odd"
    await made.judged(made.trust.bond("A"), "")
    assert rows.get("n-1").cause == ""
    rows.forget("n-1")
    await until(lambda: ["n-1"] in reviews)
    assert made.trust.bond("A") is None


def test_who_is_meant_by_an_order_to_provision():
    anyone, meant = (
        Pairing(f"n-{number}", Stage.WANTED, NOW_S, provision=True, address=address) for number, address in ((1, ""), (2, "B"))
    )
    made = trust(anyone, meant)
    assert made.newcomer("A") == anyone
    assert made.newcomer("B") == meant
    assert trust(meant).newcomer("A") is None
    assert trust(Pairing("n-1", Stage.WANTED, NOW_S)).newcomer("A") is None
    with pytest.raises(DecodeError, match="unpaired"):  # it is not for a node that says it is that already
        made.admit("C", crc_of("n-1"))


@pytest.mark.parametrize("age_s", [0, 2 * ORDER_S])
def test_who_was_told_has_a_bond_and_may_be_told_again(age_s):
    told = BOND._replace(stage=Stage.TOLD, at_s=NOW_S - age_s, provision=True)
    made = trust(told)
    assert made.admit("A", crc_of("n-1")) == ""
    assert made.bond("A") == told
    assert made.newcomer("A") == (None if age_s else told)
    assert made.newcomer("B") is None


async def ordered(made, rows):
    assert rows.order("n-1", 123_456, time.time(), provision=True)
    await until(lambda: made.trust.newcomer("A"))


async def test_what_a_node_is_told_is_asked_for_and_kept_no_longer(desk):
    made, rows, _ = desk
    await ordered(made, rows)
    assert not await made.told("n-1", "hci0", "A")  # nobody said what
    asking = asyncio.create_task(made.provisioning("n-1"))
    await until(lambda: rows.get("n-1").stage is Stage.ASKED)
    rows.give(rows.get("n-1"), b"secret")
    assert await asking == b"secret"
    assert await made.told("n-1", "hci0", "A")
    assert (rows.get("n-1").stage, rows.get("n-1").given, rows.get("n-1").address) == (Stage.TOLD, None, "A")
    asking = asyncio.create_task(made.provisioning("n-1"))  # it came back as nobody
    await until(lambda: rows.get("n-1").stage is Stage.ASKED)
    await made._load()
    assert made.trust.bond("A").node == "n-1"  # until it is known that it is nobody
    rows.give(rows.get("n-1"), b"secret")
    assert await asking == b"secret"
    assert await made.told("n-1", "hci0", "B")
    assert await made.paired("n-1", "hci0", "B", authenticated=True)
    assert (rows.get("n-1").stage, rows.get("n-1").address, rows.get("n-1").passkey) == (Stage.PAIRED, "B", None)
    assert not await made.told("n-1", "hci0", "C")


async def test_an_order_that_is_given_up_tells_nothing(desk):
    made, rows, _ = desk
    await ordered(made, rows)
    asking = asyncio.create_task(made.provisioning("n-1"))
    await until(lambda: rows.get("n-1").stage is Stage.ASKED)
    rows.give(rows.get("n-1"), b"secret")
    assert await asking == b"secret"
    rows.fail(rows.get("n-1"), "enough")
    assert (rows.get("n-1").stage, rows.get("n-1").given) == (Stage.FAILED, None)
    assert not await made.told("n-1", "hci0", "A")
    assert await made.provisioning("n-2") is None


async def test_nobody_says_what_it_is_to_be_told(desk, monkeypatch):
    monkeypatch.setattr(module, "_COMPARE_S", 0.5)
    made, rows, _ = desk
    await ordered(made, rows)
    assert await made.provisioning("n-1") is None


async def test_three_attempts(desk):
    made, rows, _ = desk
    assert rows.order("n-1", None, time.time())
    await until(lambda: made.trust.orders)
    for _ in range(2):
        await made.failed("n-1", "it left", final=False)
        assert rows.get("n-1").stage is Stage.WANTED
    await made.failed("n-1", "it left again", final=False)
    assert (rows.get("n-1").stage, rows.get("n-1").cause) == (Stage.FAILED, "it left again")
    assert not await made.paired("n-1", "hci0", "A", authenticated=True)


async def test_a_number_that_nobody_looks_at_is_not_the_same(desk, monkeypatch):
    monkeypatch.setattr(module, "_COMPARE_S", 0.5)
    made, rows, _ = desk
    assert rows.order("n-1", None, time.time())
    await until(lambda: made.trust.orders)
    assert not await made.compare("n-1", 42)
    assert rows.get("n-1").number == 42
    assert not await made.compare("n-2", 42)  # nobody wants that
