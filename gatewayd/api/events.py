"""Events: the list, one event, and its window as sound or as numbers."""

import io
import wave
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from gatewayd.api.auth import READ
from gatewayd.api.gateway import Daemon, Gateway
from gatewayd.api.schemas import EventDetail, EventList, EventRow, Opinion, Series
from gatewayd.api.windows import series_of
from gatewayd.core.types import Basis, Reason, Window, WindowKind
from gatewayd.errors import DecodeError
from gatewayd.escalators import audio
from gatewayd.ports import Judge
from gatewayd.records import StoredEvent

MOST = 200  # of a page
SOUND = frozenset({WindowKind.PCM16, WindowKind.ADPCM})
router = APIRouter(prefix="/events", tags=["events"], dependencies=[READ])


@router.get("")
def list_events(
    gateway: Daemon,
    node: Annotated[str | None, Query(max_length=31)] = None,
    cascade: Annotated[str | None, Query(max_length=31)] = None,
    reason: Literal["trigger", "audit", "follow"] | None = None,
    agreed: Annotated[bool | None, Query(description="Whether the larger model shared the node's opinion.")] = None,
    before: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
) -> EventList:
    """A page of the events that match, newest first. One may be short, or empty, and still have a next: only so many rows are looked at."""
    page = gateway.store.page(limit, before=before, node=node, cascade=cascade, reason=reason, agreed=agreed)
    return EventList(items=[row(event, window, gateway.judges.current) for event, window in page.items], next=page.next)


@router.get("/{id}")
def one_event(gateway: Daemon, id: int) -> EventDetail:  # noqa: A002 -- its name in the path
    """All that is known of an event."""
    event, window = _found(gateway, id)
    follows = gateway.store.id_of(event.node, event.session, event.ref) if event.ref is not None else None
    return EventDetail(
        event=row(event, window.kind if window else None, gateway.judges.current),
        session=event.session,
        seq=event.seq,
        t_ms=event.t_ms,
        follows=follows,
        stages=[*event.stages],
        wait_ms=event.wait_s * 1_000,
        model_ms=event.model_s * 1_000,
        clip=window is not None and window.kind in SOUND,
        rate_hz=window.rate_hz if window else None,
        channels=window.channels if window else None,
        shape=[*window.shape] if window else None,
    )


@router.get("/{id}/clip.wav", response_class=Response, responses={200: {"content": {"audio/wav": {}}}})
def clip(gateway: Daemon, id: int) -> Response:  # noqa: A002
    """Its window as sound: 16-bit PCM."""
    window = _window(gateway, id)
    if window.kind not in SOUND:
        raise HTTPException(404, "its window is no sound")
    try:
        samples = audio.samples(window)
    except DecodeError as error:
        raise HTTPException(409, str(error)) from error
    with io.BytesIO() as file:
        with wave.open(file, "wb") as sound:
            sound.setnchannels(max(1, window.channels))
            sound.setsampwidth(2)
            sound.setframerate(window.rate_hz)
            sound.writeframes(samples.astype(np.dtype("<i2")).tobytes())
        return Response(file.getvalue(), media_type="audio/wav", headers={"Cache-Control": "private, max-age=3600"})


@router.get("/{id}/series")
def series(gateway: Daemon, id: int, points: Annotated[int, Query(ge=2, le=20_000)] = 4_000) -> Series:  # noqa: A002
    """Its window as numbers."""
    try:
        return series_of(_window(gateway, id), points)
    except DecodeError as error:
        raise HTTPException(409, str(error)) from error


def row(event: StoredEvent, window: str | None, judges: Mapping[str, Judge]) -> EventRow:
    """As in the list."""
    judge = judges.get(event.cascade)
    labels = judge.cascade.node.decision.labels if judge else ()
    said = {Reason.TRIGGER: True, Reason.AUDIT: False}.get(Reason(event.reason))
    verdict = None
    if event.accepted is not None:
        verdict = Opinion(
            accepted=event.accepted, label=event.verdict_label or "", score=event.verdict_score, model=event.judge or event.model.hex()
        )
    return EventRow(
        id=event.id,
        node=event.node,
        cascade=event.cascade,
        at_s=event.arrived_s,
        reason=event.reason,
        suspicion=Opinion(
            accepted=said,
            label=labels[event.label] if event.label < len(labels) else str(event.label),
            score=event.score,
            model=event.model.hex(),
        ),
        verdict=verdict,
        basis=event.basis or "",
        agreed=event.accepted == said if event.basis == Basis.GATEWAY and said is not None else None,
        action=event.action or "",
        heard=event.heard or "",
        latency_ms=event.latency_s * 1_000,
        window=window,
    )


def _found(gateway: Gateway, id_: int) -> tuple[StoredEvent, Window | None]:
    found = gateway.store.event(id_) if 0 <= id_ < 1 << 63 else None
    if found is None:
        raise HTTPException(404, "there is no such event, or not any more")
    return found


def _window(gateway: Gateway, id_: int) -> Window:
    _, window = _found(gateway, id_)
    if window is None:
        raise HTTPException(404, "its window is not kept")
    return window
