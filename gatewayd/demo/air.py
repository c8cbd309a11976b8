"""The air between Bumble's virtual controllers: what time and chance do to packets. For demo, tests and benchmarks.

Bumble's own link delivers at once and acknowledges what it has not delivered. Here a connection has connection events, one an interval.
In each, central and peripheral exchange PDUs, of at most 251 bytes, as long as there are any and the event's time lasts; the connections
of a central share its time equally. What is lost costs its time and is sent again. A controller's buffer is free when its PDU has arrived.
An advertiser waits its interval and up to 10 ms; a scanner hears the share that its window is of its interval, less loss, and scan
responses if it asks. A connection request that is lost fails as it does in the field (0x3E), a peer that vanishes is noticed by the
supervision timeout (0x08), a wrong long-term key by the integrity check (0x3D).

Events are not made up for: on a machine that is busy the radio is slow, and `Wire.events` is its clock. All chance is from one seed.

Not modelled: channels and their collisions, clock drift, peripheral latency, the time that scanning takes from connections, negotiation
of data length (it is 251), extended advertising, privacy. What happens within 5 ms happens at once; buffers are enough for a whole event.
"""

import asyncio
import contextlib
import math
import random
from collections import deque
from collections.abc import AsyncIterator

from gatewayd.errors import MissingPackageError

try:
    from bumble import controller as bumble_controller
    from bumble import hci, ll
    from bumble.link import LocalLink
    from bumble.transport.common import StreamPacketSink, StreamPacketSource
except ImportError as error:
    raise MissingPackageError("bumble", "bumble") from error

Connection = bumble_controller.Connection
_PDU_BYTES = 251
_BUFFERS = 40  # PDUs: an event of 50 ms at 2 Mbit/s holds 35
_SPACE_US = 150  # between two PDUs
_BURST_US = 5_000
_OVERHEAD_BITS = {1: 80, 2: 88}  # preamble, access address, header, CRC; by Mbit/s
_ADVERTISING_DELAY_S = 0.010
_ESTABLISHED_EVENTS = 6  # without a PDU from the peripheral: there is no connection


class _Advertisement(ll.AdvInd):
    """An ADV_IND and what its sender answers to a scan request."""

    def __init__(self, advertiser: "_Advertiser") -> None:
        super().__init__(advertiser.address, advertiser.advertising_data)
        self.response = advertiser.scan_response_data


class _Advertiser(bumble_controller.LegacyAdvertiser):
    def _on_timer_fired(self) -> None:
        self.send_advertising_data()
        air = self.controller.link
        assert isinstance(air, Air)
        delay_s = self.advertising_interval_min * 0.000625 + air.random.uniform(0, _ADVERTISING_DELAY_S)
        self.timer_handle = asyncio.get_running_loop().call_later(delay_s, self._on_timer_fired)

    def send_advertising_data(self) -> None:
        if self.enabled and self.advertising_type == hci.HCI_LE_Set_Advertising_Parameters_Command.AdvertisingType.ADV_IND:
            self.controller.send_advertising_pdu(_Advertisement(self))


class Wire:
    """A connection on the air."""

    def __init__(self, air: "Air", interval_ms: float, timeout_ms: float, *ends: Connection) -> None:
        self.interval_ms = interval_ms
        self.mbit = 1
        self.events = 0  # connection events with something to say
        self.delivered = 0  # PDUs
        self.lost = 0  # exchanges
        self.ends = list(ends)  # which are there; the central first
        self.queues: dict[hci.Role, deque[hci.HCI_AclDataPacket]] = {hci.Role.CENTRAL: deque(), hci.Role.PERIPHERAL: deque()}
        self._air = air
        self._timeout_s = timeout_ms / 1000
        self._left_us = 0.0  # of the event
        self._starved = False
        self._anchor_s = asyncio.get_running_loop().time()
        self._at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def send(self, end: Connection, packet: hci.HCI_AclDataPacket) -> None:
        """Take a PDU from a host."""
        self.queues[end.role].append(packet)
        self._schedule()

    def event(self) -> None:
        """One connection event, all of it now."""
        self._begin()
        while self._exchange():
            pass

    def vanished(self, end: Connection) -> None:
        """`end` is not there any more; the other will notice."""
        if end in self.ends:
            self.ends.remove(end)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._give_up, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)

    def unheard(self) -> None:
        """The connection request was lost."""
        self._timer = asyncio.get_running_loop().call_later(
            _ESTABLISHED_EVENTS * self.interval_ms / 1000, self._give_up, hci.HCI_ErrorCode.CONNECTION_FAILED_TO_BE_ESTABLISHED_ERROR
        )

    def close(self) -> None:
        """Nothing more is sent."""
        self.ends.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self.events += 1
        share_us = 1000 * self.interval_ms / max(1, self._air.connections(self.ends[0].controller))
        self._left_us = share_us + (self._left_us if self._starved else 0)
        self._starved = True  # until it has sent something: a share may be too small for a PDU

    def _exchange(self) -> bool:
        """A PDU in each direction, if there is one to send and time for it; whether."""
        queues = self.queues.values()
        took_us = sum((_OVERHEAD_BITS[self.mbit] + 8 * len(queue[0].data if queue else b"")) / self.mbit + _SPACE_US for queue in queues)
        if not any(queues) or took_us > self._left_us:
            return False
        self._left_us -= took_us
        self._starved = False
        if self._air.random.random() < self._air.loss:
            self.lost += 1
            return True
        for queue, (sender, receiver) in zip(queues, (self.ends, self.ends[::-1]), strict=True):
            if queue:
                self._deliver(queue.popleft(), sender, receiver)
        return True

    def _deliver(self, packet: hci.HCI_AclDataPacket, sender: Connection, receiver: Connection) -> None:
        self.delivered += 1
        first = 2 if packet.pb_flag == 0 else packet.pb_flag  # a host starts with 0, a controller with 2
        receiver.controller.send_hci_packet(hci.HCI_AclDataPacket(receiver.handle, first, 0, packet.data_total_length, packet.data))
        completed = hci.HCI_Number_Of_Completed_Packets_Event(connection_handles=[sender.handle], num_completed_packets=[1])
        sender.controller.send_hci_packet(completed)

    def _schedule(self) -> None:
        if self._timer is None and len(self.ends) == 2 and any(self.queues.values()):  # noqa: PLR2004 -- both
            loop = asyncio.get_running_loop()
            interval_s = self.interval_ms / 1000
            events = math.floor((loop.time() - self._anchor_s) / interval_s) + 1
            self._at_s = self._anchor_s + events * interval_s
            self._timer = loop.call_at(self._at_s, self._tick)

    def _tick(self) -> None:
        self._begin()
        self._burst()

    def _burst(self) -> None:
        """Some exchanges, so that hosts can say something in between."""
        self._timer = None
        until_us = self._left_us - _BURST_US
        while self._left_us > until_us:
            if not self._exchange():
                self._schedule()
                return
        self._at_s += _BURST_US / 1e6
        self._timer = asyncio.get_running_loop().call_at(self._at_s, self._burst)

    def _give_up(self, reason: hci.HCI_ErrorCode) -> None:
        for end in tuple(self.ends):
            end.controller.on_le_disconnected(end, reason)


class Air(LocalLink):
    """A cell: its controllers hear each other, and none of another. `interval_ms` is every connection's, whatever its central asks for."""

    def __init__(self, *, loss: float = 0.0, interval_ms: float | None = None, seed: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.loss = loss
        self.interval_ms = interval_ms
        self.random = random.Random(seed)  # noqa: S311 -- repeatable
        self.wires: dict[tuple[hci.Address, hci.Address], Wire] = {}  # by central and peripheral
        self.advertisements = 0  # sent

    def wire(self, end: Connection) -> Wire | None:
        """The connection that `end` is an end of."""
        return self.wires.get(
            (end.self_address, end.peer_address) if end.role == hci.Role.CENTRAL else (end.peer_address, end.self_address)
        )

    def connections(self, central: bumble_controller.Controller) -> int:
        """How many share the time of `central`."""
        return sum(end.role == hci.Role.CENTRAL for end in central.le_connections.values())

    def remove_controller(self, controller: bumble_controller.Controller) -> None:
        """It goes, without a word to its peers."""
        super().remove_controller(controller)
        for end in controller.le_connections.values():
            if wire := self.wire(end):
                wire.vanished(end)

    def ended(self, end: Connection) -> None:
        """The connection of `end` is no more."""
        for key, wire in tuple(self.wires.items()):
            if end in wire.ends:
                wire.close()
                del self.wires[key]

    def send_advertising_pdu(self, sender_controller: bumble_controller.Controller, packet: ll.AdvertisingPdu) -> None:
        """To all who are there, or, a connection request, to the one whom it is for."""
        if not isinstance(packet, ll.ConnectInd):
            self.advertisements += 1
            super().send_advertising_pdu(sender_controller, packet)
            return
        end = sender_controller.le_connections[packet.advertiser_address]
        wire = Wire(self, self.interval_ms or 1.25 * packet.interval, 10 * packet.timeout, end)
        self.wires[packet.initiator_address, packet.advertiser_address] = wire
        if self.random.random() >= self.loss:
            for controller in tuple(self.controllers - {sender_controller}):
                controller.on_ll_advertising_pdu(packet)
                peer = controller.le_connections.get(packet.initiator_address)
                if peer is not None and peer.self_address == packet.advertiser_address:
                    wire.ends.append(peer)
                    return
        wire.unheard()

    def send_ll_control_pdu(self, sender_address: hci.Address, receiver_address: hci.Address, packet: ll.ControlPdu) -> None:
        """Lost where the receiver has gone."""
        if self.find_le_controller(receiver_address) is not None:
            super().send_ll_control_pdu(sender_address, receiver_address, packet)


class Controller(bumble_controller.Controller):
    """Bumble's virtual controller, on `air`, and more of what a real one does."""

    le_acl_data_packet_length = acl_data_packet_length = _PDU_BYTES
    total_num_le_acl_data_packets = total_num_acl_data_packets = _BUFFERS
    supported_max_tx_octets = supported_max_rx_octets = _PDU_BYTES
    # Told of privacy, Linux waits for LE Enhanced Connection Complete, which Bumble's controller never sends: it would cancel
    # each connection after 4 s, in vain, and not know afterwards that it has it.
    le_features = bumble_controller.Controller.le_features & ~hci.LeFeatureMask.LL_PRIVACY

    def __init__(self, name: str, air: Air, public_address: str | None = None) -> None:
        super().__init__(name, link=air, public_address=public_address)
        self.air = air
        self.le_legacy_advertiser = _Advertiser(self)
        self._path_loss_db = air.random.randrange(45, 85)
        self._reported: dict[hci.Address, bytes] = {}  # since scanning began
        self._keys: dict[int, bytes] = {}  # which the central has, by handle, until the host has said which it has

    # ---- packets, which Bumble would write down each for a log that nobody reads

    def on_hci_packet(self, packet: hci.HCI_Packet) -> None:
        if isinstance(packet, hci.HCI_AclDataPacket):
            self.on_hci_acl_data_packet(packet)
        elif isinstance(packet, hci.HCI_Command):
            self.on_hci_command_packet(packet)

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        if self.host is not None:
            asyncio.get_running_loop().call_soon(self.host.on_packet, bytes(packet))

    def on_hci_acl_data_packet(self, packet: hci.HCI_AclDataPacket) -> None:
        end = self.find_le_connection_by_handle(packet.connection_handle)
        if end is not None and (wire := self.air.wire(end)):
            wire.send(end, packet)

    def on_le_disconnected(self, connection: Connection, reason: int) -> None:
        super().on_le_disconnected(connection, reason)
        self.air.ended(connection)
        self._keys.pop(connection.handle, None)

    def on_hci_reset_command(self, _command: hci.HCI_Reset_Command) -> hci.HCI_StatusReturnParameters:
        self.le_scan_enable = False
        self.pending_le_connection = None
        self.le_legacy_advertiser.stop()
        for end in self.le_connections.values():
            if wire := self.air.wire(end):
                wire.vanished(end)
        self.le_connections.clear()
        return super().on_hci_reset_command(_command)

    # ---- advertising

    def on_advertising_pdu(self, pdu: ll.AdvInd | ll.AdvExtInd) -> None:
        if self.le_scan_enable and self._hears(self.le_scan_window, self.le_scan_interval):
            self._report(pdu)
        pending = self.pending_le_connection
        if not isinstance(pending, hci.HCI_LE_Create_Connection_Command) or pending.peer_address != pdu.advertiser_address:
            return
        if self._hears(pending.le_scan_window, pending.le_scan_interval):
            self.create_le_connection(pdu.advertiser_address)

    def _hears(self, window: int, interval: int) -> bool:
        return self.air.random.random() * interval < window * (1 - self.air.loss)

    def _report(self, pdu: ll.AdvInd | ll.AdvExtInd) -> None:
        kind = hci.HCI_LE_Advertising_Report_Event.EventType
        heard = [(kind.ADV_IND, pdu.data)]
        if self.le_scan_type == hci.HCI_LE_Set_Scan_Parameters_Command.ACTIVE_SCANNING and isinstance(pdu, _Advertisement):
            heard.append((kind.SCAN_RSP, pdu.response))
        told = b"".join(data for _, data in heard)
        if self.filter_duplicates and self._reported.get(pdu.advertiser_address) == told:
            return
        self._reported[pdu.advertiser_address] = told
        address = pdu.advertiser_address
        for event_type, data in heard:
            report = hci.HCI_LE_Advertising_Report_Event.Report(
                event_type=event_type, address_type=address.address_type, address=address, data=data, rssi=-self._path_loss_db
            )
            self.send_hci_packet(hci.HCI_LE_Advertising_Report_Event([report]))

    def on_hci_le_set_scan_enable_command(self, command: hci.HCI_LE_Set_Scan_Enable_Command) -> hci.HCI_StatusReturnParameters:
        self._reported.clear()
        return super().on_hci_le_set_scan_enable_command(command)

    def on_hci_le_create_connection_cancel_command(
        self, _command: hci.HCI_LE_Create_Connection_Cancel_Command
    ) -> hci.HCI_StatusReturnParameters:
        if (pending := self.pending_le_connection) is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        self.pending_le_connection = None
        cancelled = hci.HCI_LE_Connection_Complete_Event(
            status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
            connection_handle=0,
            role=hci.Role.CENTRAL,
            peer_address_type=pending.peer_address_type,
            peer_address=pending.peer_address,
            connection_interval=0,
            peripheral_latency=0,
            supervision_timeout=0,
            central_clock_accuracy=0,
        )
        asyncio.get_running_loop().call_soon(self.send_hci_packet, cancelled)  # after the command's own answer
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    # ---- encryption

    def on_hci_le_enable_encryption_command(self, command: hci.HCI_LE_Enable_Encryption_Command) -> None:
        if (end := self._end(command.connection_handle, command.op_code)) is not None:
            end.send_ll_control_pdu(
                ll.EncReq(rand=command.random_number, ediv=command.encrypted_diversifier, ltk=command.long_term_key),
            )

    def on_ll_control_pdu(self, sender_address: hci.Address, packet: ll.ControlPdu) -> None:
        end = self.le_connections.get(sender_address)
        if not isinstance(packet, ll.EncReq) or end is None:
            super().on_ll_control_pdu(sender_address, packet)
            return
        self._keys[end.handle] = packet.ltk
        self.send_hci_packet(
            hci.HCI_LE_Long_Term_Key_Request_Event(
                connection_handle=end.handle, random_number=packet.rand, encryption_diversifier=packet.ediv
            )
        )

    def on_hci_le_long_term_key_request_reply_command(
        self, command: hci.HCI_LE_Long_Term_Key_Request_Reply_Command
    ) -> hci.HCI_StatusAndConnectionHandleReturnParameters:
        key = self._keys.pop(command.connection_handle, None)
        for end in self._ends(command.connection_handle):
            if key == command.long_term_key:
                end.controller.on_le_encrypted(end)
            else:
                end.controller.on_le_disconnected(end, hci.HCI_ErrorCode.CONNECTION_TERMINATED_DUE_TO_MIC_FAILURE_ERROR)
        return hci.HCI_StatusAndConnectionHandleReturnParameters(hci.HCI_ErrorCode.SUCCESS, command.connection_handle)

    def on_hci_le_long_term_key_request_negative_reply_command(
        self, command: hci.HCI_LE_Long_Term_Key_Request_Negative_Reply_Command
    ) -> hci.HCI_StatusAndConnectionHandleReturnParameters:
        self._keys.pop(command.connection_handle, None)
        for end in self._ends(command.connection_handle)[:1]:  # the central
            end.controller.send_hci_packet(
                hci.HCI_Encryption_Change_Event(
                    status=hci.HCI_ErrorCode.PIN_OR_KEY_MISSING_ERROR, connection_handle=end.handle, encryption_enabled=0
                )
            )
        return hci.HCI_StatusAndConnectionHandleReturnParameters(hci.HCI_ErrorCode.SUCCESS, command.connection_handle)

    # ---- the connection's parameters

    def on_hci_le_set_phy_command(self, command: hci.HCI_LE_Set_PHY_Command) -> None:
        if self._end(command.connection_handle, command.op_code) is None:
            return
        mbit = 2 if command.tx_phys & hci.PhyBit.LE_2M else 1
        for end in self._ends(command.connection_handle):
            if wire := self.air.wire(end):
                wire.mbit = mbit
            end.controller.send_hci_packet(
                hci.HCI_LE_PHY_Update_Complete_Event(
                    status=hci.HCI_ErrorCode.SUCCESS, connection_handle=end.handle, tx_phy=hci.Phy(mbit), rx_phy=hci.Phy(mbit)
                )
            )

    def on_hci_le_connection_update_command(self, command: hci.HCI_LE_Connection_Update_Command) -> None:
        if self._end(command.connection_handle, command.op_code) is None:
            return
        for end in self._ends(command.connection_handle):
            if (wire := self.air.wire(end)) and self.air.interval_ms is None:
                wire.interval_ms = 1.25 * command.connection_interval_min
            end.controller.send_hci_packet(
                hci.HCI_LE_Connection_Update_Complete_Event(
                    status=hci.HCI_ErrorCode.SUCCESS,
                    connection_handle=end.handle,
                    connection_interval=command.connection_interval_min,
                    peripheral_latency=command.max_latency,
                    supervision_timeout=command.supervision_timeout,
                )
            )

    def on_hci_le_set_data_length_command(
        self, command: hci.HCI_LE_Set_Data_Length_Command
    ) -> hci.HCI_StatusAndConnectionHandleReturnParameters:
        return hci.HCI_StatusAndConnectionHandleReturnParameters(hci.HCI_ErrorCode.SUCCESS, command.connection_handle)

    def on_hci_command(self, command: hci.HCI_Command) -> hci.HCI_StatusReturnParameters | None:  # type: ignore[override]
        """A command that is not there is refused by the event that belongs to it."""
        if isinstance(command, hci.HCI_SyncCommand):
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.UNKNOWN_HCI_COMMAND_ERROR)
        self._send_hci_command_status(hci.HCI_ErrorCode.UNKNOWN_HCI_COMMAND_ERROR, command.op_code)
        return None

    def _end(self, handle: int, op_code: int) -> Connection | None:
        """The connection that a command is about, of which its status is told."""
        end = self.find_le_connection_by_handle(handle)
        status = hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR if end is None else hci.HCI_ErrorCode.SUCCESS
        self._send_hci_command_status(status, op_code)
        return end

    def _ends(self, handle: int) -> list[Connection]:
        """Both ends of a connection, the central's first."""
        end = self.find_le_connection_by_handle(handle)
        wire = None if end is None else self.air.wire(end)
        return [] if wire is None else list(wire.ends)


class _Socket(StreamPacketSource):
    """HCI over TCP, from a host."""

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self._controller = controller
        self._sink: StreamPacketSink | None = None
        self.set_packet_sink(controller)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if isinstance(before := self._controller.host, StreamPacketSink):
            before.close()
        self._controller.host = self._sink = StreamPacketSink(transport)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._controller.host is self._sink:
            self._controller.host = None


@contextlib.asynccontextmanager
async def plugged(controller: Controller, port: int = 0) -> AsyncIterator[int]:
    """Serve `controller` to one host at a time on a loopback port, until it is pulled out."""
    server = await asyncio.get_running_loop().create_server(lambda: _Socket(controller), "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if isinstance(host := controller.host, StreamPacketSink):
            host.close()
        controller.host = None
        controller.on_hci_reset_command(hci.HCI_Reset_Command())  # without power it forgets
