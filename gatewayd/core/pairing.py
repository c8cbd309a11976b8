"""Pairing over Bluetooth LE: what the operator ordered, and who is known by a bond. Provisioning is a pairing with more steps. No I/O."""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple, Protocol

from gatewayd.core.beacon import crc_of
from gatewayd.errors import DecodeError

ORDER_S = 120.0
"""How long an order stands: whoever gave it waits, with the node on the table."""


class Stage(StrEnum):
    """How far a pairing is."""

    WANTED = "wanted"  # by the operator
    COMPARE = "compare"  # the gateway has a number; does the node show the same?
    AGREED = "agreed"  # it does, says the operator
    ASKED = "asked"  # it is to be provisioned and has paired: what is it to be told?
    GIVEN = "given"  # that
    TOLD = "told"  # it may have it, and is to come back as that node
    PAIRED = "paired"
    FAILED = "failed"

    @property
    def ordered(self) -> bool:
        """It is to be done, or under way."""
        return self not in (Stage.PAIRED, Stage.FAILED)


class Pairing(NamedTuple):
    """What is known of one node's pairing."""

    node: str
    stage: Stage
    at_s: float  # when it was ordered
    passkey: int | None = None  # until it was needed
    number: int | None = None
    adapter: str = ""  # the bond is between this and the address
    address: str = ""  # of an order to provision: whom the operator means, if they say so
    authenticated: bool = False  # a passkey or a comparison was part of it
    cause: str = ""  # why it failed, or what is wrong with its bond
    provision: bool = False  # make a node that is nobody yet this one
    given: bytes | None = None  # the map for that, until it was sent: there is a key in it

    @property
    def bonded(self) -> bool:
        """Whether it is a bond: also of a node that was told who it is, and may have to be told again."""
        return self.stage is Stage.PAIRED or (self.stage.ordered and self.adapter != "")


class Agent(Protocol):
    """Whoever looks at displays and types passkeys while one node pairs."""

    async def compare(self, number: int) -> bool:
        """Say whether the node shows the same six digits."""

    async def passkey(self) -> int | None:
        """Give the six digits that the node shows, or None."""

    def authorize(self) -> bool:
        """Say whether a pairing in which nobody looks will do."""


class Trust:
    """Who may be connected. `required`: only who has paired and authenticated; otherwise also who has never paired."""

    def __init__(self, *, required: bool = False) -> None:
        self.required = required
        self.orders: dict[int, Pairing] = {}  # by the CRC of the node's id
        self._bonds: dict[str, Pairing] = {}  # by address
        self._bonded: dict[int, Pairing] = {}  # by the CRC of the node's id

    def load(self, pairings: Iterable[Pairing], now_s: float) -> None:
        """Take all of them, in place of those before."""
        self.orders, self._bonds, self._bonded = {}, {}, {}
        for one in pairings:
            if one.stage.ordered and now_s - one.at_s < ORDER_S:
                self.orders[crc_of(one.node)] = one
            if one.bonded and (one.authenticated or not self.required):
                self._bonds[one.address] = self._bonded[crc_of(one.node)] = one

    def bonds(self) -> Iterable[Pairing]:
        """All that hold."""
        return self._bonds.values()

    def bond(self, address: str) -> Pairing | None:
        """Whose address it is, by a bond."""
        return self._bonds.get(address)

    def newcomer(self, address: str) -> Pairing | None:
        """The order to provision whoever is nobody yet and advertises from `address`."""
        meant = (order for order in self.orders.values() if order.provision and order.address in (address, ""))
        return max(meant, key=lambda order: order.address, default=None)

    def admit(self, address: str, crc: int) -> str:
        """Somebody advertises the id with this CRC: the node that is to pair, if it is that. Raises DecodeError where it is not trusted."""
        if address in self._bonds:
            return ""
        order = self.orders.get(crc)
        if order is not None and not order.provision:
            return order.node
        if self.required:
            raise DecodeError("unpaired", f"{address} has not paired")
        if crc in self._bonded:
            raise DecodeError(
                "unpaired", f"{address} says it is {self._bonded[crc].node}, which is {self._bonded[crc].address} by its bond"
            )
        return ""
