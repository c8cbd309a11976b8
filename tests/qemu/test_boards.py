"""Builds of the firmware, and what a board does that nobody provisioned, or not for its build."""

import contextlib
import datetime as dt
import re

import pytest
import test_deploy
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from machine import Machine
from place import HOST

from gatewayd import provisioning
from gatewayd.core.types import Provisioning, Security
from gatewayd.demo import site as demo

pytestmark = pytest.mark.slow
KEY = ec.generate_private_key(ec.SECP256R1())


async def test_a_board_that_is_not_provisioned_says_so_and_waits(tmp_path):
    """It says so every ten seconds, longer than its watchdog waits, and its clock goes on."""
    whole = provisioning.flash_image(Provisioning("kitchen", HOST, 1883, Security.PLAIN, ()))
    flashes = {"empty": b"", "erased": b"\xff" * len(whole), "damaged": whole[:20] + bytes([whole[20] ^ 1]) + whole[21:]}
    async with contextlib.AsyncExitStack() as power:
        boards = [await power.enter_async_context(Machine(tmp_path / name, flash)) for name, flash in flashes.items()]
        for board in boards:
            await board.until_said("not provisioned", 2)
            first, second = map(int, re.findall(r"\[(\d+)\] not provisioned", board.said()))
            assert first < second


async def test_a_board_without_tls(tmp_path):
    port = demo.free_port()
    node = Provisioning("kitchen", HOST, port, Security.PLAIN, ())
    async with demo.broker(tmp_path, port), Machine(tmp_path / "b", provisioning.flash_image(node), "qemu-m4-plain") as board:
        await board.until_said("online")
    secured = node._replace(security=Security.PSK, psk=bytes(16))
    async with Machine(tmp_path / "c", provisioning.flash_image(secured), "qemu-m4-plain") as board:
        await board.until_said("this firmware cannot do the security that was provisioned")


# ---- certificates

CONFIG = """
listener PORT 127.0.0.1
cafile SECRETS/ca.pem
certfile SECRETS/broker.pem
keyfile SECRETS/broker.key
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file SECRETS/acl
log_dest stderr
"""


class Authority:
    """A site's own. A certificate names who has it: a node by its id, the broker by its host."""

    def __init__(self, name="site"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0))

    def issue(self, name):
        """Certificate and private key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._sign(subject, key, x509.SubjectAlternativeName([x509.DNSName(name)])), key

    def _sign(self, subject, key, extension):
        today = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(today).not_valid_after(today + dt.timedelta(1))
        return builder.add_extension(extension, critical=True).sign(self.key, hashes.SHA256())


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def test_a_board_with_a_certificate(tmp_path):
    """It believes its broker, and the broker it, by the site's authority and no other's; the access list knows it by its name."""
    site, other = Authority(), Authority("other")
    secrets, port = tmp_path / "secrets", demo.free_port()
    secrets.mkdir()
    certificate, key = site.issue(HOST)
    (secrets / "ca.pem").write_bytes(site.certificate.public_bytes(Encoding.PEM))
    (secrets / "broker.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (secrets / "broker.key").write_bytes(pem(key))
    (secrets / "acl").write_text((test_deploy.MOSQUITTO / "site" / "acl").read_text())

    def board(name, believes, is_known_to):
        certificate, key = is_known_to.issue(name)
        der = provisioning.x509_credentials(*(one.public_bytes(Encoding.PEM) for one in (believes.certificate, certificate)), pem(key))
        node = Provisioning(name, HOST, port, Security.X509, (), None, None, None, *der)
        return Machine(tmp_path / name, provisioning.flash_image(node), "qemu-m4-x509")

    config = CONFIG.replace("PORT", str(port)).replace("SECRETS", str(secrets))
    async with (
        test_deploy.running(tmp_path, config, port),
        board("kitchen", site, site) as kitchen,
        board("hall", other, site) as hall,
        board("attic", site, other) as attic,
    ):
        await kitchen.until_said("online")
        for stranger in (hall, attic):
            await stranger.until_said("offline: TLS: ", 2)
            assert "online" not in stranger.said()
    log = (tmp_path / "log").read_text()
    assert "as kitchen (" in log
    assert "as hall (" not in log
    assert "as attic (" not in log
