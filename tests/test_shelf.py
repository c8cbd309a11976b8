"""shelf: bundles on a disk that fails, fills up and loses power, under keys that are withdrawn."""

import asyncio
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import fake_model
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from live import Live, Node, event
from test_faults import fill

from gatewayd import bundle, config
from gatewayd.core import image
from gatewayd.errors import CascadeError, RefusedError
from gatewayd.escalators.workers import WorkerPool
from gatewayd.judges import Judges
from gatewayd.ledger import Ledger
from gatewayd.shelf import KEPT, Shelf
from gatewayd.store import Store

VIBRATION = Path(__file__).parent.parent / "cascades" / "vibration"
KEY = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
KEYS = {image.key_hash(KEY.public_key()): KEY.public_key()}


def cascade(path, version):
    """The vibration cascade with another name and a fake model on the gateway."""
    shutil.copytree(VIBRATION, path, ignore=shutil.ignore_patterns("__pycache__"))
    file = path / "cascade.toml"
    text = (
        file.read_text()
        .replace('version = "1.0.0"', f'version = "{version}"')
        .replace('[gateway]\nkind = "vibration"', '[gateway]\nkind = "fake"')
    )
    text = text.replace('name = "vibration"', 'name = "fake"')
    file.write_text(text.replace("[gateway.settings]", f'[gateway.settings]\nname = "fake {version}"'))
    return bundle.read(path)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two versions' bundles, as bytes."""
    folder = tmp_path_factory.mktemp("cascades")
    return {version: bundle.build(cascade(folder / version, version), counter=1, key=KEY) for version in ("1.1.0", "1.2.0")}


class Place:
    """A shelf and what it said."""

    def __init__(self, folder, keys=KEYS):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.refused = []
        self.shelf = Shelf(folder, keys, self.refused.append)

    def put(self, data, name=None):
        """As gatewayctl does it."""
        name = name or hashlib.sha256(data).hexdigest()
        (self.folder / f"{name}.bundle").write_bytes(data)
        return name

    def there(self):
        return sorted(path.name for path in self.folder.iterdir())

    def content(self, name):
        folder = self.folder / name
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "bundles")


def reason(ask, *arguments):
    with pytest.raises(RefusedError) as caught:
        ask(*arguments)
    return caught.value.reason


def test_what_was_put_there_comes_out(place, bundles):
    name = place.put(bundles["1.1.0"])
    opened = place.shelf.open(name)
    folder = place.shelf.unpack(name)
    assert folder.cascade == opened.cascade == bundle.read(folder.path).cascade
    assert place.content(name) == opened.members
    assert place.refused == []


def test_a_file_that_changed_on_disk_is_refused_and_counted(place, bundles):
    data = bundles["1.1.0"]
    name = place.put(data)
    place.shelf.unpack(name)
    for changed in (data[:-1], data + b"\0", bytes([data[0] ^ 1]) + data[1:], b"", bundles["1.2.0"]):
        place.put(changed, name)
        assert reason(place.shelf.open, name) == reason(place.shelf.unpack, name) == "digest"
    assert place.refused == ["digest"] * 10


def test_a_bundle_that_is_what_it_is_called_is_verified_all_the_same(place, bundles):
    assert reason(place.shelf.unpack, place.put(b"no bundle")) == "archive"
    withdrawn = Place(place.folder, keys={})
    assert reason(withdrawn.shelf.unpack, place.put(bundles["1.1.0"])) == "key"
    assert (place.refused, withdrawn.refused) == (["archive"], ["key"])
    assert not [entry for entry in place.there() if not entry.endswith(".bundle")]


def test_a_bundle_that_cannot_be_read_is_counted_too(place):
    with pytest.raises(CascadeError, match="No such file"):
        place.shelf.open("0" * 64)
    assert place.refused == ["disk"]


@pytest.mark.parametrize("damage", ["missing", "changed", "short"])
def test_a_folder_that_is_not_its_bundle_is_made_anew(place, bundles, damage):
    name = place.put(bundles["1.1.0"])
    card = place.shelf.unpack(name).path / bundle.CARD
    before = place.content(name)
    match damage:
        case "missing":
            card.unlink()
        case "changed":
            card.write_bytes(b"X" + card.read_bytes()[1:])
        case "short":
            card.write_bytes(b"")
    assert place.shelf.unpack(name).path == card.parent
    assert place.content(name) == before


class PowerCutError(BaseException):
    """Nothing catches it."""


def test_the_power_goes_at_every_point_of_unpacking(place, bundles, monkeypatch):
    name = place.put(bundles["1.1.0"])
    whole = dict(place.shelf.open(name).members)
    rmtree, fsync, rename = shutil.rmtree, os.fsync, Path.rename

    def unpack_until(point):
        """Whether the power went at the operation number `point`: a torn file, or a folder that has not its name yet."""
        left, dark = point, False

        def operation():
            nonlocal left, dark
            left -= 1
            dark = dark or left < 0
            return dark

        def cut_fsync(descriptor):
            if operation():
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                raise PowerCutError
            fsync(descriptor)

        def cut_rename(path, target):
            if operation():
                raise PowerCutError
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", cut_fsync)
            patch.setattr(Path, "rename", cut_rename)
            patch.setattr(shutil, "rmtree", lambda path, **how: None if dark else rmtree(path, **how))  # the dead do not tidy up
            try:
                place.shelf.unpack(name)
            except PowerCutError:
                return True
        return False

    cuts = 0
    while unpack_until(cuts):
        cuts += 1
        assert name not in place.there()
        if cuts % 2:  # what the next start finds; otherwise the power goes once more, over the leftovers
            assert place.shelf.unpack(name).path == place.folder / name
            assert place.content(name) == whole
            rmtree(place.folder / name)
    assert cuts == len(whole) + 1
    assert place.there() == [name, f"{name}.bundle"]
    assert place.content(name) == whole


def test_the_disk_is_full(tmp_path, bundles):
    disk = tmp_path / "bundles"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "gatewayd-test", disk], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs to mount a tmpfs: {done.stderr.strip()}")
    try:
        place = Place(disk)
        name = place.put(bundles["1.1.0"])
        fill(disk / "ballast")
        with pytest.raises(CascadeError, match="No space left"):
            place.shelf.unpack(name)
        assert place.there() == [f"{name}.bundle", "ballast"]
        assert place.refused == ["disk"]
        (disk / "ballast").unlink()
        assert place.content(place.shelf.unpack(name).path.name)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# ---- what is kept


def test_old_bundles_are_forgotten_and_what_is_needed_stays(place):
    names = [f"{n:064x}" for n in range(KEPT + 4)]
    for age, name in enumerate(reversed(names)):  # the first are the oldest
        file = place.folder / f"{name}.bundle"
        file.touch()
        os.utime(file, (10_000 - age, 10_000 - age))
        (place.folder / name / "deep").mkdir(parents=True)
    place.shelf.forget({names[0], names[-1]})
    stay = {names[0], *names[-KEPT - 1 :]}
    assert place.there() == sorted([*stay, *(f"{name}.bundle" for name in stay)])


def test_what_nobody_will_finish_is_forgotten(place):
    for name in (".old.partial", ".new.partial"):
        (place.folder / name / "x").mkdir(parents=True)
    (place.folder / ".old.bundle").touch()
    (place.folder / ("0" * 64)).mkdir()  # its bundle has gone already: a power cut
    for old in (".old.partial", ".old.bundle"):
        os.utime(place.folder / old, (0, 0))
    place.shelf.forget(())
    assert place.there() == [".new.partial"]


def test_forgetting_survives_a_disk_that_does_not(place, tmp_path, monkeypatch, caplog):
    Shelf(tmp_path / "none", KEYS).forget(())
    assert not caplog.text
    (place.folder / ("0" * 64)).mkdir()

    def fail(_path):
        raise OSError("read-only")

    monkeypatch.setattr(shutil, "rmtree", fail)
    place.shelf.forget(())
    assert "old bundles stay: read-only" in caplog.text


# ---- a start


def make_pool(folder):
    return WorkerPool("fake", bundle.gateway_settings(folder, folder.cascade.gateway), find=fake_model.find)


async def test_a_restart_goes_on_with_the_active_bundle(place, bundles, tmp_path):
    name = place.put(bundles["1.2.0"])
    folders = {"fake": cascade(tmp_path / "folder", "1.0.0")}
    cascades = await asyncio.to_thread(place.shelf.overlay, folders, {"fake": name})
    async with Judges(cascades, make_pool) as judges:
        judge = judges.current["fake"]
        opinion = await judge.escalator.classify(event(0), 60)
    assert (judge.cascade.version, opinion.model) == ("1.2.0", "fake 1.2.0")


def test_an_active_bundle_that_cannot_be_used_leaves_its_folder(place, bundles, tmp_path, caplog):
    good, bad = place.put(bundles["1.2.0"]), place.put(bundles["1.1.0"][:-1], "0" * 64)
    folders = {"fake": cascade(tmp_path / "folder", "1.0.0")}
    assert place.shelf.overlay(folders, {"fake": bad, "other": "1" * 64}) == folders
    assert place.refused == ["digest", "disk"]
    assert f"fake: its bundle {bad} cannot be used, its folder {tmp_path / 'folder'} judges: digest" in caplog.text
    assert "other: its bundle" in caplog.text
    withdrawn = Place(place.folder, keys={})
    assert withdrawn.shelf.overlay(folders, {"fake": good}) == folders
    assert withdrawn.refused == ["key"]


@pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto")
async def test_a_gateway_starts_with_its_active_bundle_or_without(tmp_path, bundles):
    public = tmp_path / "key.pub"
    public.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    live = Live(tmp_path, settings=f'keys = ["{public}"]')
    place = Place(live.state / "bundles")
    name = place.put(bundles["1.2.0"])

    async def judged(node, seq):
        await node.event(seq)
        await node.verdicts(1)
        return live.stored("judge, action")[-1]

    async with live.broker(), Node(live) as node:
        async with live.gateway():
            assert await judged(node, 0) == ("fake 1", "act")
        with Store(config.Store(), f"sqlite:///{live.state / 'gatewayd.db'}") as store:
            Ledger(store).activate("fake", name)
        async with live.gateway():
            assert await judged(node, 1) == ("fake 1.2.0", "inspect")
        place.put(bundles["1.2.0"][:-1], name)
        async with live.gateway():
            assert await judged(node, 2) == ("fake 1", "act")
            assert live.series('gatewayd_ota_refused_total{reason="digest"}') == 1
    assert f"its bundle {name} cannot be used, its folder {live.cascade} judges" in live.said()
    assert "Traceback" not in live.said()
