"""The audit log, for operators."""

from typing import Annotated

from fastapi import APIRouter, Query

from gatewayd import audit
from gatewayd.api.auth import OPERATE
from gatewayd.api.gateway import Daemon
from gatewayd.api.schemas import AuditEntry

MOST = 500
router = APIRouter(prefix="/audit", tags=["audit"], dependencies=[OPERATE])


@router.get("")
def list_changes(
    gateway: Daemon, before: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None, limit: Annotated[int, Query(ge=1, le=MOST)] = 100
) -> list[AuditEntry]:
    """A page of what was changed and by whom, newest first; before: the id of the last one of the page before."""
    return [AuditEntry(**entry._asdict()) for entry in audit.entries(gateway.store, limit, before)]
