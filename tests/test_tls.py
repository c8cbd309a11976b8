"""TLS of the node against OpenSSL, without a socket between them: certificates, pieces, garbage; and with a key, what was recorded."""

import datetime as dt
import random
import ssl
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tls_client import CERT_VERIFY_FAILED, CLOSE_NOTIFY, FATAL_ALERT, Client, Error, counted

HOST = "broker.example"
RECORD_BYTES = 2_048  # of plain text; the header has 5 bytes more, AES-GCM 24
LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
DATA = random.Random(1).randbytes(65_536)


class Issued(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def der(self):
        private = self.key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        return {"certificate": self.certificate.public_bytes(Encoding.DER), "key": private}

    def pem(self, path):
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM) + private)
        return path


def issue(name, by=None, host=None):
    """A certificate that is over since long ago; an authority's where nobody signs it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(LONG_AGO)
        .not_valid_after(LONG_AGO + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not by, path_length=None), critical=True)
    )
    if host:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    return Issued(builder.sign((by or Issued(None, key)).key, hashes.SHA256()), key)


CA, STRANGER = issue("ca"), issue("stranger")
BROKER = issue("broker", CA, HOST)
NODE = issue("node", CA)


def node(lib, **changes):
    """A client that is right unless `changes` say otherwise."""
    ca = CA.certificate.public_bytes(Encoding.DER)
    return Client(lib, **{"host": HOST.encode(), "ca": ca, **NODE.der(), **changes})


class Server:
    """The broker's side: OpenSSL with its default security. `wire` is all that it sent."""

    def __init__(self, folder, broker=BROKER):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(broker.pem(folder / "broker.pem"))
        self.context.load_verify_locations(cadata=CA.certificate.public_bytes(Encoding.DER))
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.verify_flags |= 0x200000  # X509_V_FLAG_NO_CHECK_TIME
        self.start()

    def start(self):
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.context.wrap_bio(self._in, self._out, server_side=True)
        self.wire, self.shaken, self.heard = b"", False, b""

    def exchange(self, data):
        """What it sends when `data` has come."""
        self._in.write(data)
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            while said := self.tls.read(65_536):
                self.heard += said
        except ssl.SSLError:
            pass  # it waits for more, or an alert says what is wrong
        return self.sent()

    def sent(self):
        out = self._out.read()
        self.wire += out
        return out


def talk(client, server, piece=65_536):
    """Bytes go to and fro, `piece` at a time, until nobody has more to say. Those of the server."""
    while data := client.transmit(piece):
        answer = server.exchange(data)
        for at in range(0, len(answer), piece):
            client.receive(answer[at : at + piece])


def shake(client, server, piece=65_536):
    client.start()
    talk(client, server, piece)


def record_sizes(wire):
    """The payload of every record."""
    sizes, at = [], 0
    while at < len(wire):
        sizes.append(int.from_bytes(wire[at + 3 : at + 5]))
        at += 5 + sizes[-1]
    return sizes


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 100, 2_077, 65_536])
def test_both_sides_hear_what_was_said_however_it_is_cut(libnode, tmp_path, piece):
    client, server = node(libnode), Server(tmp_path)
    shake(client, server, piece)
    assert client.ready
    assert server.tls.cipher()[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"
    left = DATA
    while left:
        taken = client.write(left)
        assert client.write(left[taken:]) == 0  # the record before is not out yet
        left = left[taken:]
        talk(client, server, piece)
    server.tls.write(DATA)
    answer = server.sent()
    for at in range(0, len(answer), piece):
        client.receive(answer[at : at + piece])
    assert (server.heard == DATA, client.heard == DATA) == (True, True)
    assert max(record_sizes(server.wire)) == RECORD_BYTES + 24  # the extension is honoured
    client.close()


def fails(client, server):
    with pytest.raises(Error) as failed:
        shake(client, server)
    assert not client.ready
    client.close()
    return failed.value.args[0]


def test_who_the_broker_must_be(libnode, tmp_path):
    assert fails(node(libnode), Server(tmp_path, issue("broker", STRANGER, HOST))) == CERT_VERIFY_FAILED
    assert fails(node(libnode), Server(tmp_path, issue("broker", CA, "else.example"))) == CERT_VERIFY_FAILED
    assert fails(node(libnode), Server(tmp_path, issue(HOST, CA, "else.example"))) == CERT_VERIFY_FAILED
    assert fails(node(libnode), Server(tmp_path, issue(HOST))) == CERT_VERIFY_FAILED  # by itself


def test_a_broker_by_its_address(libnode, tmp_path):
    client = node(libnode, host=b"10.0.2.2")
    shake(client, Server(tmp_path, issue("broker", CA, "10.0.2.2")))  # as a DNS name, which is all that mbedTLS 2.28 compares
    assert client.ready


def test_who_the_node_must_be(libnode, tmp_path):
    assert fails(node(libnode, **issue("node", STRANGER).der()), Server(tmp_path)) == FATAL_ALERT
    assert fails(node(libnode, key=issue("else").der()["key"]), Server(tmp_path)) == FATAL_ALERT


@pytest.mark.parametrize(
    "changes", [{"host": None}, {"ca": b"0"}, {"certificate": None}, {"certificate": b"0"}, {"key": b"0"}, {"psk": b"0"}]
)
def test_credentials_that_are_none(libnode, changes):
    with pytest.raises(Error):
        node(libnode, **changes)


def test_no_other_version(libnode, tmp_path):
    server = Server(tmp_path)
    server.context.minimum_version = ssl.TLSVersion.TLSv1_3
    server.start()
    assert fails(node(libnode), server) == FATAL_ALERT


def test_every_start_is_a_new_session(libnode, tmp_path):
    client, server = node(libnode), Server(tmp_path)
    shake(client, server)
    first = server.wire
    for cut in (0, 10, 500, 800, len(first)):  # whatever it was in the middle of
        client.start()
        server.start()
        answer = server.exchange(client.transmit())
        client.receive(answer[:cut])
    server.start()
    shake(client, server)
    assert client.ready
    assert not server.tls.session_reused
    client.write(b"again")
    talk(client, server)
    assert server.heard == b"again"


def test_the_broker_says_goodbye(libnode, tmp_path):
    client, server = node(libnode), Server(tmp_path)
    shake(client, server)
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()
    with pytest.raises(Error) as failed:
        client.receive(server.sent())
    assert failed.value.args == (CLOSE_NOTIFY,)


def test_a_replayed_record_is_an_error(libnode, tmp_path):
    client, server = node(libnode), Server(tmp_path)
    shake(client, server)
    server.tls.write(b"once")
    record = server.sent()
    client.receive(record)
    with pytest.raises(Error):
        client.receive(record)
    assert client.heard == b"once"


# ---- what tls_vectors.py recorded

VECTORS = Path(__file__).parent / "vectors"
RECORDED = {"psk": {"identity": b"node", "psk": bytes(range(16))}, "x509": {"host": HOST.encode()}}
ANSWER = b"olleh\n"


class Replay:
    """A client that says the same as when it was recorded, so that the recorded server is right for it."""

    def __init__(self, lib, name):
        self._lib, self._credentials = lib, RECORDED[name]
        if name == "x509":
            files = {"ca": "tls-ca.der", "certificate": "tls-node.der", "key": "tls-node-key.der"}
            self._credentials = {**self._credentials, **{part: (VECTORS / file).read_bytes() for part, file in files.items()}}
        recording = (VECTORS / f"tls-{name}.bin").read_bytes()
        self.wire, at = b"", 1
        while at < len(recording):
            self.wire += recording[at + 1 : at + 1 + recording[at]]
            at += 1 + recording[at]

    def hear(self, wire):
        """What the client hears in `wire`, byte by byte, and the error that ended it or None."""
        client, error = Client(self._lib, counted(), **self._credentials), None
        try:
            client.start()
            for at in range(len(wire)):
                client.transmit()
                client.receive(wire[at : at + 1])
        except Error as failed:
            error = failed.args[0]
        client.close()
        return client.heard, error


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_byte_by_byte(libnode, name):
    replay = Replay(libnode, name)
    assert replay.hear(replay.wire) == (ANSWER, None)


@pytest.mark.parametrize(("name", "stride"), [("psk", 1), ("x509", 9)])
def test_a_byte_that_is_wrong(libnode, name, stride):
    replay = Replay(libnode, name)
    for at in range(0, len(replay.wire), stride):
        wire = bytearray(replay.wire)
        wire[at] ^= 1 << at % 8
        heard, error = replay.hear(bytes(wire) + bytes(RECORD_BYTES + 24))  # what follows fills a record whose length was made larger
        assert heard in {b"", ANSWER}
        assert error is not None


@pytest.mark.parametrize(("name", "stride"), [("psk", 5), ("x509", 45)])
def test_garbage_from_any_point_on(libnode, name, stride):
    replay, rng = Replay(libnode, name), random.Random(2)
    for at in range(0, len(replay.wire) + 1, stride):
        heard, error = replay.hear(replay.wire[:at] + rng.randbytes(70_000))
        assert heard in {b"", ANSWER}
        assert error is not None
