"""judges: larger models exchanged while events flow, with real worker processes and, where order is all, with none."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from functools import partial

import fake_model
import psutil
import pytest
from fake_model import WAIT
from live import CASCADE, event, until
from test_pipeline import FakePublisher, FakeStore

from gatewayd import bundle, judges
from gatewayd.core import wire
from gatewayd.core.escalation import Escalations
from gatewayd.core.listening import Listening
from gatewayd.core.registry import Registry
from gatewayd.core.types import Basis, Frame, Opinion
from gatewayd.errors import CascadeError, WorkerTimeoutError
from gatewayd.escalators import workers
from gatewayd.escalators.workers import WorkerPool
from gatewayd.judges import Judges
from gatewayd.metrics import Metrics
from gatewayd.pipeline import Pipeline

LONG_S = 60.0


def folder(path, version="1", model="old", name="fake", files=""):
    """A cascade whose verdicts and opinions say by which version they are."""
    path.mkdir()
    text = CASCADE.replace("DEADLINE", str(LONG_S)).replace('version = "1"', f'version = "{version}"')
    text = text.replace('action = "act"', f'action = "{version}"').replace('name = "fake"', f'name = "{name}"')
    settings = f'[gateway.settings]\nname = "{model}"\n{files}\n'
    (path / "cascade.toml").write_text(text.replace("[policy]", f"{settings}[policy]"))
    return bundle.read(path)


def silent(path, version="2"):
    """A cascade without a larger model."""
    made = folder(path, version)
    return made._replace(cascade=made.cascade.model_copy(update={"gateway": None}))


def make_pool(made, size=2):
    return WorkerPool("fake", bundle.gateway_settings(made, made.cascade.gateway), size, find=fake_model.find)


class Site:
    """A pipeline, and the judges that it asks."""

    def __init__(self, seats):
        self.store, self.publisher, self.judges = FakeStore(), FakePublisher(), seats
        self.pipeline = Pipeline(
            registry=Registry(100),
            judges=seats.current,
            store=self.store,
            publisher=self.publisher,
            metrics=Metrics(),
            enrolls=lambda _node: True,
            escalations=Escalations(1_000, 1_000),
            listening=Listening(),
        )

    def hear(self, seq, **fields):
        self.pipeline.take([Frame("n1", "event", wire.encode(event(seq, **fields)), "fake", lambda: None)])

    def decided(self):
        """(seq, who judged, whose policy decided, basis) of each event, in the order of their decisions."""
        self.store.commit()
        return [(r.event.seq, r.opinion.model if r.opinion else None, r.verdict.action, r.verdict.basis) for r in self.store.records]


@asynccontextmanager
async def site(*folders, make=make_pool):
    async with Judges({made.cascade.name: made for made in folders}, make) as seats:
        yield Site(seats)


# ---- real models


async def test_events_flow_while_models_are_replaced(tmp_path):
    """None is lost or judged twice, and each is decided by the policy that belongs to the model that judged it."""
    folders = [folder(tmp_path / version, version, f"model {version}") for version in "123"]
    async with site(folders[0]) as here:
        seq, flowing = 0, True

        async def flow():
            nonlocal seq
            while flowing:
                here.hear(seq)
                seq += 1
                await asyncio.sleep(0.002)

        task = asyncio.create_task(flow())
        for made in folders[1:]:
            before = seq
            await until(lambda: seq > before + 50)  # noqa: B023
            await here.judges.replace(made)
        last = seq
        await until(lambda: seq > last + 20)
        flowing = False
        await task
        await until(lambda: len(here.decided()) == seq)
        decided = here.decided()
    assert sorted(seq for seq, *_ in decided) == list(range(seq))
    assert {(model, action, basis) for _, model, action, basis in decided} == {(f"model {v}", v, Basis.GATEWAY) for v in "123"}
    order = [action for _, _, action, _ in sorted(decided)]
    assert order == sorted(order)  # by when they were admitted


async def test_what_is_under_way_ends_with_the_old_model_while_the_new_one_judges(tmp_path):
    old, new = folder(tmp_path / "old", "1", "old"), folder(tmp_path / "new", "2", "new")
    async with site(old) as here:
        before = here.judges.current["fake"].escalator
        here.hear(0, label=WAIT)
        await until((old.path / "judging-0").exists)
        replacing = asyncio.create_task(here.judges.replace(new))
        await until(lambda: here.judges.current["fake"].cascade.version == "2")
        here.hear(1)
        await until(lambda: here.decided() == [(1, "new", "2", Basis.GATEWAY)])
        assert not replacing.done()
        assert before.pids
        (old.path / "go").touch()
        await replacing
        await until(lambda: here.decided()[1:] == [(0, "old", "1", Basis.GATEWAY)])
        assert before.pids == []


async def test_a_model_that_does_not_come_up_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(judges, "READY_TIMEOUT_S", 3.0)
    monkeypatch.setattr(workers, "_RETRY_S", (0.01,))
    old, new = folder(tmp_path / "old"), folder(tmp_path / "new", "2", "new")
    (new.path / "broken").touch()
    async with site(old) as here:
        await until(lambda: not here.judges.waited_for())
        current, pids = dict(here.judges.current), here.judges.current["fake"].escalator.pids
        with pytest.raises(WorkerTimeoutError, match="does not come up"):
            await here.judges.replace(new)
        assert here.judges.current == current
        assert {child.pid for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())} == set(pids)
        here.hear(0)
        await until(lambda: here.decided() == [(0, "old", "1", Basis.GATEWAY)])
        (new.path / "broken").unlink()
        monkeypatch.setattr(judges, "READY_TIMEOUT_S", LONG_S)
        await here.judges.replace(new)  # and may be tried again
        here.hear(1)
        await until(lambda: here.decided()[1:] == [(1, "new", "2", Basis.GATEWAY)])


async def test_the_same_model_goes_on_under_a_new_policy(tmp_path):
    folders = [folder(tmp_path / version, version, files='weights = "weights.bin"') for version in "12"]
    for made in folders:
        (made.path / "weights.bin").write_bytes(b"the same")
    async with site(make=partial(make_pool, size=1)) as here:
        await here.judges.replace(folders[0])  # a cascade that was not there before
        pool = here.judges.current["fake"].escalator
        pids = pool.pids
        await here.judges.replace(folders[1])
        assert (here.judges.current["fake"].escalator, pool.pids) == (pool, pids)
        here.hear(0)
        await until(lambda: here.decided() == [(0, "old", "2", Basis.GATEWAY)])
        (folders[0].path / "broken").touch()  # nobody needs the old folder any more
        os.kill(pids[0], signal.SIGKILL)
        for seq in (1, 2):  # the first finds the worker dead
            here.hear(seq)
        await until(lambda: len(here.decided()) == 3)
        assert [who for _, *who in here.decided()[1:]] == [[None, "", Basis.FAILED], ["old", "2", Basis.GATEWAY]]


# ---- no models: the order of things


class FakePool:
    """Answers at once while it lives. `ready` is the test's to set."""

    def __init__(self, made):
        self.made = made
        self.ready, self.problem = asyncio.Event(), "weights are missing"
        self.settings = {}
        self.asked, self.ended = 0, None
        self.quiet = asyncio.Event()
        self.quiet.set()

    async def __aenter__(self):
        self.ended = False
        return self

    async def __aexit__(self, *_exc):
        self.ended = True

    async def drain(self):
        await self.quiet.wait()

    async def classify(self, _event, _deadline_s):
        assert not self.ended
        self.asked += 1
        self.quiet.clear()
        await asyncio.sleep(0)
        assert not self.ended
        self.quiet.set()
        return Opinion(accepted=True, label="", score=1.0, model=f"by {self.made.cascade.version}")


class Pools:
    """A `make` that remembers what it made."""

    def __init__(self):
        self.made = []

    def __call__(self, made):
        self.made.append(FakePool(made))
        return self.made[-1]


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def digested(pools, count):
    """Wait until so many pools were made: files are looked at in a thread before that."""
    await until(lambda: len(pools.made) == count)


async def test_who_was_admitted_in_the_very_moment_of_the_exchange_is_judged_by_the_old_model(tmp_path):
    pools = Pools()
    async with site(folder(tmp_path / "old"), make=pools) as here:
        replacing = asyncio.create_task(here.judges.replace(folder(tmp_path / "new", "2", "new")))
        await digested(pools, 2)
        pools.made[1].ready.set()  # wakes the exchange,
        here.hear(0)  # whose turn comes before that of this event's task
        await replacing
        here.hear(1)
        await settle()
        assert here.decided() == [(0, "by 1", "1", Basis.GATEWAY), (1, "by 2", "2", Basis.GATEWAY)]
        assert [(pool.asked, pool.ended) for pool in pools.made] == [(1, True), (1, False)]
    assert [pool.ended for pool in pools.made] == [True, True]


@pytest.mark.parametrize("moment", ["loading", "draining"])
async def test_an_exchange_that_is_cancelled_leaves_no_pool_behind(tmp_path, moment):
    pools = Pools()
    async with site(folder(tmp_path / "old"), make=pools) as here:
        replacing = asyncio.create_task(here.judges.replace(folder(tmp_path / "new", "2", "new")))
        await digested(pools, 2)
        if moment == "draining":
            pools.made[0].quiet.clear()
            pools.made[1].ready.set()
            await settle()
        assert not replacing.done()
        replacing.cancel()
        await asyncio.gather(replacing, return_exceptions=True)
        assert [pool.ended for pool in pools.made] == ([True, False] if moment == "draining" else [False, True])
        assert here.judges.current["fake"].cascade.version == ("2" if moment == "draining" else "1")


async def test_a_larger_model_may_go_and_come(tmp_path):
    pools = Pools()
    async with site(folder(tmp_path / "old"), make=pools) as here:
        await here.judges.replace(silent(tmp_path / "silent"))
        assert (pools.made[0].ended, here.judges.current["fake"].escalator, here.judges.waited_for()) == (True, None, [])
        here.hear(0)
        assert here.decided() == [(0, None, "", Basis.NODE)]
        replacing = asyncio.create_task(here.judges.replace(folder(tmp_path / "new", "3")))
        await digested(pools, 2)
        pools.made[1].ready.set()
        await replacing
        here.hear(1)
        await settle()
        assert here.decided()[1:] == [(1, "by 3", "3", Basis.GATEWAY)]


async def test_what_is_not_there_is_an_error_and_changes_nothing(tmp_path, monkeypatch):
    pools = Pools()
    lacking = folder(tmp_path / "lacking", "2", files='weights = "weights.bin"')
    async with site(
        folder(tmp_path / "old"), lacking._replace(cascade=lacking.cascade.model_copy(update={"name": "b"})), make=pools
    ) as here:
        assert here.judges.waited_for() == ["fake", "b"]  # a start goes on: the worker tries again
        with pytest.raises(CascadeError, match="weights"):
            await here.judges.replace(lacking)
        monkeypatch.setattr(judges, "READY_TIMEOUT_S", 0.01)
        with pytest.raises(WorkerTimeoutError, match="weights are missing"):
            await here.judges.replace(folder(tmp_path / "new", "3", "new"))
        assert [pool.ended for pool in pools.made] == [False, False, True]
        assert here.judges.current["fake"].cascade.version == "1"
