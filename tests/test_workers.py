"""escalators/workers: real worker processes that answer, die, hang, and do not start."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import fake_model
import psutil
import pytest
from fake_model import ACCEPT, DIE, HANG, RAISE, WAIT
from live import event, until

from gatewayd.errors import WorkerCrashedError, WorkerTimeoutError
from gatewayd.escalators import workers
from gatewayd.escalators.workers import WorkerPool

LONG_S = 60.0


class Restarts:
    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


@asynccontextmanager
async def pool(folder, size=1):
    restarts = Restarts()
    async with WorkerPool("fake", {"folder": str(folder)}, size, restarts, fake_model.find) as workers_:
        await asyncio.wait_for(workers_.ready.wait(), LONG_S)
        yield workers_, restarts
        pids = workers_.pids
    assert not any(map(psutil.pid_exists, pids))


async def judging(folder, seq):
    await until((folder / f"judging-{seq}").exists)


async def test_an_opinion_says_how_long_it_waited_and_took(tmp_path):
    async with pool(tmp_path) as (asked, _):
        opinion = await asked.classify(event(1), LONG_S)
    assert (opinion.accepted, opinion.label, opinion.model) == (True, "yes", "fake 1")
    assert int(opinion.text) != os.getpid()
    assert opinion.wait_s >= 0
    assert opinion.model_s > 0


@pytest.mark.parametrize(("label", "deadline_s", "error"), [(DIE, LONG_S, WorkerCrashedError), (HANG, 0.5, WorkerTimeoutError)])
async def test_a_worker_that_dies_or_hangs_is_replaced(tmp_path, label, deadline_s, error):
    async with pool(tmp_path) as (asked, restarts):
        (first,) = asked.pids
        with pytest.raises(error):
            await asked.classify(event(1, label=label), deadline_s)
        assert not psutil.pid_exists(first)
        opinion = await asked.classify(event(2), LONG_S)
        assert asked.pids == [int(opinion.text)]
        assert restarts.count == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_a_worker_killed_in_the_middle_of_an_inference(tmp_path, number):
    async with pool(tmp_path) as (asked, restarts):
        task = asyncio.create_task(asked.classify(event(1, label=WAIT), LONG_S))
        await judging(tmp_path, 1)
        os.kill(asked.pids[0], number)
        with pytest.raises(WorkerCrashedError):
            await task
        assert (await asked.classify(event(2), LONG_S)).accepted
        assert restarts.count == 1


async def test_a_worker_that_stands_still_is_replaced(tmp_path):
    async with pool(tmp_path) as (asked, restarts):
        os.kill(asked.pids[0], signal.SIGSTOP)
        with pytest.raises(WorkerTimeoutError):
            await asked.classify(event(1, window=event(1).window._replace(data=bytes(65_536))), 0.3)
        assert (await asked.classify(event(2), LONG_S)).accepted
        assert restarts.count == 1


async def test_an_exception_fails_one_event_and_keeps_the_worker(tmp_path):
    async with pool(tmp_path) as (asked, restarts):
        before = asked.pids
        with pytest.raises(WorkerCrashedError, match="RuntimeError: no idea"):
            await asked.classify(event(1, label=RAISE), LONG_S)
        assert (await asked.classify(event(2, label=ACCEPT), LONG_S)).accepted
        assert (asked.pids, restarts.count) == (before, 0)


async def test_others_go_on_while_one_hangs(tmp_path):
    async with pool(tmp_path, size=2) as (asked, _):
        await until(lambda: len(asked.pids) == 2)
        hanging = asyncio.create_task(asked.classify(event(1, label=WAIT), LONG_S))
        await judging(tmp_path, 1)
        assert [(await asked.classify(event(seq), LONG_S)).accepted for seq in range(2, 6)] == [True] * 4
        (tmp_path / "go").touch()
        assert (await hanging).accepted


async def test_who_finds_no_free_worker_waits_no_longer_than_its_deadline(tmp_path):
    async with pool(tmp_path) as (asked, restarts):
        hanging = asyncio.create_task(asked.classify(event(1, label=WAIT), LONG_S))
        await judging(tmp_path, 1)
        with pytest.raises(WorkerTimeoutError, match="no fake worker was free"):
            await asked.classify(event(2), 0.05)
        assert restarts.count == 0
        (tmp_path / "go").touch()
        assert (await hanging).accepted


async def test_a_cancelled_question_costs_its_worker_and_no_more(tmp_path):
    async with pool(tmp_path) as (asked, _):
        task = asyncio.create_task(asked.classify(event(1, label=HANG), LONG_S))
        await judging(tmp_path, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await asked.classify(event(2), LONG_S)).accepted


async def test_a_model_that_does_not_load_is_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(workers, "_RETRY_S", (0.01,))
    (tmp_path / "broken").touch()
    async with WorkerPool("fake", {"folder": str(tmp_path)}, find=fake_model.find) as asked:
        await until(lambda: caplog.text.count("ValueError: weights are missing") > 1)
        with pytest.raises(WorkerTimeoutError):
            await asked.classify(event(1), 0.05)
        (tmp_path / "broken").unlink()
        assert (await asked.classify(event(2), LONG_S)).accepted


async def test_a_pool_ends_while_its_workers_load_or_judge(tmp_path):
    async with WorkerPool("fake", {"folder": str(tmp_path)}, 2, find=fake_model.find) as asked:
        task = asyncio.create_task(asked.classify(event(1, label=HANG), LONG_S))
        await judging(tmp_path, 1)
        pids = asked.pids
        task.cancel()  # as Pipeline.drain() does
    await asyncio.gather(task, return_exceptions=True)
    assert pids
    assert not asked.pids
    assert not any(map(psutil.pid_exists, pids))
