"""transports/mqtt against a real broker: what is not acknowledged comes again, and only that; TLS; refusals; a broker that is away."""

import asyncio
import contextlib
import gc
import os
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import asynccontextmanager

import pytest
from live import Live, Node, until, vitals

from gatewayd import config
from gatewayd.core import wire
from gatewayd.core.types import GatewayState, Verdict
from gatewayd.demo import site
from gatewayd.errors import TransportError
from gatewayd.transports.mqtt import MqttTransport

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(not MOSQUITTO, reason="needs mosquitto")
VERDICT = wire.encode(Verdict(3, 1, True, "yes", 0.5, "act", 1_000, "gateway"))


class Listener:
    """A transport with the frames that it brought."""

    def __init__(self, transport):
        self.transport = transport
        self.frames = []

    async def read(self):
        async for batch in self.transport.frames():
            self.frames += batch

    async def first(self, count):
        await until(lambda: len(self.frames) >= count)
        return self.frames[:count]


@asynccontextmanager
async def connected(port, gateway_id="g1", **settings):
    transport = MqttTransport(config.Mqtt(port=port, **settings), gateway_id)
    listener = Listener(transport)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(transport.run()), group.create_task(listener.read())]
        await until(lambda: transport.connected)
        yield listener
        for task in tasks:
            task.cancel()
    assert not transport.connected


@pytest.fixture
async def live(tmp_path):
    live = Live(tmp_path)
    async with live.broker():
        yield live


async def test_frames_come_in_order_with_what_their_topic_says(live):
    async with Node(live) as node:
        await node.birth()
        async with connected(live.mqtt_port) as listener:
            await until(lambda: len(listener.frames) == 2)
            for seq in range(100):
                await node.event(seq)
            frames = await listener.first(102)
    assert {(frame.node, frame.tail, frame.retained) for frame in frames[:2]} == {("n1", "info", True), ("n1", "state", True)}
    assert [wire.decode(frame.tail, frame.payload).seq for frame in frames[2:]] == list(range(100))
    assert {(frame.node, frame.tail, frame.transport, frame.retained) for frame in frames[2:]} == {("n1", "event", "mqtt", False)}


async def test_what_was_not_acknowledged_comes_again(live):
    """Acknowledgements go out in order of arrival, so that what came after it comes again too."""
    async with Node(live) as node:
        async with connected(live.mqtt_port) as listener:
            for seq in range(10):
                await node.event(seq)
            frames = await listener.first(10)
            for frame in frames[9:3:-1] + frames[2::-1]:  # in any order, all but one
                frame.done()
        async with connected(live.mqtt_port) as listener:
            again = await listener.first(7)
            assert [wire.decode("event", frame.payload).seq for frame in again] == list(range(3, 10))
            for frame in reversed(again):
                frame.done()
        async with connected(live.mqtt_port) as listener:
            await node.event(10)  # nothing else comes before it
            assert wire.decode("event", (await listener.first(1))[0].payload).seq == 10


async def test_an_acknowledgement_from_an_earlier_connection_acknowledges_nothing(live):
    transport = MqttTransport(config.Mqtt(port=live.mqtt_port), "g1")
    listener = Listener(transport)
    reading = asyncio.create_task(listener.read())
    async with Node(live) as node:
        for count in (1, 2):
            running = asyncio.create_task(transport.run())
            await until(lambda: transport.connected)
            if count == 1:
                await node.event(0)
            (await listener.first(count))[0].done() if count == 2 else await listener.first(1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        async with connected(live.mqtt_port) as third:  # the second delivery was never acknowledged
            assert wire.decode("event", (await third.first(1))[0].payload).seq == 0
    reading.cancel()


async def test_what_is_sent_arrives_even_when_the_node_is_away_for_a_while(live):
    async with Node(live):
        pass  # it has a session now
    async with connected(live.mqtt_port) as listener:
        listener.transport.send("n1", "verdict", VERDICT)
        async with Node(live) as node:
            assert [verdict.seq for verdict in await node.verdicts(1)] == [3]


async def test_nothing_is_sent_without_a_link(live):
    transport = MqttTransport(config.Mqtt(port=live.mqtt_port), "g1")
    with pytest.raises(TransportError, match="not connected"):
        transport.send("n1", "verdict", VERDICT)


async def test_nodes_hear_whether_the_gateway_is_there(live):
    heard = []

    async def listen(node):
        await node.client.subscribe("nodelink/1/gateway/g1/state", qos=1)
        async for message in node.client.messages:
            heard.append(wire.decode_as(GatewayState, message.payload).state)  # noqa: PERF401 -- it never ends

    async with Node(live) as node:
        listening = asyncio.create_task(listen(node))
        async with connected(live.mqtt_port):
            await until(lambda: heard[-1:] == ["online"])
        await until(lambda: heard[-1:] == ["offline"])
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert heard == ["online", "offline"]


async def test_more_telemetry_than_can_be_taken_is_dropped_and_events_are_not(live, monkeypatch):
    monkeypatch.setattr("gatewayd.transports.mqtt._MAX_BACKLOG", 5)
    transport = MqttTransport(config.Mqtt(port=live.mqtt_port), "g1")
    running = asyncio.create_task(transport.run())  # nobody reads
    await until(lambda: transport.connected)
    async with Node(live) as node:
        for seq in range(20):
            await node.say("vitals", wire.encode(vitals()), qos=0)
            await node.event(seq)
        await until(lambda: transport.dropped + len(transport._backlog) == 40)
    assert [frame.tail for frame in transport._backlog].count("event") == 20
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_broker_that_is_away_is_an_error(tmp_path):
    port = site.free_port()
    with pytest.raises(TransportError, match=f"MQTT broker 127.0.0.1:{port}"):
        await MqttTransport(config.Mqtt(port=port), "g1").run()
    with pytest.raises(TransportError, match="MQTT broker no-such-host"):
        await MqttTransport(config.Mqtt(host="no-such-host.invalid"), "g1").run()


async def test_something_that_is_no_broker_is_an_error():
    async def answer(_reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransportError):
            await asyncio.wait_for(MqttTransport(config.Mqtt(port=port), "g1").run(), 30)


@asynccontextmanager
async def mosquitto(folder, port, text):
    path, log = folder / "own.conf", folder / "own.log"
    path.write_text(f"listener {port} 127.0.0.1\nmax_inflight_messages 1000\nmax_queued_messages 100000\n{text}")
    async with site.process([MOSQUITTO, "-c", path], log) as running:
        await site.listening(port, running, log)
        yield


async def test_a_login_that_is_refused_is_an_error(tmp_path):
    port = site.free_port()
    async with mosquitto(tmp_path, port, "allow_anonymous false\n"):
        with pytest.raises(TransportError, match="Not authorized"):
            await asyncio.wait_for(MqttTransport(config.Mqtt(port=port), "g1").run(), 30)


@pytest.fixture
def certificate(tmp_path):
    """A server's certificate that is its own authority."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "1", *names)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    for above in (tmp_path, *tmp_path.parents):
        if above.name.startswith(("pytest-", "test_")):
            above.chmod(0o755)
    (tmp_path / "key.pem").chmod(0o644)
    return tmp_path / "cert.pem"


async def test_over_tls(tmp_path, certificate):
    live = Live(tmp_path)
    tls_port = site.free_port()
    text = f"allow_anonymous true\nlistener {tls_port} 127.0.0.1\ncertfile {certificate}\nkeyfile {certificate.with_name('key.pem')}\n"
    async with mosquitto(tmp_path, live.mqtt_port, text), Node(live) as node, connected(tls_port, ca_file=certificate) as listener:
        for seq in range(50):
            await node.event(seq)
        frames = await listener.first(50)
        listener.transport.send("n1", "verdict", VERDICT)
        assert len(await node.verdicts(1)) == 1
    assert [wire.decode("event", frame.payload).seq for frame in frames] == list(range(50))


async def test_many_messages_in_one_tls_record_are_all_heard(certificate):
    """What is decrypted already wakes no loop. mosquitto sends a record a message; not every broker does."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    publish = b"\x30\x1a\x00\x17nodelink/1/up/n1/vitals" + b"x"  # QoS 0

    def serve(listening):
        with listening.accept()[0]:  # only looks whether there is anybody
            plain, _ = listening.accept()
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as sock:
                sock.recv(1_000)
                sock.sendall(b"\x20\x02\0\0" + 100 * publish)
                while sock.recv(1_000):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))  # paho's handshake blocks the loop
        thread.start()
        async with connected(listening.getsockname()[1], ca_file=certificate) as listener:
            assert {frame.payload for frame in await listener.first(100)} == {b"x"}
        await asyncio.to_thread(thread.join)


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # paho leaves it to the garbage collector
async def test_a_certificate_that_is_not_the_sites_is_an_error(tmp_path, certificate):
    port = site.free_port()
    text = f"allow_anonymous true\ncertfile {certificate}\nkeyfile {certificate.with_name('key.pem')}\n"
    async with mosquitto(tmp_path, port, text):
        stranger = MqttTransport(config.Mqtt(port=port, ca_file="/etc/ssl/certs/ca-certificates.crt"), "g1")
        with pytest.raises(TransportError, match="certificate verify failed"):
            await asyncio.wait_for(stranger.run(), 30)
    gc.collect()
