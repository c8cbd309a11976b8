"""Provisioning: the sector in Python against the node's reader in C, and `gatewayctl node`."""

import ctypes as c
import json
import os
import stat
import struct
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given
from hypothesis import strategies as st
from node_image import Span

from gatewayd import provisioning, signing
from gatewayd.core import image
from gatewayd.core.types import Provisioning, Security
from gatewayd.errors import ConfigError, DecodeError, RefusedError

VECTORS = Path(__file__).parent / "vectors"
NODE_E_FORMAT = -8
CONFIG_STATUS, USAGE_STATUS = os.EX_CONFIG, 2
KEY = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)  # has signed vectors/model.img
MODEL = (VECTORS / "model.img").read_bytes()
PLAIN = Provisioning("kitchen-1", "broker.example", 1883, Security.PLAIN, (signing.raw(KEY.public_key()),))
PSK = PLAIN._replace(security=Security.PSK, psk=bytes(range(32)))
X509 = PLAIN._replace(security=Security.X509, ca=b"a" * 600, certificate=b"b" * 500, private_key=b"c" * 121, user="u", password="p")


class ProvisionC(c.Structure):
    """`provision_t`."""

    _fields_ = (
        ("id", c.c_char * 32),
        ("host", c.c_char * 64),
        ("port", c.c_uint16),
        ("security", c.c_int),
        ("user", c.c_char * 64),
        ("password", c.c_char * 64),
        *((name, Span) for name in ("psk", "ca", "certificate", "private_key")),
        ("keys", c.c_uint8 * 32 * 4),
        ("key_count", c.c_uint),
        ("image_bytes", c.c_uint32),
        ("ssid", c.c_char * 33),
        ("wifi_password", c.c_char * 65),
    )


def node_reads(libnode, sector):
    """What the node makes of a sector, or None where it refuses."""
    assert len(sector) == provisioning.SECTOR_BYTES
    raw, data = ProvisionC(), c.create_string_buffer(sector, len(sector))
    status = libnode.provision_read(c.byref(raw), data)
    assert status in (0, NODE_E_FORMAT)
    if status:
        return None
    return Provisioning(
        id=raw.id.decode(),
        host=raw.host.decode(),
        port=raw.port,
        security=list(Security)[raw.security],
        keys=tuple(bytes(key) for key in raw.keys[: raw.key_count]),
        psk=raw.psk.bytes() or None,
        user=raw.user.decode() or None,
        password=raw.password.decode() or None,
        ca=raw.ca.bytes() or None,
        certificate=raw.certificate.bytes() or None,
        private_key=raw.private_key.bytes() or None,
        image_bytes=raw.image_bytes or None,
        ssid=raw.ssid.decode() or None,
        wifi_password=raw.wifi_password.decode() or None,
    )


def gateway_reads(sector):
    """What gatewayd makes of it, or None where it refuses."""
    try:
        return provisioning.read(sector)
    except DecodeError:
        return None


def sector_of(data):
    """A sector with `data` where the map belongs."""
    return (b"NLPV" + struct.pack("<III", len(data), zlib.crc32(data), 0xFFFFFFFF) + data).ljust(provisioning.SECTOR_BYTES, b"\xff")


def map_of(value):
    """The map of integer keys."""
    return cbor2.loads(provisioning.write(value)[16:])


def text_of(most):
    plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=most)
    return plain.filter(lambda text: len(text.encode()) <= most)


short = text_of(63)
der = st.binary(min_size=1, max_size=1_000)
SECRETS = {
    Security.PLAIN: {},
    Security.PSK: {"psk": st.binary(min_size=16, max_size=32)},
    Security.X509: {"ca": der, "certificate": der, "private_key": der},
}


@st.composite
def provisionings(draw):
    security, user, ssid = draw(st.sampled_from(Security)), draw(st.none() | short), draw(st.none() | text_of(32))
    return Provisioning(
        id=draw(st.from_regex(r"[a-z0-9][a-z0-9-]{1,30}", fullmatch=True)),
        host=draw(short),
        port=draw(st.integers(1, 65_535)),
        security=security,
        keys=tuple(draw(st.lists(st.binary(min_size=32, max_size=32), max_size=4))),
        user=user,
        password=draw(st.none() | short) if user else None,
        image_bytes=draw(st.none() | st.integers(1, 2**32 - 1)),
        ssid=ssid,
        wifi_password=draw(st.none() | text_of(64)) if ssid else None,
        **{name: draw(strategy) for name, strategy in SECRETS[security].items()},
    )


@given(provisionings())
def test_the_node_reads_what_the_gateway_writes(libnode, value):
    sector = provisioning.write(value)
    assert node_reads(libnode, sector) == gateway_reads(sector) == value


@pytest.mark.parametrize("value", [PLAIN, PSK, X509], ids=lambda value: value.security)
def test_every_flipped_bit_is_noticed_or_means_nothing(libnode, value):
    sector = provisioning.write(value)
    end = 16 + struct.unpack_from("<I", sector, 4)[0]
    for at in range(8 * len(sector)):
        broken = bytearray(sector)
        broken[at // 8] ^= 1 << at % 8
        expected = None if at // 8 < end else value
        assert node_reads(libnode, bytes(broken)) == expected
        if at % 64 == 0:  # the other reader is slower
            assert gateway_reads(bytes(broken)) == expected


@pytest.mark.parametrize("value", [PLAIN, PSK, X509], ids=lambda value: value.security)
def test_every_cut_and_a_tail_are_noticed(libnode, value):
    sector = provisioning.write(value)
    data = sector[16 : 16 + struct.unpack_from("<I", sector, 4)[0]]
    for cut in (*(data[:size] for size in range(len(data))), data + b"\0"):
        assert node_reads(libnode, sector_of(cut)) is gateway_reads(sector_of(cut)) is None
    for size in range(len(sector)):
        assert gateway_reads(sector[:size]) is None


@pytest.mark.parametrize("sector", [b"\xff" * 4096, bytes(4096), b"NLPV" * 1024], ids=["erased", "zeros", "magic"])
def test_a_flash_without_provisioning_says_nothing(libnode, sector):
    assert node_reads(libnode, sector) is gateway_reads(sector) is None


@pytest.mark.parametrize("size", [4_081, 4_096, 2**31, 2**32 - 1])
def test_a_size_beyond_the_sector_is_refused(libnode, size):
    sector = bytearray(provisioning.write(PSK))
    struct.pack_into("<I", sector, 4, size)
    assert node_reads(libnode, bytes(sector)) is gateway_reads(bytes(sector)) is None


ABSENT = object()


@pytest.mark.parametrize(
    ("base", "change"),
    [
        *((PSK, {key: ABSENT}) for key in range(6)),
        *((X509, {key: ABSENT}) for key in (6, 8, 9, 10)),
        *((PSK, {0: text}) for text in ("n", "-n", "N1", "n_1", "n" * 32, "n1\0", b"n1", 7)),
        *((PSK, {1: text}) for text in ("", "b" * 64, "é" * 32, "a\0b", b"b")),
        *((PSK, {2: port}) for port in (0, 65_536, -1, 1.5, "1883", True)),
        *((PSK, {3: word}) for word in ("plain", "x509", "", "PSK", "psk2", 1)),
        *((PSK, {4: keys}) for keys in ([bytes(31)], [bytes(33)], [bytes(32)] * 5, bytes(32), ["k" * 32], [[bytes(32)]])),
        *((PSK, {5: key}) for key in (b"", bytes(15), bytes(33), "k" * 32)),
        *((PSK, {6: text}) for text in ("", "u" * 64, "u\0", 1)),
        *((PSK, {6: "u", 7: text}) for text in ("", "p" * 64, "\0", 1)),
        (PSK, {7: "a password without a user"}),
        *((PSK, {key: b"der"}) for key in (8, 9, 10)),
        *((X509, {key: value}) for key in (8, 9, 10) for value in (b"", "der")),
        (X509, {5: bytes(32)}),
        (PLAIN, {5: bytes(32)}),
        *((PSK, {11: size}) for size in (-1, 2**32, "1", b"1")),
        *((PSK, {12: text}) for text in ("", "s" * 33, "é" * 17, "s\0", b"s", 1)),
        *((PSK, {12: "s", 13: text}) for text in ("", "p" * 65, "\0", 1)),
        (PSK, {13: "a Wi-Fi's password without its name"}),
        *((PSK, {key: 0}) for key in (14, 31, 32, 2**32, -1, "0")),
    ],
)
def test_what_makes_no_node_is_refused(libnode, base, change):
    changed = {key: value for key, value in {**map_of(base), **change}.items() if value is not ABSENT}
    sector = sector_of(cbor2.dumps(changed))
    assert node_reads(libnode, sector) is gateway_reads(sector) is None
    assert node_reads(libnode, sector_of(cbor2.dumps(map_of(base)))) == base


@pytest.mark.parametrize("key", range(6))
def test_a_key_that_comes_twice_is_refused(libnode, key):
    pairs = map_of(PSK)
    again = cbor2.dumps(key) + cbor2.dumps(pairs[key])
    data = bytes([0xA0 + len(pairs) + 1]) + cbor2.dumps(pairs)[1:] + again
    assert node_reads(libnode, sector_of(data)) is gateway_reads(sector_of(data)) is None


@given(provisionings(), st.data())
def test_both_refuse_the_same(libnode, value, draws):
    data = bytearray(cbor2.dumps(map_of(value)))
    for _ in range(draws.draw(st.integers(1, 3))):
        data[draws.draw(st.integers(0, len(data) - 1))] = draws.draw(st.integers(0, 255))
    sector = sector_of(bytes(data))
    found = gateway_reads(sector)
    assume(found is None or None not in cbor2.loads(bytes(data)).values())  # which nodelink/1 has not, but Python takes for absent
    if found is not None and found.image_bytes == 0:
        found = found._replace(image_bytes=None)
    assert node_reads(libnode, sector) == found


@pytest.mark.parametrize("file", sorted(VECTORS.glob("*provisioning-*.cbor")), ids=lambda file: file.stem)
def test_vectors(libnode, file):
    sector = sector_of(file.read_bytes())
    found = node_reads(libnode, sector)
    assert found == gateway_reads(sector)
    assert (found is None) == file.stem.startswith("bad-")


def test_what_a_node_would_refuse_is_not_written():
    for value, complaint in (
        (PSK._replace(psk=bytes(8)), "psk"),
        (PLAIN._replace(keys=PLAIN.keys * 5), "keys"),
        (PLAIN._replace(user="u" * 64), "user"),
        (PLAIN._replace(user="é" * 32), "user"),
        (PLAIN._replace(user="\udcff"), "UTF-8"),
        (PLAIN._replace(password="p"), "without a user"),
        (PLAIN._replace(wifi_password="p"), "without its name"),
        (X509._replace(ca=bytes(4_000)), "smaller certificates"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            provisioning.write(value)


def test_over_the_air_goes_the_map_alone_if_a_node_has_room_for_it():
    largest = PSK._replace(id="n" * 31, host="h" * 63, keys=(bytes(32),) * 4, psk=bytes(32), ssid="s" * 32, wifi_password="p" * 64)
    assert sector_of(provisioning.message(largest)) == provisioning.write(largest)
    with pytest.raises(ConfigError, match="over Bluetooth LE"):
        provisioning.message(X509._replace(ca=bytes(600)))


def test_a_refusal_tells_no_secret():
    with pytest.raises(ConfigError) as caught:
        provisioning.write(PSK._replace(psk=b"secret", user="u", password="hunter2" * 10))
    assert "secret" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


# ---- the whole image


def test_the_factory_image_follows_and_is_counted():
    flash = provisioning.flash_image(PSK, MODEL, 1 << 16)
    found = provisioning.read(flash)
    assert found == PSK._replace(image_bytes=len(MODEL))
    assert flash[provisioning.SECTOR_BYTES :] == MODEL.ljust((1 << 16) - provisioning.SECTOR_BYTES, b"\xff")


def test_without_more_it_is_the_sector():
    assert provisioning.flash_image(PSK) == provisioning.write(PSK)


def test_an_image_that_the_node_would_refuse_is_refused():
    for value, factory, reason in (
        (PSK._replace(keys=(bytes(range(32)),)), MODEL, "key"),
        (PSK._replace(keys=()), MODEL, "key"),
        (PSK, MODEL[:-1], "size"),
        (PSK, MODEL[:-1] + bytes([MODEL[-1] ^ 1]), "signature"),
    ):
        with pytest.raises(RefusedError) as caught:
            provisioning.flash_image(value, factory)
        assert caught.value.reason == reason


def test_a_flash_that_is_too_small_is_refused():
    provisioning.flash_image(PSK, MODEL, provisioning.SECTOR_BYTES + len(MODEL))
    with pytest.raises(ConfigError, match="do not fit"):
        provisioning.flash_image(PSK, MODEL, provisioning.SECTOR_BYTES + len(MODEL) - 1)


# ---- X.509


def pem(key, passphrase=b""):
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def certificate(key, name="kitchen-1", encoding=serialization.Encoding.PEM):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 7, start, start + timedelta(days=10_000))
    return builder.sign(key, hashes.SHA256()).public_bytes(encoding)


P256, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


def test_pem_and_der_become_the_same_der():
    raw = P256.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    own = certificate(P256)
    own_der = x509.load_pem_x509_certificate(own).public_bytes(serialization.Encoding.DER)
    found = provisioning.x509_credentials(own, own, pem(P256))
    assert found == provisioning.x509_credentials(own_der, own_der, raw)
    assert found[:2] == (own_der, own_der)
    assert serialization.load_der_private_key(found[2], None).private_numbers() == P256.private_numbers()
    assert len(found[2]) <= 121


def test_what_cannot_be_credentials_is_refused():
    own, key = certificate(P256), pem(P256)
    large, rsa_key = ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2_048)
    for ca, shown, private, complaint in (
        (own, own, pem(OTHER), "not that of the certificate"),
        (own, certificate(OTHER), key, "not that of the certificate"),
        (certificate(rsa_key), own, key, "^CA: .*P-256"),
        (own, certificate(rsa_key), pem(rsa_key), "^certificate: .*P-256"),
        (own, certificate(large), pem(large), "^certificate: .*P-256"),
        (own, own, pem(large), "^private key: .*P-256"),
        (own, own, pem(KEY), "^private key: .*P-256"),
        (own, own, pem(P256, b"secret"), "without a passphrase"),
        (b"", own, key, "^CA: no certificate"),
        (own, key, key, "^certificate: no certificate"),
        (own, own, own, "^private key: none"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            provisioning.x509_credentials(ca, shown, private)


# ---- gatewayctl


@pytest.fixture
def folder(tmp_path):
    """What an operator has: keys, an image, certificates, a psk_file."""
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "op.pub").write_bytes(public)
    (tmp_path / "model.img").write_bytes(MODEL)
    (tmp_path / "ca.pem").write_bytes(certificate(OTHER, "site"))
    (tmp_path / "own.pem").write_bytes(certificate(P256))
    (tmp_path / "own.key").write_bytes(pem(P256))
    (tmp_path / "psk").write_bytes(b"# nodes\ncellar:00ff\nkitchen-1:1234\nkitchen-12:5678")
    return tmp_path


@pytest.fixture
def flash_image(ctl, folder):
    """Run `gatewayctl node flash-image kitchen-1`; file names are those of `folder`."""

    def run(*arguments, node="kitchen-1", broker="10.0.2.2:8883"):
        files = {path.name: path for path in folder.iterdir()}
        named = [files.get(argument, argument) for argument in arguments]
        return ctl("node", "flash-image", node, folder / "out", "--broker", broker, *named)

    return run


def test_a_new_node_gets_a_key_of_its_own(flash_image, folder, libnode):
    status, out, err = flash_image("--key", "op.pub")
    flash = (folder / "out").read_bytes()
    found = node_reads(libnode, flash)
    assert status == 0
    assert out == f"kitchen-1:{found.psk.hex()}\n"
    assert "psk_file" in err
    assert found == PLAIN._replace(host="10.0.2.2", port=8883, security=Security.PSK, psk=found.psk)
    assert stat.S_IMODE((folder / "out").stat().st_mode) == 0o600
    _, again, _ = flash_image("--key", "op.pub", "--force")
    assert again != out


def test_the_broker_gets_the_key_and_nobody_else(flash_image, folder):
    (folder / "psk").chmod(0o640)
    before = (folder / "psk").stat()
    status, out, err = flash_image("--psk-file", "psk", "--size", "64K", "--image", "model.img", "--key", "op.pub")
    flash = (folder / "out").read_bytes()
    psk = provisioning.read(flash).psk.hex()
    assert (status, out, len(flash)) == (0, "", 65_536)
    assert psk not in err
    assert (folder / "psk").read_text() == f"# nodes\ncellar:00ff\nkitchen-12:5678\nkitchen-1:{psk}\n"
    after = (folder / "psk").stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert not (folder / "psk.new").exists()


def test_certificates_instead_of_a_key(flash_image, folder, libnode):
    arguments = ("--ca", "ca.pem", "--certificate", "own.pem", "--private-key", "own.key")
    status, out, _ = flash_image(*arguments)
    found = node_reads(libnode, (folder / "out").read_bytes())
    assert (status, out, found.security, found.keys) == (0, "", Security.X509, ())
    assert x509.load_der_x509_certificate(found.ca).subject.rfc4514_string() == "CN=site"


def test_plain_with_a_user(flash_image, folder):
    (folder / "word").write_text("hunter2\nmore\n")
    assert flash_image("--plain", "--user", "nodes", "--password-file", "word")[:2] == (0, "")
    found = provisioning.read((folder / "out").read_bytes())
    assert (found.security, found.user, found.password) == (Security.PLAIN, "nodes", "hunter2")


def test_nothing_is_overwritten_unasked(flash_image, folder):
    (folder / "out").write_text("precious")
    status, _, err = flash_image("--psk-file", "psk")
    assert (status, (folder / "out").read_text()) == (CONFIG_STATUS, "precious")
    assert "--force" in err
    assert b"kitchen-1:1234\n" in (folder / "psk").read_bytes()
    (folder / "out").chmod(0o644)
    assert flash_image("--psk-file", "psk", "--force")[0] == 0
    assert stat.S_IMODE((folder / "out").stat().st_mode) == 0o600


def test_without_the_brokers_file_there_is_no_image(flash_image, folder):
    status, _, err = flash_image("--psk-file", folder / "absent")
    assert (status, (folder / "out").exists()) == (CONFIG_STATUS, False)
    assert "absent" in err


@pytest.mark.parametrize(
    ("arguments", "options", "status", "complaint"),
    [
        ((), {"node": "Kitchen"}, USAGE_STATUS, "'Kitchen' is not a node's name"),
        *(
            ((), {"broker": text}, USAGE_STATUS, "is not HOST:PORT")
            for text in ("b", "b:0", "b:65536", ":1", "a b:1", "[::1]:1883", "b:1x")
        ),
        (("--plain", "--psk-file", "psk"), {}, USAGE_STATUS, "either --plain"),
        (("--ca", "ca.pem"), {}, USAGE_STATUS, "all of --ca"),
        (("--plain", "--ca", "ca.pem", "--certificate", "own.pem", "--private-key", "own.key"), {}, USAGE_STATUS, "either --plain"),
        (("--ca", "ca.pem", "--certificate", "ca.pem", "--private-key", "own.key"), {}, CONFIG_STATUS, "not that of the certificate"),
        (("--size", "16X"), {}, USAGE_STATUS, "is not a size"),
        (("--size", "0"), {}, USAGE_STATUS, "is not a size"),
        (("--size", "2K"), {}, CONFIG_STATUS, "do not fit"),
        (("--key", "model.img"), {}, CONFIG_STATUS, "no public key"),
        (("--key", "absent"), {}, CONFIG_STATUS, "absent"),
        (("--image", "model.img"), {}, 1, "not trusted"),
        (("--image", "psk", "--key", "op.pub"), {}, 1, "header"),
        (("--password-file", "psk"), {}, CONFIG_STATUS, "without a user"),
        (("--user", "u", "--password-file", "binary"), {}, CONFIG_STATUS, "binary"),
    ],
)
def test_what_cannot_be_made_is_said(flash_image, folder, arguments, options, status, complaint):
    (folder / "binary").write_bytes(b"\xff")
    found, out, err = flash_image(*arguments, **options)
    assert (found, out) == (status, "")
    assert complaint in " ".join(err.replace("│", " ").split())
    assert not (folder / "out").exists()


def test_show_tells_everything_but_secrets(flash_image, folder, ctl):
    (folder / "word").write_text("hunter2")
    credentials = ("--ca", "ca.pem", "--certificate", "own.pem", "--private-key", "own.key")
    assert flash_image(*credentials, "--user", "u", "--password-file", "word", "--key", "op.pub", "--image", "model.img")[0] == 0
    status, out, _ = ctl("node", "show", folder / "out", "--json")
    assert (status, json.loads(out)) == (
        0,
        {
            "id": "kitchen-1",
            "broker": "10.0.2.2:8883",
            "security": "x509",
            "user": "u",
            "ca": "CN=site, until 2053-05-19",
            "certificate": "CN=kitchen-1, until 2053-05-19",
            "keys": [signing.raw(KEY.public_key()).hex()],
            "image": f"vibration {image.parse(MODEL).version}",
        },
    )
    text = ctl("node", "show", folder / "out")[1]
    assert f"keys         {signing.raw(KEY.public_key()).hex()}\n" in text
    assert "hunter2" not in out + text


def test_show_says_what_is_wrong(folder, ctl):
    (folder / "out").write_bytes(provisioning.flash_image(PSK, MODEL)[:-1])
    status, out, _ = ctl("node", "show", folder / "out")
    assert status == 0
    assert "image        BAD: size: " in out
    assert PSK.psk.hex() not in out
    (folder / "out").write_bytes(provisioning.write(X509))
    assert "ca           BAD: " in ctl("node", "show", folder / "out")[1]
    (folder / "out").write_bytes(b"\xff" * 4096)
    assert ctl("node", "show", folder / "out") == (1, "", "gatewayctl: header: not a node's provisioning\n")
    assert ctl("node", "show", folder / "absent")[0] == CONFIG_STATUS
