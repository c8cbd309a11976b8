"""Cascades on their way: from a folder to node image and signed bundle (the operator's machine), and out of a bundle (a gateway).

Making wants the extra `build` (imgtool, LiteRT's schema, TFLM), opening does not.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import struct
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gatewayd import __version__, selftest
from gatewayd.core import cascade as cascades
from gatewayd.core import image, sealed, tflite
from gatewayd.core.cascade import Cascade, GatewayModel
from gatewayd.errors import CascadeError, MissingPackageError, RefusedError
from gatewayd.prepare import prepare

CASCADE, CARD, LICENCE, NODE_IMAGE, SELF_TEST = "cascade.toml", "CARD.md", "LICENSE", "node.img", "selftest.cbor"
NORMALISATION = "normalisation.bin"  # of the node's front end, whatever its name was in the folder
_FILE_NAME = re.compile(r"[\w-]+(/[\w-]+)*\.(npz|npy|tflite|onnx|json|toml|txt|bin|gguf)", re.ASCII)  # no phrase looks like this


class Folder(NamedTuple):
    """A cascade and where it came from."""

    cascade: Cascade
    path: Path


def read(folder: Path) -> Folder:
    """The cascade in `folder`. Raises CascadeError."""
    file = folder / CASCADE
    return Folder(_cascade(_read(file), str(file)), folder)


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


def node_image(folder: Folder, *, counter: int = 1, audit_s: int | None = None, key: Ed25519PrivateKey | None = None) -> bytes:
    """The MCUboot image that a node installs, signed with `key`; `audit_s` overrides the policy's.

    The model is prepared, and computes what it did; its self-test is made from it. Raises CascadeError, MissingPackageError.
    """
    cascade = folder.cascade
    decision = cascade.node.decision
    if audit_s is not None:
        decision = decision.model_copy(update={"audit_s": audit_s})
    original = node_model(folder)
    model = prepare(original)
    plan = tflite.plan_of(model)
    assert plan is not None
    if plan.arena_bytes > cascade.node.arena_bytes:
        raise CascadeError(f"{cascade.name}: the model needs {plan.arena_bytes} bytes, arena_bytes is {cascade.node.arena_bytes}")
    test = selftest.make(model, cascade.node.arena_bytes)
    if selftest.oracle(original, cascade.node.arena_bytes).run(test.inputs) != test.outputs:
        raise CascadeError(f"{cascade.name}: the prepared model computes something else")
    tlvs = {
        image.CASCADE: cascade.name.encode(),
        image.ARENA: cascade.node.arena_bytes.to_bytes(4, "little"),
        image.OPERATORS: tflite.operators(model),
        image.FRONT_END: cascades.encode_front_end(cascade.node.front_end, _normalisation(folder)),
        image.DECISION: cascades.encode_decision(decision),
        image.SELF_TEST: image.encode_self_test(test),
    }
    return make_image(model, version=cascade.version, counter=counter, tlvs=tlvs, key=key)


def make_image(payload: bytes, *, version: str, counter: int, tlvs: Mapping[int, bytes], key: Ed25519PrivateKey | None = None) -> bytes:
    """`payload` as imgtool makes an image of it, with `tlvs` protected. Raises CascadeError, MissingPackageError."""
    try:
        import imgtool.image  # noqa: PLC0415 -- optional
        import imgtool.keys  # noqa: PLC0415
        import imgtool.version  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackageError("imgtool", "build") from error
    try:
        number = imgtool.version.decode_version(version)
        made = imgtool.image.Image(number, image.HEADER_BYTES, pad_header=True, security_counter=counter, non_bootable=True)
        made.payload, made.image_size = bytes(image.HEADER_BYTES) + payload, len(payload)  # as its load() does with a file
        with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
            made.create(imgtool.keys.Ed25519(key) if key else None, "hash", None, custom_tlvs=dict(tlvs))
    except (ValueError, struct.error) as error:
        raise CascadeError(f"image: {error}") from error
    data = bytes(made.payload)
    image.parse(data)
    return data


def build(folder: Folder, *, counter: int, key: Ed25519PrivateKey) -> bytes:
    """The bundle of a cascade: what its nodes and its gateways need, as one signed file. Raises CascadeError, MissingPackageError."""
    cascade = folder.cascade
    node = node_image(folder, counter=counter, key=key)
    parsed = image.parse(node)
    assert parsed.self_test is not None
    members = {
        NODE_IMAGE: node,
        SELF_TEST: image.encode_self_test(parsed.self_test),
        CASCADE: _read(folder.path / CASCADE),
        CARD: _read(folder.path / CARD),
        LICENCE: _licence(folder),
        **{name: _read(folder.path / name) for name in gateway_files(folder)},
    }
    normalisation = _normalisation(folder)
    if normalisation is not None:
        members[NORMALISATION] = normalisation
    return sealed.seal(
        members, cascade=cascade.name, version=parsed.version, counter=counter, created_by=f"gatewayd {__version__}", key=key
    )


def gateway_files(folder: Folder) -> list[str]:
    """The files beside cascade.toml that [gateway.settings] names. Raises CascadeError where one is named and not there."""
    settings = folder.cascade.gateway.settings if folder.cascade.gateway else {}
    named = [value for value in _leaves(settings) if isinstance(value, str) and _FILE_NAME.fullmatch(value)]
    for name in named:
        if not (folder.path / name).is_file():
            raise CascadeError(f"{folder.path}: [gateway.settings] names {name!r}, which is not there")
    return sorted(set(named))


def gateway_digest(folder: Folder) -> bytes:
    """The same for two cascades that are judged by the same model: its kind, settings and files. Raises CascadeError."""
    cascade = folder.cascade
    commands = [command.model_dump() for command in cascade.policy.commands]  # part of what it loads
    files = {name: hashlib.sha256(_read(folder.path / name)).hexdigest() for name in gateway_files(folder)}
    parts = [cascade.gateway and [cascade.gateway.kind, cascade.gateway.settings], commands, files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()  # str: TOML has dates


class Bundle(NamedTuple):
    """A bundle's content, verified, and what it says."""

    manifest: sealed.Manifest
    members: Mapping[str, bytes]
    cascade: Cascade
    image: image.Image


def open_bundle(path: Path, keys: image.Keyring | None) -> Bundle:
    """Verify all of a bundle, before any of it is stored. Raises RefusedError with its `reason`, CascadeError where `path` cannot be read.

    With `keys` None signatures are not checked: for showing what a file says, never for using it.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(sealed.MAX_BYTES + 1)
    except OSError as error:
        raise CascadeError(str(error)) from error
    return parse_bundle(data, keys, str(path))


def parse_bundle(data: bytes, keys: image.Keyring | None, source: str = "bundle") -> Bundle:
    """As `open_bundle`, for one that came otherwise than as a file."""
    manifest, members = sealed.unseal(data, keys)
    for name in (NODE_IMAGE, SELF_TEST, CASCADE, CARD, LICENCE):
        if name not in members:
            raise RefusedError("missing", name)
    try:
        cascade = _cascade(members[CASCADE], f"{source}: {CASCADE}")
    except CascadeError as error:
        raise RefusedError("cascade", str(error)) from error
    parsed = image.parse(members[NODE_IMAGE])
    if keys is not None:
        image.verify(parsed, keys)
    _compare(manifest, cascade, parsed, members)
    check_model(parsed)
    return Bundle(manifest, members, cascade, parsed)


def _compare(manifest: sealed.Manifest, cascade: Cascade, parsed: image.Image, members: Mapping[str, bytes]) -> None:
    try:
        front_end = cascades.encode_front_end(cascade.node.front_end, members.get(NORMALISATION))
    except CascadeError as error:
        raise RefusedError("mismatch", str(error)) from error
    says: dict[str, tuple[object, object]] = {
        "key": (manifest.key_hash, (parsed.key_hash or b"").hex()),
        "cascade": (manifest.cascade, parsed.cascade),
        "cascade.toml": (manifest.cascade, cascade.name),
        "version": (manifest.version, parsed.version),
        "security counter": (manifest.counter, parsed.counter),
        "front end": (front_end, parsed.front_end),
        "decision": (cascades.encode_decision(cascade.node.decision), parsed.decision),
        "self-test": (members[SELF_TEST], parsed.self_test and image.encode_self_test(parsed.self_test)),
    }
    for what, (one, other) in says.items():
        if one != other:
            raise RefusedError("mismatch", f"{what}: {one!r} and {other!r} in one bundle")


def check_model(parsed: image.Image) -> None:
    """What a node will find when it looks into the image: front end, decision, offsets, operators, self-test. Raises RefusedError."""
    cascades.check_encoded(parsed.front_end, parsed.decision)
    if int.from_bytes(tflite.operators(parsed.payload), "little") != int.from_bytes(parsed.operators, "little"):
        raise RefusedError("operators", "the model has other operators than its image says")
    if parsed.self_test is None:
        raise RefusedError("self-test", "there is none")
    with contextlib.suppress(MissingPackageError):  # without an interpreter here, the node's own run decides
        selftest.check(parsed.payload, parsed.arena_bytes, parsed.self_test)


def unpack(bundle: Bundle, folder: Path) -> Folder:
    """Write a verified bundle's members to `folder`, which appears whole or not at all. Raises CascadeError."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name, data in bundle.members.items():
            file = partial / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        partial.rename(folder)
    except OSError as error:
        raise CascadeError(f"{folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Folder(bundle.cascade, folder)


def _normalisation(folder: Folder) -> bytes | None:
    name = folder.cascade.node.front_end.normalisation
    return _read(folder.path / name) if name else None


def _licence(folder: Folder) -> bytes:
    file = folder.path / LICENCE
    if file.exists():
        return _read(file)
    if not folder.cascade.license:
        raise CascadeError(f"{folder.path}: no LICENSE, and no license in cascade.toml: a cascade is not delivered without one")
    return f"SPDX-License-Identifier: {folder.cascade.license}\n".encode()


def _cascade(text: bytes, source: str) -> Cascade:
    try:
        document = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CascadeError(f"{source}: {error}") from error
    return cascades.parse(document, source)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CascadeError(f"{path}: {error}") from error
