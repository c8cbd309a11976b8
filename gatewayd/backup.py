"""A gateway in one file: its database as it was at one instant, bundles, bonds, configuration, and its nodes' keys as they are encrypted.

The file is a plain tar. `state/...` is of gateway.state_dir, `config/...` of the configuration's folder, `mosquitto/...` of the one of
enrolment.acl_file; `sealed/node-keys` is what another machine can read of the keys, with a passphrase. Its last member, `manifest.json`,
has the size and SHA-256 of each, so a file that was cut short has none.
"""

import hashlib
import io
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field

from gatewayd import __version__, state
from gatewayd.config import Config
from gatewayd.errors import ConfigError, StoreError

CONFIGURATION, SEALED, MANIFEST = "config/gatewayd.toml", "sealed/node-keys", "manifest.json"
NAME = r"(state|config|mosquitto|sealed)(/[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,199}){1,4}"
CHUNK_BYTES = 1 << 20
_PAGES = 1_024  # of the database, between two looks at how far it is
Progress = Callable[[str, int, int], object]  # what is being done, how much of it is done, how much it is


class Member(BaseModel):
    """What the manifest says of a member."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """What is in a backup. `left_out` are the files that the configuration names outside its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["gatewayd-backup/1"] = "gatewayd-backup/1"
    gateway: str
    version: str
    created_s: float
    schema_version: int
    nodes: int
    events: int
    left_out: tuple[str, ...]
    members: dict[Annotated[str, Field(pattern=f"^{NAME}$")], Member]


def make(settings: Config, configuration: Path, target: Path, progress: Progress, sealed: bytes = b"") -> Manifest:
    """Write `target`, whole or not at all, for its owner's eyes; the daemon may run. `sealed` are the nodes' keys for another machine.

    Raises ConfigError, StoreError.
    """
    source = database_file(settings)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            copy, unfinished = Path(folder) / state.DATABASE, Path(folder) / target.name
            _copy_database(source, copy, progress)
            (Path(folder) / "sealed").write_bytes(sealed)
            named, left_out = _named(settings, configuration)
            files = {f"state/{state.DATABASE}": copy, **_state(settings), **named, **({SEALED: Path(folder) / "sealed"} if sealed else {})}
            with unfinished.open("xb") as stream:
                unfinished.chmod(0o600)
                manifest = _write(stream, settings.gateway.id, files, left_out, progress)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(target)
            state.sync(target.parent)
    except OSError as error:
        raise StoreError(f"backup: {error}") from error
    return manifest


def database_file(settings: Config) -> Path:
    """Where the database is. Raises ConfigError where it is not a file in the state folder."""
    path = settings.gateway.state_dir / state.DATABASE
    if settings.store.url.startswith("postgresql"):
        raise ConfigError(
            "store.url: the database is PostgreSQL's, which has tools of its own: `pg_dump --format=custom`, and `pg_restore`;"
            f" keep a copy of {settings.bundles} and of the configuration too"
        )
    if settings.store.url and Path(settings.store.url.removeprefix("sqlite:///")).absolute() != path.absolute():
        raise ConfigError(f"store.url: only a database that is {path} is backed up and restored")
    return path


def check(database: Path) -> tuple[int, int, int, int]:
    """The schema's version, the oldest that can read it, how many nodes and events. Raises StoreError where the database is damaged."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            if (said := connection.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                raise StoreError(f"{database.name} is damaged: {said}")
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            version = meta["schema_version"]
            nodes, events = (connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("nodes", "events"))  # noqa: S608
            return version, meta.get("compatible_since", version), nodes, events
    except (sqlite3.Error, KeyError) as error:
        raise StoreError(f"{database.name}: {error}") from error


def _copy_database(source: Path, copy: Path, progress: Progress) -> None:
    """All that was committed before this began. Others may write: a transaction that only reads keeps the view of its first moment."""
    if not source.exists():
        raise StoreError(f"{source} does not exist: has gatewayd run yet?")
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=10, isolation_level=None)) as live,
            closing(sqlite3.connect(copy, isolation_level=None)) as still,
        ):
            still.execute("PRAGMA synchronous = OFF")  # it is not a backup yet
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM meta").fetchone()
            live.backup(still, pages=_PAGES, progress=lambda _, left, pages: progress("database", pages - left, pages))
            live.execute("ROLLBACK")
            still.execute("PRAGMA journal_mode = DELETE").fetchone()  # one file
    except sqlite3.Error as error:
        raise StoreError(f"{source}: {error}") from error


def _write(stream: BinaryIO, gateway: str, files: Mapping[str, Path], left_out: tuple[str, ...], progress: Progress) -> Manifest:
    progress("check", 0, 1)
    version, _, nodes, events = check(files[f"state/{state.DATABASE}"])
    progress("check", 1, 1)
    total = sum(path.stat().st_size for path in files.values() if path.exists())
    done = 0
    members: dict[str, Member] = {}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in files.items():
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue  # a bundle that nobody needs was forgotten meanwhile
            with file:
                reader = Reader(file, lambda size, done=done: progress("file", done + size, total))  # type: ignore[misc]
                about = tar.gettarinfo(arcname=name, fileobj=file)
                tar.addfile(about, reader)
            members[name] = reader.member()
            done += about.size
        manifest = Manifest(
            gateway=gateway,
            version=__version__,
            created_s=time.time(),
            schema_version=version,
            nodes=nodes,
            events=events,
            left_out=left_out,
            members=members,
        )
        text = manifest.model_dump_json(indent=1).encode()
        about = tarfile.TarInfo(MANIFEST)
        about.size, about.mode, about.mtime = len(text), 0o600, int(manifest.created_s)
        tar.addfile(about, io.BytesIO(text))
    return manifest


class Reader:
    """Reads a file, and knows what it has read."""

    def __init__(self, file: Any, progress: Callable[[int], object]) -> None:
        self._file = file
        self._progress = progress
        self._digest = hashlib.sha256()
        self._size_bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        data: bytes = self._file.read(size)
        self._digest.update(data)
        self._size_bytes += len(data)
        self._progress(self._size_bytes)
        return data

    def member(self) -> Member:
        """All that was read."""
        return Member(sha256=self._digest.hexdigest(), size_bytes=self._size_bytes)


# ---- which files


def _state(settings: Config) -> dict[str, Path]:
    """After the copy of the database: each bundle that it names was there before it was named."""
    beside = {f"state/{path.name}": path for path in _files(settings.gateway.state_dir) if not path.name.startswith(state.DATABASE)}
    return {**beside, **{f"state/bundles/{path.name}": path for path in _files(settings.bundles) if path.suffix == ".bundle"}}


def _named(settings: Config, configuration: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The configuration's file and those that it names in its folder, and the broker's; those that it names elsewhere."""
    folder, broker = configuration.absolute().parent, settings.enrolment.acl_file.absolute().parent
    found = {f"mosquitto/{path.name}": path for path in _files(broker)}
    left_out = []
    for path in filter(Path.is_file, _paths(settings.model_dump(exclude={"enrolment": {"broker_pid_file"}}))):
        if path.absolute().is_relative_to(folder):
            found[f"config/{path.absolute().relative_to(folder)}"] = path
        elif path.absolute().parent != broker:
            left_out.append(str(path))
    if configuration.exists():
        found[CONFIGURATION] = configuration
    return found, tuple(left_out)


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, dict | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _paths(each)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_file() and not path.is_symlink())
