"""gatewayd.store, gatewayd.database and gatewayd.records, on SQLite and where it is installed on PostgreSQL."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from gatewayd import config, database, operations
from gatewayd.core.registry import Link, Node
from gatewayd.core.types import Basis, Event, Info, Opinion, Reason, Record, Verdict, Window
from gatewayd.errors import ConfigError, StoreError
from gatewayd.store import Store

NOW_S = float(int(time.time()))  # the writer sweeps by the real clock
DAY_S = 86_400.0
WINDOW = Window("adpcm", 16_000, 1, (2, 256), bytes(range(256)) * 2, 0.5, -3)
INFO = Info(7, "esp32s3", "devkit", "1.2.3", "power-on", bytes(16), 50_000, ("audio",), 60, ())


def record(seq=0, *, node="kitchen", session=7, window=None, at_s=NOW_S, cascade="wakeword"):
    event = Event(seq, session, cascade, b"modelhex", 0.75, 1, 1_234, Reason.TRIGGER, window, 5)
    verdict = Verdict(seq, session, True, "on", 0.9, "light", 1_000, Basis.GATEWAY)
    return Record(
        node, event, at_s, verdict, Opinion(True, "on", 0.9, "whisper 1", "lights on", "", (("vad", 0.1), ("asr", 0.2)), 0.01, 0.2), 0.25
    )


async def append(store, *records):
    """What the store says of each."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in records]
    for one, future in zip(records, futures, strict=True):
        store.submit(one, future.set_result)
    return await asyncio.wait_for(asyncio.gather(*futures), 30)


def open_store(url, observe=lambda *_: None, **settings):
    return Store(config.Store(commit_ms=1.0, **settings), url, observe)


# ---- events


async def test_an_event_comes_back_as_it_was(url):
    plain = Record("cellar", record(1).event._replace(ref=None), NOW_S)  # no verdict: its node is not enrolled
    async with open_store(url) as store:
        assert await append(store, record(1, window=WINDOW), plain) == [True, True]
        first, second = reversed(store.recent())
        assert first[1:] == (
            *("kitchen", 7, 1, NOW_S, "wakeword", b"modelhex", 0.75, 1, 1_234, "trigger", 5),
            *(True, "on", 0.9, "light", "gateway", "whisper 1", "lights on", (("vad", 0.1), ("asr", 0.2)), 0.25, 0.01, 0.2),
        )
        assert first.accepted is True
        assert second[12:] == (None,) * 7 + ((), 0.0, 0.0, 0.0)
        assert store.event(first.id) == (first, WINDOW)
        assert store.event(second.id) == (second, None)
        assert store.event(10**9) is None


async def test_what_is_there_already_is_not_stored_again(url):
    async with open_store(url) as store:
        assert await append(store, record(1, window=WINDOW)) == [True]
        assert await append(store, record(1, window=WINDOW)) == [False]
        batch = [record(seq, window=WINDOW) for seq in (1, 2, 3, 3)]
        assert await append(store, *batch, record(1, session=8), record(1, node="cellar")) == [False, True, True, False, True, True]
        assert store.counts()[1:3] == (5, 3)


async def test_many_events_share_a_commit(url):
    commits = []
    async with open_store(url, lambda rows, seconds, error: commits.append((rows, error))) as store:
        assert await append(store, *(record(seq) for seq in range(3_000))) == [True] * 3_000
    assert sum(rows for rows, _ in commits) == 3_000
    assert len(commits) < 30
    assert {error for _, error in commits} == {None}


async def test_closing_writes_what_waits(sqlite_url):
    heard = []
    async with open_store(sqlite_url) as store:
        for seq in range(2_500):
            store.submit(record(seq), heard.append)
    await asyncio.sleep(0)
    assert heard == [True] * 2_500
    with open_store(sqlite_url) as store:
        assert store.counts().events == 2_500


async def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_too_much_at_once_is_refused_at_once(sqlite_url):
    async with open_store(sqlite_url, queue_size=10) as store:
        heard = []
        with store._lock:  # the disk stands still
            store.submit(record(0), heard.append)
            await until(lambda: not store.pending())
            for seq in range(1, 11):
                store.submit(record(seq), heard.append)
            with pytest.raises(StoreError, match="10 events wait for the disk"):
                store.submit(record(11), heard.append)
        await until(lambda: len(heard) == 11)
        assert await append(store, record(12)) == [True]


async def test_recent(url):
    async with open_store(url) as store:
        await append(store, *(record(seq, node=("kitchen", "cellar")[seq % 2], cascade=("a", "b")[seq // 2 % 2]) for seq in range(8)))
        assert [row.seq for row in store.recent(3)] == [7, 6, 5]
        assert [row.seq for row in store.recent(node="cellar")] == [7, 5, 3, 1]
        assert [row.seq for row in store.recent(node="cellar", cascade="b")] == [7, 3]
        third = store.recent()[-3]
        assert [row.seq for row in store.recent(2, since_id=third.id)] == [3, 4]
        assert store.recent(node="'; DROP TABLE events --") == []


# ---- what goes wrong


async def test_one_record_that_cannot_be_written_does_not_spoil_the_others(url):
    poison = record(2)._replace(event=record(2).event._replace(t_ms=2**70))
    async with open_store(url) as store:
        first, second, third = await append(store, record(1, window=WINDOW), poison, record(3, window=WINDOW))
        assert (first, third) == (True, True)
        assert isinstance(second, StoreError)
        assert [row.seq for row in store.recent()] == [3, 1]
        assert store._clip_bytes == store.counts().clip_bytes == 2 * 512


async def test_a_full_disk_is_told_and_survived(sqlite_url):
    errors = []
    async with open_store(sqlite_url, lambda rows, seconds, error: errors.append(error)) as store:
        await append(store, record(0))
        with store.writing() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
        results = await append(store, *(record(seq, window=WINDOW._replace(data=bytes(60_000))) for seq in range(1, 9)))
        assert all(isinstance(result, StoreError) and "full" in str(result) for result in results)
        assert [row.seq for row in store.recent()] == [0]
        with store.writing() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert await append(store, *(record(seq) for seq in range(1, 9))) == [True] * 8
    assert [error is None for error in errors][0::2] == [True, True]


async def test_a_bug_reaches_the_submitters_and_the_writer_lives(sqlite_url, monkeypatch, caplog):
    async with open_store(sqlite_url) as store:
        with monkeypatch.context() as broken:
            broken.setattr("gatewayd.store.insert_events", lambda *_: 1 / 0)
            broken.setattr("gatewayd.store.translated", database.translated)
            (result,) = await append(store, record(1))
            assert isinstance(result, StoreError)
        assert await append(store, record(1)) == [True]


async def test_a_file_that_is_no_database(tmp_path, sqlite_url):
    (tmp_path / "g.db").write_bytes(b"not a database" * 1_000)
    with pytest.raises(StoreError, match="not a database"):
        async with open_store(sqlite_url):
            pass


def test_only_the_daemon_makes_a_database(tmp_path, sqlite_url):
    with pytest.raises(StoreError, match="has gatewayd run yet"), open_store(sqlite_url):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", ["nonsense", "oracle://x/y", "nosuch+driver://x"])
def test_a_bad_url(bad):
    with pytest.raises((ConfigError, StoreError)), open_store(bad):
        pass


_VICTIM = """
import asyncio, sys, time
sys.path.insert(0, {tests!r})
from test_store import open_store, record
async def main():
    async with open_store({url!r}) as store:
        def said(seq, result):
            if result is True: print(seq, flush=True)
        for seq in range({first}, 10**9):
            store.submit(record(seq, window=None), lambda result, seq=seq: said(seq, result))
            if seq % 50 == 0: await asyncio.sleep(0.002)
asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(sqlite_url):
    acknowledged = []
    for first in (0, 10**6, 2 * 10**6):
        code = _VICTIM.format(tests=str(Path(__file__).parent), url=sqlite_url, first=first)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as victim:
            acknowledged += [int(victim.stdout.readline()) for _ in range(300)]
            victim.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in victim.stdout if line.endswith(b"\n")]
    with open_store(sqlite_url) as store:
        seqs = [row.seq for row in store.recent(10**9)]
    assert set(acknowledged) <= set(seqs)
    assert len(seqs) == len(set(seqs))


# ---- versions

_V1 = "".join(f"{statement};".format_map(database._TYPES["sqlite"]) for statement in (database._META, *database._STEPS[0])) + (
    "INSERT INTO meta VALUES ('schema_version', 1);"
    "INSERT INTO nodes VALUES ('kitchen', 1, 1.0, 2.0, 7, NULL);"
    f"INSERT INTO events VALUES (41, 'kitchen', 7, 1, {NOW_S}, 'wakeword', x'0011223344556677', 0.5, 0, 9, 'audit', NULL,"
    " NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0.0, 0.0, 0.0);"
    f"INSERT INTO windows VALUES (41, {NOW_S}, 2, 'pcm16', 16000, 1, '[1]', NULL, NULL, x'0102');"
)


async def test_an_older_database_is_brought_to_today(tmp_path, sqlite_url):
    with sqlite3.connect(tmp_path / "g.db") as old:
        old.executescript(_V1)
    old.close()
    async with open_store(sqlite_url) as store:
        event, window = store.event(41)
        assert (event.node, event.seq, window.data) == ("kitchen", 1, b"\1\2")
        assert store.load_nodes()[0].keys == ((7, 1),)
        assert await append(store, record(1)) == [False]
        with store.reading() as connection:
            assert connection.scalar(sa.text("SELECT value FROM meta WHERE key = 'schema_version'")) == database.VERSION
            assert {"events_of_node", "events_judged"} <= set(connection.scalars(sa.text("SELECT name FROM sqlite_master")))
        assert store.nodes()[0].labels == ()
        assert store.label("kitchen", ["mains"], []) == ("mains",)


async def test_a_step_that_fails_leaves_the_version_before(url, monkeypatch):
    broken = (*database._STEPS[:1], (database._STEPS[1][0], "CREATE NONSENSE"))
    with monkeypatch.context() as patch:
        patch.setattr(database, "_STEPS", broken)
        with pytest.raises(StoreError):
            async with open_store(url):
                pass
    async with open_store(url) as store:  # events_of_node would be there already
        assert await append(store, record(1)) == [True]


_ADDITION = ("ALTER TABLE nodes ADD COLUMN room TEXT NOT NULL DEFAULT ''", "CREATE TABLE rooms (id TEXT PRIMARY KEY)")


def newer(patch, since):
    """A gatewayd with a step more."""
    patch.setattr(database, "_STEPS", (*database._STEPS, _ADDITION))
    patch.setattr(database, "VERSION", database.VERSION + 1)
    patch.setattr(database, "COMPATIBLE_SINCE", since)


async def test_a_downgrade_goes_on_with_the_data_and_so_does_the_upgrade_after_it(url, monkeypatch):
    async with open_store(url) as store:
        await append(store, record(1))
    with monkeypatch.context() as patch:
        newer(patch, since=database.VERSION)
        async with open_store(url) as store:
            await append(store, record(2))
    async with open_store(url) as store:
        await append(store, record(3))
        store.enroll("attic", True, NOW_S)
    with monkeypatch.context() as patch:
        newer(patch, since=database.VERSION)
        async with open_store(url) as store:
            assert {row.seq for row in store.recent(9)} == {1, 2, 3}
            with store.reading() as connection:
                assert connection.scalar(sa.text("SELECT room FROM nodes WHERE id = 'attic'")) == ""


async def test_a_database_that_this_version_would_misread_is_refused(url, monkeypatch):
    with monkeypatch.context() as patch:
        newer(patch, since=database.VERSION + 1)
        async with open_store(url) as store:
            await append(store, record(1))
    with pytest.raises(StoreError, match="install the newer gatewayd"):
        async with open_store(url):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_does_leaves_the_files_to_the_daemon(tmp_path, sqlite_url):
    """SQLite gives what it makes as root to the owner of the database; a bundle is ours to give."""
    with sqlite3.connect(tmp_path / "g.db") as made:
        made.executescript(_V1)
    made.close()
    for path in (tmp_path, tmp_path / "g.db"):
        shutil.chown(path, "nobody", "nogroup")
    with open_store(sqlite_url) as store:
        store.enroll("attic", True, NOW_S)
        operations._keep(b"bundle", tmp_path / "bundles")
        made = {path.name: path.owner() for path in tmp_path.rglob("*")}
    assert {"g.db-wal", "g.db-shm", "bundles"} <= set(made)
    assert set(made.values()) == {"nobody"}


async def test_the_tables_in_code_are_those_in_the_database(url):
    async with open_store(url) as store:
        inspector = sa.inspect(store._engine)
        for table in (value for value in vars(database).values() if isinstance(value, sa.TableClause)):
            assert [column["name"] for column in inspector.get_columns(table.name)] == table.c.keys()


async def test_sqlite_is_set_up_for_power_cuts_and_secrets(sqlite_url):
    expected = {"journal_mode": "wal", "synchronous": 2, "auto_vacuum": 2, "secure_delete": 1}
    async with open_store(sqlite_url) as store:
        with store.reading() as connection:
            of = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in expected}
    assert of == expected


# ---- retention


def sweep(store, now_s=NOW_S):
    while store._sweep(now_s):
        assert store._clip_bytes == store.counts().clip_bytes
    assert store._clip_bytes == store.counts().clip_bytes


async def test_clips_go_by_age_and_records_stay(url):
    async with open_store(url, clips_days=2) as store:
        await append(store, *(record(seq, window=WINDOW, at_s=NOW_S - seq * DAY_S) for seq in range(40)))
        sweep(store)
        assert store.counts()[1:] == (40, 3, 3 * 512)
        kept = [row.seq for row in store.recent() if store.event(row.id)[1]]
        assert sorted(kept) == [0, 1, 2]


async def test_the_oldest_clips_go_by_size(url):
    async with open_store(url, clips_max_bytes=5 * 512 + 1) as store:
        await append(store, *(record(seq, window=WINDOW, at_s=NOW_S - seq) for seq in range(40)))
        sweep(store)
        kept = [row.seq for row in store.recent() if store.event(row.id)[1]]
        assert sorted(kept) == [0, 1, 2, 3, 4]


async def test_no_clip_is_kept_where_policy_says_none(url):
    async with open_store(url, clips_days=0) as store:
        await append(store, *(record(seq, window=WINDOW) for seq in range(3)))
        assert store.counts()[1:] == (3, 0, 0)


async def test_records_go_by_age_with_their_clips(url):
    async with open_store(url, clips_days=100, events_days=2) as store:
        await append(store, *(record(seq, window=WINDOW, at_s=NOW_S - seq * DAY_S) for seq in range(1_200)))
        sweep(store)
        assert store.counts()[1:] == (3, 3, 3 * 512)


async def test_records_go_by_number(url):
    async with open_store(url, events_max_rows=100) as store:
        await append(store, *(record(seq) for seq in range(1_200)))
        sweep(store)
        assert [row.seq for row in store.recent(1_000)] == list(range(1_199, 1_099, -1))


async def test_a_clock_that_was_ahead_holds_nothing_back(url):
    async with open_store(url, events_days=2, clips_days=2) as store:
        await append(store, record(0, window=WINDOW, at_s=NOW_S + 9 * DAY_S), record(1, window=WINDOW, at_s=NOW_S - 9 * DAY_S))
        sweep(store)
        assert [row.seq for row in store.recent()] == [0]


async def test_space_goes_back_to_the_disk(tmp_path, sqlite_url):
    async with open_store(sqlite_url) as store:
        await append(store, *(record(seq, window=WINDOW._replace(data=bytes(64_000))) for seq in range(400)))
        with store.reading() as connection:
            before = connection.exec_driver_sql("PRAGMA page_count").scalar()
        sweep(store, NOW_S + 30 * DAY_S)
        with store.reading() as connection:
            after = connection.exec_driver_sql("PRAGMA page_count").scalar()
        assert after < before - 1_000
        assert await append(store, record(500)) == [True]


async def test_the_writer_sweeps_by_itself(sqlite_url):
    async with open_store(sqlite_url, clips_days=1) as store:
        await append(store, *(record(seq, window=WINDOW, at_s=1.0) for seq in range(20)))
    async with open_store(sqlite_url, clips_days=1) as store:
        await until(lambda: not store.counts().clips)


# ---- nodes


def make_node(name, **fields):
    return Node(name, **{"session": 7, "info": INFO, "links": {"mqtt": Link(0), "ble": Link(0)}, "heard_unix_s": NOW_S, **fields})


async def saved(store, *nodes):
    store.save_nodes(nodes)
    await until(lambda: not store._unsaved and not store._lock.locked())


async def test_nodes_outlive_a_restart(url):
    async with open_store(url) as store:
        store.save_nodes([make_node(f"node-{i}", enrolled=i % 2 == 0) for i in range(1_100)])
        store.save_nodes([make_node("node-1", session=8, info=None, heard_unix_s=NOW_S + 5)])
    async with open_store(url) as store:
        nodes = {node.id: node for node in store.nodes()}
        assert len(nodes) == 1_100
        assert nodes["node-2"] == ("node-2", True, NOW_S, NOW_S, 7, INFO, (), (), ("ble", "mqtt"))
        assert nodes["node-1"] == ("node-1", False, NOW_S + 5, NOW_S + 5, 8, None, (), (), ("ble", "mqtt"))


async def test_saving_a_node_does_not_touch_its_enrolment(url):
    async with open_store(url) as store:
        await saved(store, make_node("kitchen"))
        assert store.enroll("kitchen", enrolled=True, now_s=NOW_S)
        await saved(store, make_node("kitchen", enrolled=False, heard_unix_s=NOW_S + 1))
        assert store.nodes()[0][:4] == ("kitchen", True, NOW_S, NOW_S + 1)


async def test_another_process_enrolls(url):
    async with open_store(url) as daemon:
        await saved(daemon, make_node("kitchen"))
        before = daemon.changes()
        with open_store(url) as tool:
            assert tool.enroll("kitchen", enrolled=True, now_s=NOW_S)
            assert not tool.enroll("stranger", enrolled=True, now_s=NOW_S)
            assert tool.enroll("stranger", enrolled=False, now_s=NOW_S)
        assert daemon.changes() == before + 3
        assert daemon.enrolments() == {"kitchen": True, "stranger": False}
        await append(daemon, record(1))
        assert daemon.changes() == before + 3


async def test_labels(url):
    async with open_store(url) as store:
        await saved(store, make_node("kitchen"))
        assert store.label("kitchen", ["mains", "ground-floor"], []) == ("ground-floor", "mains")
        assert store.label("kitchen", ["beta", "mains"], ["ground-floor", "never-had"]) == ("beta", "mains")
        assert store.label("stranger", ["mains"], []) is None
        await saved(store, make_node("kitchen", session=9))
        assert [(node.id, node.session, node.labels) for node in store.nodes()] == [("kitchen", 9, ("beta", "mains"))]


async def test_the_newest_keys_of_each_node(url):
    async with open_store(url) as store:
        await saved(store, make_node("kitchen"), make_node("cellar"), make_node("silent"))
        await append(store, *(record(seq, session=6) for seq in range(100)), *(record(seq, session=7) for seq in range(3)))
        await append(store, record(9, node="cellar"), record(1, node="nobody"))
        keys = {node.id: node.keys for node in store.load_nodes(newest=5)}
        assert {node: set(of) for node, of in keys.items()} == {
            "kitchen": {(6, 98), (6, 99), (7, 0), (7, 1), (7, 2)},
            "cellar": {(7, 9)},
            "silent": set(),
        }


async def test_an_info_of_another_version_is_forgotten(url):
    async with open_store(url) as store:
        await saved(store, make_node("kitchen"))
        with store.writing() as connection:
            connection.execute(sa.update(database.nodes).values(info=b"\xa1\x18\x63\x00"))
        assert store.nodes()[0].info is None


async def test_nodes_that_cannot_be_saved_now_are_saved_later(sqlite_url, monkeypatch, caplog):
    def refuse(*_):
        raise StoreError("no")

    async with open_store(sqlite_url) as store:
        with monkeypatch.context() as broken:
            broken.setattr("gatewayd.store.upsert_nodes", refuse)
            store.save_nodes([make_node("kitchen", session=1)])
            await until(lambda: "nodes not saved" in caplog.text)
        await saved(store, make_node("cellar"))
        assert [node.id for node in store.nodes()] == ["cellar", "kitchen"]
