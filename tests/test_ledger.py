"""gatewayd.ledger, on SQLite and where it is installed on PostgreSQL."""

import asyncio
import itertools
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from test_store import DAY_S, NOW_S, append, open_store, record, sweep

from gatewayd import database
from gatewayd.core import update
from gatewayd.core.gate import Cell
from gatewayd.core.listening import Listened, Listener
from gatewayd.core.rollout import Command, CommandError, Rollout, Rules, State
from gatewayd.core.types import Basis, Reason
from gatewayd.errors import StoreError
from gatewayd.ledger import Ledger, Order, _cells_sql

U = update.State
HOUR = int(NOW_S // 3_600) - 100  # a whole one, some days ago
OLD, NEW = b"old-old-", b"new-new-"
RULES = Rules(success_ratio=0.75, soak_s=60.0, bytes_per_hour=70_000, approval=True)
DRAFT = Rollout("", "wakeword", "1.2.0", bytes(range(32)), 50_000, (("canary",), ("kitchen", "cellar")), RULES)


@pytest.fixture
async def ledger(url):
    async with open_store(url) as store:
        yield Ledger(store)


def add(ledger, bundle="bundle", **changes):
    return ledger.add(DRAFT._replace(**changes), bundle, b"file", NOW_S)


# ---- rollouts and updates


async def test_a_new_rollout_comes_back_with_a_waiting_update_for_each_node_and_its_order_to_start(ledger):
    added = add(ledger)
    assert added == DRAFT._replace(id="1")
    assert ledger.rollout("1") == (added, "bundle", NOW_S, False)
    assert ledger.rollouts() == ledger.open_rollouts() == [(added, "bundle", NOW_S, False)]
    expected = {node: update.Update(node, bytes(range(32)), 50_000, U.WAITING, NOW_S, b"file") for node in ("canary", "cellar", "kitchen")}
    assert ledger.updates("1") == expected
    (order,) = ledger.orders()
    assert order[1:] == ("1", NOW_S, Command.START, "")


async def test_what_is_written_comes_back_also_in_another_process(url):
    async with open_store(url) as store:
        ledger = Ledger(store)
        moved = add(ledger)._replace(
            state=State.PAUSED,
            group=1,
            since_s=NOW_S + 1.5,
            group_since_s=NOW_S + 1,
            cause="ein Grund: ✓",
            paused_from=State.SOAKING,
            cleared=True,
        )
        one = update.Update("kitchen", b"s" * 32, 9, U.JUDGING, NOW_S + 3, b"u" * 32, 2, b"p" * 32, NOW_S + 2, 9, "why", True)
        ledger.move(moved, NOW_S, "guests")
        ledger.save("1", [one, ledger.updates("1")["canary"]._replace(state=U.CONFIRMED, started_s=5.0)])
    with open_store(url) as store:
        ledger = Ledger(store)
        assert ledger.rollout("1").rollout == moved
        assert type(ledger.rollout("1").rollout.paused_from) is State
        assert ledger.history("1") == [(NOW_S, "guests")]
        saved = ledger.updates("1")
        assert saved["kitchen"] == one
        assert (saved["canary"].state, saved["canary"].started_s, saved["cellar"].started_s) == (U.CONFIRMED, 5.0, None)
        assert saved["kitchen"].asleep is True
        assert ledger.counts() == {"1": Counter({U.JUDGING: 1, U.CONFIRMED: 1, U.WAITING: 1})}


async def test_one_cascade_has_one_open_rollout(ledger):
    first = add(ledger)
    with pytest.raises(CommandError, match="rollout 1 of wakeword is draft: it must end first"):
        add(ledger)
    assert add(ledger, cascade="vibration").id == "2"
    ledger.move(first._replace(state=State.ROLLED_BACK), NOW_S, "")
    with pytest.raises(CommandError, match="rollout 1 of wakeword is rolled back"):  # its nodes may still be on their way
        add(ledger)
    ledger.move(first, NOW_S, "", ledger.orders()[0].id)
    ledger.close("1")
    assert add(ledger).id == "3"
    assert [(stored.rollout.id, stored.closed) for stored in ledger.rollouts()] == [("1", True), ("2", False), ("3", False)]
    assert [stored.rollout.id for stored in ledger.open_rollouts()] == ["2", "3"]


async def test_two_operators_at_once_do_not_both_start(url):
    async with open_store(url) as first, open_store(url) as second:
        barrier, results = threading.Barrier(2), []

        def start(store):
            barrier.wait()
            try:
                results.append(add(Ledger(store)).id)
            except CommandError as error:
                results.append(str(error))

        threads = [threading.Thread(target=start, args=(store,)) for store in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(len, results)) == [1, len("rollout 1 of wakeword is draft: it must end first")]
        assert len(Ledger(first).rollouts()) == 1


@pytest.mark.parametrize("nonsense", ["2", "0", "-1", "", "1.0", "one", "²", "1 OR 1=1", "9" * 40])
async def test_no_such_rollout(ledger, nonsense):
    add(ledger)
    assert ledger.rollout(nonsense) is None


async def test_rules_of_an_older_version_get_todays_defaults(ledger):
    add(ledger)
    rules = RULES._asdict()
    del rules["min_battery"]
    with ledger._store.writing() as connection:
        connection.execute(sa.update(database.rollouts).values(rules=json.dumps(rules)))
    assert ledger.rollout("1").rollout.rules == RULES


async def test_updates_are_saved_together_or_not_at_all(ledger):
    add(ledger)
    before = ledger.updates("1")
    with pytest.raises(StoreError):
        ledger.save("1", [before["canary"]._replace(state=U.ADMITTED), before["kitchen"]._replace(size_bytes=2**70)])
    assert ledger.updates("1") == before
    ledger.save("1", [])
    assert ledger.updates("1") == before


# ---- orders


async def test_orders_stay_in_their_order_until_they_are_carried_out_and_are_noticed(url):
    async with open_store(url) as store:
        ledger = Ledger(store)
        before = store.changes()
        added = add(ledger)
        with open_store(url) as tool:
            Ledger(tool).order("1", Command.PAUSE, "guests", NOW_S + 1)
            Ledger(tool).order("1", Command.APPROVE, "", NOW_S + 2)
        assert store.changes() == before + 3
        start, pause, approve = ledger.orders()
        assert pause == Order(pause.id, "1", NOW_S + 1, Command.PAUSE, "guests")
        running = added._replace(state=State.RUNNING)
        ledger.move(running, NOW_S, "begins", start.id)
        assert ledger.orders() == [pause, approve]
        with pytest.raises(StoreError, match="was carried out before"):
            ledger.move(added._replace(state=State.DONE), NOW_S, "never", start.id)
        assert ledger.rollout("1").rollout == running
        ledger.dismiss(pause, "it cannot pause", NOW_S + 3)
        with pytest.raises(StoreError, match="was carried out before"):
            ledger.dismiss(pause, "twice", NOW_S + 3)
        assert ledger.orders() == [approve]
        assert ledger.history("1") == [(NOW_S, "begins"), (NOW_S + 3, "it cannot pause")]


async def test_an_order_stays_where_what_it_made_could_not_be_written(ledger):
    added = add(ledger)
    (start,) = ledger.orders()
    with pytest.raises(StoreError):
        ledger.move(added._replace(state=State.RUNNING, group=2**70), NOW_S, "never", start.id)
    assert (ledger.orders(), ledger.rollout("1").rollout, ledger.history("1")) == ([start], added, [])


async def test_an_order_opens_what_was_closed_and_keeps_it_open(ledger):
    first = add(ledger)
    ledger.move(first._replace(state=State.DONE), NOW_S, "", ledger.orders()[0].id)
    ledger.close("1")
    assert ledger.open_rollouts() == []
    ledger.order("1", Command.ROLL_BACK, "regret", NOW_S)
    assert [stored.rollout.state for stored in ledger.open_rollouts()] == [State.DONE]
    ledger.close("1")  # by a daemon that had not seen the order yet
    assert len(ledger.open_rollouts()) == 1


async def test_what_was_closed_is_not_opened_beside_another(ledger):
    first = add(ledger)
    ledger.move(first._replace(state=State.DONE), NOW_S, "", ledger.orders()[0].id)
    ledger.close("1")
    add(ledger)
    before = ledger.orders()
    with pytest.raises(CommandError, match="rollout 2 of wakeword is draft: it must end first"):
        ledger.order("1", Command.ROLL_BACK, "", NOW_S)
    assert ledger.orders() == before
    ledger.order("2", Command.ABORT, "", NOW_S)


async def test_an_order_for_no_rollout_is_refused(ledger):
    with pytest.raises(StoreError):
        ledger.order("7", Command.PAUSE, "", NOW_S)


_VICTIM = """
import sys
sys.path.insert(0, {tests!r})
from test_ledger import Ledger
from test_store import open_store
with open_store({url!r}) as store:
    ledger = Ledger(store)
    print("on", flush=True)
    while True:
        for order in ledger.orders():
            moved = ledger.rollout(order.rollout_id).rollout
            ledger.move(moved._replace(since_s=moved.since_s + 1), order.at_s, order.cause, order.id)
"""


def test_no_order_is_lost_or_carried_out_twice_by_a_daemon_that_is_killed(sqlite_url):
    """The victim counts in the rollout's row what it carries out, and is killed wherever it is."""
    code = _VICTIM.format(tests=str(Path(__file__).parent), url=sqlite_url)

    async def make():
        async with open_store(sqlite_url) as store:
            add(Ledger(store))

    asyncio.run(make())
    numbers = itertools.count()
    with open_store(sqlite_url) as store:
        ledger = Ledger(store)

        def give(count):
            for number in itertools.islice(numbers, count):
                ledger.order("1", Command.PAUSE, str(number), NOW_S)

        for _ in range(8):
            with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as victim:
                assert victim.stdout.readline() == b"on\n"
                give(25)
                victim.send_signal(signal.SIGKILL)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as victim:
            deadline = time.monotonic() + 60
            while ledger.orders():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            victim.send_signal(signal.SIGKILL)
        assert [note.text for note in ledger.history("1")] == ["", *map(str, range(200))]
        assert ledger.rollout("1").rollout.since_s == 201.0


# ---- what is told


async def test_history_and_explanation(ledger):
    add(ledger)
    add(ledger, cascade="vibration")
    assert (ledger.history("1"), ledger.explanation("1")) == ([], None)
    ledger.log("1", NOW_S, "group 1 begins")
    ledger.log("2", NOW_S, "another's")
    ledger.log("1", NOW_S - 5, "a clock went back")
    ledger.explain("1", NOW_S, "it waits")
    ledger.explain("1", NOW_S + 1, "it soaks")
    assert ledger.history("1") == [(NOW_S, "group 1 begins"), (NOW_S - 5, "a clock went back")]
    assert (ledger.explanation("1"), ledger.explanation("2")) == ((NOW_S + 1, "it soaks"), None)


async def test_a_history_is_bounded(ledger, monkeypatch):
    monkeypatch.setattr("gatewayd.ledger._HISTORY", 10)
    add(ledger)
    add(ledger, cascade="vibration")
    ledger.log("2", 0.0, "another's")
    for n in range(25):
        ledger.log("1", float(n), str(n))
    assert [note.at_s for note in ledger.history("1")] == [float(n) for n in range(15, 25)]
    assert len(ledger.history("2")) == 1


async def test_one_bundle_is_active_for_each_cascade(ledger):
    ledger.activate("wakeword", "a")
    ledger.activate("vibration", "b")
    ledger.activate("wakeword", "c")
    assert ledger.active() == {"wakeword": "c", "vibration": "b"}


# ---- the gate's evidence


def judged(seq, hour, *, node="kitchen", model=OLD, reason=Reason.TRIGGER, accepted=True, basis=Basis.GATEWAY, cascade="wakeword"):
    one = record(seq, node=node, at_s=hour * 3_600.0 + seq % 3_600, cascade=cascade)
    return one._replace(event=one.event._replace(model=model, reason=reason), verdict=one.verdict._replace(accepted=accepted, basis=basis))


def listened(*times, cascade="wakeword"):
    """Of (node, model, hour, seconds), and from and to which second of the hour."""
    of = {Listener(node, cascade, model, hour): (hour * 3_600.0, *rest) for node, model, hour, *rest in times}
    return {
        key: Listened(seconds, start_s + (span or (0,))[0], start_s + (span or (0, 3_600))[1])
        for key, (start_s, seconds, *span) in of.items()
    }


async def test_cells_count_what_the_gateway_judged_and_the_time_listened(ledger):
    await append(
        ledger._store,
        *(judged(seq, HOUR, accepted=seq < 2) for seq in range(3)),
        *(judged(seq, HOUR, accepted=seq < 11, reason=Reason.AUDIT) for seq in range(10, 15)),
        judged(20, HOUR, model=NEW),
        judged(21, HOUR, node="cellar"),
        judged(22, HOUR + 1),
        judged(23, HOUR, reason=Reason.FOLLOW),
        judged(30, HOUR, basis=Basis.NODE),
        judged(40, HOUR, cascade="vibration"),
        judged(41, HOUR)._replace(verdict=None, opinion=None),
    )
    ledger.listen(listened(("kitchen", OLD, HOUR, 1_000.0, 1, 2_000), ("cellar", OLD, HOUR + 1, 5.0), ("kitchen", NEW, HOUR, 7.0, 20, 21)))
    ledger.listen(listened(("kitchen", OLD, HOUR, 500.5, 0, 30)) | listened(("kitchen", OLD, HOUR, 9.0), cascade="vibration"))
    ledger.listen({})
    assert ledger.cells("wakeword", HOUR * 3_600, (HOUR + 2) * 3_600) == [
        (NEW, Cell("kitchen", HOUR, 1, 1, 0, 0, 7.0)),
        (OLD, Cell("cellar", HOUR + 1, 0, 0, 0, 0, 5.0)),  # what came from it an hour before came while nobody knew it to listen
        (OLD, Cell("kitchen", HOUR, 3, 2, 5, 1, 1_500.5)),
    ]
    assert ledger.cells("nothing", HOUR * 3_600, (HOUR + 2) * 3_600) == []
    assert all(type(count) is int for _, cell in ledger.cells("wakeword", 0, NOW_S) for count in cell[1:6])


async def test_what_the_gateway_had_no_time_to_judge_is_no_silence(ledger):
    """Of four triggers it judged one: the rates are those of a quarter of the time."""
    unjudged = (Basis.OVERLOAD, Basis.TIMEOUT, Basis.FAILED)
    await append(ledger._store, judged(1, HOUR), *(judged(10 + n, HOUR, basis=basis) for n, basis in enumerate(unjudged)))
    await append(ledger._store, *(judged(20 + n, HOUR + 1, basis=basis) for n, basis in enumerate(unjudged)))
    ledger.listen(listened(("kitchen", OLD, HOUR, 800.0), ("kitchen", OLD, HOUR + 1, 800.0)))
    cells = [cell for _, cell in ledger.cells("wakeword", 0, NOW_S)]
    assert cells == [Cell("kitchen", HOUR, 1, 1, 0, 0, 200.0), Cell("kitchen", HOUR + 1, 0, 0, 0, 0, 0.0)]


async def test_what_comes_before_or_after_the_time_that_reports_cover_waits_for_them(ledger):
    await append(ledger._store, *(judged(seq, HOUR) for seq in (99, 100, 150, 200, 201)))
    ledger.listen(listened(("kitchen", OLD, HOUR, 50.0, 100, 150)))
    assert [cell.escalated for _, cell in ledger.cells("wakeword", 0, NOW_S)] == [2]
    ledger.listen(listened(("kitchen", OLD, HOUR, 50.0, 150, 200)))
    assert [(cell.escalated, cell.listened_s) for _, cell in ledger.cells("wakeword", 0, NOW_S)] == [(3, 100.0)]


async def test_cells_are_whole_hours_of_events_and_of_listening(ledger):
    await append(ledger._store, *(judged(n * 4_000 + 5, HOUR + n) for n in range(4)))  # five seconds, seven, ten minutes into it
    ledger.listen(listened(*(("kitchen", OLD, HOUR + n, 60.0) for n in range(4))))

    def hours(since_s, until_s):
        cells = ledger.cells("wakeword", since_s, until_s)
        assert all((cell.escalated, cell.listened_s) == (1, 60.0) for _, cell in cells)
        return [cell.hour - HOUR for _, cell in cells]

    start = HOUR * 3_600.0
    assert hours(start, start + 4 * 3_600) == [0, 1, 2, 3]
    assert hours(start + 3_600, start + 2 * 3_600) == [1]
    assert hours(start + 5_000, start + 5_001) == [1]
    assert hours(start + 3_599, start + 3_601) == [0, 1]
    assert hours(start + 2 * 3_600, float("inf")) == [2, 3]


async def test_an_event_that_comes_again_is_counted_once(ledger):
    assert await append(ledger._store, judged(1, HOUR), judged(1, HOUR)) == [True, False]
    ledger.listen(listened(("kitchen", OLD, HOUR, 60.0)))
    assert [cell.escalated for _, cell in ledger.cells("wakeword", 0, NOW_S)] == [1]


async def test_recent_cells_do_not_read_old_events(tmp_path, sqlite_url):
    """A rollout asks every few seconds, with a million events behind it: both tables are asked by their index."""
    async with open_store(sqlite_url) as store:
        Ledger(store).cells("wakeword", 0, 1)
    query = str(_cells_sql("sqlite"))
    with sqlite3.connect(tmp_path / "g.db") as database_:
        values = {"cascade": "wakeword", "first": 0, "last": 1, "since_s": 0.0, "until_s": 1.0}
        plan = " ".join(row[3] for row in database_.execute(f"EXPLAIN QUERY PLAN {query}", values))
    database_.close()
    assert "SEARCH events USING INDEX events_judged (cascade=? AND arrived_s>? AND arrived_s<?)" in plan
    assert "SEARCH listened USING INDEX sqlite_autoindex_listened_1 (hour=? AND cascade=? AND node=? AND model=?)" in plan  # for each event
    assert "SEARCH listened USING INDEX sqlite_autoindex_listened_1 (hour>? AND hour<?)" in plan


async def test_the_time_listened_goes_after_sixty_days(url):
    async with open_store(url) as store:
        ledger = Ledger(store)
        now = int(NOW_S // 3_600)
        ledger.listen(listened(*((f"n{node}", OLD, now - 24 * days, 1.0) for node in range(3) for days in (0, 59, 61, 62, 400))))
        sweep(store)
        kept = {cell.hour for _, cell in ledger.cells("wakeword", NOW_S - 500 * DAY_S, NOW_S + 1)}
        assert kept == {now, now - 24 * 59}


# ---- an older database


async def test_the_version_before_gets_an_empty_ledger_and_counts_its_old_events(tmp_path, sqlite_url):
    steps = (database._META, *database._STEPS[0], *database._STEPS[1])
    with sqlite3.connect(tmp_path / "g.db") as old:
        old.executescript("".join(f"{step};".format_map(database._TYPES["sqlite"]) for step in steps))
        old.execute("INSERT INTO meta VALUES ('schema_version', 2)")
        old.execute("INSERT INTO nodes VALUES ('kitchen', 1, 1.0, 2.0, 7, NULL)")
        old.execute(
            "INSERT INTO events VALUES (41, 'kitchen', 7, 1, ?, 'wakeword', ?, 0.5, 0, 9, 'trigger', NULL,"
            " 1, 'on', 0.5, '', 'gateway', NULL, NULL, NULL, 0.0, 0.0, 0.0)",
            (HOUR * 3_600 + 5.0, OLD),
        )
    old.close()
    async with open_store(sqlite_url) as store:
        ledger = Ledger(store)
        assert (ledger.rollouts(), ledger.orders(), ledger.active()) == ([], [], {})
        ledger.listen(listened(("kitchen", OLD, HOUR, 60.0)))
        assert ledger.cells("wakeword", 0, NOW_S) == [(OLD, Cell("kitchen", HOUR, 1, 1, 0, 0, 60.0))]
        assert add(ledger).id == "1"
        assert store.nodes()[0].labels == ()
