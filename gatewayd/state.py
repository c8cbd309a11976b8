"""The state folder: one process at a time has it, and a restore that was cut short is completed before anybody looks into it.

A restore is decided by one rename: a folder with all that is new, checked and on the disk, gets the name `.restore-TIME`. From then on it
is completed whatever happens: each thing that is there goes to the folder `before-TIME`, the new one takes its place.
"""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gatewayd.errors import StoreError
from gatewayd.journal import Kind

DATABASE = "gatewayd.db"
DECIDED, KEPT = ".restore-", "before-"  # names of folders, before a time
_BESIDE_A_DATABASE = ("-wal", "-shm", "-journal")  # SQLite's: they belong to the one database and to no other
_log = logging.getLogger(__name__)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Have the folder, which is made where there is none, for this process alone. Raises StoreError where another has it."""
    descriptor = -1
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _finish(folder)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        why = "a gatewayd, or a restore, is running" if isinstance(error, BlockingIOError) else str(error)
        raise StoreError(f"state folder {folder}: {why}") from error
    try:
        yield
    finally:
        os.close(descriptor)  # and with it the lock, as it would be if we were killed


def held(folder: Path) -> bool:
    """Whether a gatewayd, or a restore, has the folder now. It is not touched: who tries a lock keeps others from it."""
    try:
        about = folder.stat()
        locks = Path("/proc/locks").read_text()
    except OSError:
        return False
    device = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}"
    return re.search(rf"FLOCK +ADVISORY +WRITE +-?\d+ +{device}:{about.st_ino} ", locks) is not None


def decide(staged: Path, folder: Path, time: str) -> None:
    """Let what is in `staged`, on the same disk, take its place in `folder`, which is held. Raises StoreError."""
    try:
        for above, _, names in os.walk(staged):
            for name in names:
                sync(Path(above) / name)
            sync(Path(above))
        staged.rename(folder / f"{DECIDED}{time}")
        sync(folder)
        _finish(folder)
    except OSError as error:
        raise StoreError(f"{folder}: {error}") from error


def _finish(folder: Path) -> None:
    for new in sorted(folder.glob(f"{DECIDED}*")):
        kept = folder / f"{KEPT}{new.name.removeprefix(DECIDED)}"
        kept.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(new.iterdir()):
            for old in (folder / path.name, *(folder / f"{path.name}{suffix}" for suffix in _BESIDE_A_DATABASE)):
                if old.exists():
                    old.rename(kept / old.name)
            sync(kept)
            path.rename(folder / path.name)
            sync(folder)
        new.rmdir()
        _log.warning("a restore is complete; what was there before is in %s", kept, extra=Kind.RESTORED(KEPT=kept))


def own(path: Path) -> None:
    """What root makes in the state folder goes to the owner of the folder that it is in: the daemon must be able to work with it."""
    if os.geteuid() == 0:
        above = path.parent.stat()
        os.chown(path, above.st_uid, above.st_gid, follow_symlinks=False)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
