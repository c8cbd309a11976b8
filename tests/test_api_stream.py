"""gatewayd.api.stream: what is told to whom, and who is told nothing any more."""

import asyncio
import contextlib
import json

import pytest
from api_site import api_site
from live import until
from test_ledger import DRAFT
from test_store import NOW_S, record

from gatewayd.api import stream
from gatewayd.core import rollout
from gatewayd.core.rollout import Command
from gatewayd.core.types import Window

SOUND = Window("pcm16", 16_000, 1, (2,), bytes(4))


@pytest.fixture
async def site(tmp_path):
    async with api_site(tmp_path) as site:
        yield site


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(stream, "TICK_S", 0.05)
    monkeypatch.setattr("gatewayd.api.fleet._FRESH_S", 0.0)


class Listener:
    """A stream as a browser hears it."""

    def __init__(self, answer):
        self._lines = answer.aiter_lines()

    async def next(self, *names):
        """The next message of one of these names: its name and what it says."""
        name = ""
        async with asyncio.timeout(30):
            async for line in self._lines:
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: ") and name in names:
                    return name, json.loads(line.removeprefix("data: "))
        raise EOFError

    async def end(self):
        with contextlib.suppress(EOFError):
            while True:
                await self.next("node", "event", "rollout", "lagged")


@contextlib.asynccontextmanager
async def listening(client, **options):
    async with client.stream("GET", "/stream", **options) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        listener = Listener(answer)
        assert (await listener.next("hello"))[1]["gateway"] == "gateway"
        yield listener


async def test_what_changes_is_told(site):
    node = site.node()
    await site.events(record(1))
    async with site.client(site.read) as client, listening(client) as listener:
        node.messages += 1
        name, told = await listener.next("node", "event")  # nothing of what was there before
        assert (name, told["id"], told["battery"]) == ("node", "n1", 0.5)
        await site.events(record(2, window=SOUND))
        told = (await listener.next("event"))[1]
        assert (told["id"], told["window"]) == (2, "pcm16")
        site.node("n2")
        assert (await listener.next("node"))[1]["id"] == "n2"
        node.enrolled = False
        assert (await listener.next("node"))[1]["enrolled"] is False


async def test_a_rollout_is_told_of_until_it_has_ended(site):
    async with site.client(site.read) as client, listening(client) as listener:
        added = site.ledger.add(DRAFT, "bundle", b"file", NOW_S)
        assert (await listener.next("rollout"))[1]["state"] == "draft"
        site.ledger.move(added._replace(state=rollout.State.ABORTED, cause="guests"), NOW_S, "moved")
        assert (await listener.next("rollout"))[1]["cause"] == "guests"
        for order in site.ledger.orders():
            site.ledger.dismiss(order, "too late", NOW_S)
        site.ledger.close(added.id)
        told = (await listener.next("rollout"))[1]
        assert (told["closed"], told["commands"]) == (True, [Command.ROLL_BACK])


async def test_a_large_fleet_is_told_of_bit_by_bit(site, monkeypatch):
    monkeypatch.setattr(stream, "NODES", 3)
    async with site.client(site.read) as client, listening(client) as listener:
        for number in range(10):
            site.node(f"n{number}")
        told = [(await listener.next("node"))[1]["id"] for _ in range(10)]
        assert sorted(told) == [f"n{number}" for number in range(10)]


async def test_many_events_at_once_are_a_lag(site, monkeypatch):
    monkeypatch.setattr(stream, "EVENTS", 5)
    await site.events(record(0))
    async with site.client(site.read) as client, listening(client) as listener:
        await site.events(*(record(seq) for seq in range(1, 30)))
        assert await listener.next("lagged", "event") == ("lagged", {})


def test_who_is_too_slow_hears_that_it_missed_something(monkeypatch):
    monkeypatch.setattr(stream, "_WAITING", 3)

    async def heard():
        client = stream.Client(lambda: True)
        for number in range(4):
            client.tell(b"%d" % number)
        client.tell(b"last")
        told = client.told()
        return [await anext(told) for _ in range(4)]

    monkeypatch.setattr(stream, "_PING_S", 0.01)
    assert asyncio.run(heard()) == [b"event: lagged\ndata: {}\n\n", b"3", b"last", b": ping\n\n"]


async def test_a_revoked_token_and_a_closed_session_end_their_streams(site):
    async with site.client(site.read) as client, site.client() as browser:
        csrf = (await browser.post("/session", json={"token": site.operate})).json()["csrf"]
        async with listening(client) as one, listening(browser) as other:
            site.tokens.revoke("reader")
            await one.end()
            site.node()
            assert (await other.next("node"))[1]["id"] == "n1"
            await browser.delete("/session", headers={"X-CSRF-Token": csrf})
            await other.end()


async def test_there_are_only_so_many_streams_and_who_has_gone_makes_room(site, monkeypatch):
    monkeypatch.setattr(stream, "MOST", 2)
    async with site.client(site.read) as client:
        async with listening(client), listening(client):
            assert "gatewayd_http_streams 2.0" in site.metrics.exposition([], 0).decode()
            assert (await client.get("/stream")).status_code == 503
        await until(lambda: "gatewayd_http_streams 0.0" in site.metrics.exposition([], 0).decode())
        async with listening(client):
            pass
    assert site.refused() == {"streams": 1}


async def test_a_reader_that_takes_nothing_does_not_keep_the_others_waiting(site, monkeypatch):
    request = f"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {site.read}\r\n\r\n"
    monkeypatch.setattr("gatewayd.api.connections.TAKE_S", 0.5)
    for number in range(100):
        site.node(f"n{number}")
    _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1)
    writer.transport.pause_reading()
    writer.write(request.encode())
    async with site.client(site.read) as client, listening(client) as listener:
        while not site.refused().get("slow_reader"):
            for node in site.registry:
                node.messages += 1
            assert await listener.next("node")
    writer.transport.abort()
    await until(lambda: "gatewayd_http_streams 0.0" in site.metrics.exposition([], 0).decode())


async def test_a_stop_ends_streams_at_once(tmp_path):
    async with contextlib.AsyncExitStack() as open_:
        async with api_site(tmp_path) as site:
            client = await open_.enter_async_context(site.client(site.read))
            listener = await open_.enter_async_context(listening(client))
        await listener.end()
