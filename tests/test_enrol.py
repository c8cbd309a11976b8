"""`gatewayctl node add`, `rotate`, `revoke`: with the real broker, real nodes, and systemd's encryption."""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import sqlite3

import numpy as np
import pytest
import test_deploy
import zxingcpp
from test_node_posix import Site
from tls_client import Client

from gatewayd import config, provisioning, signing
from gatewayd.core import wire
from gatewayd.core.types import NodeState, Provisioning, Security, State
from gatewayd.demo import site
from gatewayd.pairings import Pairings
from gatewayd.store import Store

pytestmark = [
    *map(test_deploy.needs, ("mosquitto", "mosquitto_passwd", "systemd-creds")),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose key systemd-creds takes"),
]
FLEET = 20
CONFIG_STATUS = os.EX_CONFIG
USAGE_STATUS = 2


@pytest.fixture
def keeper(tmp_path, ctl):
    """gatewayctl at a site in the test's folder. The store is there, the broker may be."""
    asyncio.run(make_store(f"sqlite:///{tmp_path / 'gatewayd.db'}"))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "etc").mkdir()
    configure(tmp_path)
    return ctl


async def make_store(url):
    async with Store(config.Store(), url):
        pass


def configure(folder, port=1, tls_port=8883):
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "gatewayd.toml").write_text(
        f"""
        gateway.state_dir = "{folder}"
        [mqtt]
        port = {port}
        username = "gatewayd"
        password = "secret"
        [enrolment]
        broker = "127.0.0.1:{tls_port}"
        credential = "{folder}/etc/node-keys.cred"
        broker_dir = "{folder}/secrets"
        acl_file = "{test_deploy.MOSQUITTO}/site/acl"
        broker_pid_file = "{folder}/data/pid"
        """
    )


def scanned(out):
    """What a phone reads of the half blocks in a terminal: light on dark, two modules a character."""
    halves = {"█": (255, 255), "▀": (255, 0), "▄": (0, 255), " ": (0, 0)}
    lines = [line for line in out.splitlines() if line and set(line) <= set(halves)]
    pixels = np.array([[half[row] for half in map(halves.get, line)] for line in lines for row in (0, 1)], np.uint8)
    (code,) = zxingcpp.read_barcodes(np.kron(pixels, np.full((4, 4), 1, np.uint8)))
    return code.text


def read_code(text):
    """Node, broker and key, by docs/nodelink.md."""
    scheme, rest = text.split(":", 1)
    version, node, broker, key = rest.split("/")
    assert (scheme, version) == ("NODELINK", "1")
    return node.lower(), broker.lower(), base64.b32decode(key + "=" * (-len(key) % 8))


def rows(folder, query):
    with contextlib.closing(sqlite3.connect(folder / "gatewayd.db")) as database:
        return database.execute(query).fetchall()


def psk_lines(folder):
    return (folder / "secrets" / "psk").read_text().splitlines()


# ---- what a node is given


def test_a_node_is_enrolled_before_it_is_heard(keeper, tmp_path, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ada")
    signing.make(tmp_path / "op.pem")
    file = tmp_path / "kitchen.flash"
    status, out, err = keeper("node", "add", "kitchen-1", "-o", file, "--key", tmp_path / "op.pem.pub", "--label", "hall")
    assert (status, "mosquitto was not told" in err) == (0, True)
    found = provisioning.read(file.read_bytes())
    raw = signing.raw(signing.load_public(tmp_path / "op.pem.pub"))
    assert found == Provisioning("kitchen-1", "127.0.0.1", 8883, Security.PSK, keys=(raw,), psk=found.psk)
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_code(scanned(out)) == ("kitchen-1", "127.0.0.1:8883", found.psk)
    assert psk_lines(tmp_path) == [f"kitchen-1:{found.psk.hex()}"]
    assert rows(tmp_path, "SELECT id, enrolled, labels FROM nodes") == [("kitchen-1", 1, "hall")]
    assert rows(tmp_path, "SELECT who, what, target, detail FROM audit") == [("cli:ada", "node.add", "kitchen-1", "hall")]


def test_the_gateways_own_keys_are_trusted_by_default(keeper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    signing.make(tmp_path / "op.pem")
    status, out, err = keeper(
        "node", "add", "n1", "--no-qr", "--broker", "Broker.example:8884", "-s", f'cascades.keys=["{tmp_path}/op.pem.pub"]'
    )
    assert (status, out) == (0, "")
    found = provisioning.read((tmp_path / "n1.flash").read_bytes())
    assert (found.host, found.port, len(found.keys)) == ("Broker.example", 8884, 1)
    assert "trusts no key" not in err
    assert "n2 trusts no key" in keeper("node", "add", "n2")[2]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("add", "kitchen"), CONFIG_STATUS, "has a key already; a new one: gatewayctl node rotate kitchen"),
        (("rotate", "attic"), CONFIG_STATUS, "has no key; a first one: gatewayctl node add attic"),
        (("revoke", "attic"), USAGE_STATUS, "has no key and was never heard"),
        (("add", "gatewayd"), CONFIG_STATUS, "is no name for a node"),
        (("add", "Attic"), USAGE_STATUS, "is not a node's name"),
        (("add", "attic", "--label", "A"), USAGE_STATUS, "is not a label"),
        (("add", "attic", "--broker", "x"), USAGE_STATUS, "is not HOST:PORT"),
        (("add", "attic", "-s", "enrolment.broker="), CONFIG_STATUS, "where do nodes find the broker?"),
        (("add", "attic", "-o", "kitchen.flash"), CONFIG_STATUS, "is there already"),
        (("add", "attic", "-s", "enrolment.broker_dir=absent"), CONFIG_STATUS, "gatewayd-keys.service"),
        (("add", "attic", "-s", "gateway.state_dir=absent"), 1, "absent"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(keeper, tmp_path, monkeypatch, arguments, status, words):
    monkeypatch.chdir(tmp_path)
    assert keeper("node", "add", "kitchen")[0] == 0
    before = rows(tmp_path, "SELECT * FROM nodes"), rows(tmp_path, "SELECT * FROM audit"), psk_lines(tmp_path)
    flash = (tmp_path / "kitchen.flash").read_bytes()
    more = ("-o", "attic.flash") if arguments[0] != "revoke" and "-o" not in arguments else ()
    found, out, err = keeper("node", *arguments, *more)
    assert (found, out) == (status, "")
    assert words in re.sub(r"[\s│]+", " ", err)
    assert (rows(tmp_path, "SELECT * FROM nodes"), rows(tmp_path, "SELECT * FROM audit"), psk_lines(tmp_path)) == before
    assert [path.name for path in tmp_path.glob("*.flash")] == ["kitchen.flash"]
    assert (tmp_path / "kitchen.flash").read_bytes() == flash


def test_a_new_key_takes_the_place_of_the_old_file_only_when_it_is_good(keeper, tmp_path):
    file = tmp_path / "flash"
    keeper("node", "add", "kitchen", "-o", file)
    old = file.read_bytes()
    assert keeper("node", "rotate", "kitchen", "-o", file, "--force", "-s", f"enrolment.broker_dir={tmp_path}/absent")[0] == CONFIG_STATUS
    assert file.read_bytes() == old
    assert keeper("node", "rotate", "kitchen", "-o", file, "--force")[0] == 1  # no broker to be told
    assert psk_lines(tmp_path) == [f"kitchen:{provisioning.read(file.read_bytes()).psk.hex()}"]
    assert file.read_bytes() != old
    assert not list(tmp_path.glob("*.new"))


def test_revoked_without_a_broker_it_is_said_so_and_may_be_said_again(keeper, tmp_path):
    keeper("node", "add", "kitchen", "-o", tmp_path / "flash")
    with Store(config.Store(), f"sqlite:///{tmp_path / 'gatewayd.db'}") as store:
        Pairings(store).order("kitchen", None, 0.0)
    for _ in range(2):
        status, out, err = keeper("node", "revoke", "kitchen")
        assert (status, out, "mosquitto was not told" in err) == (1, "", True)
        assert psk_lines(tmp_path) == []
        assert rows(tmp_path, "SELECT enrolled FROM nodes") == [(0,)]
        assert rows(tmp_path, "SELECT * FROM pairings") == []


def test_no_secret_where_others_look(keeper, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    spy, real = programs / "systemd-creds", shutil.which("systemd-creds")
    spy.write_text(f'#!/bin/sh\n{{ tr "\\0" " " </proc/$$/cmdline; env; }} >>{tmp_path}/seen\nexec {real} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    said = [keeper("node", "add", "kitchen", "-o", tmp_path / "1.flash")]
    said.append(keeper("node", "rotate", "kitchen", "-o", tmp_path / "2.flash"))
    said.append(keeper("node", "revoke", "kitchen"))
    seen = (tmp_path / "seen").read_text()
    assert "--name=node-keys" in seen
    text = seen + "".join(out + err for _, out, err in said) + "".join(map(str, rows(tmp_path, "SELECT * FROM audit")))
    for number in (1, 2):
        psk = provisioning.read((tmp_path / f"{number}.flash").read_bytes()).psk
        for form in (psk.hex(), base64.b32encode(psk).decode().rstrip("="), base64.b64encode(psk).decode(), repr(psk)):
            assert form.lower() not in text.lower()


# ---- with the broker and nodes


class EnrolSite(Site):
    """A site whose nodes get their keys from gatewayctl, and the broker's log as a witness of who came and went."""

    def __init__(self, folder, build, ctl):
        super().__init__(folder, build)
        self._ctl = ctl

    @contextlib.asynccontextmanager
    async def up(self):
        async with test_deploy.site(self.folder, {}) as broker:
            self.port, self.tls_port = broker.port, broker.tls_port
            configure(self.folder, broker.port, broker.tls_port)
            async with self.hearing(username="gatewayd", password="secret"):
                await self.gateway(online=True)
                yield broker

    async def _listen(self):
        async for message in self.client.messages:
            _, _, _, node, tail = str(message.topic).split("/")
            self.heard.append((node, tail, wire.decode(tail, message.payload) if message.payload else None))
            self.news.set()

    async def ctl(self, *arguments):
        status, out, err = await asyncio.to_thread(self._ctl, *arguments)
        assert (status, "was not told" in err) == (0, False), err
        return out

    async def enrolled(self, name):
        """The node's key, as it stands in its QR code, in a file for the node."""
        code = await self.ctl("node", "add", name, "-o", self.folder / f"{name}.img", "--force")
        return self.key_file(*read_code(scanned(code)))

    def key_file(self, name, _broker, psk):
        path = self.folder / f"{name}.psk"
        path.write_text(f"{name}:{psk.hex()}\n")
        return path

    def node_command(self, name):
        command = [self.programs / "gateway-node", "--id", name, "--broker", f"127.0.0.1:{self.tls_port}"]
        return [str(word) for word in (*command, "--flash", self.folder / f"{name}.flash")]

    @contextlib.asynccontextmanager
    async def fleet(self):
        """Nodes that stay: none of them may lose its connection, whatever happens to others."""
        keys = self.folder / "fleet.psk"
        for number in range(FLEET):
            await self.ctl("node", "add", f"f-{number}", "--no-qr", "-o", self.folder / f"f-{number}.img")
        shutil.copy(self.folder / "secrets" / "psk", keys)
        command = (self.programs / "gateway-fleet", "--broker", f"127.0.0.1:{self.tls_port}", "--psk", keys, "--count", FLEET)
        log = self.folder / "fleet.log"
        async with site.process([*map(str, command), "--prefix", "f-", "--vitals-s", "1"], log):
            await self.wait_for(State, lambda message: message.state == NodeState.READY, count=FLEET)
            yield
        assert json.loads(log.read_text().splitlines()[-1])["online"] == FLEET
        came = re.findall(r"New client connected from \S+ as (f-\d+)", (self.folder / "log").read_text())
        assert sorted(came) == sorted(f"f-{number}" for number in range(FLEET))

    def states(self, name):
        return [message.state if message else None for node, tail, message in self.heard if (node, tail) == (name, "state")]

    async def retained(self, broker, name):
        """What a newcomer is told of the node."""

        async def nothing():
            pass

        heard = await broker.heard(f"nodelink/1/up/{name}/+", broker.gateway(), nothing)
        return {topic for topic in heard if "/up/" in topic}


@pytest.fixture
def place(tmp_path, host_build, keeper):
    shutil.rmtree(tmp_path / "secrets")
    return EnrolSite(tmp_path, host_build, keeper)


async def test_from_the_first_day_of_a_node_to_its_last_and_nobody_else_notices(place):
    async with place.up() as broker, place.fleet():
        async with place.node("--psk", await place.enrolled("kitchen"), name="kitchen"):
            await place.wait_for(State, lambda message: message.state == NodeState.READY, count=FLEET + 1)
            assert await place.retained(broker, "kitchen") == {"nodelink/1/up/kitchen/state", "nodelink/1/up/kitchen/info"}
            await place.ctl("node", "revoke", "kitchen")
            await place.said("TLS: refused by the broker, alert ")

            assert await place.retained(broker, "kitchen") == set()
            assert rows(place.folder, "SELECT enrolled FROM nodes WHERE id = 'kitchen'") == [(0,)]
        assert "Client kitchen already connected, closing old connection" in (place.folder / "log").read_text()
        async with place.node("--psk", await place.enrolled("kitchen"), name="kitchen"):  # welcome again, with another key
            await place.wait_for(State, lambda message: message.state == NodeState.READY, count=FLEET + 2)


async def test_a_new_key_ends_what_the_old_one_began(place):
    async with place.up(), place.fleet():
        old = await place.enrolled("kitchen")
        async with place.node("--psk", old, name="kitchen"):
            await place.wait_for(State, lambda message: message.state == NodeState.READY, count=FLEET + 1)
            code = await place.ctl("node", "rotate", "kitchen", "-o", place.folder / "new.img")
            await place.said("TLS: refused by the broker, alert ")
        new = place.key_file(*read_code(scanned(code)))
        async with place.node("--psk", new, name="kitchen"):
            await place.wait_for(State, lambda message: message.state == NodeState.READY, count=FLEET + 2)
    assert [state for state in place.states("kitchen") if state != NodeState.DISCONNECTED] == ["ready", "lost", "ready"]


def string(text):
    return len(text).to_bytes(2) + text.encode()


def packet(kind, body):
    return bytes([kind, len(body)]) + body


async def test_a_handshake_from_before_it_was_revoked_is_worth_nothing(place, libnode):
    async with place.up() as broker, asyncio.timeout(60):
        name, key = (await place.enrolled("kitchen")).read_text().strip().split(":")
        client = Client(libnode, identity=name.encode(), psk=bytes.fromhex(key))
        reader, writer = await asyncio.open_connection("127.0.0.1", place.tls_port)

        async def exchange(done):
            while not done():
                writer.write(client.transmit())
                client.receive(await reader.read(65_536))

        client.start()
        await exchange(lambda: client.ready)
        await place.ctl("node", "revoke", "kitchen")
        ready = wire.encode(State(NodeState.READY, 1))
        said = packet(0x10, string("MQTT") + b"\x04\x02\x00\x3c" + string("kitchen"))
        said += packet(0x82, b"\x00\x01" + string("nodelink/1/down/kitchen/verdict") + b"\x01")
        said += packet(0x32, string("nodelink/1/up/kitchen/state") + b"\x00\x02" + ready)

        async def speak():
            assert client.write(said) == len(said)
            await exchange(lambda: len(client.heard) >= 13)  # CONNACK, SUBACK, PUBACK
            await broker.client("mosquitto_pub", "-t", "nodelink/1/down/kitchen/verdict", "-m", "x", "-q", "1", login=broker.gateway())

        assert "nodelink/1/up/kitchen/state" not in await broker.heard("nodelink/1/up/kitchen/+", broker.gateway(), speak)
        client.write(packet(0xC0, b""))
        await exchange(lambda: client.heard.endswith(b"\xd0\x00"))
        # mosquitto takes the subscription and asks at each message: there is no verdict between the acknowledgement and the pong.
        assert client.heard == b"\x20\x02\x00\x00\x90\x03\x00\x01\x01\x40\x02\x00\x02\xd0\x00"
        writer.close()
        await writer.wait_closed()


async def test_no_node_takes_the_place_of_another(place):
    async with place.up() as broker:
        kitchen, cellar = [await place.enrolled(name) for name in ("kitchen", "cellar")]
        async with place.node("--psk", kitchen, name="kitchen"):
            await place.state(NodeState.READY)
            key = cellar.read_text().strip().split(":")[1]
            login = (*broker.node("cellar", key)[:-3], "kitchen", "-V", "mqttv311")
            await broker.client("mosquitto_pub", "-t", "nodelink/1/up/cellar/event", "-m", "x", "-q", "1", login=login)
            assert place.states("kitchen") == ["ready"]
        assert "already connected" not in (place.folder / "log").read_text()
