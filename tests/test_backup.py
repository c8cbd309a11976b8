"""backup, restore and state: a gateway in one file and back, while it works, and when the power is cut at every step."""

import hashlib
import io
import itertools
import json
import os
import shutil
import sqlite3
import tarfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from live import Live, all_of, load, until

from gatewayd import audit, backup, config, nodekeys, state
from gatewayd.errors import StoreError
from gatewayd.restore import restore
from gatewayd.store import Store

needs_creds = pytest.mark.skipif(not shutil.which("systemd-creds") or os.geteuid() != 0, reason="needs systemd-creds, and its key")
needs_mosquitto = pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto")


def nothing(_step, _done, _total):
    """Nobody looks at how far it is."""


class PowerCutError(BaseException):
    """No code of ours catches it, as none would run."""


class Gateway:
    """The files of one, without the process."""

    def __init__(self, folder):
        self.folder = folder
        self.state = folder / "state"
        self.toml = folder / "etc" / "gatewayd.toml"
        for path in (self.state / "bundles", self.toml.parent):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def settings(self):
        return config.load(self.toml)

    def fill(self, word):
        """All that a gateway has, and all of it says `word`."""
        self.toml.with_name("operator.pem.pub").write_text(f"key {word}")
        self.toml.with_name("broker-password").write_text(f"password {word}")
        elsewhere = self.folder / "elsewhere.pem"
        elsewhere.write_text("not ours")
        self.toml.write_text(
            f'[gateway]\nid = "{word}"\nstate_dir = "{self.state}"\n[cascades]\nkeys = ["{self.toml.with_name("operator.pem.pub")}"]\n'
            f'[enrolment]\nacl_file = "{self.folder / "mosquitto" / "acl"}"\n'
            f'[mqtt]\npassword_file = "{self.toml.with_name("broker-password")}"\nca_file = "{elsewhere}"\n'
        )
        for old in (self.state / "bundles").iterdir():
            old.unlink()
        (self.state / "bundles" / f"{word}.bundle").write_text(f"bundle {word}")
        (self.state / "bundles" / f".{word}.partial").write_text("half a bundle")
        (self.state / "bonds.json").write_text(f"bonds {word}")
        (self.state / state.DATABASE).unlink(missing_ok=True)
        store = Store(config.Store(), self.settings.store_url)
        store._open(create=True)
        store.enroll(f"{word}-1", enrolled=True, now_s=1.0)
        store._close()

    def said(self):
        """What each part says."""
        with closing(sqlite3.connect(self.state / state.DATABASE)) as database:
            nodes = [row[0] for row in database.execute("SELECT id FROM nodes")]
        bundles = sorted(path.name for path in (self.state / "bundles").glob("[!.]*"))
        files = [self.toml.with_name("operator.pem.pub"), self.toml.with_name("broker-password"), self.state / "bonds.json"]
        return nodes, bundles, config.load(self.toml).gateway.id, [path.read_text() for path in files]

    def backup(self, name="gateway.tar"):
        backup.make(self.settings, self.toml, self.folder / name, nothing)
        return self.folder / name

    def restore(self, archive):
        return restore(archive, self.toml, {}, nothing)


@pytest.fixture
def gateway(tmp_path):
    (tmp_path / "mosquitto").mkdir()
    return Gateway(tmp_path)


def saying(word):
    return [f"{word}-1"], [f"{word}.bundle"], word, [f"key {word}", f"password {word}", f"bonds {word}"]


def test_there_and_back(gateway):
    gateway.fill("old")
    passwords = gateway.folder / "mosquitto" / "passwords"
    passwords.write_text("gatewayd:$7$old")
    archive = gateway.backup()
    gateway.fill("new")
    (gateway.state / ".restoring-killed").mkdir()
    passwords.write_text("gatewayd:$7$new")
    passwords.chmod(0o640)
    done = gateway.restore(archive)
    assert gateway.said() == saying("old")
    assert (passwords.read_text(), done.manifest.gateway, done.manifest.nodes) == ("gatewayd:$7$old", "old", 1)
    assert done.manifest.left_out == (str(gateway.folder / "elsewhere.pem"),)
    kept = {str(path.relative_to(done.kept)): path.read_bytes() for path in done.kept.rglob("*") if path.is_file()}
    assert kept["bundles/new.bundle"] == b"bundle new"
    assert kept["config/broker-password"] == b"password new"
    assert kept["mosquitto/passwords"] == b"gatewayd:$7$new"
    assert kept["gatewayd.db"][:15] == b"SQLite format 3"
    assert [path.name for path in gateway.state.glob(".*")] == []


def test_a_backup_is_for_its_owner_and_nothing_else_stays(gateway):
    gateway.fill("old")
    archive = gateway.backup()
    assert archive.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in gateway.folder.iterdir()) == ["elsewhere.pem", "etc", "gateway.tar", "mosquitto", "state"]
    with tarfile.open(archive) as tar:
        assert tar.getnames()[-1] == backup.MANIFEST
        assert not any("partial" in name or "elsewhere" in name for name in tar.getnames())


def test_on_a_new_machine(gateway, tmp_path):
    gateway.fill("old")
    archive = gateway.backup()
    shutil.rmtree(gateway.state)
    shutil.rmtree(gateway.toml.parent)
    gateway.restore(archive)
    assert gateway.said() == saying("old")
    assert gateway.toml.stat().st_mode & 0o777 == 0o644  # as it was
    assert (gateway.state / state.DATABASE).stat().st_mode & 0o777 == 0o600


@contextmanager
def power_cut(monkeypatch, folder, steps):
    """The power is cut after so many changes of names below `folder`. Yields a list that holds what was cut."""
    done, cut = itertools.count(), []

    def counting(name):
        real = getattr(Path, name)

        def step(path, *arguments, **named):
            if cut or (path.is_relative_to(folder) and next(done) >= steps):
                cut.append(name)
                raise PowerCutError
            return real(path, *arguments, **named)

        return step

    with monkeypatch.context() as cutting, suppress(PowerCutError):
        for name in ("rename", "replace", "rmdir", "mkdir"):
            cutting.setattr(Path, name, counting(name))
        yield cut


def test_wherever_the_power_is_cut_it_is_the_old_gateway_or_the_new_one(gateway, monkeypatch):
    """The next start, or the next restore, completes what was decided; before that, nothing of the state has changed."""
    gateway.fill("old")
    archive = gateway.backup()
    seen = []
    for steps in itertools.count():
        gateway.fill("new")
        with power_cut(monkeypatch, gateway.folder, steps) as cut:
            gateway.restore(archive)
        with state.hold(gateway.state):  # as the daemon does
            nodes, bundles, _, files = gateway.said()
        seen.append(nodes[0].removesuffix("-1"))
        expected = saying(seen[-1])
        assert (nodes, bundles, files[2]) == (*expected[:2], expected[3][2])
        if seen[-1] == "old":  # then the configuration, which goes first, is there too
            assert gateway.said() == expected
        gateway.restore(archive)  # and whatever has happened, it can be done again
        assert gateway.said() == saying("old")
        for path in gateway.state.glob(f"{state.KEPT}*"):
            shutil.rmtree(path)
        if not cut:
            break
    assert seen == sorted(seen)  # "new" until it was decided
    assert (seen.count("new"), seen.count("old")) > (5, 5)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root, to become the daemon's user")
def test_the_daemon_completes_what_root_has_begun(gateway, monkeypatch):
    gateway.fill("old")
    archive = gateway.backup()
    gateway.fill("new")
    for above in (gateway.folder, *gateway.folder.parents):
        if above.name.startswith(("pytest-", "test_")):
            above.chmod(0o755)
    for path in (gateway.state, *gateway.state.rglob("*")):
        shutil.chown(path, "nobody", "nogroup")

    def cut(_folder):
        raise PowerCutError

    with monkeypatch.context() as cutting, suppress(PowerCutError):
        cutting.setattr(state, "_finish", lambda folder: cut(folder) if [*folder.glob(f"{state.DECIDED}*")] else None)
        gateway.restore(archive)
    nobody = gateway.state.stat()
    os.setegid(nobody.st_gid)
    os.seteuid(nobody.st_uid)
    try:
        with state.hold(gateway.state):
            pass
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert gateway.said() == saying("old")
    assert {path.stat().st_uid for path in gateway.state.glob("*")} == {nobody.st_uid}
    (kept,) = gateway.state.glob(f"{state.KEPT}*")
    assert (kept / "config").stat().st_uid == 0  # what only root could read stays so


def test_what_is_left_of_the_old_database_is_not_taken_for_the_new_ones(gateway):
    """A write-ahead log beside another database would destroy it."""
    gateway.fill("old")
    archive = gateway.backup()
    gateway.fill("new")
    database = sqlite3.connect(gateway.state / state.DATABASE)
    try:  # not closed: as after a crash
        database.execute("UPDATE nodes SET id = 'of-the-log'")
        database.commit()
        wal = gateway.state / f"{state.DATABASE}-wal"
        assert wal.stat().st_size > 0
        done = gateway.restore(archive)
        assert not wal.exists()
        assert (done.kept / wal.name).exists()
    finally:
        database.close()
    assert gateway.said() == saying("old")


# ---- what is refused, and then nothing has changed


def rewritten(archive, change):
    """The archive with its members changed."""
    with tarfile.open(archive) as tar:
        members = {about.name: tar.extractfile(about).read() for about in tar}
    members = change(members)
    with tarfile.open(archive, "w") as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))


def manifest(archived, **changes):
    return {**archived, backup.MANIFEST: json.dumps({**json.loads(archived[backup.MANIFEST]), **changes}).encode()}


def renamed(members, old, new):
    said = json.loads(members[backup.MANIFEST])["members"]
    members = {new if name == old else name: data for name, data in members.items()}
    return manifest(members, members={new if name == old else name: value for name, value in said.items()})


def newer_schema(members, folder):
    file = folder / "newer.db"
    file.write_bytes(members["state/gatewayd.db"])
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE meta SET value = 999 WHERE key IN ('schema_version', 'compatible_since')")
        database.commit()
    return resealed({**members, "state/gatewayd.db": file.read_bytes()}, "state/gatewayd.db")


def resealed(members, name):
    said, data = json.loads(members[backup.MANIFEST])["members"], members[name]
    return manifest(members, members={**said, name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, _: {**m, "state/bonds.json": b"bonds 0ld"}, "bonds.json is damaged"),
        (lambda m, _: {k: v for k, v in m.items() if k != "state/bonds.json"}, "bonds.json is not there"),
        (lambda m, _: {"state/more": b"", **m}, "state/more is not what the manifest says"),
        (lambda m, _: {k: v for k, v in m.items() if k != backup.MANIFEST}, "no whole backup"),
        (lambda m, _: manifest(m, format="gatewayd-backup/2"), "manifest.json: Input should be"),
        (lambda m, _: {**m, backup.MANIFEST: b"{"}, "manifest.json: Invalid JSON"),
        (lambda m, _: renamed(m, "state/bonds.json", "state/../../escaped"), "manifest.json"),
        (lambda m, _: renamed(m, "state/bonds.json", "/etc/escaped"), "manifest.json"),
        (lambda m, _: renamed(m, "state/bonds.json", "config/.hidden"), "manifest.json"),
        (
            lambda m, _: resealed({**m, "state/gatewayd.db": m["state/gatewayd.db"][:5000] + b"x" * 20_000}, "state/gatewayd.db"),
            "gatewayd.db",
        ),
        (newer_schema, "install that first"),
    ],
)
def test_what_is_not_whole_is_refused(gateway, change, said):
    gateway.fill("old")
    archive = gateway.backup()
    rewritten(archive, lambda members: change(members, gateway.folder))
    gateway.fill("new")
    before = sorted(gateway.folder.rglob("*"))
    with pytest.raises(StoreError, match=said):
        gateway.restore(archive)
    assert gateway.said() == saying("new")
    assert sorted(gateway.folder.rglob("*")) == before


def test_a_file_that_was_cut_short_is_refused(gateway):
    gateway.fill("old")
    archive = gateway.backup()
    whole = archive.read_bytes()
    gateway.fill("new")
    for size in (0, 100, 5_000, len(whole) // 2, len(whole) - 12_000):
        archive.write_bytes(whole[:size])
        with pytest.raises(StoreError):
            gateway.restore(archive)
        assert gateway.said() == saying("new")


def test_a_link_in_the_archive_is_not_followed(gateway):
    gateway.fill("old")
    archive = gateway.backup()
    with tarfile.open(archive, "a") as tar:
        about = tarfile.TarInfo("state/link")
        about.type, about.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(about)
    gateway.fill("new")
    with pytest.raises(StoreError, match="state/link is not what"):
        gateway.restore(archive)


def test_a_damaged_database_is_not_backed_up(gateway):
    gateway.fill("old")
    with closing(sqlite3.connect(gateway.state / state.DATABASE)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'events_of_node'")
        database.commit()
    with pytest.raises(StoreError, match=r"gatewayd\.db"):
        gateway.backup()
    assert not (gateway.folder / "gateway.tar").exists()


# ---- as an operator


def test_the_operators_commands(ctl, gateway, monkeypatch):
    gateway.fill("old")
    monkeypatch.setenv("GATEWAYD_CONFIG", str(gateway.toml))
    archive = gateway.folder / "b.tar"
    status, out, err = ctl("backup", archive)
    assert (status, out.startswith(f"{archive}: old as of ")) == (0, True)
    assert "1 nodes, 0 events, 6 files" in out
    assert f"not in it: {gateway.folder / 'elsewhere.pem'}" in err
    status, _, err = ctl("backup", archive)
    assert (status, "--force overwrites it" in err) == (os.EX_CONFIG, True)
    status, out, _ = ctl("backup", archive, "--force", "--json")
    assert json.loads(out)["members"]["state/bonds.json"]["size_bytes"] == len("bonds old")
    gateway.fill("new")
    status, out, _ = ctl("restore", archive, "--yes")
    assert (status, "what was there before is in" in out) == (0, True)
    with Store(config.Store(), gateway.settings.store_url) as store:
        assert [(entry.what, entry.target, entry.detail) for entry in audit.entries(store)] == [
            ("gateway.restore", "old", str(archive)),
            ("gateway.backup", "old", str(archive)),  # the first one: the second was made after it
        ]


@needs_creds
def test_another_machine_reads_the_keys_with_the_passphrase(ctl, gateway, monkeypatch):
    gateway.fill("old")
    monkeypatch.setenv("GATEWAYD_CONFIG", str(gateway.toml))
    (gateway.folder / "broker").mkdir()
    (gateway.folder / "mosquitto" / "acl").write_text("user gatewayd\n")
    places = f'credential = "{gateway.toml.parent}/node-keys.cred"\nbroker_dir = "{gateway.folder}/broker"\n[mqtt]'
    gateway.toml.write_text(gateway.toml.read_text().replace("[mqtt]", places))
    keys = nodekeys.NodeKeys(gateway.settings.enrolment)
    keys.add("kitchen", b"k" * 32)
    archive, right, wrong = (gateway.folder / name for name in ("b.tar", "right", "wrong"))
    right.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    assert "on this machine only" in ctl("backup", archive)[2]
    assert "on this machine only" not in ctl("backup", archive, "--force", "--passphrase-file", right)[2]
    assert (b"k" * 32).hex().encode() not in archive.read_bytes()
    (gateway.toml.parent / "node-keys.cred").write_bytes(b"of another machine")
    plain = gateway.folder / "plain.tar"
    backup.make(gateway.settings, gateway.toml, plain, nothing)
    (gateway.folder / "broker" / "psk").unlink()

    status, _, err = ctl("restore", archive, "--yes", "--passphrase-file", wrong)
    assert (status, "not the passphrase" in err, (gateway.folder / "broker" / "psk").exists()) == (os.EX_CONFIG, True, False)
    status, _, err = ctl("restore", plain, "--yes")  # as if it came from there
    assert (status, "this machine cannot read the nodes' keys" in err, "node rotate" in err) == (0, True, True)
    status, _, err = ctl("restore", archive, "--yes", "--passphrase-file", right)
    assert (status, err) == (0, "")
    assert keys.nodes() == {"kitchen"}
    assert (gateway.folder / "broker" / "psk").read_text() == f"kitchen:{(b'k' * 32).hex()}\n"


def test_postgresql_has_its_own_tools(ctl, tmp_path):
    for command in (("backup", tmp_path / "x"), ("restore", tmp_path / "x", "--yes")):
        status, _, err = ctl(*command, "--set", "store.url=postgresql+psycopg://gatewayd:secret@db/x")
        assert (status, "secret" in err) == (os.EX_CONFIG if command[0] == "backup" else 1, False)
    assert "pg_dump" in ctl("backup", tmp_path / "x", "--set", "store.url=postgresql+psycopg://gatewayd:secret@db/x")[2]


# ---- with a gateway that runs


@needs_mosquitto
@pytest.mark.slow
async def test_under_load_nothing_acknowledged_is_lost_and_nothing_comes_twice(tmp_path):
    """Three backups while events pour in; the last one is restored, and the events that came after it come once more."""
    live = Live(tmp_path)
    archive = tmp_path / "b.tar"
    async with live.broker():
        async with live.gateway() as gateway, load(live) as busy:
            for turn in range(3):
                busy.burst(2_000)
                await until(lambda: len(live.stored()) > busy.sent - 1_900, live.said)
                before = live.keys()
                status, said = await live.ctl("backup", archive, "--force", "--json", "-c", live.config)
                assert status == 0, said
                inside = events_in(archive, tmp_path / f"{turn}.db")
                assert before <= inside <= all_of("busy", busy.sent)
            busy.burst(500)
            status, said = await live.ctl("restore", archive, "--yes", "-c", live.config)
            assert (status, "is running" in said) == (1, True)
            await busy.settled()
            await until(lambda: len(live.stored()) == busy.sent)
            assert gateway.returncode is None
        status, said = await live.ctl("restore", archive, "--yes", "-c", live.config)
        assert status == 0, said
        assert live.keys() == inside
        async with live.gateway(), load(live) as again:
            again.burst(busy.sent)  # as a node would that has kept them all
            await again.settled()
            await until(lambda: live.series("gatewayd_duplicates_total") == len(inside), live.said)
            await until(lambda: len(live.stored()) == busy.sent, live.said)
        assert live.keys() == all_of("busy", busy.sent)
    assert "Traceback" not in live.said()


def events_in(archive, database):
    """The keys of the events in a backup."""
    with tarfile.open(archive) as tar:
        database.write_bytes(tar.extractfile("state/gatewayd.db").read())
    with closing(sqlite3.connect(database)) as copy:
        return set(copy.execute("SELECT node, session, seq FROM events"))


async def test_two_gateways_do_not_share_a_state_folder(tmp_path):
    live = Live(tmp_path)
    async with live.start():
        await until(lambda: live.series("gatewayd_mqtt_connected") == 0, live.said)
        status, said = await live.ctl("run", "-c", live.config, "-s", "http.port=0")
        assert (status, "a gatewayd, or a restore, is running" in said) == (1, True)
