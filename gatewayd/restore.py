"""From a backup to a gateway. Everything is checked before anything is replaced; what was there is kept in the state folder."""

import contextlib
import grp
import os
import pwd
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from gatewayd import backup, config, database, state
from gatewayd.backup import Manifest, Progress
from gatewayd.config import Config
from gatewayd.errors import StoreError

_MAX_SMALL_BYTES = 16 << 20  # the manifest, a file of the configuration
_STAGING = ".restoring-"


class Restored(NamedTuple):
    """What was done."""

    manifest: Manifest
    settings: Config
    kept: Path  # the folder with what was there before


def restore(archive: Path, configuration: Path, flags: Mapping[str, Any], progress: Progress) -> Restored:
    """Make a gateway that does not run the one in `archive`; the file of its configuration goes to `configuration`.

    Raises ConfigError, StoreError; then nothing is lost. The configuration's files go first, each at once; then the state, as a whole.
    """
    try:
        with tarfile.open(archive, "r:") as tar, tempfile.TemporaryDirectory(prefix="gatewayd-") as scratch:
            manifest = _manifest(tar)
            settings = _settings(tar, configuration, flags, Path(scratch))
            backup.database_file(settings)
            with state.hold(settings.gateway.state_dir):
                kept = _restore(tar, manifest, configuration, settings, progress)
    except (OSError, tarfile.TarError) as error:
        raise StoreError(f"{archive}: {error}") from error
    return Restored(manifest, settings, kept)


def sealed_keys(archive: Path) -> bytes | None:
    """The nodes' keys for another machine, if the backup has them. Raises StoreError."""
    try:
        with tarfile.open(archive, "r:") as tar:
            return _read(tar, backup.SEALED) if backup.SEALED in _manifest(tar).members else None
    except (OSError, tarfile.TarError) as error:
        raise StoreError(f"{archive}: {error}") from error


def _restore(tar: tarfile.TarFile, manifest: Manifest, configuration: Path, settings: Config, progress: Progress) -> Path:
    folder = settings.gateway.state_dir
    for left in folder.glob(f"{_STAGING}*"):  # by one that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=folder) as staging:
        new = Path(staging)
        places = {"config": configuration.absolute().parent, "mosquitto": settings.enrolment.acl_file.absolute().parent}
        outside = {
            configuration.absolute() if name == backup.CONFIGURATION else places[above] / rest: about
            for name, about in _unpack(tar, manifest, new, progress).items()
            for above, _, rest in [name.partition("/")]
            if above in places
        }
        progress("check", 0, 1)
        _, oldest, *_ = backup.check(new / "state" / state.DATABASE)
        if oldest > database.VERSION:
            raise StoreError(f"it is of gatewayd {manifest.version}, whose database this one does not know: install that first")
        progress("check", 1, 1)
        changed = {path: about for path, about in outside.items() if not _same(path, new / about.name)}
        for path in changed:
            there = next(above for above in path.parents if above.exists())
            if not os.access(there, os.W_OK):
                raise StoreError(f"{path} cannot be replaced: run this as root")
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = folder / f"{state.KEPT}{now}"
        for path, about in changed.items():
            _replace(path, new / about.name, about, kept)
        kept.mkdir(mode=0o700, exist_ok=True)
        for path in (kept, new / "state", *(new / "state").rglob("*")):  # the daemon, too, must be able to complete it
            shutil.chown(path, folder.stat().st_uid, folder.stat().st_gid)
        state.decide(new / "state", folder, now)
    return kept


# ---- out of the archive


def _manifest(tar: tarfile.TarFile) -> Manifest:
    """What must be in it. Raises StoreError."""
    try:
        return Manifest.model_validate_json(_read(tar, backup.MANIFEST))
    except KeyError:
        raise StoreError(f"that is no whole backup: it has no {backup.MANIFEST}") from None
    except ValidationError as error:
        raise StoreError(f"backup: {backup.MANIFEST}: {error.errors()[0]['msg']}") from None


def _settings(tar: tarfile.TarFile, configuration: Path, flags: Mapping[str, Any], scratch: Path) -> Config:
    """As the gateway will have them. Raises ConfigError."""
    try:
        text = _read(tar, backup.CONFIGURATION)
    except KeyError:
        return config.load(configuration if configuration.exists() else None, flags)
    file = scratch / configuration.name
    file.write_bytes(text)
    return config.load(file, flags)


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    """A small member. Raises KeyError where there is none, StoreError where it is none."""
    about = tar.getmember(name)
    file = tar.extractfile(about) if about.isreg() else None
    if file is None or about.size > _MAX_SMALL_BYTES:
        raise StoreError(f"backup: {name} is not a small file")
    return file.read()


def _unpack(tar: tarfile.TarFile, manifest: Manifest, new: Path, progress: Progress) -> dict[str, tarfile.TarInfo]:
    """Every member below `new`, exactly as the manifest says. Raises StoreError."""
    missing = dict(manifest.members)
    found: dict[str, tarfile.TarInfo] = {}
    done, total = 0, sum(member.size_bytes for member in missing.values())
    for about in tar:
        if about.name == backup.MANIFEST:
            continue
        member = missing.pop(about.name, None)
        file = tar.extractfile(about) if about.isreg() else None
        if member is None or file is None:
            raise StoreError(f"backup: {about.name} is not what the manifest says")
        path = new / about.name
        path.parent.mkdir(parents=True, exist_ok=True)
        reader = backup.Reader(file, lambda size, done=done: progress("file", done + size, total))  # type: ignore[misc]
        with path.open("xb") as stream:
            path.chmod(0o600)
            shutil.copyfileobj(reader, stream, backup.CHUNK_BYTES)
        if reader.member() != member:
            raise StoreError(f"backup: {about.name} is damaged")
        done += member.size_bytes
        found[about.name] = about
    if missing:
        raise StoreError(f"backup: {', '.join(missing)} is not there")
    return found


# ---- outside the state folder


def _same(path: Path, new: Path) -> bool:
    return path.exists() and path.read_bytes() == new.read_bytes()


def _replace(path: Path, new: Path, about: tarfile.TarInfo, kept: Path) -> None:
    """Put a file where it belongs, at once, with the owner and mode that it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        copy = kept / about.name
        for folder in reversed(copy.relative_to(kept.parent).parents[:-1]):
            (kept.parent / folder).mkdir(mode=0o700, exist_ok=True)
        shutil.copy2(path, copy)
        state.sync(copy)
    beside = path.with_name(f".{path.name}.new")
    shutil.copyfile(new, beside)
    beside.chmod(about.mode & 0o777)
    above = path.parent.stat()
    with contextlib.suppress(PermissionError):
        os.chown(beside, _id(pwd.getpwnam, about.uname, above.st_uid), _id(grp.getgrnam, about.gname, above.st_gid))
    state.sync(beside)
    beside.replace(path)
    state.sync(path.parent)


def _id(find: Callable[[str], Any], name: str, otherwise: int) -> int:
    """The number of a user or group of this machine."""
    try:
        return int(find(name)[2])
    except KeyError:
        return otherwise
