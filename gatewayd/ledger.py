"""Durable memory of rollouts: how far each is and each of its nodes, what operators ordered, what was told, and what the gate counts.

gatewayctl adds drafts and orders; only the daemon moves a rollout. What an order made of its rollout is written in the transaction that
takes the order away: a gateway killed before it finds both as they were, and one killed after it does not obey twice.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, TextClause, select, text

from gatewayd.core import rollout, update
from gatewayd.core.gate import Cell
from gatewayd.core.listening import Listened, Listener
from gatewayd.core.rollout import Command, CommandError, Rollout, Rules
from gatewayd.core.update import Update
from gatewayd.database import active_bundles, explanations, history, orders, rollouts, updates
from gatewayd.errors import StoreError
from gatewayd.store import Store, count_change

_HOUR_S = 3_600
_HISTORY = 1_000  # notes kept of a rollout
_FAR_S = 1e12  # beyond any clock
_MAX_ID = 2**63 - 1
_MOVING = ("state", "group", "since_s", "group_since_s", "cause", "paused_from", "cleared")  # the rest of a rollout never changes


class StoredRollout(NamedTuple):
    """A rollout and what came with it."""

    rollout: Rollout
    bundle_sha256: str  # of its file, as hex
    created_s: float
    closed: bool


class Order(NamedTuple):
    """What an operator asked of a rollout."""

    id: int
    rollout_id: str
    at_s: float
    command: Command
    cause: str


class Note(NamedTuple):
    """What was told of a rollout, and when (Unix time)."""

    at_s: float
    text: str


class DayOfModel(NamedTuple):
    """What came of a node model's events on one day."""

    day: int  # since the Unix epoch
    model: bytes
    judged: int  # triggers that the larger model judged
    agreed: int
    audits: int
    missed: int  # those in which it found what the node had not


class NodeUpdate(NamedTuple):
    """An update of a node, and of which rollout it is a part."""

    rollout_id: str
    cascade: str
    version: str
    update: Update


class Ledger:
    """The rollouts in an open store. Every call blocks; every write is one transaction, synced when it returns."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # ---- rollouts

    def add(self, draft: Rollout, bundle_sha256: str, upload_sha256: bytes, now_s: float) -> Rollout:
        """Keep a new rollout, with an update that waits for each node and the order to start it. Returns it with its id.

        Raises CommandError where another of its cascade is open.
        """
        with self._store.writing() as connection:
            count_change(connection)  # first: whoever adds at the same time waits here
            _refuse_second(connection, draft.cascade)
            row = {
                **draft._asdict(),
                "created_s": now_s,
                "bundle_sha256": bundle_sha256,
                "groups": json.dumps(draft.groups),
                "rules": json.dumps(draft.rules._asdict()),
                "closed": False,
            }
            del row["id"]
            id_ = connection.execute(sa.insert(rollouts).values(row).returning(rollouts.c.id)).scalar_one()
            waiting = (
                Update(node, draft.sha256, draft.size_bytes, update.State.WAITING, now_s, upload_sha256)
                for names in draft.groups
                for node in names
            )
            _upsert_updates(connection, id_, waiting)
            _insert_order(connection, id_, Command.START, "", now_s)
        return draft._replace(id=str(id_))

    def rollouts(self) -> list[StoredRollout]:
        """Every rollout, the newest last."""
        with self._store.reading() as connection:
            return [_rollout(row) for row in connection.execute(select(rollouts).order_by(rollouts.c.id))]

    def newest(self, limit: int) -> list[StoredRollout]:
        """The newest rollouts, newest first."""
        with self._store.reading() as connection:
            return [_rollout(row) for row in connection.execute(select(rollouts).order_by(rollouts.c.id.desc()).limit(limit))]

    def open_rollouts(self) -> list[StoredRollout]:
        """Those that are not closed."""
        with self._store.reading() as connection:
            rows = connection.execute(select(rollouts).where(~rollouts.c.closed).order_by(rollouts.c.id))
            return [_rollout(row) for row in rows]

    def rollout(self, id_: str) -> StoredRollout | None:
        """One rollout; None where there is none of that id."""
        if not (id_.isascii() and id_.isdecimal() and int(id_) <= _MAX_ID):
            return None
        with self._store.reading() as connection:
            row = connection.execute(select(rollouts).where(rollouts.c.id == int(id_))).one_or_none()
        return None if row is None else _rollout(row)

    def updates(self, id_: str) -> dict[str, Update]:
        """The update of each node of a rollout."""
        with self._store.reading() as connection:
            rows = connection.execute(select(updates).where(updates.c.rollout == int(id_)).order_by(updates.c.node))
            return {row.node: _update(row) for row in rows}

    def updates_of(self, node: str, limit: int) -> list[NodeUpdate]:
        """The newest updates of a node, newest first."""
        query = select(updates, rollouts.c.cascade, rollouts.c.version).join_from(updates, rollouts, updates.c.rollout == rollouts.c.id)
        newest = query.where(updates.c.node == node).order_by(updates.c.rollout.desc()).limit(limit)
        with self._store.reading() as connection:
            rows = connection.execute(newest).all()
        return [NodeUpdate(str(row.rollout), row.cascade, row.version, _update(row)) for row in rows]

    def counts(self, ids: Collection[str] | None = None) -> dict[str, Counter[update.State]]:
        """How many nodes of each rollout, or of each of `ids`, are in each state."""
        counts: dict[str, Counter[update.State]] = {}
        query = select(updates.c.rollout, updates.c.state, sa.func.count()).group_by(updates.c.rollout, updates.c.state)
        if ids is not None:
            query = query.where(updates.c.rollout.in_(map(int, ids)))
        with self._store.reading() as connection:
            for id_, state, count in connection.execute(query):
                counts.setdefault(str(id_), Counter())[update.State(state)] = count
        return counts

    def save(self, id_: str, changed: Iterable[Update]) -> None:
        """Write updates that have changed."""
        with self._store.writing() as connection:
            _upsert_updates(connection, int(id_), changed)

    def move(self, moved: Rollout, at_s: float, words: str, order: int | None = None) -> None:
        """Write where a rollout is now, with the words of why, and that the order of this id is carried out: all of it or nothing.

        Raises StoreError where the order was carried out before.
        """
        with self._store.writing() as connection:
            if order is not None:
                _take(connection, order)
            fields = {name: getattr(moved, name) for name in _MOVING}
            connection.execute(sa.update(rollouts).where(rollouts.c.id == int(moved.id)).values(fields))
            _insert_note(connection, int(moved.id), at_s, words)

    def close(self, id_: str) -> None:
        """Nothing is left to do for a rollout; it stays open where an order has come for it meanwhile."""
        ordered = sa.exists().where(orders.c.rollout == int(id_))
        with self._store.writing() as connection:
            connection.execute(sa.update(rollouts).where(rollouts.c.id == int(id_), ~ordered).values(closed=True))

    # ---- orders

    def order(self, id_: str, command: Command, cause: str, now_s: float) -> None:
        """Ask the daemon to do something with a rollout, which is open again where it was closed; it notices within a second.

        Raises CommandError where another of its cascade is open.
        """
        with self._store.writing() as connection:
            count_change(connection)
            reopened = sa.update(rollouts).where(rollouts.c.id == int(id_)).values(closed=False).returning(rollouts.c.cascade)
            _refuse_second(connection, connection.execute(reopened).scalar_one(), int(id_))
            _insert_order(connection, int(id_), command, cause, now_s)

    def orders(self) -> list[Order]:
        """What was asked and is not carried out yet, the oldest first: `move` each, or `dismiss` it."""
        with self._store.reading() as connection:
            rows = connection.execute(select(orders).order_by(orders.c.id))
            return [Order(row.id, str(row.rollout), row.at_s, Command(row.command), row.cause) for row in rows]

    def dismiss(self, order: Order, words: str, at_s: float) -> None:
        """Take an order away that cannot be carried out, and say why in its rollout's history."""
        with self._store.writing() as connection:
            _take(connection, order.id)
            _insert_note(connection, int(order.rollout_id), at_s, words)

    # ---- what is told

    def log(self, id_: str, at_s: float, words: str) -> None:
        """Add to a rollout's history, which keeps the newest thousand notes."""
        with self._store.writing() as connection:
            _insert_note(connection, int(id_), at_s, words)

    def history(self, id_: str) -> list[Note]:
        """What happened, the newest last."""
        with self._store.reading() as connection:
            rows = connection.execute(select(history).where(history.c.rollout == int(id_)).order_by(history.c.id))
            return [Note(row.at_s, row.text) for row in rows]

    def explain(self, id_: str, at_s: float, words: str) -> None:
        """Replace the explanation of a rollout."""
        with self._store.writing() as connection:
            connection.execute(_EXPLAIN, {"rollout": int(id_), "at_s": at_s, "text": words})

    def explanation(self, id_: str) -> Note | None:
        """The newest explanation; None where the daemon has not looked at the rollout yet."""
        with self._store.reading() as connection:
            row = connection.execute(select(explanations).where(explanations.c.rollout == int(id_))).one_or_none()
        return None if row is None else Note(row.at_s, row.text)

    # ---- bundles

    def activate(self, cascade: str, bundle_sha256: str | None) -> None:
        """Remember which bundle's gateway half serves a cascade; None: that of its configured folder."""
        with self._store.writing() as connection:
            if bundle_sha256 is None:
                connection.execute(sa.delete(active_bundles).where(active_bundles.c.cascade == cascade))
            else:
                connection.execute(_ACTIVATE, {"cascade": cascade, "bundle_sha256": bundle_sha256})

    def bundle_before(self, one: Rollout) -> str | None:
        """The bundle of the newest rollout of the cascade that was done before `one`."""
        done = (rollouts.c.cascade == one.cascade) & (rollouts.c.state == rollout.State.DONE) & (rollouts.c.id < int(one.id))
        with self._store.reading() as connection:
            query = select(rollouts.c.bundle_sha256).where(done).order_by(rollouts.c.id.desc()).limit(1)
            found: str | None = connection.scalar(query)
            return found

    def active(self) -> dict[str, str]:
        """Cascade -> SHA-256 of the file of its active bundle."""
        with self._store.reading() as connection:
            return {row.cascade: row.bundle_sha256 for row in connection.execute(select(active_bundles))}

    # ---- the gate's evidence

    def listen(self, times: Mapping[Listener, Listened]) -> None:
        """Add to the time listened."""
        rows = [{**listener._asdict(), **time._asdict()} for listener, time in sorted(times.items())]
        if rows:
            with self._store.writing() as connection:
                connection.execute(_LISTEN, rows)

    def cells(self, cascade: str, since_s: float, until_s: float) -> list[tuple[bytes, Cell]]:
        """What each model did on each node in each hour that the time touches: (model, cell).

        `until_s` may be infinite. Whole hours, and of their events those that came while the model is known to have listened.
        """
        first, last = int(since_s // _HOUR_S), int(-(-min(until_s, _FAR_S) // _HOUR_S))
        bounds: dict[str, Any] = {"cascade": cascade, "first": first, "last": last}
        bounds |= {"since_s": float(first * _HOUR_S), "until_s": float(last * _HOUR_S)}
        with self._store.reading() as connection:
            return [(row[0], Cell(*row[1:])) for row in connection.execute(_cells_sql(connection.dialect.name), bounds)]

    def versions(self, cascade: str) -> dict[bytes, str]:
        """What each model of a cascade that was ever rolled out is called: SHA-256 of its image -> version."""
        with self._store.reading() as connection:
            query = select(rollouts.c.sha256, rollouts.c.version).where(rollouts.c.cascade == cascade).order_by(rollouts.c.id)
            return {row.sha256: row.version for row in connection.execute(query)}

    def days(self, cascade: str, since_s: float) -> list[DayOfModel]:
        """What each node model of a cascade did on each day since then, oldest first."""
        with self._store.reading() as connection:
            rows = connection.execute(_days_sql(connection.dialect.name), {"cascade": cascade, "since_s": since_s})
            return [DayOfModel(*row) for row in rows]


_COUNTED = {
    "escalated": "reason = 'trigger' AND basis = 'gateway'",
    "agreed": "reason = 'trigger' AND basis = 'gateway' AND accepted",
    "audits": "reason = 'audit' AND basis = 'gateway'",
    "missed": "reason = 'audit' AND basis = 'gateway' AND accepted",
}


@cache
def _days_sql(dialect: str) -> TextClause:
    """As below, the index is partial."""
    day = {"sqlite": "CAST(arrived_s / 86400 AS INTEGER)", "postgresql": "CAST(floor(arrived_s / 86400) AS BIGINT)"}[dialect]
    counts = ", ".join(f"sum(CASE WHEN {when} THEN 1 ELSE 0 END)" for when in _COUNTED.values())
    return text(  # nothing in it comes from outside
        f"SELECT {day} AS day, model, {counts} FROM events"  # noqa: S608
        " WHERE basis <> 'node' AND basis = 'gateway' AND reason IN ('trigger', 'audit')"
        " AND cascade = :cascade AND arrived_s >= :since_s GROUP BY 1, 2 ORDER BY 1, 2"
    )


@cache
def _cells_sql(dialect: str) -> TextClause:
    """Where the gateway had no time to judge every trigger, the model counts as having listened as much less: else it would look deaf.

    The index on events is partial: its condition must stand in the statement for the planner to see that it fits.
    """
    hour = {"sqlite": "CAST(arrived_s / 3600 AS INTEGER)", "postgresql": "CAST(floor(arrived_s / 3600) AS BIGINT)"}[dialect]
    whens = {"triggers": "reason = 'trigger'", **_COUNTED}
    counts = ", ".join(f"CASE WHEN {when} THEN 1 ELSE 0 END AS {name}" for name, when in whens.items())
    judged = "CASE WHEN sum(triggers) = 0 THEN 1.0 ELSE 1.0 * sum(escalated) / sum(triggers) END"
    return text(  # nothing in it comes from outside
        f"SELECT model, node, hour, sum(escalated), sum(agreed), sum(audits), sum(missed), sum(seconds) * {judged} FROM ("  # noqa: S608
        f"SELECT events.model, events.node, {hour} AS hour, {counts}, 0.0 AS seconds"
        " FROM events CROSS JOIN listened WHERE basis <> 'node' AND reason IN ('trigger', 'audit')"
        " AND events.cascade = :cascade AND arrived_s >= :since_s AND arrived_s < :until_s"
        f" AND listened.hour = {hour} AND listened.cascade = :cascade AND listened.node = events.node AND listened.model = events.model"
        " AND arrived_s BETWEEN first_s AND last_s"
        " UNION ALL SELECT model, node, hour, 0, 0, 0, 0, 0, seconds"
        " FROM listened WHERE hour >= :first AND hour < :last AND cascade = :cascade"
        ") AS parts GROUP BY model, node, hour ORDER BY model, node, hour"
    )


def _refuse_second(connection: Connection, cascade: str, own: int | None = None) -> None:
    query = select(rollouts.c.id, rollouts.c.state).where(rollouts.c.cascade == cascade, ~rollouts.c.closed, rollouts.c.id != own)
    if (other := connection.execute(query).first()) is not None:
        raise CommandError(f"rollout {other.id} of {cascade} is {other.state.replace('_', ' ')}: it must end first")


def _rollout(row: sa.Row[Any]) -> StoredRollout:
    fields = row._asdict()
    beside = [fields.pop(name) for name in ("bundle_sha256", "created_s", "closed")]
    fields |= {
        "id": str(row.id),
        "groups": tuple(map(tuple, json.loads(row.groups))),
        "rules": Rules(**json.loads(row.rules)),
        "state": rollout.State(row.state),
        "paused_from": rollout.State(row.paused_from),
    }
    return StoredRollout(Rollout(**fields), *beside)


def _update(row: sa.Row[Any]) -> Update:
    fields = {name: getattr(row, name) for name in Update._fields}
    return Update(**{**fields, "state": update.State(row.state)})


def _upsert_updates(connection: Connection, id_: int, changed: Iterable[Update]) -> None:
    if rows := [{"rollout": id_, **one._asdict()} for one in changed]:
        connection.execute(_UPSERT_UPDATE, rows)


def _insert_order(connection: Connection, id_: int, command: Command, cause: str, now_s: float) -> None:
    connection.execute(sa.insert(orders).values(rollout=id_, at_s=now_s, command=command, cause=cause))


def _take(connection: Connection, order: int) -> None:
    if connection.execute(sa.delete(orders).where(orders.c.id == order)).rowcount != 1:
        raise StoreError(f"order {order} was carried out before")


def _insert_note(connection: Connection, id_: int, at_s: float, words: str) -> None:
    connection.execute(sa.insert(history).values(rollout=id_, at_s=at_s, text=words))
    newest = select(history.c.id).where(history.c.rollout == id_).order_by(history.c.id.desc())
    too_old = history.c.id <= newest.offset(_HISTORY).limit(1).scalar_subquery()
    connection.execute(sa.delete(history).where(history.c.rollout == id_, too_old))


def _upsert(target: sa.TableClause, keys: tuple[str, ...]) -> TextClause:
    """INSERT, or where `keys` are there already UPDATE."""
    names = target.c.keys()
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
    values = ", ".join(f":{name}" for name in names)
    return text(
        f"INSERT INTO {target.name} ({', '.join(names)}) VALUES ({values}) ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"  # noqa: S608
    )


_UPSERT_UPDATE = _upsert(updates, ("rollout", "node"))
_EXPLAIN = _upsert(explanations, ("rollout",))
_ACTIVATE = _upsert(active_bundles, ("cascade",))
_LISTEN = text(
    "INSERT INTO listened (hour, cascade, node, model, seconds, first_s, last_s)"
    " VALUES (:hour, :cascade, :node, :model, :seconds, :first_s, :last_s)"
    " ON CONFLICT (hour, cascade, node, model) DO UPDATE SET seconds = listened.seconds + excluded.seconds,"
    " first_s = CASE WHEN excluded.first_s < listened.first_s THEN excluded.first_s ELSE listened.first_s END,"
    " last_s = CASE WHEN excluded.last_s > listened.last_s THEN excluded.last_s ELSE listened.last_s END"
)
