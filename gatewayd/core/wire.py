"""The bytes of nodelink/1: CBOR maps with integer keys, to and from the types of `types`.

`decode` returns a message or raises DecodeError; whatever else it does with any bytes at all is a bug. The annotations of the types
are the schema; docs/nodelink.cddl says the same for everybody else.
"""

import io
from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn, cast

import cbor2
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gatewayd.core.types import (
    CascadeVitals,
    Crash,
    Event,
    GatewayState,
    Info,
    Limits,
    Message,
    NodeId,
    Provisioning,
    Slot,
    State,
    Stored,
    Verdict,
    Vitals,
    Window,
)
from gatewayd.errors import DecodeError

MAX_PAYLOAD_BYTES = 98_304
REASONS = ("oversized", "cbor", "schema", "trailing")  # of DecodeError, a metric's label values
_MAX_DEPTH = 4  # info holds a list of maps; one more is spare

# The fields of each map in the order of their integer keys.
_KEYS: dict[type, tuple[str, ...]] = {
    State: State._fields,
    GatewayState: GatewayState._fields,
    Info: Info._fields,
    Slot: Slot._fields,
    Limits: Limits._fields,
    Crash: Crash._fields,
    Vitals: (
        *("session", "uptime_s", "t_ms", "battery", "rssi_dbm", "heap_free_bytes", "stack_free_bytes"),
        *("queued", "dropped", "cascades"),
    ),
    CascadeVitals: CascadeVitals._fields,
    Event: Event._fields,
    Window: ("kind", "rate_hz", "channels", "shape", "scale", "zero_point", "data"),
    Verdict: Verdict._fields,
    Stored: Stored._fields,
    Provisioning: Provisioning._fields,
}
_NAMES: dict[type, dict[int, str]] = {kind: dict(enumerate(fields)) for kind, fields in _KEYS.items()}
_NUMBERS: dict[type, dict[str, int]] = {kind: {name: key for key, name in names.items()} for kind, names in _NAMES.items()}
_INTEGERS = {int}
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


class _NoTags(dict[int, Any]):
    """Refuses every semantic tag: cbor2 would compile regular expressions and follow references for a stranger."""

    def get(self, tag: int, _default: object = None) -> Callable[..., NoReturn]:
        def refuse(*_args: object, **_kwargs: object) -> NoReturn:
            raise cbor2.CBORDecodeError(f"tag {tag} is not allowed")

        return refuse

    def __getitem__(self, tag: int) -> Callable[..., NoReturn]:
        return self.get(tag)

    def __contains__(self, _tag: object) -> bool:
        return True


_NO_TAGS = _NoTags()


def _named(kind: type, raw: Any) -> dict[str, Any]:
    """Integer keys to field names; lists to tuples and maps to named maps where the fields say so."""
    if type(raw) is not dict or {*map(type, raw)} != _INTEGERS:  # for Python, false and 0.0 are the key 0
        raise DecodeError("schema", f"{kind.__name__}: not a map with integer keys")
    names = _NAMES[kind]
    try:
        fields = {names[key]: value for key, value in raw.items()}
    except (KeyError, TypeError):
        raise DecodeError("schema", f"{kind.__name__}: unknown key") from None
    for name, inner in _NESTED.get(kind, ()):
        value = fields.get(name)
        if inner in _SINGLE:
            if value is not None:
                fields[name] = _named(inner, value)
        elif type(value) is list:
            fields[name] = tuple(value) if inner is None else tuple(_named(inner, item) for item in value)
    return fields


_NESTED: dict[type, tuple[tuple[str, type | None], ...]] = {
    Event: (("window", Window),),
    Window: (("shape", None),),
    Info: (("front_ends", None), ("slots", Slot), ("limits", Limits), ("crash", Crash)),
    Vitals: (("cascades", CascadeVitals),),
    CascadeVitals: (("histogram", None),),
    Stored: (("seqs", None),),
    Provisioning: (("keys", None),),
}
_SINGLE = {Window, Limits, Crash}  # maps; other nested ones come in lists


def _validator(kind: type) -> Callable[[Any], Any]:
    return TypeAdapter[Any](kind, config=_STRICT).validator.validate_python


_VALIDATE: dict[type, Callable[[Any], Any]] = {
    kind: _validator(kind) for kind in (State, Info, Vitals, Event, Verdict, GatewayState, Stored, Provisioning)
}
_TAILS: dict[str, type] = {"state": State, "info": Info, "vitals": Vitals, "event": Event}
RETAINED = ("state", "info")  # tails whose last message the broker keeps; one without a payload clears it
_node_id = TypeAdapter[str](NodeId, config=_STRICT)


def decode(tail: str, payload: bytes) -> Message:
    """Decode what a node published under `tail`. Raises DecodeError."""
    kind = _TAILS.get(tail)
    if kind is None:
        raise DecodeError("schema", f"no messages under {tail!r}")
    return cast("Message", decode_as(kind, payload))


def decode_as(kind: type, payload: bytes) -> Any:
    """Decode one map as `kind`. Raises DecodeError."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DecodeError("oversized", f"{len(payload)} bytes")
    stream = io.BytesIO(payload)
    decoder = cbor2.CBORDecoder(
        stream, max_depth=_MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False, semantic_decoders=_NO_TAGS
    )
    try:
        raw = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise DecodeError("cbor", str(error)) from error
    if stream.tell() != len(payload):
        raise DecodeError("trailing", f"{len(payload) - stream.tell()} bytes after the map")
    try:
        return _VALIDATE[kind](_named(kind, raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DecodeError("schema", f"{kind.__name__}.{where}: {first['msg']}") from error


def encode(message: tuple[Any, ...]) -> bytes:
    """The map of any message; fields that are None are left out."""
    return cbor2.dumps(_numbered(message))


def _numbered(message: Any) -> dict[int, Any]:
    numbers = _NUMBERS[type(message)]
    pairs = sorted((numbers[name], _plain(value)) for name, value in message._asdict().items() if value is not None)
    return dict(pairs)


def _plain(value: Any) -> Any:
    if type(value) in _NUMBERS:
        return _numbered(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value.value) if isinstance(value, Enum) else value


def valid_node_id(node: str) -> bool:
    """Whether a topic's node level may be a node."""
    try:
        _node_id.validate_python(node)
    except ValidationError:
        return False
    return True
