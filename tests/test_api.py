"""gatewayd.api: what each route says and does."""

import asyncio
import io
import math
import threading
import time
import wave

import numpy as np
import pytest
import sqlalchemy as sa
from api_site import SLOT, api_site, info, vitals
from cryptography.hazmat.primitives import serialization
from hostile_images import KEY, STRANGER
from openapi_spec_validator import validate
from test_cli_rollouts import info as fit
from test_cli_rollouts import made
from test_ledger import DRAFT
from test_store import NOW_S, record

from gatewayd import database, history
from gatewayd.core import gate, update
from gatewayd.core.pairing import Pairing, Stage
from gatewayd.core.types import Basis, Crash, Event, Opinion, Reason, Record, SlotState, Verdict, Window
from gatewayd.errors import ConfigError
from gatewayd.pairings import Pairings

SOUND = Window("pcm16", 16_000, 1, (4,), np.array([0, 1_000, -1_000, 32_767], "<i2").tobytes())
BLOCK = Window("adpcm", 16_000, 1, (1, 256), bytes(256))
SHAKE = Window("vibration", 3_200, 3, (40_000, 3), (np.arange(120_000) % 1_000).astype("<i2").tobytes())
ROWS = Window("features", 0, 1, (2, 3), bytes([0, 1, 255, 128, 2, 3]), 0.5, -1)


@pytest.fixture
async def site(tmp_path):
    async with api_site(tmp_path) as site:
        yield site


@pytest.fixture
async def api(site):
    async with site.client(site.read) as client:
        yield client


@pytest.fixture
async def operator(site):
    async with site.client(site.operate) as client:
        yield client


async def listed(api, **query):
    """Ids of the nodes that are listed."""
    answer = (await api.get("/nodes", params=query)).raise_for_status().json()
    return [item["id"] for item in answer["items"]]


def event(
    seq=0,
    *,
    reason=Reason.TRIGGER,
    accepted=True,
    basis=Basis.GATEWAY,
    window=None,
    at_s=NOW_S,
    node="n1",
    cascade="vibration",
    model=bytes(8),
    ref=None,
):
    """A record as the pipeline makes them."""
    made = Event(seq, 7, cascade, model, 0.75, 0, 1_234, reason, window, ref)
    verdict = Verdict(seq, 7, accepted, "knock", 0.9, "", 1_000, basis)
    opinion = Opinion(accepted, "knock", 0.9, "vae 1", stages=(("fft", 0.1),)) if basis is Basis.GATEWAY else None
    return Record(node, made, at_s, verdict, opinion, 0.25)


# ---- the gateway


async def test_health(site, api):
    site.node()
    site.node("n2", up=False, enrolled=False)
    await site.events(record(1, window=SOUND))
    said = (await api.get("/health")).json()
    assert said["nodes"] == {"total": 2, "enrolled": 1, "up": 1, "trouble": 0}
    assert (said["gateway"], said["events"], said["clips"], said["clip_bytes"], said["escalation_queue"]) == ("gateway", 1, 1, 8, 2)


async def test_prometheus_and_whoever_asks_need_no_token(tmp_path):
    said = []
    async with api_site(tmp_path, problems=lambda: said) as site, site.client() as client:
        site.node()
        metrics = await client.get(f"{site.url}/metrics")
        assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'gatewayd_node_up{node="n1"} 1' in metrics.text
        assert (await client.head(f"{site.url}/metrics")).text == ""
        assert (await client.post(f"{site.url}/metrics")).status_code == 405
        well = await client.get(f"{site.url}/healthz")
        assert (well.status_code, well.text) == (200, "ok\n")
        said += ["no broker", "the store fails"]
        ill = await client.get(f"{site.url}/healthz")
        assert (ill.status_code, ill.text) == (503, "no broker, the store fails\n")
        assert (await site.raw(b"GET /healthz HTTP/1.0\r\n\r\n")).endswith(b"the store fails\n")


async def test_a_slow_scrape_does_not_stop_the_loop(tmp_path):
    started, go = threading.Event(), threading.Event()

    def slow():
        started.set()
        assert go.wait(30)
        return b"late\n"

    async with api_site(tmp_path, scrape=slow) as site, site.client() as client:
        scrape = asyncio.create_task(client.get(f"{site.url}/metrics"))
        assert await asyncio.to_thread(started.wait, 30)
        assert (await client.get(f"{site.url}/healthz")).text == "ok\n"
        go.set()
        assert (await scrape).text == "late\n"


async def test_a_port_that_is_taken_is_a_configuration_error(site, tmp_path):
    with pytest.raises(ConfigError, match=str(site.port)):
        async with api_site(tmp_path / "other", port=site.port):
            pass


async def test_the_description_is_valid_openapi(api):
    described = (await api.get("/openapi.json")).json()
    validate(described)
    assert "application/problem+json" in described["paths"]["/api/v1/nodes"]["get"]["responses"]["4XX"]["content"]


async def test_what_is_not_there_is_a_problem(api):
    for path in ("/nodes/nobody", "/events/1", "/events/1/clip.wav", "/rollouts/1", "/cascades/none", "/nonsense"):
        answer = await api.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path
        assert answer.json()["status"] == 404


@pytest.mark.parametrize(
    "path",
    [
        *("/nodes?limit=0", "/nodes?limit=501", "/nodes?offset=-1", "/nodes?sort=size", "/nodes/UPPER", "/nodes/n1/vitals?hours=721"),
        *("/events?limit=201", "/events?before=99999999999999999999", "/events/x", "/events?agreed=perhaps", "/rollouts/1;drop"),
        *("/rollouts?limit=1000", "/cascades/vibration?days=0", "/events/1/series?points=1"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_reason(api, path):
    answer = await api.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["detail"]


# ---- nodes


async def test_nodes_are_found_sorted_and_paged(site, api):
    site.node("attic", vitals=vitals(battery=0.1), heard_unix_s=5.0)
    site.node("cellar", up=False, heard_unix_s=9.0, info=info(board="Pico", slots=()))
    site.node("hall", enrolled=False, vitals=vitals(battery=None), heard_unix_s=7.0)
    await site.stored(*site.registry)
    site.store.label("hall", ["ground"], [])
    assert await listed(api) == ["attic", "cellar", "hall"]
    assert await listed(api, sort="last_seen") == ["cellar", "hall", "attic"]
    assert await listed(api, sort="battery") == ["attic", "cellar", "hall"]
    assert await listed(api, limit=1, offset=1) == ["cellar"]
    assert await listed(api, q="PICO") == ["cellar"]
    assert await listed(api, q="grou") == await listed(api, label="ground") == ["hall"]
    assert await listed(api, cascade="vibration") == ["attic", "hall"]
    assert await listed(api, state="up") == ["attic", "hall"]
    assert await listed(api, state="down") == ["cellar"]
    assert await listed(api, state="trouble") == ["attic"]
    assert await listed(api, state="new") == ["hall"]
    said = (await api.get("/nodes", params={"q": "attic"})).json()
    assert (said["total"], said["fleet"]) == (1, {"total": 3, "enrolled": 2, "up": 2, "trouble": 1})
    (row,) = said["items"]
    assert row["trouble"] == ["battery at 10%"]
    assert row["models"] == [{"cascade": "vibration", "version": "1.0.0", "model": "0001020304050607", "state": "confirmed"}]


async def test_a_node_that_is_down_is_in_no_trouble_and_one_with_every_trouble_says_so(site, api):
    bad = vitals(battery=0.05, dropped=4)
    site.node("down", up=False, vitals=bad, lost=2)
    site.node("up", vitals=bad, lost=2, info=info(crash=Crash(0x1000, 0x2000, 0, 900)))
    rows = {row["id"]: row["trouble"] for row in (await api.get("/nodes")).json()["items"]}
    assert rows["down"] == []
    assert len(rows["up"]) == 4


async def test_one_node(site, api):
    rejected = SLOT._replace(slot=1, state=SlotState.REJECTED, rejected="arena")
    node = site.node(info=info(slots=(SLOT, rejected), crash=Crash(0x1000, 0x2000, 0, 900)))
    await site.stored(node)
    added = site.ledger.add(DRAFT._replace(groups=(("n1",),)), "bundle", b"file", NOW_S)
    site.ledger.save(added.id, [site.ledger.updates(added.id)["n1"]._replace(state=update.State.FAILED, reason="link")])
    Pairings(site.store).order("n1", None, NOW_S)
    said = (await api.get("/nodes/n1")).json()
    assert said["history"] == [{"at_s": NOW_S, "text": "wakeword 1.2.0: failed: link", "rollout": "1"}]
    assert (said["hardware"], said["uptime_s"], said["queued"], said["pairing"]) == ("esp32s3", 100, 3, "wanted")
    assert said["crash"].startswith("at 0x00001000")
    assert [slot["rejected"] for slot in said["slots"]] == [None, "arena"]
    assert said["work"][0]["invoke_us"] == 50_000
    assert said["first_seen_s"] == said["node"]["last_seen_s"]
    site.registry.restore(node.__class__("silent", known=True), ())  # enrolled, and never heard
    bare = (await api.get("/nodes/silent")).json()
    assert (bare["work"], bare["slots"], bare["clock_skew_s"], bare["first_seen_s"]) == ([], [], None, None)


def test_how_a_pairing_is_told():
    from gatewayd.api.nodes import _pairing  # noqa: PLC0415

    paired = Pairing("n1", Stage.PAIRED, NOW_S, authenticated=True)
    assert [_pairing(one) for one in (None, paired, paired._replace(stage=Stage.FAILED, cause="silence"))] == [
        "", "paired, authenticated", "failed silence",
    ]  # fmt: skip


async def test_vitals_over_time_end_with_those_of_now(site, api):
    site.node()
    rows = [history.sample("n1", time.time() - age_s, vitals(battery=age_s / 10_000))._asdict() for age_s in (90_000, 7_200, 3_600)]
    with site.store.writing() as connection:
        connection.execute(sa.insert(database.vitals), rows)
    said = (await api.get("/nodes/n1/vitals")).json()
    assert said["battery"] == [0.72, 0.36, 0.5]
    assert said["invoke_us"] == [50_000] * 3
    assert {len(column) for column in said.values()} == {3}
    assert (await api.get("/nodes/nobody/vitals")).json()["at_s"] == []


async def test_a_node_is_enrolled_labelled_and_dismissed(site, operator):
    node = site.node(enrolled=False)
    await site.stored(node)
    assert (await operator.put("/nodes/n1/enrolment", json={"enrolled": True})).status_code == 204
    assert node.enrolled
    assert site.store.enrolments() == {"n1": True}
    assert (await operator.put("/nodes/n1/labels", json={"labels": ["b", "a"]})).status_code == 204
    assert (await operator.put("/nodes/n1/labels", json={"labels": ["b", "c"]})).status_code == 204
    assert site.store.labels() == {"n1": ("b", "c")}
    assert (await operator.put("/nodes/n1/enrolment", json={"enrolled": False})).status_code == 204
    assert not node.enrolled
    assert (await operator.put("/nodes/n2/enrolment", json={"enrolled": True})).status_code == 204  # before it is heard
    assert (await operator.put("/nodes/n3/labels", json={"labels": []})).status_code == 404
    assert (await operator.put("/nodes/n1/labels", json={"labels": ["no label"]})).status_code == 422
    assert site.changes() == [
        ("operator", "node.enroll", "n2", ""),
        ("operator", "node.dismiss", "n1", ""),
        ("operator", "node.label", "n1", "b c"),
        ("operator", "node.label", "n1", "a b"),
        ("operator", "node.enroll", "n1", ""),
    ]
    entries = (await operator.get("/audit", params={"limit": 2})).json()
    assert [entry["target"] for entry in entries] == ["n2", "n1"]
    assert entries[0]["address"] == "127.0.0.1"
    assert len((await operator.get("/audit", params={"before": entries[-1]["id"]})).json()) == 3


async def test_ten_thousand_nodes(site, api):
    for number in range(10_000):
        site.node(f"node-{number:05}", up=number % 2 == 0)
    said = (await api.get("/nodes", params={"q": "node-0777", "limit": 500})).json()
    assert (said["total"], said["fleet"]["up"]) == (10, 5_000)
    assert len(await listed(api, limit=500, sort="battery")) == 500


# ---- events


async def test_events_are_found_and_paged(site, api):
    await site.events(
        event(1, window=SOUND),
        event(2, accepted=False),
        event(3, reason=Reason.AUDIT, accepted=False),
        event(4, reason=Reason.AUDIT, accepted=True),
        event(5, basis=Basis.OVERLOAD, node="n2"),
        event(6, reason=Reason.FOLLOW, ref=1),
        record(7, cascade="gone"),
    )

    async def found(**query):
        page = (await api.get("/events", params=query)).raise_for_status().json()
        return [(item["id"], item["agreed"]) for item in page["items"]], page["next"]

    assert await found() == ([(7, True), (6, None), (5, None), (4, False), (3, True), (2, False), (1, True)], None)
    assert await found(agreed=False) == ([(4, False), (2, False)], None)
    assert await found(agreed=True, cascade="vibration") == ([(3, True), (1, True)], None)
    assert await found(node="n2") == ([(5, None)], None)
    assert await found(reason="follow") == ([(6, None)], None)
    assert await found(limit=3) == ([(7, True), (6, None), (5, None)], 5)
    assert await found(limit=3, before=5) == ([(4, False), (3, True), (2, False)], 2)
    assert await found(limit=3, before=2) == ([(1, True)], None)
    assert await found(before=1) == ([], None)


async def test_a_page_that_looks_at_many_rows_in_vain_goes_on(site, api, monkeypatch):
    monkeypatch.setattr("gatewayd.store._LOOK_ROWS", 2)
    await site.events(event(0, node="rare"), *(event(seq) for seq in range(5)))
    found, before = [], None
    for _ in range(3):
        page = (await api.get("/events", params={"node": "rare", **({} if before is None else {"before": before})})).json()
        found += [item["node"] for item in page["items"]]
        before = page["next"]
    assert (found, before) == (["rare"], None)


async def test_one_event(site, api):
    await site.events(event(1, window=SOUND), event(2, reason=Reason.FOLLOW, ref=1), event(3, ref=9))
    said = (await api.get("/events/1")).json()
    assert said["event"]["suspicion"] == {"accepted": True, "label": "anomaly", "score": 0.75, "model": "0" * 16}
    assert said["event"]["verdict"] == {"accepted": True, "label": "knock", "score": 0.9, "model": "vae 1"}
    assert (said["event"]["window"], said["clip"], said["rate_hz"], said["shape"]) == ("pcm16", True, 16_000, [4])
    assert said["stages"] == [["fft", 0.1]]
    assert (await api.get("/events/2")).json()["follows"] == 1
    assert (await api.get("/events/3")).json()["follows"] is None


async def test_a_window_becomes_sound(site, api):
    await site.events(event(1, window=SOUND), event(2, window=BLOCK), event(3, window=SHAKE), event(4))
    answer = await api.get("/events/1/clip.wav")
    assert answer.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(answer.content)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
        assert sound.readframes(9) == SOUND.data
    with wave.open(io.BytesIO((await api.get("/events/2/clip.wav")).content)) as sound:
        assert sound.getnframes() == 505
    assert (await api.get("/events/3/clip.wav")).status_code == 404
    assert (await api.get("/events/4/clip.wav")).status_code == 404


async def test_a_window_becomes_numbers(site, api):
    lie = SOUND._replace(shape=(5,))
    await site.events(event(1, window=SOUND), event(2, window=SHAKE), event(3, window=ROWS), event(4, window=lie))
    assert (await api.get("/events/1/series")).json() == {
        "kind": "pcm16", "rate_hz": 16_000, "names": ["1"], "values": [[0, 1_000, -1_000, 32_767]], "every": 1,
    }  # fmt: skip
    shaken = (await api.get("/events/2/series", params={"points": 400})).json()
    assert (shaken["names"], shaken["every"], {len(values) for values in shaken["values"]}) == (["x", "y", "z"], 100, {400})
    assert max(shaken["values"][0]) == 999
    assert (await api.get("/events/3/series")).json()["values"] == [[0.5, 1.0, 0.0], [-63.5, 1.5, 2.0]]
    assert (await api.get("/events/4/series")).status_code == 409


# ---- cascades


async def test_cascades(site, api):
    site.node()
    site.node("n2", info=info(slots=(SLOT._replace(version="2.0.0"),)))
    now_s = time.time()
    day_s = now_s // 86_400 * 86_400
    await site.events(
        *(event(seq, accepted=seq > 0, at_s=now_s) for seq in range(4)),
        *(event(10 + seq, reason=Reason.AUDIT, accepted=seq == 0, at_s=day_s - 80_000) for seq in range(2)),
        event(20, basis=Basis.TIMEOUT, at_s=now_s),
        event(21, at_s=now_s - 20 * 86_400),
    )
    (row,) = (await api.get("/cascades")).json()
    assert (row["name"], row["source"], row["ready"], row["models"]) == ("vibration", "folder", False, {"1.0.0": 1, "2.0.0": 1})
    assert (row["agreement_1d"], row["agreement_7d"], row["missed_7d"]) == (0.75, 0.75, 0.5)
    said = (await api.get("/cascades/vibration")).json()
    assert [(day["judged"], day["agreed"], day["audits"], day["missed"]) for day in said["quality"]] == [
        (1, 1, 0, 0), (0, 0, 2, 1), (4, 3, 0, 0),
    ]  # fmt: skip
    assert said["quality"][-1]["day"] == time.strftime("%Y-%m-%d", time.gmtime(now_s))
    assert said["labels"] == [*said["actions"]]
    assert said["card"].startswith("#")


async def test_models_are_called_by_their_version_where_somebody_knows_it(site, api):
    site.node()
    now_s = time.time()
    site.ledger.add(DRAFT._replace(cascade="vibration", sha256=bytes([7] * 32)), "bundle", b"file", now_s)
    models = {SLOT.sha256[:8]: SLOT.version, bytes([7] * 8): DRAFT.version, bytes(8): ""}
    await site.events(*(event(seq, at_s=now_s, model=model) for seq, model in enumerate(models)))
    said = (await api.get("/cascades/vibration")).json()["quality"]
    assert {bytes.fromhex(day["model"]): day["version"] for day in said} == models


# ---- rollouts


async def test_rollouts(tmp_path):
    question = gate.Question("precision", math.nan, 0.9, 1.0, 2.0)
    async with api_site(tmp_path, verdict=lambda _id: gate.Verdict(gate.Answer.HOLD, 1, 2, 3.0, (question,))) as site:
        added = site.ledger.add(DRAFT, "bundle", b"file", NOW_S)
        moved = site.ledger.updates(added.id)["canary"]._replace(state=update.State.UPLOADING, offset_bytes=12_500)
        site.ledger.save(added.id, [moved])
        site.ledger.log(added.id, NOW_S, "begun")
        site.ledger.explain(added.id, NOW_S, "it waits")
        async with site.client(site.read) as api:
            (row,) = (await api.get("/rollouts")).json()
            said = (await api.get("/rollouts/1")).json()
        assert row == said["rollout"]
        assert (row["groups"], row["counts"], row["commands"]) == ([1, 2], {"uploading": 1, "waiting": 2}, ["abort"])
        assert [(node["node"], node["group"], node["progress"]) for node in said["nodes"]] == [
            ("canary", 0, 0.25),
            ("kitchen", 1, 0),
            ("cellar", 1, 0),
        ]
        assert said["gate"]["questions"][0]["old"] is None
        assert (said["gate"]["fails_at"], said["gate"]["passes_at"]) == (100, 50)
        assert (said["explanation"], said["history"][0]["text"], said["rules"]["soak_s"]) == ("it waits", "begun", 60)


async def test_orders(site, operator):
    site.ledger.add(DRAFT, "bundle", b"file", NOW_S)
    assert (await operator.post("/rollouts/1/orders", json={"command": "pause", "because": "guests"})).status_code == 202
    refused = await operator.post("/rollouts/1/orders", json={"command": "pause"})
    assert (refused.status_code, refused.json()["detail"]) == (409, "rollout 1 is paused: it cannot pause")
    assert (await operator.post("/rollouts/2/orders", json={"command": "pause"})).status_code == 404
    assert (await operator.post("/rollouts/1/orders", json={"command": "start"})).status_code == 422
    assert [(order.command, order.cause) for order in site.ledger.orders()] == [("start", ""), ("pause", "guests")]
    assert site.changes() == [("operator", "rollout.pause", "1", "guests")]


async def test_a_bundle_is_brought_to_its_nodes(tmp_path):
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "operator.pub").write_bytes(public)
    async with api_site(tmp_path, keys=[tmp_path / "operator.pub"]) as site, site.client(site.operate) as operator:
        await site.stored(*[site.node(f"n{number}", info=fit()) for number in range(3)])
        refused = await operator.post("/rollouts", content=made(STRANGER))
        assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (422, "key")
        assert (await operator.post("/rollouts", content=b"nonsense")).status_code == 422
        assert (await operator.post("/rollouts?labels=none", content=made())).status_code == 409
        assert (await operator.post("/rollouts?soak=5", content=made())).status_code == 422
        assert not [*(tmp_path / "bundles").glob("*")]
        answer = await operator.post("/rollouts?groups=1,100%25&soak_s=5&gate=false&nodes=n0&nodes=n2", content=made())
        assert (answer.status_code, answer.json()["groups"], answer.json()["counts"]) == (201, [1, 1], {"waiting": 2})
        stored = site.ledger.rollout("1")
        assert (stored.rollout.rules.soak_s, stored.rollout.rules.gate) == (5.0, False)
        assert (tmp_path / "bundles" / f"{stored.bundle_sha256}.bundle").read_bytes() == made()
        second = await operator.post("/rollouts", content=made())
        assert (second.status_code, "must end first" in second.json()["detail"]) == (409, True)
        assert site.changes() == [("operator", "rollout.start", "1", f"vibration {stored.rollout.version}")]
        assert 'gatewayd_ota_refused_total{reason="key"} 1.0' in site.metrics.exposition([], 0).decode()


async def test_without_a_key_no_bundle_is_taken(operator, api):
    answer = await operator.post("/rollouts", content=b"bundle")
    assert (answer.status_code, "no public key is trusted" in answer.json()["detail"]) == (409, True)
    assert (await api.post("/rollouts", content=b"bundle")).status_code == 403


# ---- the page


async def test_the_page_is_served_and_nothing_else(site):
    async with site.client() as client:
        page = await client.get(f"{site.url}/")
        assert "<title>gatewayd</title>" in page.text
        assert (await client.get(f"{site.url}/page/main.js")).status_code == 200
    for path in (
        b"/page/../store.py",
        b"/page/%2e%2e/store.py",
        b"/page/..%2fstore.py",
        b"/page//etc/passwd",
        b"/page/....//store.py",
        b"/etc/passwd",
    ):
        answer = await site.raw(b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
        assert answer.startswith(b"HTTP/1.1 404"), path
