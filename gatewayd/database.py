"""The database under the store: its tables, the steps that make any older version today's, and how one connects to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, column, table, text
from sqlalchemy.exc import SQLAlchemyError

from gatewayd.errors import ConfigError, MissingPackageError, StoreError

events = table(
    "events",
    *map(column, ("id", "node", "session", "seq", "arrived_s", "cascade", "model", "score", "label", "t_ms", "reason", "ref")),
    column("accepted", sa.Boolean),
    *map(column, ("verdict_label", "verdict_score", "action", "basis", "judge", "heard", "stages", "latency_s", "wait_s", "model_s")),
)
windows = table(
    "windows",
    *map(column, ("event_id", "arrived_s", "size_bytes", "kind", "rate_hz", "channels", "shape", "scale", "zero_point", "data")),
)
nodes = table(
    "nodes",
    column("id"),
    column("enrolled", sa.Boolean),
    *map(column, ("first_seen_s", "last_seen_s", "session", "info", "labels", "transports")),
)
rollouts = table(
    "rollouts",
    *map(column, ("id", "created_s", "bundle_sha256", "cascade", "version", "sha256", "size_bytes", "groups", "rules")),
    *map(column, ("state", "group", "since_s", "group_since_s", "cause", "paused_from")),
    column("cleared", sa.Boolean),
    column("closed", sa.Boolean),
)
updates = table(
    "updates",
    *map(column, ("rollout", "node", "sha256", "size_bytes", "state", "since_s", "upload_sha256", "image", "previous", "started_s")),
    *map(column, ("offset_bytes", "reason")),
    column("asleep", sa.Boolean),
)
orders = table("orders", *map(column, ("id", "rollout", "at_s", "command", "cause")))
history = table("history", *map(column, ("id", "rollout", "at_s", "text")))
explanations = table("explanations", *map(column, ("rollout", "at_s", "text")))
listened = table("listened", *map(column, ("hour", "cascade", "node", "model", "seconds", "first_s", "last_s")))
pairings = table(
    "pairings",
    *map(column, ("node", "stage", "at_s", "passkey", "number", "adapter", "address")),
    column("authenticated", sa.Boolean),
    column("cause"),
    column("provision", sa.Boolean),
    column("given"),
)
active_bundles = table("active_bundles", *map(column, ("cascade", "bundle_sha256")))
tokens = table("tokens", *map(column, ("name", "sha256", "scope", "created_s")))
audit = table("audit", *map(column, ("id", "at_s", "who", "what", "target", "detail", "address")))
vitals = table(
    "vitals",
    *map(column, ("id", "node", "at_s", "battery", "rssi_dbm", "heap_free_bytes", "stack_free_bytes", "queued", "uptime_s", "invoke_us")),
)

# What SQLite and PostgreSQL spell differently.
_TYPES = {
    "sqlite": {"id": "INTEGER PRIMARY KEY AUTOINCREMENT", "bytes": "BLOB"},
    "postgresql": {"id": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "bytes": "BYTEA"},
}

_META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BIGINT NOT NULL)"

# Step n makes version n + 1 of version n. A step that was ever released is never edited: add one.
_STEPS: tuple[tuple[str, ...], ...] = (
    (
        "INSERT INTO meta (key, value) VALUES ('enrolments', 0)",
        """CREATE TABLE nodes (
            id TEXT PRIMARY KEY, enrolled BOOLEAN NOT NULL, first_seen_s DOUBLE PRECISION NOT NULL,
            last_seen_s DOUBLE PRECISION NOT NULL, session BIGINT, info {bytes}
        )""",
        """CREATE TABLE events (
            id {id}, node TEXT NOT NULL, session BIGINT NOT NULL, seq BIGINT NOT NULL, arrived_s DOUBLE PRECISION NOT NULL,
            cascade TEXT NOT NULL, model {bytes} NOT NULL, score DOUBLE PRECISION NOT NULL, label BIGINT NOT NULL, t_ms BIGINT NOT NULL,
            reason TEXT NOT NULL, ref BIGINT,
            accepted BOOLEAN, verdict_label TEXT, verdict_score DOUBLE PRECISION, action TEXT, basis TEXT,
            judge TEXT, heard TEXT, stages TEXT,
            latency_s DOUBLE PRECISION NOT NULL, wait_s DOUBLE PRECISION NOT NULL, model_s DOUBLE PRECISION NOT NULL,
            UNIQUE (node, session, seq)
        )""",
        """CREATE TABLE windows (
            event_id BIGINT PRIMARY KEY REFERENCES events (id) ON DELETE CASCADE, arrived_s DOUBLE PRECISION NOT NULL,
            size_bytes BIGINT NOT NULL, kind TEXT NOT NULL, rate_hz BIGINT NOT NULL, channels BIGINT NOT NULL, shape TEXT NOT NULL,
            scale DOUBLE PRECISION, zero_point BIGINT, data {bytes} NOT NULL
        )""",
    ),
    (
        "CREATE INDEX events_of_node ON events (node, id)",
        "CREATE INDEX windows_by_age ON windows (arrived_s, size_bytes)",
    ),
    (
        "ALTER TABLE nodes ADD COLUMN labels TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX events_judged ON events (cascade, arrived_s) WHERE basis <> 'node'",
        """CREATE TABLE rollouts (
            id {id}, created_s DOUBLE PRECISION NOT NULL, bundle_sha256 TEXT NOT NULL, cascade TEXT NOT NULL, version TEXT NOT NULL,
            sha256 {bytes} NOT NULL, size_bytes BIGINT NOT NULL, groups TEXT NOT NULL, rules TEXT NOT NULL,
            state TEXT NOT NULL, "group" BIGINT NOT NULL, since_s DOUBLE PRECISION NOT NULL, group_since_s DOUBLE PRECISION NOT NULL,
            cause TEXT NOT NULL, paused_from TEXT NOT NULL, cleared BOOLEAN NOT NULL, closed BOOLEAN NOT NULL
        )""",
        """CREATE TABLE updates (
            rollout BIGINT NOT NULL REFERENCES rollouts (id), node TEXT NOT NULL, sha256 {bytes} NOT NULL, size_bytes BIGINT NOT NULL,
            state TEXT NOT NULL, since_s DOUBLE PRECISION NOT NULL, upload_sha256 {bytes} NOT NULL, image BIGINT NOT NULL,
            previous {bytes} NOT NULL, started_s DOUBLE PRECISION, offset_bytes BIGINT NOT NULL, reason TEXT NOT NULL,
            asleep BOOLEAN NOT NULL, PRIMARY KEY (rollout, node)
        )""",
        """CREATE TABLE orders (
            id {id}, rollout BIGINT NOT NULL REFERENCES rollouts (id), at_s DOUBLE PRECISION NOT NULL, command TEXT NOT NULL,
            cause TEXT NOT NULL
        )""",
        """CREATE TABLE history (
            id {id}, rollout BIGINT NOT NULL REFERENCES rollouts (id), at_s DOUBLE PRECISION NOT NULL, text TEXT NOT NULL
        )""",
        "CREATE INDEX history_of_rollout ON history (rollout, id)",
        """CREATE TABLE explanations (
            rollout BIGINT PRIMARY KEY REFERENCES rollouts (id), at_s DOUBLE PRECISION NOT NULL, text TEXT NOT NULL
        )""",
        """CREATE TABLE listened (
            hour BIGINT NOT NULL, cascade TEXT NOT NULL, node TEXT NOT NULL, model {bytes} NOT NULL,
            seconds DOUBLE PRECISION NOT NULL, first_s DOUBLE PRECISION NOT NULL, last_s DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (hour, cascade, node, model)
        )""",
        "CREATE TABLE active_bundles (cascade TEXT PRIMARY KEY, bundle_sha256 TEXT NOT NULL)",
    ),
    ("ALTER TABLE nodes ADD COLUMN transports TEXT NOT NULL DEFAULT ''",),
    (
        """CREATE TABLE pairings (
            node TEXT PRIMARY KEY, stage TEXT NOT NULL, at_s DOUBLE PRECISION NOT NULL, passkey BIGINT, number BIGINT,
            adapter TEXT NOT NULL, address TEXT NOT NULL, authenticated BOOLEAN NOT NULL, cause TEXT NOT NULL
        )""",
    ),
    (
        """CREATE TABLE tokens (
            name TEXT PRIMARY KEY, sha256 {bytes} NOT NULL UNIQUE, scope TEXT NOT NULL, created_s DOUBLE PRECISION NOT NULL
        )""",
        """CREATE TABLE audit (
            id {id}, at_s DOUBLE PRECISION NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, target TEXT NOT NULL,
            detail TEXT NOT NULL, address TEXT NOT NULL
        )""",
        """CREATE TABLE vitals (
            id {id}, node TEXT NOT NULL, at_s DOUBLE PRECISION NOT NULL, battery DOUBLE PRECISION, rssi_dbm BIGINT,
            heap_free_bytes BIGINT, stack_free_bytes BIGINT, queued BIGINT, uptime_s BIGINT, invoke_us DOUBLE PRECISION
        )""",
        "CREATE INDEX vitals_of_node ON vitals (node, at_s)",
        "CREATE INDEX updates_of_node ON updates (node, rollout)",
        "ALTER TABLE pairings ADD COLUMN provision BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE pairings ADD COLUMN given {bytes}",
    ),
)

VERSION = len(_STEPS)
# The oldest version of which a gatewayd can work on a database of VERSION, so that a downgrade loses nothing. A step whose result
# older ones would misread (a column without a default, a table less, a value with another meaning) sets it to its own version.
COMPATIBLE_SINCE = 6


@contextmanager
def translated() -> Iterator[None]:
    """Every error of the database and its driver becomes a StoreError."""
    try:
        yield
    except SQLAlchemyError as exc:
        raise StoreError(str(getattr(exc, "orig", None) or exc)) from exc
    except (ArithmeticError, TypeError, UnicodeError) as exc:  # a value that the driver cannot carry
        raise StoreError(str(exc)) from exc


def connect(url: str, *, create: bool) -> Engine:
    """An engine on a database of today's version. Raises ConfigError, MissingPackageError, StoreError."""
    try:
        if sa.make_url(url).get_backend_name() not in _TYPES:
            raise ConfigError(f"store.url: {url.partition(':')[0]} is not supported; use {' or '.join(_TYPES)}")
        engine = sa.create_engine(url)
    except ModuleNotFoundError as exc:
        raise MissingPackageError(exc.name or url, "postgres") from exc
    except SQLAlchemyError as exc:
        raise ConfigError(f"store.url: {exc}") from exc
    if engine.dialect.name == "sqlite":
        if not create:
            _require(Path(engine.url.database or ""))
        sa.event.listen(engine, "connect", _prepare_sqlite)
        # The driver's own rule when to begin leaves schema changes out of the transaction.
        sa.event.listen(engine, "begin", lambda c: c.exec_driver_sql(c.get_execution_options().get("begin", "BEGIN")))
    try:
        with translated():
            _migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _require(path: Path) -> None:
    """Raises StoreError where there is no database, or not for this user."""
    try:
        there = path.exists()
    except PermissionError:
        there = True  # in a folder that is not for this user
    if not there:
        raise StoreError(f"{path} does not exist: has gatewayd run yet?")
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK):  # its log is written beside it
        raise StoreError(f"{path} is not for this user: run this as root, or as user gatewayd")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in (
        "busy_timeout = 5000",  # ms; first, the others may wait for a lock
        "auto_vacuum = INCREMENTAL",  # only a database without tables takes it
        "journal_mode = WAL",
        "synchronous = FULL",  # a commit that returned survives a power cut
        "foreign_keys = ON",
        "secure_delete = ON",  # a key that a node was told over Bluetooth leaves no trace in a free page; Debian's default
        "journal_size_limit = 67108864",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _migrate(engine: Engine) -> None:
    """Bring the database to VERSION, unless a newer gatewayd made it. Raises StoreError where this one would misread that."""
    types = _TYPES[engine.dialect.name]
    while True:
        with engine.begin() as connection:
            connection.exec_driver_sql(_META)
            rows = connection.execute(text("SELECT key, value FROM meta"))
            meta = {row.key: row.value for row in rows}
            version = meta.get("schema_version", 0)
            if meta.get("compatible_since", version) > VERSION:
                raise StoreError(f"the database has version {version}, this gatewayd knows {VERSION}: install the newer gatewayd again")
            if version >= VERSION:
                return
            for statement in _STEPS[version]:
                connection.exec_driver_sql(statement.format_map(types))
            connection.execute(
                text("INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value"),
                [{"key": "schema_version", "value": version + 1}, {"key": "compatible_since", "value": min(COMPATIBLE_SINCE, version + 1)}],
            )
