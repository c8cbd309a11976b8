"""The agent for BlueZ, on a bus of its own with a bluetoothd that is made up: who is answered, and what."""

import asyncio
import contextlib
import shutil
import subprocess

import pytest
from dbus_fast import BusType, DBusError, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool, DBusObjectPath, DBusStr
from dbus_fast.service import PropertyAccess, ServiceInterface, dbus_method, dbus_property

from gatewayd.errors import TransportError
from gatewayd.transports import bluez

DEVICE, OTHER = (bluez.device_path("hci0", f"F0:00:00:00:00:0{number}") for number in (1, 2))
BUS = """<busconfig><type>system</type><listen>unix:path={path}</listen>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""

pytestmark = pytest.mark.skipif(not shutil.which("dbus-daemon"), reason="needs Debian's dbus")


class Manager(ServiceInterface):
    def __init__(self):
        super().__init__("org.bluez.AgentManager1")
        self.agents, self.default = {}, None

    @dbus_method("RegisterAgent")
    def register(self, path: DBusObjectPath, capability: DBusStr) -> None:
        self.agents[path] = capability

    @dbus_method("RequestDefaultAgent")
    def make_default(self, path: DBusObjectPath) -> None:
        if path not in self.agents:
            raise DBusError("org.bluez.Error.DoesNotExist", "no such agent")
        self.default = path


class Adapter(ServiceInterface):
    def __init__(self):
        super().__init__("org.bluez.Adapter1")
        self.removed = []

    @dbus_method("RemoveDevice")
    def remove(self, path: DBusObjectPath) -> None:
        if path != DEVICE:
            raise DBusError("org.bluez.Error.DoesNotExist", "Does Not Exist")
        self.removed.append(path)


class Device(ServiceInterface):
    def __init__(self):
        super().__init__("org.bluez.Device1")

    @dbus_property(access=PropertyAccess.READ, name="Paired")
    def paired(self) -> DBusBool:
        return True


class Bluetoothd:
    """BlueZ, as far as an agent sees it."""

    def __init__(self, bus):
        self.bus, self.manager, self.adapter = bus, Manager(), Adapter()

    async def start(self):
        self.bus.export("/org/bluez", self.manager)
        self.bus.export("/org/bluez/hci0", self.adapter)
        self.bus.export(DEVICE, Device())
        await self.bus.request_name("org.bluez")

    async def ask(self, member, signature, *body):
        """What the default agent answers, or the name of its error."""
        owner = self.agent_bus.unique_name
        message = Message(owner, self.manager.default, "org.bluez.Agent1", member, signature=signature, body=list(body))
        reply = await asyncio.wait_for(self.bus.call(message), 30)
        return reply.error_name if reply.message_type is MessageType.ERROR else reply.body


class Operator:
    """An Agent that knows what it wants."""

    def __init__(self, passkey=None, same=False, enough=False):
        self.known, self.same, self.enough, self.shown = passkey, same, enough, []

    async def passkey(self):
        return self.known

    async def compare(self, number):
        self.shown.append(number)
        return self.same

    def authorize(self):
        return self.enough


@pytest.fixture
def system_bus(tmp_path, monkeypatch):
    config, path = tmp_path / "bus.conf", tmp_path / "bus"
    config.write_text(BUS.format(path=path))
    daemon = subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1"], stdout=subprocess.PIPE)
    daemon.stdout.readline()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    yield
    daemon.terminate()
    daemon.communicate(timeout=30)


@pytest.fixture
async def bluetoothd(system_bus):
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    here = Bluetoothd(bus)
    await here.start()
    yield here
    bus.disconnect()


@contextlib.asynccontextmanager
async def answering(bluetoothd, monkeypatch, agent):
    """An agent that has been registered; the daemon knows whose it is."""
    call = bluez._call

    async def spied(bus, *arguments):
        bluetoothd.agent_bus = bus
        return await call(bus, *arguments)

    monkeypatch.setattr(bluez, "_call", spied)
    async with bluez.answering(DEVICE, agent):
        yield


REJECTED = "org.bluez.Error.Rejected"


async def test_what_the_operator_says_is_answered(bluetoothd, monkeypatch):
    operator = Operator(passkey=123_456, same=True, enough=True)
    async with answering(bluetoothd, monkeypatch, operator):
        assert bluetoothd.manager.agents == {"/org/gatewayd/agent": "KeyboardDisplay"}
        assert await bluetoothd.ask("RequestPasskey", "o", DEVICE) == [123_456]
        assert await bluetoothd.ask("RequestConfirmation", "ou", DEVICE, 4_711) == []
        assert operator.shown == [4_711]
        assert await bluetoothd.ask("RequestAuthorization", "o", DEVICE) == []


async def test_what_the_operator_does_not_want_is_rejected(bluetoothd, monkeypatch):
    async with answering(bluetoothd, monkeypatch, Operator()):
        assert await bluetoothd.ask("RequestPasskey", "o", DEVICE) == REJECTED
        assert await bluetoothd.ask("RequestConfirmation", "ou", DEVICE, 4_711) == REJECTED
        assert await bluetoothd.ask("RequestAuthorization", "o", DEVICE) == REJECTED


async def test_everybody_else_is_rejected(bluetoothd, monkeypatch):
    operator = Operator(passkey=123_456, same=True, enough=True)
    async with answering(bluetoothd, monkeypatch, operator):
        assert await bluetoothd.ask("RequestPasskey", "o", OTHER) == REJECTED
        assert await bluetoothd.ask("RequestConfirmation", "ou", OTHER, 4_711) == REJECTED
        assert await bluetoothd.ask("RequestAuthorization", "o", OTHER) == REJECTED
        assert await bluetoothd.ask("RequestPinCode", "o", DEVICE) == REJECTED
        assert await bluetoothd.ask("DisplayPinCode", "os", DEVICE, "0000") == REJECTED
        assert await bluetoothd.ask("AuthorizeService", "os", DEVICE, "1812") == REJECTED
        assert not operator.shown


async def test_the_agent_is_gone_when_the_pairing_is_over(bluetoothd, monkeypatch):
    async with answering(bluetoothd, monkeypatch, Operator(passkey=1)):
        pass
    assert await bluetoothd.ask("RequestPasskey", "o", DEVICE) == "org.freedesktop.DBus.Error.ServiceUnknown"


async def test_bonds_are_looked_at_and_forgotten(bluetoothd):
    assert await bluez.paired(DEVICE)
    await bluez.forget("hci0", DEVICE)
    assert bluetoothd.adapter.removed == [DEVICE]
    with pytest.raises(TransportError, match="DoesNotExist"):
        await bluez.forget("hci0", OTHER)
    with pytest.raises(TransportError):
        await bluez.paired(OTHER)
