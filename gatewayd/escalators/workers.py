"""Larger models in processes of their own, so that none of them can stop, crash or slow the gateway.

A worker is a spawned process with one model and one pipe; it judges one event at a time. One that misses its deadline or dies is killed and
replaced in the background while others go on. An idle worker whose gateway has gone reads the end of its pipe and ends.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, Self

from gatewayd import plugins
from gatewayd.core.types import Event, Opinion
from gatewayd.errors import EscalationError, WorkerCrashedError, WorkerTimeoutError
from gatewayd.journal import Kind

LOAD_TIMEOUT_S = 120.0
_RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # between attempts to start a worker that fails
_log = logging.getLogger(__name__)
Find = Callable[[str], ModuleType]
_spawn = multiprocessing.get_context("spawn")


def _serve(find: Find, kind: str, settings: Mapping[str, Any], pipe: Connection) -> None:
    """The worker process: load, say so, then answer event after event."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway, which then ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        model = find(kind).load(settings)
    except Exception as error:  # noqa: BLE001 -- whatever went wrong is told to the gateway
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send(None)
    with contextlib.suppress(EOFError, OSError):
        while True:
            event: Event = pipe.recv()
            began = time.perf_counter()
            try:
                answer: Opinion | str = model.classify(event)
            except Exception as error:  # noqa: BLE001
                answer = f"{type(error).__name__}: {error}"
            pipe.send((answer, time.perf_counter() - began))


class _Worker:
    """One process and the gateway's end of its pipe."""

    def __init__(self, find: Find, kind: str, settings: Mapping[str, Any]) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=_serve, args=(find, kind, settings, theirs), name=f"gatewayd-{kind}", daemon=True)
        self._process.start()
        theirs.close()

    async def receive(self, timeout_s: float) -> Any:
        """The next thing the worker says. Raises WorkerTimeoutError, WorkerCrashedError."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._pipe.fileno(), readable.set)
        try:
            async with asyncio.timeout(timeout_s):
                await readable.wait()
            return self._pipe.recv()  # answers are far smaller than a pipe's buffer: they come whole
        except TimeoutError:
            raise WorkerTimeoutError(f"no answer in {timeout_s:.1f} s") from None
        except (EOFError, OSError) as error:
            raise WorkerCrashedError("the worker process ended") from error
        finally:
            loop.remove_reader(self._pipe.fileno())

    def send(self, event: Event) -> None:
        """Hand over an event. An idle worker drains its pipe at once. Raises WorkerCrashedError."""
        try:
            self._pipe.send(event)
        except OSError as error:
            raise WorkerCrashedError("the worker process ended") from error

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class WorkerPool:
    """A Pool: `size` workers of one kind. Use as `async with`. `on_restart` is called for every worker that had to be replaced.

    `find` makes a module of a kind, in the worker process.
    """

    def __init__(
        self,
        kind: str,
        settings: Mapping[str, Any],
        size: int = 1,
        on_restart: Callable[[], None] = lambda: None,
        find: Find = plugins.escalator,
    ) -> None:
        self._find = find
        self._kind = kind
        self.settings = settings  # of workers that start from now on
        self._size = size
        self._on_restart = on_restart
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._workers: set[_Worker] = set()
        self._starts: set[asyncio.Task[None]] = set()
        self._ending = False
        self._asked = 0  # by so many at once
        self._quiet = asyncio.Event()  # by nobody
        self._quiet.set()
        self.ready = asyncio.Event()  # a first worker has loaded its model
        self.problem = ""  # why the last one that failed to load it did

    async def __aenter__(self) -> Self:
        for _ in range(self._size):
            self._start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._ending = True
        for task in self._starts:
            task.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live, loading ones too."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    async def classify(self, event: Event, deadline_s: float) -> Opinion:
        """The model's opinion within `deadline_s`, waiting included. Raises WorkerTimeoutError, WorkerCrashedError."""
        self._asked += 1
        self._quiet.clear()
        try:
            return await self._classify(event, deadline_s)
        finally:
            self._asked -= 1
            if not self._asked:
                self._quiet.set()

    async def drain(self) -> None:
        """Wait until nobody asks: no longer than the deadline of the last who asked."""
        await self._quiet.wait()

    async def _classify(self, event: Event, deadline_s: float) -> Opinion:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(deadline_s):
                worker = await self._idle.get()
        except TimeoutError:
            raise WorkerTimeoutError(f"no {self._kind} worker was free in {deadline_s:.1f} s") from None
        wait_s = time.perf_counter() - began
        answer: Any = None
        try:
            worker.send(event)
            answer, model_s = await worker.receive(max(deadline_s - wait_s, 0.001))
        finally:
            if answer is None:  # timeout, crash or cancellation: whatever it still computes is nobody's answer
                self._replace(worker)
            else:
                self._idle.put_nowait(worker)
        if isinstance(answer, str):
            raise WorkerCrashedError(answer)
        opinion: Opinion = answer
        return opinion._replace(wait_s=wait_s, model_s=model_s)

    def _replace(self, worker: _Worker) -> None:
        self._discard(worker)
        if not self._ending:  # a caller may be cancelled after the pool has ended
            _log.warning("escalator %s: a worker is replaced", self._kind, extra=Kind.WORKER_REPLACED(MODEL=self._kind))
            self._on_restart()
            self._start()

    def _discard(self, worker: _Worker) -> None:
        self._workers.discard(worker)
        worker.kill()

    def _start(self) -> None:
        task = asyncio.get_running_loop().create_task(self._load(), name=f"start-{self._kind}")
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    async def _load(self) -> None:
        """Start one worker and wait for its model, again and again until it stands."""
        attempt = 0
        while True:
            worker = _Worker(self._find, self._kind, self.settings)
            self._workers.add(worker)
            try:
                problem = await worker.receive(LOAD_TIMEOUT_S)
            except EscalationError as error:
                problem = str(error)
            except asyncio.CancelledError:
                self._discard(worker)
                raise
            if problem is None:
                self._idle.put_nowait(worker)
                self.ready.set()
                return
            self._discard(worker)
            self.problem = problem
            pause_s = _RETRY_S[min(attempt, len(_RETRY_S) - 1)]
            attempt += 1
            _log.error(
                "escalator %s does not start: %s; next try in %.0f s",
                self._kind,
                problem,
                pause_s,
                extra=Kind.WORKER_FAILS(MODEL=self._kind),
            )
            await asyncio.sleep(pause_s)
