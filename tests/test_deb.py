"""The Debian package: what is in it, and its life on a fresh Debian: installed, run, upgraded, downgraded, removed, purged."""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path

import deb_root
import pytest

from gatewayd import config

ROOT = Path(__file__).parents[1]
CHANGES = """
import pathlib, re
file = pathlib.Path("{site}/gatewayd/database.py")
text = file.read_text()
file.write_text(re.sub(r"^\\)\\n\\nVERSION", '    ("ALTER TABLE nodes ADD COLUMN room TEXT",),\\n)\\n\\nVERSION', text, flags=re.MULTILINE))
"""
pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not all(map(shutil.which, deb_root.PROGRAMS)), reason=f"needs {', '.join(deb_root.PROGRAMS)}"),
]


@pytest.fixture(scope="module")
def package():
    """The package of this tree."""
    out = deb_root.run(sys.executable, ROOT / "deploy/deb/build.py")
    return Path(next(line for line in out.splitlines() if "/gatewayd_" in line).partition(":")[0])


@pytest.fixture(scope="module")
def content(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("content") / "package"
    deb_root.run("dpkg-deb", "-R", package, folder)
    return folder


@pytest.fixture(scope="module")
def newer(content, tmp_path_factory):
    """The next version: its database has a column more, its settings a comment more."""
    folder = tmp_path_factory.mktemp("newer")
    copy = folder / "package"
    shutil.copytree(content, copy, symlinks=True)
    control = copy / "DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)", r"\1+next", control.read_text(), flags=re.MULTILINE))
    site = next((copy / "opt/gatewayd/lib").glob("*/site-packages"))
    exec(CHANGES.format(site=site))
    shutil.rmtree(site / "gatewayd/__pycache__")
    with (copy / "etc/gatewayd/gatewayd.toml").open("a") as settings:
        settings.write("# of the next version\n")
    file = folder / "gatewayd-next.deb"
    deb_root.run("dpkg-deb", "--root-owner-group", "-Znone", "--build", copy, file)
    return file


# ---- what is in it


def test_the_same_input_makes_the_same_file(package):
    before = package.read_bytes()
    deb_root.run(sys.executable, ROOT / "deploy/deb/build.py")
    assert package.read_bytes() == before


def test_the_settings_are_understood_and_use_the_password_that_installing_makes(content):
    settings = config.load(content / "etc/gatewayd/gatewayd.toml", environ={})
    assert (settings.mqtt.username, str(settings.mqtt.password_file)) == ("gatewayd", "/etc/gatewayd/mqtt.password")


def test_what_an_operator_may_edit_is_kept(content):
    files = {f"/{path.relative_to(content)}" for path in (content / "etc").rglob("*") if path.is_file()}
    assert set((content / "DEBIAN/conffiles").read_text().split()) == files


def test_nothing_in_it_names_the_machine_that_made_it(content):
    found = subprocess.run(["grep", "-rlF", str(ROOT), content], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_every_package_is_locked_as_the_tests_ran_with_it():
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower().replace("_", "-"), re.MULTILINE))
    locked = {}
    for lock in (ROOT / "deploy/deb").glob("requirements*.txt"):
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE):
            assert name not in locked, f"{name} would be in two packages"
            locked[name] = version
    assert {name: version for name, version in locked.items() if tested.get(name, version) != version} == {}
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.match(r"[\w.-]+", one)[0].lower() for one in about["dependencies"] + about["optional-dependencies"]["ble"]}
    assert wanted <= set(locked)


# ---- its life


@contextmanager
def timed(what):
    begun = time.monotonic()
    yield
    print(f"{what:12} {time.monotonic() - begun:5.1f} s")


@contextmanager
def running(machine):
    """mosquitto and the daemon, as systemd would start them."""
    machine.shell(
        "install -d -m 750 -g mosquitto /run/gatewayd-keys; install -d -o mosquitto /run/mosquitto; gatewayctl node publish-keys;"
        " chgrp mosquitto /run/gatewayd-keys/*"
    )
    broker = machine.spawn("tmp/mosquitto.log", "mosquitto", "-c", "/etc/mosquitto/mosquitto.conf")
    daemon = machine.spawn("tmp/gatewayd.log", "runuser", "-u", "gatewayd", "--", "gatewayctl", "run")
    try:
        deb_root.wait_for(lambda: daemon.poll() is not None or health(machine) == "ok")  # the broker, and the larger models
        assert daemon.poll() is None, (machine.root / "tmp/gatewayd.log").read_text()
        yield
    finally:
        machine.run("python3", "-c", _STOP)
        broker.wait(30)
        daemon.wait(30)


_STOP = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_bytes().split(b"\\0")
    if b"run" in words[2:4] or words[0] == b"mosquitto":
        os.kill(int(process.name), signal.SIGTERM)
"""


def health(machine):
    fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8460/healthz').read().decode())"
    done = subprocess.run(machine.command("python3", "-c", fetch), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def test_its_life(package, newer, tmp_path):
    with deb_root.machine(tmp_path / "machine") as machine:
        for file in (package, newer):
            shutil.copy(file, machine.root / "tmp")
        before = machine.files()
        install = [
            "apt-get",
            "install",
            "-y",
            "-q",
            "--no-install-recommends",
            "--allow-downgrades",
            "-o",
            "Dpkg::Options::=--force-confold",
        ]
        shutil.copy(ROOT / "deploy" / "install.sh", machine.root / "tmp")
        with timed("install"):
            assert "gatewayd is installed" in machine.run("sh", "/tmp/install.sh")
        with timed("run"), running(machine):
            machine.run("gatewayctl", "doctor")
            machine.run("gatewayctl", "nodes", "enroll", "kitchen")
        settings = machine.root / "etc/gatewayd/gatewayd.toml"
        settings.write_text(settings.read_text().replace('id = "gateway"', 'id = "attic"'))
        secret = (machine.root / "etc/gatewayd/mqtt.password").read_text()
        with timed("upgrade"):
            machine.run(*install, f"/tmp/{newer.name}")
        with timed("run"), running(machine):
            assert "kitchen" in machine.run("gatewayctl", "nodes", "list", "--json")
            machine.run("gatewayctl", "nodes", "enroll", "cellar")
        with timed("downgrade"):
            machine.run(*install, f"/tmp/{package.name}")
        with timed("run"), running(machine):
            nodes = machine.run("gatewayctl", "nodes", "list", "--json")
            assert "kitchen" in nodes
            assert "cellar" in nodes
        assert 'id = "attic"' in settings.read_text()
        assert (machine.root / "etc/gatewayd/mqtt.password").read_text() == secret
        with timed("remove"):
            machine.run("apt-get", "remove", "-y", "-q", "gatewayd")
        assert not list((machine.root / "etc/mosquitto/conf.d").glob("*.conf"))  # without the daemon it would not start with them
        assert (machine.root / "var/lib/gatewayd/gatewayd.db").exists()
        with timed("purge"):
            machine.run("apt-get", "purge", "-y", "-q", "gatewayd")
        after = machine.files()
    left = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    # The group `bluetooth`, which bluez takes over when it comes; what mosquitto itself has kept; copies that passwd makes.
    assert {
        path for path in left if not re.match(r"/etc/(group|gshadow|passwd|shadow|subuid|subgid)-?$|/var/lib/mosquitto/|/etc/[.]pwd", path)
    } == set()
