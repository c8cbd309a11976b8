"""A small real site for tests: a private mosquitto, the gateway as a process, nodes that say what a test wants."""

import asyncio
import contextlib
import os
import sqlite3
import sys
import time
import urllib.request
from pathlib import Path

import aiomqtt
import psutil

from gatewayd.core import wire
from gatewayd.core.types import CascadeVitals, Event, Info, NodeState, Reason, State, Verdict, Vitals, Window, WindowKind
from gatewayd.demo import site

HERE = Path(__file__).parent
WINDOW = Window(WindowKind.PCM16, 16_000, 1, (2,), b"\0\0\0\0")
CASCADE = """
name = "fake"
version = "1"
[node]
model = "node.tflite"
arena_bytes = 1
front_end = { kind = "audio", rate_hz = 16000, window = 30, step = 10, channels = 40, low_hz = 125, high_hz = 7500 }
decision = { rule = "average", cutoff = 0.2, window = 5, labels = ["word"], clip_ms = 1000 }
[gateway]
kind = "fake"
deadline_s = DEADLINE
[policy]
action = "act"
alone_score = 0.8
"""


async def until(condition, what="", timeout_s=60.0):
    """Wait for `condition()` to be true, and return what it said. Its errors of a process that is away count as false."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError, sqlite3.OperationalError):
            if said := await asyncio.to_thread(condition):
                return said
        assert time.monotonic() < deadline, f"waited in vain for {what() if callable(what) else what or condition}"
        await asyncio.sleep(0.02)


class Live:
    """A site in `folder`. Broker and gateway may be started, killed and started again."""

    def __init__(self, folder, deadline_s=5.0, settings=""):
        self.folder = folder
        self.mqtt_port, self.http_port = site.free_port(), site.free_port()
        self.cascade = folder / "fake"
        self.log = folder / "gateway.log"
        self.state = folder / "state"
        for above in (folder, *folder.parents):  # mosquitto drops root and must reach its files then
            if above.name.startswith(("pytest-", "test_")):
                above.chmod(0o755)
        (self.cascade).mkdir()
        (self.cascade / "cascade.toml").write_text(CASCADE.replace("DEADLINE", str(deadline_s)))
        point = folder / "packages" / "fake-1.dist-info"
        point.mkdir(parents=True)
        (point / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1\n")
        (point / "entry_points.txt").write_text("[gatewayd.escalators]\nfake = fake_model\n")
        self.env = {"PYTHONPATH": f"{folder / 'packages'}{os.pathsep}{HERE}", "GATEWAYD_GATEWAY__LOG_LEVEL": "debug"}
        self.config = site.write_config(folder, self.mqtt_port, self.http_port, f'[cascades]\nfolders = ["{self.cascade}"]\n{settings}')

    def broker(self):
        return site.broker(self.folder, self.mqtt_port)

    def start(self, **env):
        """The gateway's process, whatever becomes of it."""
        return site.process([sys.executable, "-m", "gatewayd.cli", "run", "-c", self.config], self.log, {**self.env, **env})

    @contextlib.asynccontextmanager
    async def gateway(self, **env):
        """The gateway, online."""
        async with self.start(**env) as running:
            await until(lambda: self.series("gatewayd_mqtt_connected") == 1, self.said)
            yield running

    async def ctl(self, *arguments, env=None):
        """Run gatewayctl. Returns exit status and all that it printed."""
        command = (sys.executable, "-m", "gatewayd.cli", *map(str, arguments))
        running = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **self.env, "COLUMNS": "240", **(env or {})},
        )
        try:
            out, _ = await asyncio.wait_for(running.communicate(), 60)
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
        return running.returncode, out.decode()

    # ---- what it says

    def said(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            return answer.read().decode()

    def series(self, name):
        """The value of one series of /metrics, None where there is none."""
        lines = (line.rsplit(" ", 1) for line in self.get("/metrics").splitlines() if not line.startswith("#"))
        return next((float(value) for series, value in lines if series == name), None)

    def stored(self, columns="node, session, seq"):
        """Rows of the events in the store."""
        return self._rows(f"SELECT {columns} FROM events ORDER BY id")

    def _rows(self, query):
        with contextlib.closing(sqlite3.connect(f"file:{self.state / 'gatewayd.db'}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute(query).fetchall()

    def known(self):
        """The nodes in the store."""
        return [row[0] for row in self._rows("SELECT id FROM nodes ORDER BY id")]

    def keys(self):
        """All events in the store; the table itself holds each only once."""
        return set(self.stored())


def event(seq, session=1, label=0, score=0.5, window=WINDOW, reason=Reason.TRIGGER, cascade="fake"):
    return Event(seq, session, cascade, b"12345678", score, label, 1_000, reason, window)


def info(session=1):
    return Info(session, "host", "board", "1.0", "power", b"\1", 1_000, ("audio",), 60, ())


def vitals(session=1):
    work = CascadeVitals("fake", b"12345678", 10, 1_000, 500, 10, 0.1, 0.01, (1,) * 8)
    return Vitals(session, 5, 5_000, 0, 0, (work,), 0.5, -60)


class Node:
    """A node's connection to the broker, while the `async with` lasts."""

    def __init__(self, live, name="n1", session=1, user=None):
        self.name = name
        self.session = session
        will = aiomqtt.Will(f"nodelink/1/up/{name}/state", wire.encode(State(NodeState.LOST, session)), 1, retain=True)
        self.client = aiomqtt.Client(
            "127.0.0.1", live.mqtt_port, identifier=name, username=user, clean_session=False, will=will, timeout=20
        )

    async def __aenter__(self):
        await self.client.__aenter__()
        await self.client.subscribe(f"nodelink/1/down/{self.name}/#", qos=1)
        return self

    async def __aexit__(self, *exc):
        await self.client.__aexit__(*exc)

    async def birth(self):
        await self.say("info", wire.encode(info(self.session)), retain=True)
        await self.say("state", wire.encode(State(NodeState.READY, self.session)), retain=True)
        await self.say("vitals", wire.encode(vitals(self.session)), qos=0)

    async def say(self, tail, payload, *, qos=1, retain=False, name=None):
        await self.client.publish(
            f"nodelink/1/up/{self.name if name is None else name}/{tail}", payload, qos=qos, retain=retain, timeout=20
        )

    async def event(self, seq, **fields):
        await self.say("event", wire.encode(event(seq, self.session, **fields)))

    async def verdicts(self, count):
        """The next `count` verdicts that it gets."""
        got = []
        async with asyncio.timeout(60):
            async for message in self.client.messages:
                got.append(wire.decode_as(Verdict, message.payload))
                if len(got) == count:
                    break
        return got


class Load:
    """A publisher in a process of its own. Each `burst` is a line for it; `settled` waits until the broker has acknowledged all."""

    def __init__(self, process):
        self._process = process
        self.sent = self.acknowledged = 0

    def burst(self, count):
        self.sent += count
        self._process.stdin.write(b"%d\n" % count)

    async def settled(self):
        while self.acknowledged < self.sent:
            line = await asyncio.wait_for(self._process.stdout.readline(), 60)
            assert line, "the publisher ended"
            self.acknowledged = int(line.split()[1])


@contextlib.asynccontextmanager
async def load(live, node="busy"):
    process = await asyncio.create_subprocess_exec(
        sys.executable, HERE / "load.py", str(live.mqtt_port), node, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Load(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def all_of(node, count):
    return {(node, 1, seq) for seq in range(count)}


def children(process):
    return psutil.Process(process.pid).children(recursive=True)
