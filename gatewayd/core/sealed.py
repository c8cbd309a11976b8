"""The bundle file: members in a ZIP, a manifest of their digests, a signature over the manifest (docs/nodelink.md, "Bundles").

Members are stored, not compressed, and everything about the ZIP is fixed, so that the same members are the same bytes everywhere. A reader
makes the ZIP again from what it read and wants the same bytes: what is hidden between members, or said twice and differently, has no place.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gatewayd.core.image import Keyring, check_signature, key_hash
from gatewayd.core.types import U32, CascadeName, Text
from gatewayd.errors import RefusedError

MAX_BYTES = 64 * 1024 * 1024
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"  # the latter: 32 bytes name the key, 64 are the signature
_DOMAIN = b"gatewayd bundle 1\0"  # before the manifest, so that no signature of another kind of thing is one of a bundle
_MAX_MEMBERS, _MAX_MANIFEST_BYTES, _SIGNATURE_BYTES = 64, 65_536, 96
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}){0,3}", re.ASCII)
_MODE = 0o100644
_ZIP_START, _ZIP_END, _ZIP_END_BYTES = b"PK\x03\x04", b"PK\x05\x06", 22


class Member(BaseModel):
    """What the manifest says of a member."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0, le=MAX_BYTES)]


class Manifest(BaseModel):
    """What is in a bundle. `counter` is the node image's security counter, `key_hash` names the key that signed manifest and image."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["gatewayd-bundle/1"] = "gatewayd-bundle/1"
    cascade: CascadeName
    version: Text
    counter: U32
    key_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created_by: Text
    members: dict[str, Member]


class Sealed(NamedTuple):
    """A bundle's content, its digests checked."""

    manifest: Manifest
    members: dict[str, bytes]


def seal(members: Mapping[str, bytes], *, cascade: str, version: str, counter: int, created_by: str, key: Ed25519PrivateKey) -> bytes:
    """The signed file of `members`. Raises RefusedError where `unseal` would."""
    hashed = key_hash(key.public_key())
    manifest = Manifest(
        cascade=cascade,
        version=version,
        counter=counter,
        key_hash=hashed.hex(),
        created_by=created_by,
        members={name: Member(sha256=_digest(data), size_bytes=len(data)) for name, data in sorted(members.items())},
    )
    text = (json.dumps(manifest.model_dump(), indent=1, sort_keys=True) + "\n").encode()
    data = _zip({**members, MANIFEST: text, SIGNATURE: hashed + key.sign(_DOMAIN + text)})
    unseal(data, {hashed: key.public_key()})
    return data


def unseal(data: bytes, keys: Keyring | None) -> Sealed:
    """What is in a bundle, all of it verified. Raises RefusedError with one of the reasons of docs/nodelink.md, "Bundles".

    With `keys` None nobody's signature is checked: for showing what a file says, never for using it.
    """
    members = _unzip(data)
    text, signature = (members.pop(name, None) for name in (MANIFEST, SIGNATURE))
    if text is None or signature is None:
        _refuse("missing", f"no {MANIFEST} or no {SIGNATURE}")
    if len(signature) != _SIGNATURE_BYTES:
        _refuse("signature", f"{len(signature)} bytes, not {_SIGNATURE_BYTES}")
    hashed = signature[:32]
    if keys is not None:
        check_signature(keys, hashed, signature[32:], _DOMAIN + text)
    manifest = _manifest(text)
    if manifest.key_hash != hashed.hex():
        _refuse("manifest", "it names another key than the signature")
    _compare(manifest.members, members)
    return Sealed(manifest, members)


def _manifest(text: bytes) -> Manifest:
    if len(text) > _MAX_MANIFEST_BYTES:
        _refuse("manifest", "too long")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RefusedError("manifest", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _compare(expected: Mapping[str, Member], found: Mapping[str, bytes]) -> None:
    for name in sorted(expected.keys() - found.keys()):
        _refuse("missing", name)
    for name in sorted(found.keys() - expected.keys()):
        _refuse("extra", name)
    for name, data in found.items():
        if len(data) != expected[name].size_bytes:
            _refuse("member-size", f"{name}: {len(data)} bytes, not {expected[name].size_bytes}")
        if _digest(data) != expected[name].sha256:
            _refuse("digest", name)


def _zip(members: Mapping[str, bytes]) -> bytes:
    """Sorted, stored, with the oldest date that a ZIP can have."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name)
            info.create_system = 3  # Unix, on every system
            info.external_attr = _MODE << 16
            archive.writestr(info, members[name])
    return buffer.getvalue()


def _unzip(data: bytes) -> dict[str, bytes]:
    if len(data) > MAX_BYTES:
        _refuse("oversized", f"{len(data)} bytes, more than {MAX_BYTES}")
    if not data.startswith(_ZIP_START):
        _refuse("archive", "not a bundle")
    if data[-_ZIP_END_BYTES:][:4] != _ZIP_END:
        _refuse("truncated", "its end is missing, or something comes after it")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_directory(infos, len(data))
            members = {info.filename: archive.read(info) for info in infos}
    except RefusedError:
        raise
    except Exception as error:  # zipfile raises whatever comes its way
        raise RefusedError("damaged", str(error)) from error
    if _zip(members) != data:
        _refuse("damaged", "there is more in the file than its members")
    return members


def _check_directory(infos: list[zipfile.ZipInfo], total_bytes: int) -> None:
    """Before anything is read: what is stored cannot be larger than the file."""
    names = [info.filename for info in infos]
    if len(infos) > _MAX_MEMBERS:
        _refuse("oversized", f"{len(infos)} members")
    for info in infos:
        if not _NAME.fullmatch(info.orig_filename):
            _refuse("name", ascii(info.orig_filename))
        if names.count(info.filename) > 1:
            _refuse("duplicate", info.filename)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            _refuse("compressed", info.filename)
    if sum(info.file_size for info in infos) > total_bytes:
        _refuse("oversized", "the members are larger than the file")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse(reason: str, detail: str) -> NoReturn:
    raise RefusedError(reason, detail)
