"""Who changed what: every change by an operator is a row, and only the newest are kept."""

import time
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import select

from gatewayd.database import audit
from gatewayd.store import Store

KEPT = 100_000
_LONGEST = 500  # characters of a detail


class Entry(NamedTuple):
    """One change, or an attempt at one that was refused."""

    id: int
    at_s: float
    who: str  # a token's name, or cli:USER
    what: str  # SUBJECT.VERB, like node.enroll
    target: str
    detail: str
    address: str  # whence, over HTTP


def record(store: Store, who: str, what: str, target: str, detail: str = "", address: str = "") -> None:
    """Remember a change that was made. No secret belongs into it. Blocks; raises StoreError."""
    row = {"at_s": time.time(), "who": who, "what": what, "target": target, "detail": detail[:_LONGEST], "address": address}
    with store.writing() as connection:
        newest = connection.execute(sa.insert(audit).values(row).returning(audit.c.id)).scalar_one()
        connection.execute(sa.delete(audit).where(audit.c.id <= newest - KEPT))


def entries(store: Store, limit: int = 100, before: int | None = None) -> list[Entry]:
    """The newest, newest first; with `before`, those older than the one of that id. Blocks; raises StoreError."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    with store.reading() as connection:
        return [Entry(*row) for row in connection.execute(query)]
