"""Keys of nodes: the broker's half at rest and in memory, whoever changes it, whenever the power fails."""

import os
import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gatewayd import config, nodekeys, state
from gatewayd.errors import ConfigError, TransportError
from gatewayd.nodekeys import NodeKeys, new_key, set_psk

HEAD = "user gatewayd\ntopic readwrite nodelink/1/#\nuser home\n"
KEY, OTHER = bytes(32), bytes(range(32))
needs_creds = pytest.mark.skipif(not shutil.which("systemd-creds") or os.geteuid() != 0, reason="needs systemd-creds, and root for its key")


@pytest.fixture
def settings(tmp_path):
    """Files of a site in the test's folder."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "etc" / "acl").write_text(HEAD)
    return config.Enrolment(
        credential=tmp_path / "etc" / "node-keys.cred",
        broker_dir=tmp_path / "run",
        acl_file=tmp_path / "etc" / "acl",
        broker_pid_file=tmp_path / "mosquitto.pid",
    )


@pytest.fixture
def keys(settings):
    return NodeKeys(settings)


def published(settings):
    """Lines of mosquitto's psk_file, and users of its acl_file."""
    acl = (settings.broker_dir / "acl").read_text()
    assert acl.startswith(HEAD)
    users = [line.removeprefix("user ") for line in acl.removeprefix(HEAD).splitlines() if line.startswith("user ")]
    return (settings.broker_dir / "psk").read_text().splitlines(), users


@needs_creds
def test_a_node_has_key_and_entry_together(settings, keys):
    keys.publish()
    assert published(settings) == ([], [])
    keys.add("kitchen", KEY)
    keys.add("cellar", OTHER)
    assert published(settings) == ([f"kitchen:{KEY.hex()}", f"cellar:{OTHER.hex()}"], ["kitchen", "cellar"])
    keys.replace("kitchen", OTHER)
    assert published(settings)[0][0] == f"kitchen:{OTHER.hex()}"
    assert keys.remove("kitchen")
    assert not keys.remove("kitchen")
    assert published(settings) == ([f"cellar:{OTHER.hex()}"], ["cellar"])
    assert keys.nodes() == {"cellar"}


@needs_creds
@pytest.mark.parametrize(
    ("change", "name"), [("add", "kitchen"), ("add", "gatewayd"), ("add", "gatewayd-2"), ("add", "home"), ("replace", "attic")]
)
def test_what_is_refused_changes_nothing(settings, keys, change, name):
    keys.add("kitchen", KEY)
    before = settings.credential.read_bytes()
    with pytest.raises(ConfigError, match=name):
        getattr(keys, change)(name, OTHER)
    assert settings.credential.read_bytes() == before
    assert published(settings) == ([f"kitchen:{KEY.hex()}"], ["kitchen"])


@needs_creds
def test_at_rest_nothing_of_a_key_is_to_be_seen(settings, keys):
    psk = new_key()
    keys.add("kitchen", psk)
    sealed = settings.credential.read_bytes()
    assert settings.credential.stat().st_mode & 0o777 == 0o600
    assert (settings.broker_dir / "psk").stat().st_mode & 0o777 == 0o640
    assert not any(secret in sealed for secret in (psk, psk.hex().encode(), b"kitchen"))
    assert {file.name for file in settings.credential.parent.iterdir()} == {"acl", "node-keys.cred"}


@needs_creds
def test_a_boot_makes_again_what_was_in_memory(settings, keys):
    keys.add("kitchen", KEY)
    before = published(settings)
    shutil.rmtree(settings.broker_dir)
    settings.broker_dir.mkdir()
    NodeKeys(settings).publish()
    assert published(settings) == before


class PowerCutError(Exception):
    """No code runs after it."""


@needs_creds
@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("after", [False, True])
def test_the_power_fails_at_each_file(settings, keys, monkeypatch, step, after):
    keys.add("kitchen", KEY)
    real, calls = Path.replace, []

    def cut(source, target):
        calls.append(target)
        if len(calls) == step + 1:
            if after:
                real(source, target)
            raise PowerCutError
        return real(source, target)

    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(PowerCutError):
        keys.add("cellar", OTHER)
    monkeypatch.undo()
    shutil.rmtree(settings.broker_dir)
    settings.broker_dir.mkdir()
    keys.publish()
    done = step > 0 or after  # the credential is the first of the files
    assert published(settings)[1] == (["kitchen", "cellar"] if done else ["kitchen"])
    assert keys.nodes() == {"kitchen", *(["cellar"] if done else [])}


@needs_creds
def test_many_at_once_lose_no_node(settings):
    names = [f"n{number}" for number in range(16)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: NodeKeys(settings).add(name, new_key()), names))
    assert NodeKeys(settings).nodes() == set(names)
    assert sorted(published(settings)[1]) == sorted(names)


@needs_creds
def test_a_credential_that_is_not_ours(settings, keys):
    keys.add("kitchen", KEY)
    before = (settings.broker_dir / "psk").read_bytes()
    sealed = bytearray(settings.credential.read_bytes())
    sealed[60] ^= 1
    settings.credential.write_bytes(sealed)
    with pytest.raises(ConfigError, match="systemd-creds decrypt"):
        keys.publish()
    assert (settings.broker_dir / "psk").read_bytes() == before
    subprocess.run(["systemd-creds", "encrypt", "--name=else", "-", settings.credential], input=b"a:00\n", check=True, capture_output=True)
    with pytest.raises(ConfigError, match="systemd-creds decrypt"):
        keys.nodes()


def test_without_systemd_creds(keys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="--psk-file"):
        keys.add("kitchen", KEY)


def test_before_the_service_has_made_the_folder(settings, keys):
    settings.broker_dir.rmdir()
    with pytest.raises(ConfigError, match=r"gatewayd-keys\.service"):
        keys.add("kitchen", KEY)
    assert not settings.credential.exists()


def test_without_an_access_list(settings, keys):
    settings.acl_file.unlink()
    with pytest.raises(ConfigError, match="acl"):
        keys.publish()


# ---- mosquitto's ear


@pytest.mark.parametrize("text", [None, "", "x", "1", "99999999", str(os.getpid())])
def test_nobody_else_is_sent_a_signal(settings, keys, monkeypatch, text):
    if text is not None:
        settings.broker_pid_file.write_text(text)
    sent = []
    monkeypatch.setattr(nodekeys.os, "kill", lambda *signal_: sent.append(signal_))
    with pytest.raises(TransportError, match="mosquitto was not told"):
        keys.reload()
    assert not sent


def test_mosquitto_is_told(settings, keys, tmp_path):
    program = tmp_path / "mosquitto"
    shutil.copy(shutil.which("sleep"), program)
    with subprocess.Popen(["env", "--default-signal=HUP", program, "60"]) as running:  # nohup lets children ignore it
        while Path(f"/proc/{running.pid}/comm").read_text() != "mosquitto\n":  # it is started a moment before it has its name
            time.sleep(0.01)
        settings.broker_pid_file.write_text(f"{running.pid}\n")
        keys.reload()
        assert running.wait() == -signal.SIGHUP


# ---- a psk_file that somebody else keeps


def test_many_at_once_lose_no_key(tmp_path):
    file = tmp_path / "psk"
    file.write_text("# nodes\n")
    (tmp_path / "psk.new").write_text("of a run that was killed")
    link = tmp_path / "link"
    link.symlink_to(file)
    names = [f"n{number}" for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: set_psk(link, name, name.encode() * 8), names))
    comment, *lines = file.read_text().splitlines()
    assert comment == "# nodes"
    assert sorted(lines) == sorted(f"{name}:{(name.encode() * 8).hex()}" for name in names)
    assert link.is_symlink()


def test_a_reader_has_the_file_before_or_after(tmp_path):
    file = tmp_path / "psk"
    file.write_bytes(b"other:00\r\nkitchen:1\nkitchen:2\n")
    with file.open("rb") as reader:
        set_psk(file, "kitchen", b"k")
        assert reader.read() == b"other:00\r\nkitchen:1\nkitchen:2\n"
    assert file.read_bytes() == b"other:00\r\nkitchen:6b\n"


def test_a_folder_that_the_daemon_has_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(nodekeys, "_TIMEOUT_S", 0)
    (tmp_path / "psk").write_text("others:00\n")
    with state.hold(tmp_path), pytest.raises(TimeoutError, match=re.escape(str(tmp_path))):
        set_psk(tmp_path / "psk", "kitchen", KEY)
    assert (tmp_path / "psk").read_text() == "others:00\n"
