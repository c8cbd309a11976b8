"""Records what a real Prometheus sees of a real gateway in each situation of deploy/prometheus/rules, and in a healthy hour.

    python tests/record_alerts.py [SITUATION...]      writes tests/alerts/SITUATION.json; the healthy hour takes ten minutes

The gateway, its broker and the nodes of the C core are real; where a node has to be ill it is a client that says what an ill node says.
What takes days is recorded in seconds and replayed slower: a sample stands for `interval_s` (`tests/test_alerts.py` replays it).
"""

import asyncio
import contextlib
import json
import re
import sqlite3
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_model import ACCEPT, DENY, WAIT
from fleet_site import FleetSite
from live import CASCADE, Live, Node, info, until, vitals
from smp_node import SmpNode

from gatewayd.core import wire
from gatewayd.core.types import NodeState, State
from gatewayd.demo import site

HERE = Path(__file__).parent
RULES = HERE.parent / "deploy" / "prometheus" / "rules" / "gatewayd.yml"
RECORDINGS = HERE / "alerts"
PROMETHEUS = """
global: { scrape_interval: SAMPLE, scrape_timeout: SAMPLE }
scrape_configs: [{ job_name: gatewayd, static_configs: [{ targets: ["127.0.0.1:PORT"], labels: { instance: "gateway:8460" } }] }]
"""
STANDS = re.compile(r"(_x\d+ )?0\+0x\d+")  # a reason that never was
HOUR_S = 3_600
Scenario = Callable[[Path], Awaitable["Recorder"]]
SITUATIONS: dict[str, tuple[int, float, Scenario]] = {}  # name -> seconds that a sample stands for, seconds that it took, what happens


def situation(interval_s: int, sample_s: float = 0.5) -> Callable[[Scenario], Scenario]:
    def add(scenario: Scenario) -> Scenario:
        SITUATIONS[scenario.__name__.replace("_", "-")] = interval_s, sample_s, scenario
        return scenario

    return add


# ---- the recorder


class Recorder:
    """A Prometheus that scrapes `live`, from when the block begins."""

    def __init__(self, live: Live, interval_s: int, sample_s: float) -> None:
        self.live, self.interval_s, self.sample_s = live, interval_s, sample_s
        self.port = site.free_port()
        self.start_s = 0.0
        self.taken: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Recorder"]:
        folder = self.live.folder
        config = folder / "prometheus.yml"
        sample = f"{round(self.sample_s * 1_000)}ms"
        config.write_text(PROMETHEUS.replace("SAMPLE", sample).replace("PORT", str(self.live.http_port)))
        command = (
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"),
            *(f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"),
        )
        async with site.process(command, folder / "prometheus.log") as process:
            await site.listening(self.port, process, folder / "prometheus.log")
            await until(lambda: self._query("up", time.time()), (folder / "prometheus.log").read_text)
            self.start_s = time.time()
            yield self

    async def samples(self, count: int) -> None:
        """Let so many samples be taken."""
        await asyncio.sleep(count * self.sample_s)

    def series(self) -> dict[str, str]:
        """All that the rules ask for, in promtool's notation."""
        names = sorted(set(re.findall(r"(?<![:\w])(?:gatewayd_\w+|up)\b(?=[{\[ \n)])", RULES.read_text())))
        end_s = time.time()
        found = {series: notation(values) for name in names for series, values in self._query(name, end_s)}
        return {series: values for series, values in found.items() if not ("_total{" in series and STANDS.fullmatch(values))}

    def _query(self, name: str, end_s: float) -> list[tuple[str, list[float | None]]]:
        """Series -> its value at every sample; None where there is none."""
        count = int((end_s - (self.start_s or end_s)) / self.sample_s)
        arguments = {"query": name, "start": end_s - count * self.sample_s, "end": end_s, "step": self.sample_s}
        address = f"http://127.0.0.1:{self.port}/api/v1/query_range?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            result = json.load(answer)["data"]["result"]
        found = []
        for one in result:
            labels = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(one["metric"].items()) if key != "__name__")
            at = {round((float(when_s) - end_s) / self.sample_s): float(value) for when_s, value in one["values"]}
            values = [at.get(sample) for sample in range(-count, 1)]
            if name.endswith("_timestamp_seconds"):
                values = [self._shifted(value, end_s) for value in values]
            found.append((f"{name}{{{labels}}}", values))
        return found

    def _shifted(self, unix_s: float | None, end_s: float) -> float | None:
        """A replay begins at 0. What lies in the recording is stretched like it."""
        if unix_s is None:
            return None
        return round((unix_s - self.start_s) * (self.interval_s / self.sample_s if unix_s < end_s else 1))


def notation(values: list[float | None]) -> str:
    """`_x2 5+0x3 7+1x9`: where a value stands or grows evenly, a run says it."""
    runs: list[tuple[float | None, float, int]] = []  # first value, growth, how many more
    for value in values:
        if runs:
            first, growth, more = runs[-1]
            if value is None or first is None:
                fits = value is None and first is None
            elif more == 0:
                growth, fits = round(value - first, 9), True
            else:
                fits = abs(first + growth * (more + 1) - value) < 1e-9
            if fits:
                runs[-1] = first, growth, more + 1
                continue
        runs.append((value, 0.0, 0))
    return " ".join(f"_x{more + 1}" if first is None else f"{first:.10g}{growth:+.10g}x{more}" for first, growth, more in runs)


# ---- who is ill


async def report(node: Node, count: int, every_s: float, **fields: Callable[[int], object]) -> None:
    """`count` reports of a node, each field as it is in the n-th."""
    began = time.monotonic()
    for number in range(count):
        told = {"t_ms": 5_000 + round((time.monotonic() - began) * 1_000), **{name: value(number) for name, value in fields.items()}}
        said = vitals(node.session)._replace(**told)
        await node.say("vitals", wire.encode(said), qos=0)
        await asyncio.sleep(every_s)


async def updated(live: Live, name: str, device: SmpNode) -> None:
    """A node of which `device` is the SMP server, until cancelled."""
    async with Node(live, name) as node:
        await node.say("info", wire.encode(device.info()), retain=True)
        await node.say("state", wire.encode(State(NodeState.READY, 1)), retain=True)
        async for message in node.client.messages:
            if message.topic.value.endswith("/smp"):
                said = device.handle(message.payload)
                await node.say("info", wire.encode(device.info()), retain=True)
                await node.say("smp", said, qos=0)


class JudgedSite(FleetSite):
    """A fleet of the C core whose cascade has a larger model, which agrees."""

    def _cascade(self, version: str) -> None:
        super()._cascade(version)
        toml = self.cascade / "cascade.toml"
        judge = re.search(r"\[gateway\].*?(?=\[policy\])", CASCADE, re.DOTALL)
        assert judge is not None
        toml.write_text(toml.read_text().replace("[policy]", judge[0].replace("DEADLINE", "5.0") + "[policy]"))


# ---- the situations


@situation(interval_s=60, sample_s=2)
async def healthy(folder: Path) -> Recorder:
    """Six nodes at work, an update that reaches them all, and a battery that lasts."""
    live = JudgedSite(folder)
    more = ("--cascade", "wakeword", "--event-rate", "2", "--window-bytes", "64", "--vitals-s", "10")
    async with live.broker(), live.gateway(), live.fleet(6, *more), Node(live, "sensor") as sensor, recording(live) as recorder:
        await sensor.birth()
        working = asyncio.create_task(report(sensor, 75, 10.0, battery=lambda number: 0.9 - number / 1e6, dropped=lambda _: 0))
        await asyncio.sleep(60)
        rules = ("--yes", "--no-gate", "--soak", "20s", "--groups", "1,100%")
        await asyncio.to_thread(live.rollout, "start", live.bundle, *rules)
        await until(lambda: live._rows("SELECT state FROM rollouts") == [("done",)], live.said, 200)
        await working
    return recorder


@situation(interval_s=60)
async def node_down(folder: Path) -> Recorder:
    """Of two nodes one loses its power; a third is nobody's."""
    live = Live(folder, settings="")
    live.config.write_text(live.config.read_text().replace('enroll = ["*"]', 'enroll = ["kitchen", "cellar"]'))
    nodes = {name: site.node_command(folder, name, live.mqtt_port, (), ()) for name in ("kitchen", "cellar", "stranger")}
    async with live.broker(), live.gateway(), recording(live) as recorder, contextlib.AsyncExitStack() as stack:
        running = {name: await stack.enter_async_context(site.process(command, folder / f"{name}.log")) for name, command in nodes.items()}
        await until(lambda: live.known() == ["cellar", "kitchen", "stranger"], live.said)
        await recorder.samples(10)
        running["cellar"].kill()
        running["stranger"].kill()
        await recorder.samples(20)
    return recorder


@situation(interval_s=60)
async def gateway_down(folder: Path) -> Recorder:
    """The gateway's process is killed, and does not come back."""
    live = Live(folder)
    async with live.broker(), live.gateway() as gateway, recording(live) as recorder:
        await recorder.samples(5)
        gateway.kill()
        await recorder.samples(15)
    return recorder


@situation(interval_s=60)
async def broker_lost(folder: Path) -> Recorder:
    """The broker is gone; a node with it, which is not the node's fault."""
    live = Live(folder)
    async with live.broker() as broker, live.gateway(), recording(live) as recorder:
        async with Node(live) as node:
            await node.birth()
            await recorder.samples(5)
        broker.kill()
        await recorder.samples(20)
    return recorder


@situation(interval_s=10)
async def disk_fails(folder: Path) -> Recorder:
    """Somebody else holds the database for ever."""
    live = Live(folder)
    async with live.broker(), live.gateway(), Node(live) as node, recording(live) as recorder:
        await node.birth()
        await node.event(0)
        await until(lambda: len(live.stored()) == 1, live.said)
        with contextlib.closing(sqlite3.connect(live.state / "gatewayd.db", isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            for seq in range(1, 4):
                await node.event(seq)
            await until(lambda: live.series("gatewayd_store_errors_total") >= 3, live.said)
            await recorder.samples(5)
            database.execute("ROLLBACK")
    return recorder


@situation(interval_s=30)
async def queue_full(folder: Path) -> Recorder:
    """The larger model hangs, and what waits for it fills its queue; what comes then is left to the nodes."""
    live = Live(folder, deadline_s=60.0, settings="[escalation]\nqueue_size = 4\n")
    async with live.broker(), live.gateway(), Node(live) as node, recording(live) as recorder:
        await node.birth()
        await recorder.samples(5)
        for seq in range(60):
            await node.event(seq, label=WAIT)
            await recorder.samples(1)
    return recorder


@situation(interval_s=60)
async def certificate_ends(folder: Path) -> Recorder:
    """The broker's certificate has ten days left, and the broker speaks no TLS at all yet."""
    authority = folder / "ca.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=355), now + timedelta(days=10))
    authority.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    live = Live(folder)
    live.config.write_text(live.config.read_text().replace("[mqtt]\n", f'[mqtt]\nca_file = "{authority}"\n'))
    async with live.broker(), live.start():
        await until(lambda: live.get("/metrics"), live.said)
        async with recording(live) as recorder:
            await recorder.samples(12)
    return recorder


@situation(interval_s=60)
async def update_fails(folder: Path) -> Recorder:
    """A node's self-test refuses the model: one of two is enough for the rollout to halt."""
    live = FleetSite(folder)
    device = SmpNode("wakeword", buffer_bytes=4_096)
    device.verdict = "self-test"
    async with live.broker(), live.gateway(), recording(live) as recorder:
        running = asyncio.create_task(updated(live, "n1", device))
        await until(lambda: live.known() == ["n1"], live.said)
        await recorder.samples(5)
        await asyncio.to_thread(live.rollout, "start", live.bundle, "--yes", "--no-gate", "--groups", "100%")
        await until(lambda: live._rows("SELECT state FROM rollouts") == [("rolled_back",)], live.said)
        await recorder.samples(5)
        running.cancel()
        await asyncio.wait((running,))
    return recorder


@situation(interval_s=60)
async def taken_back(folder: Path) -> Recorder:
    """The operator takes back what four nodes have confirmed."""
    live = FleetSite(folder)
    async with live.broker(), live.gateway(), live.fleet(4), recording(live) as recorder:
        await until(lambda: len(live.known()) == 4, live.said)
        await asyncio.to_thread(live.rollout, "start", live.bundle, "--yes", "--no-gate", "--soak", "1h", "--groups", "100%")
        await until(lambda: live._rows("SELECT count(*) FROM updates WHERE state = 'judging'") == [(4,)], live.said)
        await recorder.samples(5)
        await asyncio.to_thread(live.rollout, "rollback", "1")
        await until(lambda: live._rows("SELECT state FROM rollouts") == [("rolled_back",)], live.said)
        await recorder.samples(5)
    return recorder


@situation(interval_s=HOUR_S)
async def trial_forgotten(folder: Path) -> Recorder:
    """The operator pauses a rollout whose nodes are on trial, and goes on holiday."""
    live = FleetSite(folder)
    async with live.broker(), live.gateway(), live.fleet(3), recording(live) as recorder:
        await until(lambda: len(live.known()) == 3, live.said)
        await asyncio.to_thread(live.rollout, "start", live.bundle, "--yes", "--no-gate", "--soak", "1h", "--groups", "100%")
        await until(lambda: live._rows("SELECT count(*) FROM updates WHERE state = 'judging'") == [(3,)], live.said)
        await asyncio.to_thread(live.rollout, "pause", "1")
        await recorder.samples(60)
    return recorder


@situation(interval_s=15)
async def bundle_damaged(folder: Path) -> Recorder:
    """A bundle goes bad on the gateway's own disk while the gateway is restarted."""
    live = FleetSite(folder)
    async with live.broker(), live.fleet(2), recording(live) as recorder:
        async with live.gateway():
            await until(lambda: len(live.known()) == 2, live.said)
            await recorder.samples(5)
        await asyncio.to_thread(live.rollout, "start", live.bundle, "--yes", "--no-gate", "--groups", "100%")
        for file in (live.state / "bundles").glob("*.bundle"):
            whole = file.read_bytes()
            file.chmod(0o600)
            file.write_bytes(whole[:2_000] + bytes(100) + whole[2_100:])
        async with live.gateway():
            await recorder.samples(30)
    return recorder


@situation(interval_s=60)
async def crashes(folder: Path) -> Recorder:
    """The watchdog bites a node four times."""
    live = Live(folder)
    async with live.broker(), live.gateway(), Node(live) as node, recording(live) as recorder:
        for session in range(1, 6):
            node.session = session
            await node.say("info", wire.encode(info(session)._replace(reset_reason="watchdog")), retain=True)
            await node.say("state", wire.encode(State(NodeState.READY, session)), retain=True)
            await recorder.samples(5)
    return recorder


@situation(interval_s=15)
async def events_lost(folder: Path) -> Recorder:
    """Forty events of a node never come."""
    live = Live(folder)
    async with live.broker(), live.gateway(), Node(live) as node, recording(live) as recorder:
        await node.birth()
        for seq in (0, 1, 42):
            await node.event(seq)
            await recorder.samples(2)
        await until(lambda: live.series('gatewayd_node_messages_lost_total{node="n1"}') == 40, live.said)
        await recorder.samples(4)
    return recorder


@situation(interval_s=HOUR_S // 2)
async def battery_falls(folder: Path) -> Recorder:
    """One node's battery loses a fifth of its charge a day, another's a hundredth."""
    live = Live(folder)
    async with live.broker(), live.gateway(), Node(live) as node, Node(live, "n2") as other, recording(live) as recorder:
        for one in (node, other):
            await one.birth()
        await asyncio.gather(
            report(node, 90, 0.5, battery=lambda number: 0.8 - 0.2 * number / 48),
            report(other, 90, 0.5, battery=lambda number: 0.8 - 0.01 * number / 48),
        )
    return recorder


@situation(interval_s=60, sample_s=2)
async def clock_runs_fast(folder: Path) -> Recorder:
    """One node's clock gains two seconds in a hundred; another's does not."""
    live = Live(folder)
    async with live.broker(), live.gateway(), Node(live) as node, Node(live, "n2") as other, recording(live) as recorder:
        for one in (node, other):
            await one.birth()
        began = time.monotonic()
        await asyncio.gather(
            report(node, 75, 10.0, t_ms=lambda _: 5_000 + round((time.monotonic() - began) * 1_020)),
            report(other, 75, 10.0, t_ms=lambda _: 5_000 + round((time.monotonic() - began) * 1_000)),
        )
    return recorder


@situation(interval_s=HOUR_S // 2)
async def agreement_falls(folder: Path) -> Recorder:
    """For a day and a half the larger model shares nine of ten suspicions, then six."""
    live = Live(folder)
    async with live.broker(), live.gateway(), Node(live) as node, recording(live) as recorder:
        await node.birth()
        for seq in range(1_440):
            denied = seq % 10 >= (9 if seq < 720 else 6)
            await node.event(seq, label=DENY if denied else ACCEPT)
            await asyncio.sleep(0.045)
        await until(lambda: len(live.stored()) == 1_440, live.said)
    return recorder


# ---- all of it

_recorders: dict[Path, tuple[int, float]] = {}


@contextlib.asynccontextmanager
async def recording(live: Live) -> AsyncIterator[Recorder]:
    """Record until the block ends."""
    recorder = Recorder(live, *_recorders[live.folder])
    async with recorder.running():
        yield recorder
        await recorder.samples(2)
        recorder.taken = await asyncio.to_thread(recorder.series)


async def record(name: str, turns: asyncio.Semaphore) -> None:
    interval_s, sample_s, scenario = SITUATIONS[name]
    async with turns:
        with tempfile.TemporaryDirectory(prefix="test_") as folder:
            path = Path(folder)
            _recorders[path] = interval_s, sample_s
            recorder = await scenario(path)
        (RECORDINGS / f"{name}.json").write_text(json.dumps({"interval_s": interval_s, "series": recorder.taken}, indent=1) + "\n")
        print(name, len(recorder.taken), "series", flush=True)


async def main(names: list[str]) -> None:
    turns = asyncio.Semaphore(4)
    async with asyncio.TaskGroup() as group:
        for name in names or SITUATIONS:
            group.create_task(record(name, turns))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
