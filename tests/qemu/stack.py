"""The deepest that a firmware's stack gets: a boot, a handshake, an update, a word that it hears, and the answer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import m4
import machine
import numpy as np
import test_deploy
from cryptography.hazmat.primitives.serialization import Encoding
from live import until
from place import HOST, Place, models
from test_boards import Authority, pem

from cascades.wakeword import speech
from gatewayd import provisioning, signing
from gatewayd.core.types import Provisioning, Security
from gatewayd.demo import site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

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


class OpenPlace(Place):
    """Everybody may connect, in clear or with a certificate."""

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

    def board(self, name: str, preset: str) -> machine.Machine:
        trusted = (signing.raw(signing.load_private(self.models.key).public_key()),)
        node = Provisioning(name, HOST, self.mqtt_port, Security.PLAIN, trusted)
        if preset == "qemu-m4-x509":
            certificate, key = self.authority.issue(name)
            der = [one.public_bytes(Encoding.PEM) for one in (self.authority.certificate, certificate)]
            ca, certificate, private = provisioning.x509_credentials(*der, pem(key))
            node = node._replace(port=self.tls_port, security=Security.X509, ca=ca, certificate=certificate, private_key=private)
        return machine.Machine(self.folder / name, provisioning.flash_image(node, self.models.old), preset)


async def used(presets: Iterable[str], folder: Path) -> dict[str, int]:
    """Bytes, of each of these firmware builds. Raises m4.Missing."""
    made = models(folder)
    found = {}
    for preset in presets:
        (folder / preset).mkdir()
        kind = OpenPlace if preset in ("qemu-m4-plain", "qemu-m4-x509") else Place
        found[preset] = await _used(preset, kind(folder / preset, made, ["node"]))
    return found


async def _used(preset: str, place: Place) -> int:
    symbols = m4.symbols(machine.firmware(preset))
    bottom, top = symbols["stack_bottom"], symbols["stack_top"]
    async with place.broker(), place.gateway(), place.hearing(), place.board("node", preset) as board:
        await place.ready("node", 1)
        await place.update("node", place.models.new)
        board.say(np.pad(speech.say("okay nabu", "espeak-ng:en-us+f2"), speech.RATE_HZ))
        await board.until_said("action")
        async with board.stopped() as memory:
            stack = await memory.read(bottom, top - bottom)
    words = [stack[at : at + 4] for at in range(0, len(stack), 4)]
    return 4 * next(len(words) - at for at, word in enumerate(words) if word != PAINT)
