"""The larger models that judge: one pool of workers for each cascade, replaced while the gateway runs.

A cascade's policy and model change together, between two events: one that was admitted before is judged by the old model and decided by
the old policy, one that comes after by the new ones. A model that does not come up changes nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import NamedTuple, Self

from gatewayd import bundle
from gatewayd.bundle import Folder
from gatewayd.errors import CascadeError, WorkerTimeoutError
from gatewayd.journal import Kind
from gatewayd.ports import Judge, Pool

READY_TIMEOUT_S = 180.0  # loading a model takes up to two minutes on a small machine
_log = logging.getLogger(__name__)


class _Seat(NamedTuple):
    """A pool, if the cascade has a larger model, and what that is made of; None: unknown, and so like no other."""

    pool: Pool | None
    digest: bytes | None


class Judges:
    """Use as `async with`; `current` is what the pipeline looks into, by cascade. `make` makes the pool of a cascade, not started."""

    def __init__(self, folders: Mapping[str, Folder], make: Callable[[Folder], Pool]) -> None:
        self.current: dict[str, Judge] = {}
        self.folders = dict(folders)  # where each is from
        self._make = make
        self._seats: dict[str, _Seat] = {}
        self._replacing = asyncio.Lock()  # one at a time: two models of a cascade in memory are enough

    async def __aenter__(self) -> Self:
        """Start all pools; their models may load for a while."""
        async with AsyncExitStack() as started:
            for name, folder in self.folders.items():
                seat = _Seat(None, None)
                if folder.cascade.gateway is not None:
                    seat = _Seat(await started.enter_async_context(self._make(folder)), await _digest(folder))
                self._seats[name] = seat
                self.current[name] = Judge(folder.cascade, seat.pool)
            started.pop_all()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        async with AsyncExitStack() as ending:
            for seat in self._seats.values():
                if seat.pool is not None:
                    ending.push_async_exit(seat.pool)

    def waited_for(self) -> list[str]:
        """The cascades whose model has not come up yet."""
        return [name for name, seat in self._seats.items() if seat.pool and not seat.pool.ready.is_set()]

    async def replace(self, folder: Folder) -> None:
        """Let the cascade in `folder` judge from now on. Returns when its predecessor has ended; asking twice costs nothing.

        Raises CascadeError or WorkerTimeoutError where its model cannot be had; then nothing has changed.
        """
        name = folder.cascade.name
        async with self._replacing:
            old = self._seats.get(name)
            new = await self._seat(folder, old)
            self._seats[name] = new
            self.current[name] = Judge(folder.cascade, new.pool)
            self.folders[name] = folder
            _log.info("%s %s judges now", name, folder.cascade.version, extra=Kind.MODEL_REPLACED(CASCADE=name))
            if old is not None and old.pool is not None and old.pool is not new.pool:
                await _retire(old.pool)

    async def _seat(self, folder: Folder, old: _Seat | None) -> _Seat:
        """A model that has come up, which is the old one where nothing about it has changed. Raises CascadeError, WorkerTimeoutError."""
        model = folder.cascade.gateway
        if model is None:
            return _Seat(None, None)
        digest = await asyncio.to_thread(bundle.gateway_digest, folder)
        if old is None or old.pool is None or old.digest != digest:
            return _Seat(await self._started(folder), digest)
        old.pool.settings = bundle.gateway_settings(folder, model)  # its workers may have to be loaded again, from the new folder
        return old

    async def _started(self, folder: Folder) -> Pool:
        """A pool whose model has come up. Raises WorkerTimeoutError."""
        async with AsyncExitStack() as undo:
            pool = await undo.enter_async_context(self._make(folder))
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await pool.ready.wait()
            except TimeoutError:
                raise WorkerTimeoutError(f"{folder.path}: its model does not come up: {pool.problem or 'it still loads'}") from None
            undo.pop_all()
        return pool


async def _retire(pool: Pool) -> None:
    """End a pool after what it was asked, and what is about to ask it: the tasks of admitted events start in their order, before us."""
    async with AsyncExitStack() as ending:
        ending.push_async_exit(pool)
        await asyncio.sleep(0)
        await pool.drain()


async def _digest(folder: Folder) -> bytes | None:
    try:
        return await asyncio.to_thread(bundle.gateway_digest, folder)
    except CascadeError:  # a file is missing: the worker will say so, and try again
        return None
