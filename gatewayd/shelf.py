"""The bundles that this gateway keeps: `<sha256 of the file>.bundle`, and beside it, when it is needed, a folder of its members.

What was verified when it came is verified whenever it is used: disks fail, keys are withdrawn. A folder that is not exactly its bundle,
say after a power cut, is made anew.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gatewayd import bundle
from gatewayd.bundle import Bundle, Folder
from gatewayd.core.image import Keyring
from gatewayd.errors import CascadeError, RefusedError
from gatewayd.journal import Kind

KEPT = 4  # bundles that nobody needs, for a way back without the operator's machine
_SUFFIX = ".bundle"
_UNFINISHED_S = 86_400.0  # a hidden file or folder as old as this will not be finished any more
_log = logging.getLogger(__name__)


class Shelf:
    """Blocks: use it in a thread. Only bundles that one of `keys` signed come out. `refused` hears why one did not, in one word."""

    def __init__(self, folder: Path, keys: Keyring, refused: Callable[[str], object] = lambda _reason: None) -> None:
        self._folder = folder
        self._keys = keys
        self._refused = refused

    def open(self, sha256: str) -> Bundle:
        """The bundle of this name, verified. Raises RefusedError, and CascadeError where it cannot be read."""
        with self._counting():
            return self._open(sha256)

    def unpack(self, sha256: str) -> Folder:
        """The bundle's cascade, in a folder that is exactly as signed. Raises RefusedError, and CascadeError for the disk's trouble."""
        with self._counting():
            opened = self._open(sha256)
            folder = self._folder / sha256
            if not _holds(folder, opened):
                shutil.rmtree(folder, ignore_errors=True)
                bundle.unpack(opened, folder)
            return Folder(opened.cascade, folder)

    def overlay(self, folders: Mapping[str, Folder], active: Mapping[str, str]) -> dict[str, Folder]:
        """`folders` by cascade, each `active` bundle in the place of its cascade's.

        One that cannot be used does not keep the gateway down: the folder stays.
        """
        cascades = dict(folders)
        for name, sha256 in active.items():
            try:
                cascades[name] = self.unpack(sha256)
            except CascadeError as error:
                instead = f"its folder {folders[name].path} judges" if name in folders else "nothing judges"
                _log.error(
                    "%s: its bundle %s cannot be used, %s: %s", name, sha256, instead, error, extra=Kind.BUNDLE_REFUSED(CASCADE=name)
                )
        return cascades

    def forget(self, needed: Collection[str]) -> None:
        """Remove all but the `needed` and the newest `KEPT` others: what has just come is needed by nobody yet."""
        try:
            others = [(file.stat().st_mtime, file.stem) for file in self._folder.glob(f"[!.]*{_SUFFIX}") if file.stem not in needed]
            kept = {*needed, *(name for _, name in sorted(others)[-KEPT:])}
            for path in self._folder.glob("*"):
                unfinished = path.name.startswith(".")
                if time.time() - path.stat().st_mtime > _UNFINISHED_S if unfinished else path.stem not in kept:
                    _log.info("forgets %s", path)
                    _remove(path)
        except OSError as error:
            _log.warning("old bundles stay: %s", error)

    def _open(self, sha256: str) -> Bundle:
        file = self._folder / f"{sha256}{_SUFFIX}"
        try:
            data = file.read_bytes()
        except OSError as error:
            raise CascadeError(str(error)) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RefusedError("digest", f"{file} has changed on disk")
        return bundle.parse_bundle(data, self._keys, str(file))

    @contextmanager
    def _counting(self) -> Iterator[None]:
        try:
            yield
        except CascadeError as error:
            self._refused(error.reason if isinstance(error, RefusedError) else "disk")
            raise


def _holds(folder: Path, opened: Bundle) -> bool:
    """Whether all members are in `folder` as they were signed."""
    try:
        return all((folder / name).read_bytes() == data for name, data in opened.members.items())
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
