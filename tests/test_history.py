"""gatewayd.history: what is remembered of nodes' vitals, how often, and for how long."""

import asyncio
import time

import sqlalchemy as sa
from api_site import info, vitals
from test_store import NOW_S, open_store, sweep

from gatewayd import database, history
from gatewayd.core.registry import Link, Node, Registry
from gatewayd.core.types import NodeState
from gatewayd.history import INTERVAL_S, ROWS_PER_DAY, YOUNG_INTERVAL_S, YOUNG_NODES, YOUNG_S, Sampler, interval_s

DAY_S = 86_400.0


def node(name="n1", now_s=0.0, **said):
    return Node(name, info=info(vitals_interval_s=86_400), vitals=vitals(**said), links={"mqtt": Link(int(now_s * 1_000), NodeState.READY)})


def insert(store, *samples):
    history._insert(store, [sample._asdict() for sample in samples])


def test_a_sample_is_of_the_newest_report():
    assert history.sample("n1", 5.0, vitals()) == ("n1", 5.0, 0.5, -60, 20_480, 1_024, 3, 100, 50_000.0)
    assert history.sample("n1", 5.0, vitals(cascades=())).invoke_us is None


def test_a_small_fleet_is_sampled_often_when_it_is_young_and_a_large_one_seldom():
    assert interval_s(10, 0.0) == interval_s(YOUNG_NODES, YOUNG_S - 1) == YOUNG_INTERVAL_S
    assert interval_s(10, YOUNG_S) == interval_s(YOUNG_NODES + 1, 0.0) == INTERVAL_S
    for nodes in (1_000, 10_000, 20_000):
        assert nodes * DAY_S / interval_s(nodes, DAY_S) <= ROWS_PER_DAY


def test_who_is_sampled():
    sampler, known = Sampler(), node()
    silent, away = node("silent"), node("away")
    silent.vitals = None
    away.links["mqtt"].state = NodeState.LOST

    def due(now_s):
        return [name for name, _ in sampler.take([known, silent, away], now_s, INTERVAL_S)]

    assert due(0.0) == ["n1"]
    assert due(INTERVAL_S) == []  # it has said nothing new
    known.vitals = vitals(battery=0.4)
    assert due(INTERVAL_S - 1) == []
    assert due(INTERVAL_S) == ["n1"]


async def test_the_daemon_samples_until_it_ends(url, monkeypatch):
    monkeypatch.setattr(history, "_LOOK_S", 0.01)
    registry = Registry(10)
    registry.restore(node(now_s=time.monotonic()), ())
    async with open_store(url) as store:
        task = asyncio.create_task(history.remember(registry, store))
        while not (found := await asyncio.to_thread(history.samples, store, "n1", 0.0)):
            await asyncio.sleep(0.01)
        task.cancel()
        assert found[0][2:] == history.sample("n1", 0.0, vitals())[2:]


async def test_samples_come_in_order_since_a_time_and_thinned(url, monkeypatch):
    monkeypatch.setattr(history, "MOST_POINTS", 10)
    async with open_store(url) as store:
        insert(store, *(history.sample("n1", NOW_S + n, vitals(queued=n)) for n in range(25)))
        insert(store, history.sample("n2", NOW_S, vitals()))
        assert [one.queued for one in history.samples(store, "n1", NOW_S + 20)] == [20, 21, 22, 23, 24]
        assert [one.queued for one in history.samples(store, "n1", 0.0)] == [0, 3, 6, 9, 12, 15, 18, 21, 24]
        assert history.samples(store, "nobody", 0.0) == []


async def test_old_samples_are_swept_and_so_are_too_many(url, monkeypatch):
    def kept(store):
        with store.reading() as connection:
            return connection.scalars(sa.select(database.vitals.c.queued).order_by(database.vitals.c.id)).all()

    async with open_store(url) as store:
        insert(store, *(history.sample("n1", NOW_S - age * DAY_S, vitals(queued=age)) for age in (31, 29, 1, 0)))
        sweep(store)
        assert kept(store) == [29, 1, 0]
        monkeypatch.setattr("gatewayd.store._VITALS_ROWS", 2)
        sweep(store)
        assert kept(store) == [1, 0]
