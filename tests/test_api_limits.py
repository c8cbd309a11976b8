"""gatewayd.api.limits, .connections, .certificate and .server: what a client may take and sees, and what becomes of one that takes more."""

import asyncio
import contextlib
import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import httpx2
import pytest
from api_site import api_site
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from live import until

from gatewayd import config
from gatewayd.api import certificate as certificates
from gatewayd.api import connections, limits
from gatewayd.api.limits import BODY_BYTES, Buckets
from gatewayd.errors import ConfigError


@pytest.fixture
async def site(tmp_path):
    async with api_site(tmp_path) as site:
        yield site


@pytest.fixture
def hasty(monkeypatch):
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    monkeypatch.setattr(limits, "BODY_S", 0.3)
    monkeypatch.setattr(connections, "TAKE_S", 0.3)


# ---- every answer


async def test_every_answer_protects_its_reader(site):
    async with site.client() as client:
        for path in (f"{site.url}/", f"{site.url}/healthz", "/nodes", "/nothing", "/openapi.json"):
            headers = (await client.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'self'; ")
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
            assert "server" not in headers
        assert (await client.get("/nodes")).headers["cache-control"] == "no-store"


async def test_requests_are_counted_by_route_and_not_by_what_was_asked(site):
    async with site.client(site.read) as client:
        for name in ("n1", "n2", "x" * 20):
            await client.get(f"/nodes/{name}")
        await client.get("/unheard/of")
    text = site.metrics.exposition([], 0).decode()
    assert 'gatewayd_http_requests_total{route="/nodes/{node}",status="404"} 3.0' in text
    assert "xxxx" not in text
    assert "unheard" not in text


# ---- whom it is called by


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8460", "[::1]", "[::1]:8460", "192.168.1.7", socket.gethostname()]
)
async def test_a_name_of_ours_is_answered(site, host):
    answer = await site.raw(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8460", "localhost.evil.example", "127.0.0.1.nip.io", "", "[", "a b", "localhost:x"]
)
async def test_a_foreign_name_is_not(site, host):
    answer = await site.raw(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 421 ", b"HTTP/1.1 400 "))
    assert set(site.refused()) <= {"host", "http"}


# ---- too much


async def test_a_body_that_is_too_large_is_refused_before_it_is_there(site):
    head = f"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES + 1}\r\n\r\n"
    assert (await site.raw(head.encode())).startswith(b"HTTP/1.1 413 ")
    chunk = b"%x\r\n%b\r\n" % (BODY_BYTES, b"x" * BODY_BYTES)
    chunked = b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + 2 * chunk
    with contextlib.suppress(ConnectionError):  # as it sends on, it may not hear why
        answer = await site.raw(chunked)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"application/problem+json" in answer
    assert site.refused() == {"body": 2}


async def test_heads_that_are_too_large_and_what_is_no_http(site):
    for garbage in (b"\r\n\r\n", b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"A" * 100_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5_000,
                    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n"):  # fmt: skip
        with contextlib.suppress(ConnectionError):
            assert (await site.raw(garbage))[:13] in (b"", b"HTTP/1.1 400 ")
    assert site.refused()["http"] >= 6
    async with site.client() as client:
        assert (await client.get(f"{site.url}/healthz")).text == "ok\n"


async def test_who_asks_too_often_has_to_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "RATE", 0.01)
    monkeypatch.setattr(limits, "BURST", 5.0)
    async with api_site(tmp_path) as site:
        async with site.client() as client:
            answers = [await client.get(f"{site.url}/healthz") for _ in range(7)]
            assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
            assert (answers[-1].json()["title"], int(answers[-1].headers["retry-after"]) > 90) == ("Too Many Requests", True)
            assert site.refused() == {"rate": 2}
        async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(local_address="127.0.0.2")) as other:
            assert (await other.get(f"{site.url}/healthz")).status_code == 200


def test_a_bucket_fills_again_and_strangers_are_not_kept_for_ever(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    buckets = Buckets(rate=2.0, burst=2.0)
    for _ in range(2):
        assert buckets.wait_s("a") == 0
        buckets.take("a")
    assert buckets.wait_s("a") == 0.5
    now[0] += 0.5
    assert buckets.wait_s("a") == 0
    for number in range(5_000):
        buckets.take(f"10.0.{number // 256}.{number % 256}")
    assert len(buckets._levels) == 4_096


def test_a_client_of_ipv6_is_its_network():
    buckets = Buckets(rate=1.0, burst=1.0)
    buckets.take("2001:db8::1")
    assert buckets.wait_s("2001:db8::2") > 0
    assert buckets.wait_s("2001:db8:0:1::1") == 0


async def test_there_are_only_so_many_connections(site, monkeypatch):
    monkeypatch.setattr(connections, "OF_ONE_CLIENT", 3)
    async with contextlib.AsyncExitStack() as open_:
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", site.port)
            open_.callback(writer.close)
        with contextlib.suppress(ConnectionError):
            assert await site.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, local_addr=("127.0.0.2", 0))
        open_.callback(writer.close)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"ok\n")
    assert site.refused() == {"connections": 1}
    await until(lambda: asyncio.run(site.raw(b"GET /healthz HTTP/1.0\r\n\r\n")))


# ---- too slow


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_a_head_that_does_not_come(hasty, site, begun):
    with contextlib.suppress(ConnectionError):
        assert await site.raw(begun) == b""
    assert site.refused() == {"slow_head": 1}


async def test_a_head_that_drips(hasty, site):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 ")
    with contextlib.suppress(ConnectionError):  # the second request of the connection
        while not reader.at_eof():
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    assert await reader.read() == b""
    writer.close()
    assert site.refused() == {"slow_head": 1}


async def test_a_body_that_drips(hasty, site):
    head = b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(head)
    answered = asyncio.create_task(reader.read())
    with contextlib.suppress(ConnectionError):
        while not answered.done():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)
    assert (await answered).startswith(b"HTTP/1.1 408 ")
    writer.close()
    assert site.refused() == {"slow_body": 1}


async def test_a_body_that_nobody_wants_keeps_no_connection(site):
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\nsome"
    assert (await site.raw(head)).endswith(b"ok\n")


async def test_an_answer_that_nobody_reads(hasty, tmp_path):
    async with api_site(tmp_path, scrape=lambda: b"x" * 20_000_000) as site:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1)
        writer.transport.pause_reading()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: site.refused() == {"slow_reader": 1}, site.refused)
        writer.transport.abort()
        assert (await site.raw(b"GET /healthz HTTP/1.0\r\n\r\n")).endswith(b"ok\n")


async def test_stopping_waits_for_nobody_who_does_not_read(tmp_path):
    async with api_site(tmp_path, scrape=lambda: b"x" * 20_000_000) as site:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1)
        writer.transport.pause_reading()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: 'route="/metrics"' in site.metrics.exposition([], 0).decode())
    writer.transport.abort()


# ---- TLS


def certificate(folder, *names):
    """A self-signed one; paths of it and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gatewayd")])
    began = datetime.now(UTC) - timedelta(hours=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([*map(x509.DNSName, names), x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "http.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "http.key").write_bytes(key.private_bytes(*pem))
    return folder / "http.crt", folder / "http.key"


async def test_beyond_the_loopback_there_is_tls(tmp_path, monkeypatch):
    crt, key = certificate(tmp_path, "gateway.example")
    async with api_site(tmp_path, host="0.0.0.0", tls_certificate=crt, tls_key=key) as site:
        trust = ssl.create_default_context(cafile=str(crt))
        async with httpx2.AsyncClient(base_url=site.url, verify=trust) as client:
            assert (await client.get("/healthz", headers={"Host": "gateway.example"})).text == "ok\n"
            assert (await client.get("/healthz", headers={"Host": "other.example"})).status_code == 421
            opened = await client.post("/api/v1/session", json={"token": site.read}, headers={"Origin": site.url})
            assert "Secure" in opened.headers["set-cookie"]
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_2
        _, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=old)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        writer.close()
        assert await site.raw(b"GET /healthz HTTP/1.0\r\n\r\n") == b""  # not in the clear
        monkeypatch.setattr(connections, "OF_ONE_CLIENT", 2)
        async with contextlib.AsyncExitStack() as open_:
            for _ in range(2):  # that do not shake hands
                _, writer = await asyncio.open_connection("127.0.0.1", site.port)
                open_.callback(writer.close)
            with contextlib.suppress(ConnectionError):
                assert await site.raw(b"") == b""
            assert site.refused()["connections"] == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"http.host": "0.0.0.0"}, "needs tls_certificate and tls_key"),
        ({"http.host": "::"}, "needs tls_certificate and tls_key"),
        ({"http.host": "gateway.example"}, "needs tls_certificate and tls_key"),
        ({"http.tls_key": "/k"}, "go together"),
    ],
)
def test_without_tls_there_is_only_the_loopback(flags, words):
    with pytest.raises(ConfigError, match=words):
        config.load(None, flags, {})
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert config.load(None, {"http.host": host}, {}).http.loopback


async def test_a_certificate_that_is_none_is_a_configuration_error(tmp_path):
    crt, key = certificate(tmp_path)
    for certificate_, key_ in ((crt, tmp_path / "none"), (tmp_path / "none", key), (key, crt), (crt, crt)):
        with pytest.raises(ConfigError, match="tls_certificate"):
            async with api_site(tmp_path, tls_certificate=certificate_, tls_key=key_):
                pass


async def test_a_certificate_that_is_replaced_is_presented_without_a_restart(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(certificates, "_LOOK_S", 0.02)
    crt, key = certificate(tmp_path, "old.example")
    caplog.set_level("INFO")
    async with api_site(tmp_path, tls_certificate=crt, tls_key=key) as site:

        async def status(host):
            async with httpx2.AsyncClient(base_url=site.url, verify=ssl.create_default_context(cafile=str(trusted))) as client:
                return (await client.get("/healthz", headers={"Host": host})).status_code

        trusted = tmp_path / "trusted.crt"
        trusted.write_bytes(crt.read_bytes())
        assert [await status(host) for host in ("old.example", "new.example")] == [200, 421]
        (tmp_path / "new").mkdir()
        new_crt, new_key = certificate(tmp_path / "new", "New.example")
        new_crt.rename(crt)  # its key is not there yet
        await until(lambda: "CERTIFICATE_REFUSED" in kinds(caplog))
        assert [await status(host) for host in ("old.example", "new.example")] == [200, 421]
        crt.unlink()
        await until(lambda: kinds(caplog).count("CERTIFICATE_REFUSED") == 2)
        certificate(tmp_path / "new", "New.example")
        new_crt.rename(crt)
        new_key.rename(key)
        trusted.write_bytes(crt.read_bytes())
        await until(lambda: "CERTIFICATE_RENEWED" in kinds(caplog))
        assert [await status(host) for host in ("old.example", "new.example")] == [421, 200]


def kinds(caplog):
    return [record.journal["KIND"] for record in caplog.records if hasattr(record, "journal")]
