"""Pairings as rows and as trust: whom the gateway connects, and how operator and daemon meet."""

import asyncio
import time

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
