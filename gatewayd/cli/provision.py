"""`gatewayctl node provision`: the operator's half of making a node that is nobody yet one of ours, over Bluetooth LE."""

import time
from pathlib import Path
from typing import NamedTuple

import typer

from gatewayd import audit, provisioning, signing
from gatewayd.cli.audit import operator
from gatewayd.cli.node import broker_of, first_line
from gatewayd.cli.pair import attend, check
from gatewayd.config import Config
from gatewayd.core.pairing import Pairing, Stage
from gatewayd.core.types import Provisioning, Security
from gatewayd.errors import ConfigError, TransportError
from gatewayd.nodekeys import NodeKeys, new_key, set_psk
from gatewayd.pairings import Pairings
from gatewayd.store import Store


class Request(NamedTuple):
    """What the operator wants; without `psk_file` the broker's half of the key goes to the keys of nodes."""

    node: str
    broker: str | None
    passkey: str | None
    address: str
    ssid: str | None
    wifi_password_file: Path | None
    psk_file: Path | None


def provision(config: Config, request: Request) -> None:
    """Have it done, and answer what is asked. Raises ConfigError, StoreError, TransportError, and BadParameter."""
    node = request.node
    digits = check(config, node, request.passkey)
    made = _make(config, request)
    data = provisioning.message(made)
    broker = _Broker(config, request, made)
    with Store(config.store, config.store_url) as store:
        rows = Pairings(store)
        if not rows.order(node, digits, time.time(), provision=True, address=request.address.upper()):
            raise ConfigError(f"{node} is paired, so it is there already; one that is to be made anew: gatewayctl node unpair {node}")
        typer.echo(f"{node}: waiting for a node that is not provisioned", err=True)
        last = attend(rows, node, lambda: data if broker.knows() else b"")
        if last is not None and last.stage in (Stage.PAIRED, Stage.TOLD):
            store.enroll(node, enrolled=True, now_s=time.time())
        audit.record(store, operator(), "node.provision", node, last.stage.value if last else "")
    _conclude(node, last, broker)


def _make(config: Config, request: Request) -> Provisioning:
    if request.wifi_password_file and not request.ssid:
        raise typer.BadParameter("--wifi-password-file goes with --ssid")
    host, port = broker_of(config, request.broker)
    return Provisioning(
        id=request.node,
        host=host,
        port=port,
        security=Security.PSK,
        keys=tuple(signing.raw(signing.load_public(path)) for path in config.cascades.keys),
        psk=new_key(),
        ssid=request.ssid,
        wifi_password=first_line(request.wifi_password_file) if request.wifi_password_file else None,
    )


class _Broker:
    """Where the broker's half of the key goes: when the node is about to be told its own, not before."""

    def __init__(self, config: Config, request: Request, made: Provisioning) -> None:
        self._node, self._psk = made.id, made.psk or b""
        self._file = request.psk_file
        self._keys = NodeKeys(config.enrolment)
        self._has = False
        if self._file is None and made.id in self._keys.nodes():
            raise ConfigError(f"{made.id} has a key, so it is there already; one that is to be made anew: gatewayctl node revoke {made.id}")

    def knows(self) -> bool:
        """From now on; a node that is told again has the same key. Raises ConfigError."""
        if not self._has and self._file is not None:
            try:
                set_psk(self._file, self._node, self._psk)
            except OSError as error:
                raise ConfigError(f"psk_file: {error}") from error
        elif not self._has:
            self._keys.add(self._node, self._psk)
            self._reload()
        self._has = True
        return True

    def forgets(self) -> None:
        """No node has it. Raises ConfigError."""
        if self._has and self._file is None:
            self._keys.remove(self._node)
            self._reload()

    def _reload(self) -> None:
        try:
            self._keys.reload()
        except TransportError as error:
            typer.echo(str(error), err=True)

    def advice(self) -> str:
        """What is left to do."""
        return f"; {self._file} has its key: systemctl reload mosquitto" if self._file else ""


def _conclude(node: str, last: Pairing | None, broker: _Broker) -> None:
    """Say how it went. Raises TransportError where it did not go well."""
    if last is not None and last.stage is Stage.PAIRED:
        typer.echo(f"{node}: provisioned, and here{broker.advice()}")
        return
    if last is not None and last.stage is Stage.TOLD:
        raise TransportError(f"{node} was told who it is, and has not come back yet: when it does, it is known{broker.advice()}")
    broker.forgets()
    raise TransportError(f"{node} is not provisioned: {last.cause if last else 'the order was taken back'}")
