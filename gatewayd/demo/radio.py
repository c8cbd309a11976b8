"""A radio chip for nodes, made of Bumble: docs/radio.md's line on a unix socket, GATT, pairing and advertising on a virtual controller."""

import argparse
import asyncio
import contextlib
import enum
import secrets
import signal
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from bumble import att, hci
from bumble.core import UUID, BaseBumbleError
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.gatt import GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR, Characteristic, Descriptor, Service
from bumble.keys import MemoryKeyStore, PairingKeys
from bumble.pairing import PairingConfig, PairingDelegate

from gatewayd.demo import line
from gatewayd.demo.air import Air, Controller, plugged
from gatewayd.demo.line import Chip, Host

MAX_UNREAD = 65_536
"""Bytes that a host has not taken. More, and the chip loses frames, as a FIFO would."""

NODELINK = UUID("10c492ca-9dfe-4994-9520-c4e06db04166")
SMP = UUID("8d53dc1d-1db7-4cd3-868b-8a527460aa84")
IMPROV = UUID("00467768-6228-2272-4663-277478268000")
_GUARDED = 5  # the first characteristics: those that need what *security* said; Improv's are anybody's


class Level(enum.IntEnum):
    """Of security: of a connection, and what access needs."""

    OPEN = 0
    ENCRYPTED = 1
    AUTHENTICATED = 2


_IO = (
    PairingDelegate.IoCapability.NO_OUTPUT_NO_INPUT,
    PairingDelegate.IoCapability.DISPLAY_OUTPUT_ONLY,
    PairingDelegate.IoCapability.DISPLAY_OUTPUT_AND_YES_NO_INPUT,
)

# ---- pairing ----


class Bonds(MemoryKeyStore):
    """Keys of LE Secure Connections, by peer; they outlive a reset. Whoever did not authenticate does not replace who did."""

    def __init__(self, paired: Callable[[Level], bool]) -> None:
        super().__init__()
        self._paired = paired

    async def update(self, name: str, keys: PairingKeys) -> None:
        """A pairing has ended: with these keys."""
        level = self.level(keys)
        if self._paired(level) and level >= max(self.of(name), Level.ENCRYPTED):
            await super().update(name, keys)

    def of(self, peer: str) -> Level:
        """What a connection is worth that is encrypted with the key of `peer`."""
        return self.level(self.all_keys.get(peer))

    @staticmethod
    def level(keys: PairingKeys | None) -> Level:
        """Only LE Secure Connections have one key for both: legacy pairing is worth nothing."""
        if keys is None or keys.ltk is None:
            return Level.OPEN
        return Level.AUTHENTICATED if keys.ltk.authenticated else Level.ENCRYPTED


class _Delegate(PairingDelegate):
    """The node's display and its button."""

    def __init__(self, radio: "Radio", io: PairingDelegate.IoCapability) -> None:
        super().__init__(io, local_responder_key_distribution=PairingDelegate.KeyDistribution.DISTRIBUTE_ENCRYPTION_KEY)
        self._radio = radio

    async def generate_passkey(self) -> int:
        return self._radio.passkey

    async def compare_numbers(self, number: int, digits: int) -> bool:  # noqa: ARG002 -- Bumble's
        return await self._radio.compare(number)

    async def confirm(self, auto: bool = False) -> bool:  # noqa: ARG002 -- Bumble's: a pairing in which nobody looks
        return self._radio.needed < Level.AUTHENTICATED


# ---- the chip ----


class Radio:
    """One radio chip: it listens for its host at `path` while its block runs."""

    def __init__(self, controller: Controller, address: str, path: Path, advertising_interval_ms: float = 100) -> None:
        self.path = path
        self.passkey = 0
        self.overhear: Callable[[Host | Chip, bytes], object] = lambda _kind, _payload: None  # what passes the line
        self.needed = Level.AUTHENTICATED
        self._level = Level.OPEN
        self._values: dict[int, bytes] = {}  # that can be read
        self._serving = asyncio.Lock()  # one host at a time
        self._writer: asyncio.StreamWriter | None = None
        self._heeds = False  # from *security* on, until it starts anew
        self._next_said = self._next_heard = 0
        self._connection: Connection | None = None
        self._marks: deque[int] = deque()  # how many packets the controller has had when a notification is gone
        self._answer: asyncio.Future[bool] | None = None
        self._pairs = False  # a pairing was begun in this connection: only what it ends with counts
        self._agreed = True  # what was to be compared is the same
        self._device = Device.from_config_with_hci(
            DeviceConfiguration(
                name="",
                address=hci.Address(address, hci.Address.RANDOM_DEVICE_ADDRESS),
                advertising_interval_min=advertising_interval_ms,
                advertising_interval_max=advertising_interval_ms,
                irk=secrets.token_bytes(16),  # it is not told to anybody
            ),
            controller,
            controller,
        )
        self._bonds = self._device.keystore = Bonds(self._on_paired)
        self._device.pairing_config_factory = self._pairing
        self._device.on("connection", self._on_connection)
        self._server = self._device.gatt_server
        self._table = self._make_table()
        self._line: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self._device.power_on()
        self.path.unlink(missing_ok=True)
        self._line = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._line is not None
        self._line.close()
        if self._writer:
            self._writer.close()
        async with self._serving:
            await self._device.power_off()
        self.path.unlink(missing_ok=True)

    async def restart(self) -> None:
        """What its reset does, whoever asked for that: it forgets all but its bonds."""
        self._heeds = False
        await self._quieten()
        self._values.clear()
        self._next_said = 0
        self._say(Chip.STARTED, bytes((line.VERSION,)) + bytes(self._device.random_address))

    async def _quieten(self) -> None:
        await self._device.stop_advertising()
        await self._disconnect()

    async def _disconnect(self) -> None:
        if self._connection:
            with contextlib.suppress(BaseBumbleError):  # it is gone already
                await self._connection.disconnect()

    # -- to and from the host

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer:
            self._writer.close()  # a host that restarts may be there before its last life's end is seen
        async with self._serving:
            self._writer = writer
            frames = line.Reader()
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(4_096):
                    for frame in frames.feed(data):
                        await self._obey(frame)
            self._writer = None
            self._heeds = False
            await self._quieten()
            writer.close()

    def _say(self, kind: Chip, payload: bytes = b"") -> None:
        if not self._writer or (kind != Chip.STARTED and not self._heeds):
            return
        self.overhear(kind, payload)
        if self._writer.transport.get_write_buffer_size() < MAX_UNREAD:
            self._writer.write(line.encode(line.Frame(kind, self._next_said, payload)))
        self._next_said = (self._next_said + 1) % 256  # also of one that was lost: then the host notices

    async def _obey(self, frame: line.Frame) -> None:
        if frame.type == Host.RESET:
            await self.restart()
            return
        if frame.type == Host.SECURITY:
            self._heeds = True
            self._next_heard = 0
        if not self._heeds:
            return
        if frame.number != self._next_heard:
            await self.restart()
            return
        self._next_heard = (self._next_heard + 1) % 256
        try:
            await self._do(Host(frame.type), frame.payload)
        except (ValueError, IndexError, struct.error):  # what cannot be
            await self.restart()

    async def _do(self, kind: Host, payload: bytes) -> None:
        self.overhear(kind, payload)
        match kind:
            case Host.SECURITY:
                level, io, self.passkey = struct.unpack("<BBI", payload)
                self.needed, self._io = Level(level), _IO[io]
            case Host.ADVERTISE:
                await self._advertise(payload[1 : 1 + payload[0]], payload[1 + payload[0] :])
            case Host.VALUE if self._readable(payload[0]):
                self._values[payload[0]] = payload[1:]
            case Host.NOTIFY:
                if self._readable(payload[0]):
                    self._values[payload[0]] = payload[1:]
                await self._notify(self._table[payload[0]], payload[1:])
            case Host.CONFIRM:
                if self._answer and not self._answer.done():
                    self._answer.set_result(payload[0] != 0)
            case Host.DISCONNECT:
                await self._disconnect()
            case Host.ALIVE:
                self._say(Chip.ALIVE)
            case _:
                raise ValueError(kind)

    # -- advertising and connections

    async def _advertise(self, data: bytes, response: bytes) -> None:
        """Without stopping, where it advertises already: in between it could not be connected to."""
        device = self._device
        if self._connection:
            return  # it came before the host knew
        if not data:
            await device.stop_advertising()
        elif device.is_advertising:
            await device.send_sync_command(hci.HCI_LE_Set_Advertising_Data_Command(advertising_data=data))
            await device.send_sync_command(hci.HCI_LE_Set_Scan_Response_Data_Command(scan_response_data=response))
        else:
            await device.start_advertising(advertising_data=data, scan_response_data=response)

    def _on_connection(self, connection: Connection) -> None:
        self._connection, self._level = connection, Level.OPEN
        self._pairs, self._agreed = False, True
        connection.on("disconnection", self._on_disconnection)
        connection.on("connection_att_mtu_update", lambda: self._say(Chip.MTU, struct.pack("<H", connection.att_mtu)))
        connection.on("connection_encryption_change", self._on_encryption)
        connection.on("pairing_start", self._on_pairing_start)
        connection.on("pairing_failure", self._on_pairing_failure)
        assert connection.data_packet_queue is not None
        self._queue = connection.data_packet_queue
        self._queue.on("flow", self._count_sent)
        self._say(Chip.CONNECTED, struct.pack("<H", connection.att_mtu))

    def _on_disconnection(self, reason: int) -> None:
        self._queue.remove_listener("flow", self._count_sent)
        self._connection = None
        self._marks.clear()
        self._say(Chip.DISCONNECTED, bytes((reason,)))

    # -- the table of services

    def _make_table(self) -> list[Characteristic[bytes]]:
        """The characteristics, by their numbers on the line."""
        does, permits = Characteristic.Properties, att.Attribute.Permissions
        of_nodelink, of_improv = "10c492c{}-9dfe-4994-9520-c4e06db04166", "00467768-6228-2272-4663-27747826800{}"
        properties = (
            (of_nodelink.format("b"), does.READ),
            (of_nodelink.format("c"), does.NOTIFY),
            (of_nodelink.format("d"), does.WRITE_WITHOUT_RESPONSE),
            (of_nodelink.format("e"), does.WRITE_WITHOUT_RESPONSE | does.NOTIFY),
            ("da2e7828-fbce-4e01-ae9e-261174997c48", does.WRITE_WITHOUT_RESPONSE | does.NOTIFY),
            (of_improv.format(1), does.READ | does.NOTIFY),
            (of_improv.format(2), does.READ | does.NOTIFY),
            (of_improv.format(3), does.WRITE | does.WRITE_WITHOUT_RESPONSE),
            (of_improv.format(4), does.READ | does.NOTIFY),
            (of_improv.format(5), does.READ),
        )
        table: list[Characteristic[bytes]] = [
            Characteristic(uuid, allowed, permits.READABLE | permits.WRITEABLE, self._value(number), self._descriptors(number, allowed))
            for number, (uuid, allowed) in enumerate(properties)
        ]
        self._server.add_services([Service(NODELINK, table[:4]), Service(SMP, table[4:_GUARDED]), Service(IMPROV, table[_GUARDED:])])
        return table

    def _readable(self, number: int) -> bool:
        return bool(self._table[number].properties & Characteristic.Properties.READ)

    def _value(self, number: int) -> att.AttributeValue[bytes]:
        def read(_: Connection) -> bytes:
            self._guard(number)
            return self._values.get(number, b"")

        def write(_: Connection, value: bytes) -> None:
            if number >= _GUARDED or self._level >= self.needed:  # a write without response is not refused, it is lost
                self._say(Chip.WRITTEN, bytes((number,)) + value)

        return att.AttributeValue(read, write)

    def _descriptors(self, number: int, allowed: Characteristic.Properties) -> list[Descriptor]:
        """Bumble's own would let anybody subscribe."""
        if not allowed & Characteristic.Properties.NOTIFY:
            return []

        def read(bearer: att.Bearer) -> bytes:
            return self._server.read_cccd(bearer, self._table[number])

        def write(bearer: att.Bearer, value: bytes) -> None:
            self._guard(number)
            self._server.write_cccd(bearer, self._table[number], value)
            self._say(Chip.SUBSCRIBED, bytes((number, value[0] & 1)))

        permits = att.Attribute.Permissions
        value = att.AttributeValueV2[bytes](read, write)
        return [Descriptor(GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR, permits.READABLE | permits.WRITEABLE, value)]

    async def _notify(self, characteristic: Characteristic[bytes], data: bytes) -> None:
        if self._connection:
            await self._device.notify_subscriber(self._connection, characteristic, data)
            self._marks.append(self._queue.queued)
            self._count_sent()

    def _count_sent(self) -> None:
        """Say how many notifications the controller has sent, packet by packet."""
        count = 0
        while self._marks and self._marks[0] <= self._queue.completed:
            self._marks.popleft()
            count += 1
        if count:
            self._say(Chip.SENT, bytes((count,)))

    # -- security: Bumble takes a connection for authenticated as soon as it is encrypted, so levels are kept here

    def _guard(self, number: int) -> None:
        if number < _GUARDED and self._level < self.needed:
            authenticates = self.needed == Level.AUTHENTICATED
            raise att.ATT_Error(att.ATT_INSUFFICIENT_AUTHENTICATION_ERROR if authenticates else att.ATT_INSUFFICIENT_ENCRYPTION_ERROR)

    async def compare(self, number: int) -> bool:
        """Whether somebody at the node says that the peer shows the same number."""
        self._answer, self._agreed = asyncio.get_running_loop().create_future(), False
        self._say(Chip.COMPARE, struct.pack("<I", number))
        self._agreed = await self._answer
        return self._agreed

    def _pairing(self, _: Connection) -> PairingConfig:
        return PairingConfig(mitm=self.needed == Level.AUTHENTICATED, delegate=_Delegate(self, self._io))

    def _on_pairing_start(self) -> None:
        self._pairs = True

    async def _on_pairing_failure(self, _: int) -> None:
        """One guess a connection; Bumble could not do more. First the peer is to hear that it failed."""
        if self._connection:
            await self._connection.cancel_on_disconnection(self._queue.drain(self._connection.handle))
            await self._disconnect()

    def _on_paired(self, level: Level) -> bool:
        """Whether that pairing is to be remembered. Bumble accepts one in which the central has encrypted before anybody compared."""
        if self._agreed:
            self._secure(level)
        return self._agreed

    def _on_encryption(self) -> None:
        if self._connection and not self._pairs:
            self._secure(self._bonds.of(str(self._connection.peer_address)))

    def _secure(self, level: Level) -> None:
        self._level = level
        self._say(Chip.SECURED, bytes((level,)))


# ---- a cell of them ----


@contextlib.asynccontextmanager
async def cell(air: Air, paths: Iterable[Path]) -> AsyncIterator[list[Radio]]:
    """A radio for each path, all on `air`."""
    async with contextlib.AsyncExitStack() as running:
        yield [
            await running.enter_async_context(Radio(Controller(path.name, air), f"F0:00:00:00:{number >> 8:02X}:{number & 255:02X}", path))
            for number, path in enumerate(paths, 1)
        ]


async def _run(arguments: argparse.Namespace) -> None:
    air = Air(interval_ms=arguments.interval_ms, loss=arguments.loss)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with cell(air, arguments.sockets), plugged(Controller("gateway", air), arguments.hci_port) as port:
        print(f"READY {port}", flush=True)  # noqa: T201 -- whoever started it waits for this
        await ended.wait()


def main() -> None:
    """Run radios, and the controller of a gateway, until a signal; say READY and its port when they are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sockets", type=Path, nargs="+", metavar="SOCKET", help="where a radio listens for its node")
    parser.add_argument("--hci-port", type=int, default=0, help="loopback port of the gateway's controller; 0: any")
    parser.add_argument("--interval-ms", type=float, default=15.0, help="of all connections")
    parser.add_argument("--loss", type=float, default=0.0, help="share of packets")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
