"""The application: every route under /api/v1, /metrics and /healthz, and the fleet page's files."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from gatewayd import __version__
from gatewayd.api import auth, cascades, changes, events, health, nodes, problems, rollouts, stream
from gatewayd.api.auth import Door
from gatewayd.api.cascades import Field
from gatewayd.api.fleet import Fleet
from gatewayd.api.gateway import Gateway
from gatewayd.api.health import Doctor
from gatewayd.api.limits import BODY_BYTES, Limits
from gatewayd.api.schemas import Problem
from gatewayd.api.stream import Streams
from gatewayd.core import sealed

PAGE = Path(__file__).resolve().parents[1] / "page"
_ROUTERS = (auth.router, health.router, nodes.router, events.router, cascades.router, rollouts.router, stream.router, changes.router)


@contextlib.asynccontextmanager
async def application(gateway: Gateway, names: Collection[str]) -> AsyncIterator[tuple[ASGIApp, Streams]]:
    """The application, which may be called by `names`, whatever they are at the time, and its live streams."""
    app = _Application(
        title="gatewayd", version=__version__, openapi_url="/api/v1/openapi.json", docs_url=None, redoc_url=None, redirect_slashes=False
    )
    fleet = Fleet(gateway.registry)
    app.state.gateway, app.state.fleet, app.state.door = gateway, fleet, Door(gateway.store)
    app.state.doctor, app.state.field = Doctor(gateway, fleet), Field(gateway.ledger)
    app.state.uploading = asyncio.Lock()
    app.state.streams = streams = Streams(gateway, fleet)
    for router in _ROUTERS:
        app.include_router(router, prefix="/api/v1", responses=problems.RESPONSES)
    app.include_router(health.plain)
    if PAGE.is_dir():
        app.mount("/page", StaticFiles(directory=PAGE), name="page")
        app.add_api_route("/", _page, include_in_schema=False)
    problems.handle(app)
    telling = asyncio.get_running_loop().create_task(streams.run(), name="streams")
    telling.add_done_callback(lambda task: None if task.cancelled() else task.result())  # a bug goes to the loop's exception handler
    try:
        yield Limits(app, gateway.metrics, names, _room), streams
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        described["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
        return described


def _room(scope: Scope) -> int:
    """The bytes that a request's body may have."""
    return sealed.MAX_BYTES if (scope["method"], scope["path"]) == ("POST", "/api/v1/rollouts") else BODY_BYTES


async def _page() -> FileResponse:
    return FileResponse(PAGE / "index.html")
