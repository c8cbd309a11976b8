"""From a cascade's folder to what is delivered: reads `cascade.toml`, finds its files, makes the node's image."""

import importlib.util
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from gatewayd.core import cascade as cascades
from gatewayd.core import image
from gatewayd.core.cascade import Cascade, GatewayModel
from gatewayd.errors import CascadeError, MissingPackageError


class Folder(NamedTuple):
    """A cascade and where it came from."""

    cascade: Cascade
    path: Path


def read(folder: Path) -> Folder:
    """The cascade in `folder`. Raises CascadeError."""
    file = folder / "cascade.toml"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CascadeError(f"{file}: {error}") from error
    return Folder(cascades.parse(document, str(file)), folder)


def read_all(folders: Iterable[Path]) -> dict[str, Folder]:
    """The cascades in `folders` by name. Raises CascadeError, also where two have one name."""
    found: dict[str, Folder] = {}
    for path in folders:
        folder = read(path)
        name = folder.cascade.name
        if name in found:
            raise CascadeError(f"{path}: there is a cascade {name!r} in {found[name].path} too")
        found[name] = folder
    return found


def gateway_settings(folder: Folder, model: GatewayModel) -> dict[str, Any]:
    """What the escalator's `load()` gets: the cascade's settings, its folder, and the commands of its policy."""
    commands = [command.model_dump() for command in folder.cascade.policy.commands]
    return {"folder": str(folder.path), "commands": commands, **model.settings}


def node_model(folder: Folder) -> bytes:
    """The node's `.tflite`. Raises CascadeError, MissingPackageError."""
    reference = folder.cascade.node.model
    if not reference.startswith("wheel:"):
        return _read(folder.path / reference)
    package, _, inner = reference.removeprefix("wheel:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(package, "wakeword")
    return _read(Path(spec.submodule_search_locations[0]) / inner)


def node_image(folder: Folder, *, counter: int = 1, audit_s: int | None = None) -> bytes:
    """The MCUboot image that a node installs; `audit_s` overrides the policy's. Raises CascadeError, MissingPackageError."""
    cascade = folder.cascade
    decision = cascade.node.decision
    if audit_s is not None:
        decision = decision.model_copy(update={"audit_s": audit_s})
    model = node_model(folder)
    normalisation = _read(folder.path / cascade.node.front_end.normalisation) if cascade.node.front_end.normalisation else None
    return image.build(
        model,
        version=cascade.version,
        counter=counter,
        cascade=cascade.name,
        arena_bytes=cascade.node.arena_bytes,
        operators=operator_set(model),
        front_end=cascades.encode_front_end(cascade.node.front_end, normalisation),
        decision=cascades.encode_decision(decision),
    )


def operator_set(model: bytes) -> bytes:
    """The BuiltinOperators that a `.tflite` needs, as nodelink/1's bitmap. Raises MissingPackageError, CascadeError."""
    try:
        from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415 -- optional
    except ImportError as error:
        raise MissingPackageError("ai-edge-litert", "litert") from error
    try:
        graph = schema.Model.GetRootAsModel(model, 0)
        codes = [graph.OperatorCodes(i) for i in range(graph.OperatorCodesLength())]
        numbers = [max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) for code in codes]
    except Exception as error:  # flatbuffers raises whatever comes its way
        raise CascadeError(f"not a .tflite model: {error}") from error
    bitmap: int = sum(1 << number for number in set(numbers))
    return bitmap.to_bytes(bitmap.bit_length() // 8 + 1, "little")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CascadeError(str(error)) from error
