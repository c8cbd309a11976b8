"""What bleak does not do with BlueZ: an agent that answers while a node pairs, and looking at bonds and forgetting them.

The agent is there only while a node is paired, so that nobody else can pair (BlueZ is pairable while it has an agent), and a bluetoothd
that was restarted in between need not be told of it again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dbus_fast import BusType, DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusObjectPath, DBusStr, DBusUInt16, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method

from gatewayd.core.pairing import Agent
from gatewayd.errors import TransportError

_BLUEZ, _AGENT = "org.bluez", "/org/gatewayd/agent"
_MANAGER, _DEVICE, _ADAPTER = "org.bluez.AgentManager1", "org.bluez.Device1", "org.bluez.Adapter1"
_REJECTED = "org.bluez.Error.Rejected"


def device_path(adapter: str, address: str) -> str:
    """What BlueZ calls a device."""
    return f"/org/bluez/{adapter}/dev_{address.replace(':', '_')}"


class _Agent1(ServiceInterface):
    """org.bluez.Agent1: an Agent for one device; everything else is rejected."""

    def __init__(self, device: str, agent: Agent) -> None:
        super().__init__("org.bluez.Agent1")
        self._device = device
        self._agent = agent

    def _check(self, allowed: bool) -> None:
        if not allowed:
            raise DBusError(_REJECTED, "not now")

    @dbus_method("RequestPasskey")
    async def request_passkey(self, device: DBusObjectPath) -> DBusUInt32:
        """Give what the node shows."""
        self._check(device == self._device)
        passkey = await self._agent.passkey()
        self._check(passkey is not None)
        return passkey or 0

    @dbus_method("RequestConfirmation")
    async def request_confirmation(self, device: DBusObjectPath, number: DBusUInt32) -> None:
        """Say whether the node shows the same."""
        self._check(device == self._device and await self._agent.compare(number))

    @dbus_method("RequestAuthorization")
    def request_authorization(self, device: DBusObjectPath) -> None:
        """Say whether a pairing in which nobody looks will do."""
        self._check(device == self._device and self._agent.authorize())

    @dbus_method("AuthorizeService")
    def authorize_service(self, device: DBusObjectPath, uuid: DBusStr) -> None:  # noqa: ARG002 -- none
        """Offer nobody a service."""
        self._check(allowed=False)

    @dbus_method("RequestPinCode")
    def request_pin_code(self, device: DBusObjectPath) -> DBusStr:  # noqa: ARG002 -- that of old Bluetooth
        """Know none."""
        raise DBusError(_REJECTED, "not now")

    @dbus_method("DisplayPinCode")
    def display_pin_code(self, device: DBusObjectPath, code: DBusStr) -> None:  # noqa: ARG002 -- that of old Bluetooth
        """Show none."""
        self._check(allowed=False)

    @dbus_method("DisplayPasskey")
    def display_passkey(self, device: DBusObjectPath, passkey: DBusUInt32, entered: DBusUInt16) -> None:
        """No node has a keyboard; BlueZ does not wait for an answer."""

    @dbus_method("Cancel")
    def cancel(self) -> None:
        """The device has gone; what it was asked ends by itself."""

    @dbus_method("Release")
    def release(self) -> None:
        """The agent is not needed any more."""


@asynccontextmanager
async def _connected() -> AsyncIterator[MessageBus]:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        yield bus
    finally:
        bus.disconnect()


async def _call(bus: MessageBus, path: str, interface: str, member: str, signature: str = "", *body: Any) -> list[Any]:
    """Raises TransportError where BlueZ refuses."""
    reply = await bus.call(Message(_BLUEZ, path, interface, member, signature=signature, body=list(body)))
    if reply is None or reply.message_type is MessageType.ERROR:
        raise TransportError(f"BlueZ: {member}: {reply and (reply.error_name, *reply.body)}")
    return reply.body


@asynccontextmanager
async def answering(device: str, agent: Agent) -> AsyncIterator[None]:
    """Let `agent` answer what BlueZ asks while `device` pairs. Raises TransportError."""
    async with _connected() as bus:
        bus.export(_AGENT, _Agent1(device, agent))
        await _call(bus, "/org/bluez", _MANAGER, "RegisterAgent", "os", _AGENT, "KeyboardDisplay")
        await _call(bus, "/org/bluez", _MANAGER, "RequestDefaultAgent", "o", _AGENT)
        yield  # BlueZ forgets an agent whose bus is gone


async def paired(device: str) -> bool:
    """Whether BlueZ has a bond with `device`: then its connection is encrypted, or there is none. Raises TransportError."""
    async with _connected() as bus:
        (value,) = await _call(bus, device, "org.freedesktop.DBus.Properties", "Get", "ss", _DEVICE, "Paired")
        assert isinstance(value, Variant)
        return bool(value.value)


async def forget(adapter: str, device: str) -> None:
    """Let BlueZ forget the device and its bond. Raises TransportError where it does not know it."""
    async with _connected() as bus:
        await _call(bus, f"/org/bluez/{adapter}", _ADAPTER, "RemoveDevice", "o", device)
