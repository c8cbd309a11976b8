"""The deepest that each firmware's stack gets: a boot, a handshake, an update, a word that it hears, and the answer."""

from __future__ import annotations

import contextlib
import tomllib
from typing import TYPE_CHECKING

import m4
import machine
import numpy as np
import pytest
import test_deploy
from cryptography.hazmat.primitives.serialization import Encoding
from place import HOST, Models, Place
from test_boards import Authority, pem

from cascades.wakeword import speech
from gatewayd import provisioning
from gatewayd.core.types import Provisioning, Security
from gatewayd.demo import site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow
BUDGET = tomllib.loads((m4.ROOT / "node_firmware" / "budget.toml").read_text())
PAINT = bytes.fromhex("a5a5a5a5")
CONFIG = """
per_listener_settings true
listener CLEAR 127.0.0.1
allow_anonymous true
listener TLS 127.0.0.1
allow_anonymous true
cafile SECRETS/ca.pem
certfile SECRETS/broker.pem
keyfile SECRETS/broker.key
require_certificate true
log_dest stderr
"""
OPEN = {"qemu-m4-plain": Security.PLAIN, "qemu-m4-x509": Security.X509}  # the others have a key


class OpenPlace(Place):
    """Everybody may connect, in clear or with a certificate."""

    def __init__(self, folder: Path, models: Models, security: Security) -> None:
        super().__init__(folder, models, ["node"])
        self.security = security

    @contextlib.asynccontextmanager
    async def broker(self) -> AsyncIterator[test_deploy.Broker]:
        self.authority, self.tls_port, secrets = Authority(), site.free_port(), self.folder / "secrets"
        secrets.mkdir()
        certificate, key = self.authority.issue(HOST)
        (secrets / "ca.pem").write_bytes(self.authority.certificate.public_bytes(Encoding.PEM))
        (secrets / "broker.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (secrets / "broker.key").write_bytes(pem(key))
        self.write_config()
        config = CONFIG.replace("CLEAR", str(self.mqtt_port)).replace("TLS", str(self.tls_port)).replace("SECRETS", str(secrets))
        async with test_deploy.running(self.folder, config, self.mqtt_port, self.tls_port) as broker:
            yield broker

    def identity(self, name: str, key: str | None = None) -> Provisioning:
        node = super().identity(name, key)._replace(port=self.mqtt_port, security=Security.PLAIN, psk=None)
        if self.security is Security.PLAIN:
            return node
        certificate, private = self.authority.issue(name)
        shown = [one.public_bytes(Encoding.PEM) for one in (self.authority.certificate, certificate)]
        ca, own, der = provisioning.x509_credentials(*shown, pem(private))
        return node._replace(port=self.tls_port, security=Security.X509, ca=ca, certificate=own, private_key=der)


async def used(preset: str, models: Models, folder: Path) -> int:
    """Bytes. Raises m4.Missing."""
    security = OPEN.get(preset)
    place = OpenPlace(folder, models, security) if security else Place(folder, models, ["node"])
    symbols = m4.symbols(machine.firmware(preset))
    bottom, top = symbols["stack_bottom"], symbols["stack_top"]
    async with place.broker(), place.gateway(), place.hearing(), place.board("node", preset) as board:
        await place.ready("node", 1)
        await place.update("node", models.new)
        board.say(np.pad(speech.say("okay nabu", "espeak-ng:en-us+f2"), speech.RATE_HZ))
        await board.until_said("action")
        async with board.stopped() as memory:
            stack = await memory.read(bottom, top - bottom)
    words = [stack[at : at + 4] for at in range(0, len(stack), 4)]
    return 4 * next(len(words) - at for at, word in enumerate(words) if word != PAINT)


@pytest.mark.parametrize("preset", BUDGET)
async def test_the_stack_is_within_its_budget(tmp_path, models, preset):
    deepest = await used(preset, models, tmp_path)
    print(f"{preset}: {deepest} bytes of stack")
    assert 0 < deepest <= BUDGET[preset]["stack used"]["ram"]
