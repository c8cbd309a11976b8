"""app: the gateway as systemd, Prometheus and its operator meet it, as a process."""

import asyncio
import os
import shutil
import signal
import socket
import sys
import urllib.error
from contextlib import asynccontextmanager

import pytest
from live import Live, Node, until

from gatewayd import app, config
from gatewayd.demo import site

needs_mosquitto = pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto")


@pytest.fixture(params=["file", "abstract"])
def systemd(request, tmp_path):
    """(NOTIFY_SOCKET, the socket behind it)."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@gatewayd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.setblocking(False)
        yield name, sock


class Told:
    """What systemd was told, line by line."""

    def __init__(self, sock):
        self._sock = sock
        self.lines = []

    def has(self, wanted, times=1):
        try:
            while True:
                self.lines += self._sock.recv(4_096).decode().split("\n")
        except BlockingIOError:
            return self.lines.count(wanted) >= times


@needs_mosquitto
async def test_systemd_is_told(tmp_path, systemd):
    address, sock = systemd
    told = Told(sock)
    live = Live(tmp_path)
    async with live.broker(), live.start(NOTIFY_SOCKET=address, WATCHDOG_USEC="200000") as gateway:
        await until(lambda: told.has("READY=1"), live.said)
        await until(lambda: told.has("STATUS=0 of 0 nodes up, broker connected"))
        async with Node(live) as node:
            await node.birth()
            await until(lambda: told.has("STATUS=1 of 1 nodes up, broker connected"))
        await until(lambda: told.has("WATCHDOG=1", times=10))
        assert "STOPPING=1" not in told.lines
        assert await site.end(gateway) == 0
        assert told.has("STOPPING=1")
        assert told.lines.count("READY=1") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_is_ready_and_stops_without_a_broker_too(tmp_path, number):
    live = Live(tmp_path)
    async with live.start() as gateway:
        await until(lambda: live.series("gatewayd_mqtt_connected") == 0, live.said)
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            live.get("/healthz")
        assert refused.value.read().startswith(b"no broker")
        refused.value.close()
        assert await site.end(gateway, number) == 0
    assert "Traceback" not in live.said()


@needs_mosquitto
async def test_it_is_healthy_with_a_broker_and_its_models(tmp_path):
    live = Live(tmp_path)
    async with live.broker(), live.gateway():
        await until(lambda: live.get("/healthz") == "ok\n")


@asynccontextmanager
async def taken(port):
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", port):
        yield


async def test_what_makes_a_start_impossible_is_one_line(tmp_path):
    live = Live(tmp_path)

    async def says(*arguments):
        status, said = await live.ctl("run", "-c", live.config, *arguments)
        assert status in (1, os.EX_CONFIG)
        assert "Traceback" not in said
        return said

    assert "did you mean 'mqtt.port'" in await says("-s", "mqtt.prot=1")
    assert "is not KEY=VALUE" in await says("-s", "mqtt.port")
    async with taken(live.http_port):
        assert f"cannot listen on 127.0.0.1:{live.http_port}" in await says()
    assert "cascade.toml: [Errno 2]" in await says("-s", f'cascades.folders=["{tmp_path / "none"}"]')
    folder = live.cascade
    twin = shutil.copytree(folder, tmp_path / "twin")
    assert "there is a cascade 'fake' in" in await says("-s", f'cascades.folders=["{folder}", "{twin}"]')
    live.state.joinpath("gatewayd.db").unlink(missing_ok=True)
    live.state.joinpath("gatewayd.db").write_bytes(b"no database at all" * 99)
    assert "file is not a database" in await says()


async def test_a_bug_ends_the_daemon_so_that_systemd_restarts_it(tmp_path):
    """A task that dies unnoticed would be worse than a restart."""
    live = Live(tmp_path)
    bug = "import sys; from gatewayd import pipeline; pipeline.TICK_S = 'a bug'; from gatewayd.cli import main; sys.argv[0] = 'x'; main()"
    async with site.process([sys.executable, "-c", bug, "run", "-c", live.config], live.log, live.env) as gateway:
        assert await asyncio.wait_for(gateway.wait(), 60) == 1
    assert "TypeError" in live.said()


def test_without_folders_the_shipped_cascades_are_loaded():
    assert {folder.name for folder in app.cascade_folders(config.Config())} >= {"vibration", "wakeword"}
