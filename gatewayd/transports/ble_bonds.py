"""Bonds over one connection: pair, see that it is who paired, and make a node that is nobody yet one of ours."""

import logging
from typing import NoReturn

from bleak import BleakClient

from gatewayd.core.neighbours import Peer
from gatewayd.core.pairing import Pairing, Stage
from gatewayd.errors import DecodeError, NodeRefusedError, TransportError
from gatewayd.ports import PairingDesk
from gatewayd.transports.ble_adapter import Adapter
from gatewayd.transports.ble_link import Link, answered

_PAIR_S = 60.0
_log = logging.getLogger(__name__)


async def forget(adapter: Adapter, address: str) -> None:
    """Have no bond with `address`, if that is possible."""
    try:
        await adapter.stack.forget(address)
    except TransportError as error:
        _log.debug("%s: forget %s: %s", adapter.name, address, error)


class _Operator:
    """The agent of one pairing: what the desk says. `strict`: one in which nobody looks will not do."""

    def __init__(self, desk: PairingDesk, node: str, *, strict: bool) -> None:
        self.authenticated = False
        self.refusal = ""  # why the operator does not want it
        self._desk = desk
        self._node = node
        self._strict = strict

    async def passkey(self) -> int | None:
        passkey = self._desk.passkey(self._node)
        self.authenticated = passkey is not None
        self.refusal = "" if self.authenticated else "the node shows a passkey, and none was given"
        return passkey

    async def compare(self, number: int) -> bool:
        self.authenticated = await self._desk.compare(self._node, number)
        self.refusal = "" if self.authenticated else "nobody said that the numbers are the same"
        return self.authenticated

    def authorize(self) -> bool:
        self.refusal = "the node shows nothing that could be compared" if self._strict else ""
        return not self.refusal


class Bonds:
    """What `desk` wants, done with a stack."""

    def __init__(self, desk: PairingDesk) -> None:
        self._desk = desk

    async def pair(self, adapter: Adapter, peer: Peer, link: Link, client: BleakClient) -> None:
        """Pair with whom the operator wants, if it is that. Raises DecodeError."""
        node, agent = peer.pairing, _Operator(self._desk, peer.pairing, strict=self._desk.trust.required)
        try:
            await self._bond(adapter, agent, client)
            await self._recognise(adapter, node, agent, link, client)
        except (TransportError, DecodeError) as error:
            await self._failed(adapter, peer, agent.refusal or str(error), "unpaired", final=bool(agent.refusal))
        finally:
            peer.pairing = ""  # until it advertises again

    async def provision(self, adapter: Adapter, peer: Peer, link: Link, client: BleakClient) -> None:
        """Pair with a node that is nobody yet, and tell it who it is. Raises DecodeError, and TransportError where the link broke when it
        may have been told: then it is seen from what it advertises.
        """
        node, agent = peer.pairing, _Operator(self._desk, peer.pairing, strict=True)
        bond = self._desk.trust.bond(peer.address)
        try:
            if bond is None or bond.node != node or not bond.authenticated or not await adapter.stack.encrypts(client):
                await self._bond(adapter, agent, client)
            data = await self._ask(adapter, node, client)
        except (TransportError, DecodeError) as error:
            await self._failed(adapter, peer, agent.refusal or str(error), "unprovisioned", final=bool(agent.refusal))
        else:
            try:
                await link.provision(client, data)
            except NodeRefusedError as error:
                await self._failed(adapter, peer, str(error), "unprovisioned", final=True)
        finally:
            peer.pairing = ""

    @staticmethod
    async def _bond(adapter: Adapter, agent: _Operator, client: BleakClient) -> None:
        async with answered("pair", _PAIR_S):
            await adapter.stack.pair(client, agent)
        if not agent.authenticated and not agent.authorize():
            raise TransportError(agent.refusal)

    async def _recognise(self, adapter: Adapter, node: str, agent: _Operator, link: Link, client: BleakClient) -> None:
        if (said := await link.identify(client)) != node:
            raise TransportError(f"it says that it is {said}")
        if not await self._desk.paired(node, adapter.name, client.address, authenticated=agent.authenticated):
            raise TransportError("it is not wanted any more")

    async def _ask(self, adapter: Adapter, node: str, client: BleakClient) -> bytes:
        data = await self._desk.provisioning(node)
        if data is None or not await self._desk.told(node, adapter.name, client.address):
            raise TransportError("nobody said what it is to be told")
        return data

    async def refuse(self, peer: Peer, cause: str) -> NoReturn:
        """It cannot become what the operator wants. Raises DecodeError."""
        await self._desk.failed(peer.pairing, cause, final=True)
        raise DecodeError("unprovisioned", cause)

    async def _failed(self, adapter: Adapter, peer: Peer, cause: str, reason: str, *, final: bool) -> NoReturn:
        await forget(adapter, peer.address)
        await self._desk.failed(peer.pairing, cause, final=final)
        raise DecodeError(reason, cause)

    async def check(self, adapter: Adapter, bond: Pairing | None, client: BleakClient) -> None:
        """Refuse who has not paired but should have, and who does not have the key of its bond. Raises DecodeError, TransportError."""
        if bond is None:
            if self._desk.trust.required:
                raise DecodeError("unpaired", f"{client.address} has not paired")
            return
        encrypted = await adapter.stack.encrypts(client)
        await self._desk.judged(bond, "" if encrypted else "it does not have the key of its bond: it was reset, or something imitates it")
        if not encrypted:
            raise DecodeError("unpaired", f"{client.address} is not {bond.node}")

    async def doubt(self, peer: Peer) -> None:
        """Where a stack cannot connect it, and does not say why, it may be the key of its bond."""
        bond = self._desk.trust.bond(peer.address)
        if peer.failing and bond is not None and not bond.cause:
            await self._desk.judged(bond, "it cannot be connected: it is too far away, or does not have the key of its bond")

    async def arrived(self, adapter: Adapter, bond: Pairing | None, node: str) -> None:
        """Whoever has that bond says that it is `node`. Raises DecodeError."""
        if bond is None:
            return
        if node != bond.node:
            raise DecodeError("identity", f"{bond.node} says that it is {node}")
        if bond.stage is not Stage.PAIRED:
            await self._desk.paired(node, adapter.name, bond.address, authenticated=True)
