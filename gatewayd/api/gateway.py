"""What the API sees of the daemon."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

from fastapi import Depends, Request

from gatewayd.config import Config
from gatewayd.core import gate
from gatewayd.core.registry import Registry
from gatewayd.judges import Judges
from gatewayd.ledger import Ledger
from gatewayd.metrics import Metrics
from gatewayd.store import Store


class Gateway(NamedTuple):
    """What `app` puts together for the API. Functions that are marked with "loop" are for the event loop only."""

    config: Config
    registry: Registry  # loop
    store: Store
    ledger: Ledger
    judges: Judges
    metrics: Metrics
    scrape: Callable[[], bytes]  # the text of /metrics
    problems: Callable[[], list[str]]  # loop; empty when all is well
    broker: Callable[[], bool]
    escalating: Callable[[], int]  # events that are with or wait for a larger model
    verdict: Callable[[str], gate.Verdict | None]  # loop; the gate's newest word on an open rollout


async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


Daemon = Annotated[Gateway, Depends(_gateway)]
