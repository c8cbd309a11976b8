"""The API on a port of its own, behind it a real store and a registry that a test fills; what the daemon would add is set by hand."""

import asyncio
import contextlib
import time
from pathlib import Path

import httpx2
from test_store import append

from gatewayd import audit, bundle, config
from gatewayd.api.gateway import Gateway
from gatewayd.api.server import serve
from gatewayd.core.registry import Link, Node, Registry
from gatewayd.core.types import CascadeVitals, Info, NodeState, Slot, SlotState, Vitals
from gatewayd.judges import Judges
from gatewayd.ledger import Ledger
from gatewayd.metrics import Metrics
from gatewayd.store import Store
from gatewayd.tokens import Tokens

VIBRATION = Path(__file__).parent.parent / "cascades" / "vibration"
SLOT = Slot(1, 0, SlotState.CONFIRMED, 65_536, "vibration", bytes(range(32)), "1.0.0", 1, 50_000)
WORK = CascadeVitals("vibration", bytes(range(8)), 100, 5_000_000, 20_000, 10, 0.1, 0.01, (1,) * 8)


def now_ms():
    return time.monotonic_ns() // 1_000_000


def info(**changes):
    return Info(7, "esp32s3", "devkit", "1.2.3", "power-on", bytes(16), 50_000, ("audio",), 60, (SLOT,))._replace(**changes)


def vitals(**changes):
    return Vitals(7, 100, 1_000, 3, 0, (WORK,), 0.5, -60, 20_480, 1_024)._replace(**changes)


class NoPool:
    """A larger model that is never asked."""

    def __init__(self):
        self.ready, self.problem, self.settings = asyncio.Event(), "", {}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_exc):
        pass


class Site:
    """Tokens `reader` and `operator`; their secrets are `read` and `operate`."""

    def __init__(self, gateway, port):
        self.gateway, self.port = gateway, port
        self.store, self.ledger, self.registry, self.metrics = gateway.store, gateway.ledger, gateway.registry, gateway.metrics
        self.tokens = Tokens(self.store)
        self.read, self.operate = self.tokens.add("reader", "read"), self.tokens.add("operator", "operate")

    def client(self, token=None, **options):
        """An HTTP client; paths are those under /api/v1."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx2.AsyncClient(base_url=f"{self.url}/api/v1", headers=headers, timeout=30, **options)

    @property
    def url(self):
        return f"http{'s' if self.gateway.config.http.tls else ''}://127.0.0.1:{self.port}"

    async def raw(self, request, *, timeout_s=30):
        """What is answered to these bytes, until the gateway hangs up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(timeout_s):
                return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def node(self, name="n1", *, up=True, enrolled=True, **changes):
        """A node that was heard."""
        link = Link(now_ms(), NodeState.READY if up else NodeState.LOST)
        node = Node(
            name, known=True, enrolled=enrolled, session=7, info=info(), vitals=vitals(), links={"mqtt": link}, heard_unix_s=time.time()
        )
        for field, value in changes.items():
            setattr(node, field, value)
        self.registry.restore(node, ())
        return node

    async def stored(self, *nodes):
        """Nodes also in the store."""
        self.store.save_nodes(nodes)
        while len(await asyncio.to_thread(self.store.nodes)) < len(self.registry):
            await asyncio.sleep(0.01)

    async def events(self, *records):
        """Events in the store."""
        assert all(await append(self.store, *records))

    def refused(self):
        """Reason -> how often."""
        return {
            sample.labels["reason"]: sample.value
            for family in self.metrics.http.refused.collect()
            for sample in family.samples
            if sample.name.endswith("_total") and sample.value
        }

    def changes(self):
        """What the audit log has, newest first."""
        return [(entry.who, entry.what, entry.target, entry.detail) for entry in audit.entries(self.store)]


@contextlib.asynccontextmanager
async def api_site(folder, *, problems=list, verdict=lambda _id: None, scrape=None, keys=(), **settings):
    """A Site in `folder`; settings are those of [http], keys those of bundles."""
    folder.mkdir(exist_ok=True)
    flags = {"gateway.state_dir": folder, "cascades.keys": tuple(keys), "http.port": 0}
    made = config.load(None, flags | {f"http.{key}": value for key, value in settings.items()}, {})
    metrics, registry = Metrics(), Registry(20_000)
    async with (
        Store(config.Store(commit_ms=1.0), made.store_url, metrics.committed) as store,
        Judges({"vibration": bundle.read(VIBRATION)}, lambda _: NoPool()) as judges,
    ):
        gateway = Gateway(
            config=made,
            registry=registry,
            store=store,
            ledger=Ledger(store),
            judges=judges,
            metrics=metrics,
            scrape=scrape or (lambda: metrics.exposition(registry, now_ms())),
            problems=problems,
            broker=lambda: True,
            escalating=lambda: 2,
            verdict=verdict,
        )
        async with serve(gateway) as port:
            yield Site(gateway, port)
