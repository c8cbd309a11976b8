"""How the gateway is: for people, for Prometheus, and for whoever only asks whether it is well."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from gatewayd import __version__
from gatewayd.api.auth import READ
from gatewayd.api.fleet import Fleet
from gatewayd.api.gateway import Daemon, Gateway
from gatewayd.api.schemas import Health
from gatewayd.records import Counts

_COUNTS_S = 10.0  # between two looks at how much the store has: it reads whole indexes for that
router = APIRouter(tags=["health"], dependencies=[READ])
plain = APIRouter(include_in_schema=False)


class Doctor:
    """Asks everything how it is."""

    def __init__(self, gateway: Gateway, fleet: Fleet) -> None:
        self._gateway = gateway
        self._fleet = fleet
        self._began_s = time.monotonic()
        self._counted: tuple[float, Counts] | None = None
        self._counting = asyncio.Lock()

    async def now(self) -> Health:
        """How it is. Raises StoreError."""
        gateway, counts = self._gateway, await self._counts()
        return Health(
            gateway=gateway.config.gateway.id,
            version=__version__,
            uptime_s=time.monotonic() - self._began_s,
            broker_connected=gateway.broker(),
            problems=gateway.problems(),
            nodes=await self._fleet.counts(),
            events=counts.events,
            clips=counts.clips,
            clip_bytes=counts.clip_bytes,
            escalation_queue=gateway.escalating(),
            store_queue=gateway.store.pending(),
        )

    async def _counts(self) -> Counts:
        async with self._counting:
            if self._counted is None or time.monotonic() - self._counted[0] >= _COUNTS_S:
                counts = await asyncio.to_thread(self._gateway.store.counts)
                self._counted = time.monotonic(), counts
            return self._counted[1]


async def _doctor(request: Request) -> Doctor:
    doctor: Doctor = request.app.state.doctor
    return doctor


Healthy = Annotated[Doctor, Depends(_doctor)]


@router.get("/health")
async def health(healthy: Healthy) -> Health:
    """How the gateway and its fleet are."""
    return await healthy.now()


@plain.api_route("/metrics", methods=["GET", "HEAD"])
async def metrics(gateway: Daemon) -> Response:
    """What Prometheus reads."""
    return Response(await asyncio.to_thread(gateway.scrape), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@plain.api_route("/healthz", methods=["GET", "HEAD"])
async def healthz(gateway: Daemon) -> Response:
    """Whether all is well: 200, or 503 with what is not."""
    said = ", ".join(gateway.problems())
    return PlainTextResponse(f"{said or 'ok'}\n", 503 if said else 200)
