"""A posix node managed over UDP by the tools that exist: smpclient, and smpmgr as it comes from PyPI."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from smp.error import MGMT_ERR
from smp.image_management import IMG_MGMT_ERR
from smp.os_management import OS_MGMT_RET_RC
from smp.settings_management import SETTINGS_MGMT_ERR
from smp.statistics_management import STAT_MGMT_ERR
from smpclient import SMPClient
from smpclient.exceptions import SMPUploadError
from smpclient.requests.image_management import ImageErase, ImageStatesRead, ImageStatesWrite
from smpclient.requests.os_management import DateTimeRead, DateTimeWrite, EchoWrite, MCUMgrParametersRead, OSApplicationInfoRead, ResetWrite
from smpclient.requests.settings_management import DeleteSetting, LoadSettings, ReadSetting, SaveSettings, WriteSetting
from smpclient.requests.statistics_management import GroupData, ListOfGroups
from smpclient.transport.udp import SMPUDPTransport

from gatewayd import bundle, signing
from gatewayd.core import image
from gatewayd.demo import site

STANDARD_PORT = 1337
SECTOR_BYTES = 4_096  # what the node claims at a time
CASCADES = Path(__file__).parent.parent / "cascades"
SMPMGR = Path(sys.executable).with_name("smpmgr")


def udp_port():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def standard_port():
    """1337, for one test at a time on this machine; a device that speaks SMP may have it."""
    with Path(tempfile.gettempdir(), "gatewayd-tests-smp.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            try:
                sock.bind(("127.0.0.1", STANDARD_PORT))
            except OSError as error:
                pytest.skip(f"UDP port {STANDARD_PORT}: {error}")
        yield STANDARD_PORT


class Images:
    """What the operator has: a key, and images of one cascade."""

    def __init__(self, folder):
        self.folder = folder
        self.key = signing.make(folder / "operator.pem")
        self.first, self.second, self.other = (self.make(audit_s) for audit_s in (900, 800, 700))
        self.stranger = self.make(900, Ed25519PrivateKey.generate())

    def make(self, audit_s, key=None):
        key = key or signing.load_private(self.folder / "operator.pem")
        return bundle.node_image(bundle.read(CASCADES / "vibration"), audit_s=audit_s, key=key)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return Images(tmp_path_factory.mktemp("operator"))


class Transport(SMPUDPTransport):
    """smpclient's, to another port than the standard one."""

    def __init__(self, port):
        super().__init__()
        self.other_port = port

    async def connect(self, address, timeout_s, port=0):
        await super().connect(address, timeout_s, self.other_port)


class Node:
    """A posix node without a broker."""

    def __init__(self, folder, build, images, port=None):
        self.folder, self.images, self.port = folder, images, port or udp_port()
        self.program = build / "ports" / "posix" / "gateway-node"
        self.log = folder / "node.log"
        (folder / "first.img").write_bytes(images.first)

    @contextlib.asynccontextmanager
    async def up(self):
        options = {"--id": "n-1", "--broker": f"127.0.0.1:{site.free_port()}", "--flash": self.folder / "flash", "--trial-s": 3600}
        options |= {"--key": self.images.key, "--image": self.folder / "first.img", "--smp": self.port}
        async with site.process([self.program, *(word for option in options.items() for word in option)], self.log) as running:
            await self.said("session", running)
            yield running

    async def said(self, words, running, count=1):
        async with asyncio.timeout(30):
            while running.returncode is None and (not self.log.exists() or self.log.read_text().count(words) < count):
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def client(self):
        async with self.up() as self.running, SMPClient(Transport(self.port), "127.0.0.1") as client:
            yield client


@pytest.fixture
def node(tmp_path, host_build, images):
    return Node(tmp_path, host_build, images)


def digest(data):
    return image.parse(data).sha256


async def upload(client, data, slot=1):
    return [offset async for offset in client.upload(data, slot=slot)]


async def states(client):
    """What the node lists: hash, confirmed, active."""
    found = await client.request(ImageStatesRead())
    return [(bytes(state.hash), state.confirmed, state.active) for state in found.images]


async def counted(client, group="update"):
    return (await client.request(GroupData(name=group))).fields


async def test_an_update(node, images):
    async with node.client() as client:
        first, second = digest(images.first), digest(images.second)
        assert await states(client) == [(first, True, True)]
        offsets = await upload(client, images.second)
        assert offsets[-1] == len(images.second)
        assert await states(client) == [(first, True, True), (second, False, False)]
        listed = (await client.request(ImageStatesRead())).images[1]
        assert (listed.image, listed.slot, listed.version, listed.pending) == (1, 1, image.parse(images.second).version, False)
        await client.request(ImageStatesWrite(hash=second))
        assert await states(client) == [(first, True, False), (second, False, True)]
        await client.request(ImageStatesWrite(confirm=True))
        assert await states(client) == [(first, False, False), (second, True, True)]
        await client.request(ImageStatesWrite(hash=first, confirm=True))  # back, to what was confirmed before
        assert await states(client) == [(first, True, True), (second, False, False)]
        await client.request(ImageErase(slot=3))
        assert await states(client) == [(first, True, True)]
        counts = await counted(client)
        assert {name: count for name, count in counts.items() if count} == {"uploads": 1, "verified": 1, "tests": 1, "confirms": 2}


async def test_a_killed_node_goes_on_with_its_upload(node, images):
    sent = 0
    async with node.up() as running, SMPClient(Transport(node.port), "127.0.0.1") as client:
        async for offset in client.upload(images.second, slot=1):
            if (sent := offset) > SECTOR_BYTES:
                await site.end(running, signal.SIGKILL)
                break
    assert SECTOR_BYTES < sent < len(images.second)
    async with node.client() as client:
        offsets = await upload(client, images.second)
        assert offsets[0] == sent // SECTOR_BYTES * SECTOR_BYTES > 0
        assert offsets[-1] == len(images.second)
        counts = await counted(client)
        assert (counts["resumed"], counts["uploads"], counts["verified"]) == (1, 0, 1)
        tested = await client.request(ImageStatesWrite(hash=digest(images.second)))
        assert [state.active for state in tested.images] == [False, True]
        assert await upload(client, images.second) == [len(images.second)]  # it is there: one request, no data
        assert (await counted(client))["repeated"] == 1


async def test_a_reset_ends_a_trial_and_keeps_what_was_saved(node, images):
    async with node.client() as client:
        await upload(client, images.second)
        await client.request(ImageStatesWrite(hash=digest(images.second)))
        await client.request(WriteSetting(name="vibration/audit_s", val=struct.pack("<I", 77)))
        await client.request(SaveSettings())
        await client.request(WriteSetting(name="vibration/cutoff", val=struct.pack("<f", 0.5)))  # not saved
        await client.request(ResetWrite())
        await node.said("session", node.running, count=2)
        assert node.running.returncode is None  # it is the same process
        assert await states(client) == [(digest(images.first), True, True)]
        assert (await client.request(ReadSetting(name="vibration/audit_s"))).val == struct.pack("<I", 77)
        assert (await client.request(ReadSetting(name="vibration/cutoff"))).val != struct.pack("<f", 0.5)
        assert (await client.request(ImageStatesWrite(hash=digest(images.second)))).err.rc == IMG_MGMT_ERR.HASH_NOT_FOUND


async def test_settings(node):
    async with node.client() as client:
        original = (await client.request(ReadSetting(name="vibration/cutoff"))).val
        for value in (0.25, 0.5):
            await client.request(WriteSetting(name="vibration/cutoff", val=struct.pack("<f", value)))
            assert (await client.request(ReadSetting(name="vibration/cutoff"))).val == struct.pack("<f", value)
            if value == 0.25:
                await client.request(SaveSettings())
        await client.request(LoadSettings())
        assert (await client.request(ReadSetting(name="vibration/cutoff"))).val == struct.pack("<f", 0.25)
        await client.request(DeleteSetting(name="vibration/cutoff"))
        assert (await client.request(ReadSetting(name="vibration/cutoff"))).val == original
        assert (await client.request(WriteSetting(name="vibration/on", val=b"\2"))).rc == MGMT_ERR.EINVAL
        assert (await client.request(ReadSetting(name="vibration/colour"))).err.rc == SETTINGS_MGMT_ERR.KEY_NOT_FOUND
        assert (await client.request(ReadSetting(name="lamp/on"))).err.rc == SETTINGS_MGMT_ERR.ROOT_KEY_NOT_FOUND


async def test_the_node_as_a_machine(node):
    async with node.client() as client:
        assert (await client.request(EchoWrite(d="hello"))).r == "hello"
        assert (await client.request(MCUMgrParametersRead())).buf_size == 4_352
        assert (await client.request(OSApplicationInfoRead(format="n"))).output == "n-1"
        assert (await client.request(OSApplicationInfoRead(format="?"))).err.rc == OS_MGMT_RET_RC.INVALID_FORMAT
        assert (await client.request(DateTimeRead())).err.rc == OS_MGMT_RET_RC.RTC_NOT_SET
        await client.request(DateTimeWrite(datetime="2026-10-05T07:08:09"))
        assert (await client.request(DateTimeRead())).datetime.startswith("2026-10-05T07:")
        assert (await client.request(ListOfGroups())).stat_list == ("node", "update")
        assert (await counted(client, "node"))["events"] == 0
        assert (await client.request(GroupData(name="weather"))).err.rc == STAT_MGMT_ERR.ERR_INVALID_GROUP


async def test_refusals(node, images):
    async with node.client() as client:
        assert (await client.request(ImageStatesWrite(hash=digest(images.second)))).err.rc == IMG_MGMT_ERR.HASH_NOT_FOUND
        assert (await client.request(ImageErase(slot=2))).err.rc == IMG_MGMT_ERR.NO_FREE_SLOT
        for slot, data, expected in (
            (1, images.stranger, IMG_MGMT_ERR.UNKNOWN),
            (1, images.second[:-1], IMG_MGMT_ERR.INVALID_IMAGE_DATA_OVERRUN),
            (1, b"no image" * 100, IMG_MGMT_ERR.INVALID_IMAGE_HEADER_MAGIC),
            (1, images.second + bytes(300_000), IMG_MGMT_ERR.INVALID_IMAGE_TOO_LARGE),
            (0, images.second, IMG_MGMT_ERR.INVALID_SLOT),
        ):
            with pytest.raises(SMPUploadError) as refused:
                await upload(client, data, slot)
            assert refused.value.args[0].err.rc == expected
        await upload(client, images.second)
        await client.request(ImageStatesWrite(hash=digest(images.second)))
        with pytest.raises(SMPUploadError) as refused:
            await upload(client, images.other)
        assert refused.value.args[0].err.rc == IMG_MGMT_ERR.NO_FREE_SLOT  # a trial needs both
        assert await states(client) == [(digest(images.first), True, False), (digest(images.second), False, True)]


async def smpmgr(*arguments):
    """What it prints, in one line a thing."""
    running = await asyncio.create_subprocess_exec(
        *(SMPMGR, "--ip", "127.0.0.1", "--timeout", "10", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "1000", "TERM": "dumb"},
    )
    out, _ = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 0, out.decode()
    return out.decode()


async def test_smpmgr(tmp_path, host_build, images, standard_port):
    node = Node(tmp_path, host_build, images, standard_port)
    file = tmp_path / "second.img"
    file.write_bytes(images.second)
    first, second = digest(images.first).hex(), digest(images.second).hex()

    async def listed():
        lines = (await smpmgr("image", "state-read")).splitlines()
        return {state: line for line in lines for state in (first, second) if state in line.lower()}

    async with node.up() as running:
        assert "hello" in await smpmgr("os", "echo", "hello")
        before = await listed()
        assert set(before) == {first}
        assert "active=True" in before[first]
        await smpmgr("image", "upload", "--slot", "1", file)
        assert set(await listed()) == {first, second}
        await smpmgr("image", "state-write", second)
        tried = await listed()
        assert ("active=True" in tried[second], "confirmed=True" in tried[second]) == (True, False)
        await smpmgr("image", "state-write", "--confirm")
        assert "confirmed=True" in (await listed())[second]
        await smpmgr("os", "reset")
        await node.said("session", running, count=2)
        after = await listed()
        assert "active=True" in after[second]
        assert "active=False" in after[first]
