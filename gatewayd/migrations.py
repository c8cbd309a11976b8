"""The schema of the store, step by step: a database of any older version becomes one of today's, one transaction a step."""

from sqlalchemy import Engine, text

from gatewayd.errors import StoreError

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
            accepted BOOLEAN NOT NULL, verdict_label TEXT NOT NULL, verdict_score DOUBLE PRECISION NOT NULL, action TEXT NOT NULL,
            basis TEXT NOT NULL, judge TEXT, heard TEXT, stages TEXT, latency_ms DOUBLE PRECISION,
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
)

VERSION = len(_STEPS)


def migrate(engine: Engine) -> None:
    """Bring the database to VERSION. Raises StoreError where it is of a newer one."""
    types = _TYPES.get(engine.dialect.name)
    if types is None:
        raise StoreError(f"{engine.dialect.name} is not supported: use {' or '.join(_TYPES)}")
    while True:
        with engine.begin() as connection:
            connection.exec_driver_sql(_META)
            version = connection.scalar(text("SELECT value FROM meta WHERE key = 'schema_version'")) or 0
            if version > VERSION:
                raise StoreError(f"the database has version {version}, this gatewayd knows {VERSION}: install the newer gatewayd again")
            if version == VERSION:
                return
            for statement in _STEPS[version]:
                connection.exec_driver_sql(statement.format_map(types))
            connection.execute(
                text(
                    "INSERT INTO meta (key, value) VALUES ('schema_version', :version)"
                    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
                ),
                {"version": version + 1},
            )
