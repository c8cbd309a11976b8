"""The posix ports on a site's broker as deploy/ has it: TLS with a key for each node, and who gets no further."""

import asyncio
import contextlib
import json
import random
import re

import pytest
import test_deploy
from smp.error import MGMT_ERR
from smpclient import SMPClient
from smpclient.requests.os_management import EchoWrite
from test_node_posix import Site
from tls_client import Client

from gatewayd.core import wire
from gatewayd.core.types import Event, Info, NodeState, State
from gatewayd.demo import site
from gatewayd.smp import NodeLink

pytestmark = [test_deploy.needs("mosquitto"), test_deploy.needs("mosquitto_passwd")]
FLEET = 200
KEYS = {name: random.Random(name).randbytes(16).hex() for name in ("kitchen", "cellar", *(f"f-{number}" for number in range(FLEET)))}


class SecureSite(Site):
    """The gateway's side has a password; `tls_port` is the nodes'."""

    @contextlib.asynccontextmanager
    async def up(self):
        async with test_deploy.site(self.folder, KEYS) as broker:
            self.port, self.tls_port = broker.port, broker.tls_port
            async with self.hearing(username="gatewayd", password="secret"):
                await self.gateway(online=True)
                yield self

    def keys(self, **keys):
        """A psk_file, by default the broker's."""
        path = self.folder / "keys"
        path.write_text("".join(f"{name}:{key}\n" for name, key in (keys or KEYS).items()))
        return path

    def node_command(self, name):
        command = [self.programs / "gateway-node", "--id", name, "--broker", f"127.0.0.1:{self.tls_port}"]
        return [str(word) for word in (*command, "--flash", self.folder / "flash")]


@pytest.fixture
def place(tmp_path, host_build):
    return SecureSite(tmp_path, host_build)


async def test_a_node_with_its_key(place):
    async with place.up(), place.node("--psk", place.keys(), name="kitchen") as running:
        await place.state(NodeState.READY)
        assert (await place.wait_for(Info))[0].session == 1
        async with SMPClient(NodeLink(place.links, "mqtt"), "kitchen") as client:
            text = "x" * 1_400
            assert (await client.request(EchoWrite(d=text))).r == text
            big = await client.request(EchoWrite(d="x" * 4_000))  # comes whole, in several records; so long an answer has no place
            assert big.rc == MGMT_ERR.EMSGSIZE
        assert await site.end(running) == 0
        await place.state(NodeState.DISCONNECTED)


@pytest.mark.parametrize(
    ("name", "keys"),
    [("kitchen", {"kitchen": KEYS["cellar"]}), ("stranger", {"stranger": KEYS["kitchen"]}), ("kitchen", {"kitchen": "00" * 32})],
)
async def test_a_node_with_a_wrong_key_or_an_unknown_name(place, name, keys):
    async with place.up(), place.node("--psk", place.keys(**keys), name=name):
        await place.said("TLS: refused by the broker, alert ")
        assert not place.heard


async def test_a_node_without_tls_is_refused(place):
    async with place.up(), place.node(name="kitchen"):
        await place.said("offline: ")
        assert not place.heard


@pytest.mark.parametrize("line", ["", "kitchen:", "kitchen:012", "kitchen:" + "00" * 33, "kitchen-1:00", "kitchen", ":00"])
async def test_a_file_without_its_key(place, line):
    path = place.folder / "keys"
    path.write_text(f"# keys\n{line}\n")
    place.tls_port = site.free_port()
    async with place.node("--psk", path, name="kitchen") as running:
        await running.wait()
    assert "kitchen: no key of up to 32 bytes" in place.log.read_text()


async def test_a_fleet_of_two_hundred_with_events_of_64_kb(place):
    async with place.up():
        command = (
            *(place.programs / "gateway-fleet", "--broker", f"127.0.0.1:{place.tls_port}", "--psk", place.keys(), "--count", FLEET),
            *("--prefix", "f-", "--event-rate", 30, "--window-bytes", 65_536, "--duration", 1, "--vitals-s", 60),
        )
        running = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(running.communicate(), 60)
        first, *_, last = out.decode().splitlines()
        totals = json.loads(last)
        assert int(re.fullmatch(r"200 online in (\d+) ms", first)[1]) < 10_000
        assert totals["events"] == totals["acknowledged"] > 0
        assert (totals["online"], totals["waiting"], totals["lost"]) == (FLEET, 0, 0)
        events = await place.wait_for(Event, count=totals["events"])
        assert {len(event.window.data) for event in events} == {65_536}
        await place.wait_for(State, lambda message: message.state == NodeState.DISCONNECTED, count=FLEET)


def string(text):
    return len(text).to_bytes(2) + text.encode()


def packet(kind, body):
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


async def test_the_name_of_the_key_decides_whose_topics_are_open(place, libnode):
    ready = wire.encode(State(NodeState.READY, 1))
    connect = packet(0x10, string("MQTT") + b"\x04\x02\x00\x3c" + string("cellar"))
    forged = packet(0x32, string("nodelink/1/up/cellar/state") + b"\x00\x01" + ready)
    own = packet(0x32, string("nodelink/1/up/kitchen/state") + b"\x00\x02" + ready)
    said = connect + forged + own
    client = Client(libnode, identity=b"kitchen", psk=bytes.fromhex(KEYS["kitchen"]))
    async with place.up(), asyncio.timeout(15):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.tls_port)
        client.start()
        while len(client.heard) < 12:  # CONNACK and two PUBACKs
            if client.ready:
                said = said[client.write(said) :]
            writer.write(client.transmit())
            client.receive(await reader.read(65_536))
        await place.state(NodeState.READY)
        assert place.heard == [("kitchen", "state", State(NodeState.READY, 1))]
        writer.close()
