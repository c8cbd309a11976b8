"""gatewayd.metrics."""

import asyncio
import contextlib
import shutil
import subprocess
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gatewayd.config import Http
from gatewayd.core.registry import Node
from gatewayd.core.types import Basis, CascadeVitals, Event, Info, NodeState, Opinion, Reason, Record, Verdict, Vitals
from gatewayd.errors import ConfigError, StoreError
from gatewayd.metrics import Metrics, node_series, serve

NOW_MS = 1_000_000
WORK = CascadeVitals("wakeword", bytes(range(8)), 100, 5_000_000, 20_000, 10, 0.1, 0.01, (0,) * 8)


def make_node(name="kitchen", *, up=True, battery=0.5, work=(WORK,), hardware="esp32s3"):
    info = Info(7, hardware, "devkit", "1.2.3", "power-on", bytes(16), 50_000, ("audio",), 60, ())
    vitals = Vitals(7, 100, 1_000, 0, 3, tuple(work), battery, -60)
    state = NodeState.READY if up else NodeState.LOST
    return Node(name, state=state, session=7, info=info, vitals=vitals, heard_ms=NOW_MS, heard_unix_s=1.7e9, messages=9, lost=2)


def samples(text):
    if isinstance(text, bytes):
        text = text.decode()
    families = text_string_to_metric_families(text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def used_metrics():
    metrics = Metrics()
    event = Event(1, 7, "wakeword", bytes(8), 0.5, 0, 0, Reason.TRIGGER)
    for accepted, reason in ((True, Reason.TRIGGER), (False, Reason.TRIGGER), (True, Reason.AUDIT), (True, Reason.FOLLOW)):
        verdict = Verdict(1, 7, accepted, "on", 0.5, "light" if accepted else "", 1_000, Basis.GATEWAY)
        opinion = Opinion(accepted, "on", 0.5, "m", wait_s=0.2, model_s=0.1)
        metrics.event("wakeword", reason)
        metrics.verdict("wakeword", reason, verdict, opinion)
        metrics.stored(Record("kitchen", event, 0.0, verdict, opinion, 0.301), 0.315)
    metrics.verdict("wakeword", Reason.TRIGGER, verdict._replace(basis=Basis.OVERLOAD, action=""), None)
    metrics.rejected("cbor")
    metrics.committed(4, 0.002, None)
    metrics.committed(4, 0.002, StoreError("disk full"))
    metrics.worker_restarts.labels("litert").inc()
    metrics.adapter_restarts.labels("mqtt").inc()
    metrics.mqtt_connected.set_function(lambda: 1)
    return metrics


def test_counts():
    got = samples(used_metrics().exposition([], NOW_MS))
    cascade = ("cascade", "wakeword")
    assert got["gatewayd_cascade_judged_total", cascade] == 2
    assert got["gatewayd_cascade_agreed_total", cascade] == 1
    assert got["gatewayd_cascade_audit_samples_total", cascade] == 1
    assert got["gatewayd_cascade_audit_disagreed_total", cascade] == 1
    assert got["gatewayd_commands_total", cascade] == 3
    assert got["gatewayd_verdicts_total", ("basis", "gateway"), cascade] == 4
    assert got["gatewayd_verdicts_total", ("basis", "overload"), cascade] == 1
    assert got["gatewayd_cascade_events_total", cascade, ("reason", "trigger")] == 2
    assert got["gatewayd_rejected_messages_total", ("reason", "cbor")] == 1
    assert got["gatewayd_store_errors_total",] == 1
    assert got["gatewayd_store_batch_rows_sum",] == 4
    assert got["gatewayd_mqtt_connected",] == 1


def test_overhead_is_what_is_neither_waiting_nor_model():
    got = samples(used_metrics().exposition([], NOW_MS))
    assert got["gatewayd_escalation_overhead_seconds_sum",] == pytest.approx(4 * 0.015)
    assert got["gatewayd_durable_seconds_sum",] == pytest.approx(4 * 0.015)
    assert got["gatewayd_escalation_latency_seconds_sum", ("cascade", "wakeword")] == pytest.approx(4 * 0.301)


def test_two_objects_do_not_share_a_registry():
    used_metrics()
    assert ("gatewayd_store_errors_total",) in samples(Metrics().exposition([], NOW_MS))
    assert samples(Metrics().exposition([], NOW_MS))["gatewayd_store_errors_total",] == 0


def test_series_of_a_node():
    got = samples(node_series([make_node()], NOW_MS + 1))
    node, cascade = ("node", "kitchen"), ("cascade", "wakeword")
    assert got == {
        ("gatewayd_node_up", node): 1,
        ("gatewayd_node_last_seen_timestamp_seconds", node): 1.7e9,
        ("gatewayd_node_messages_total", node): 9,
        ("gatewayd_node_messages_lost_total", node): 2,
        ("gatewayd_node_info", ("board", "devkit"), ("firmware", "1.2.3"), ("hardware", "esp32s3"), node): 1,
        ("gatewayd_node_events_dropped_total", node): 3,
        ("gatewayd_node_battery_ratio", node): 0.5,
        ("gatewayd_node_rssi_dbm", node): -60,
        ("gatewayd_node_model_info", cascade, ("model", "0001020304050607"), node): 1,
        ("gatewayd_node_arena_used_bytes", cascade, node): 20_000,
        ("gatewayd_node_invoke_seconds_sum", cascade, node): 5.0,
        ("gatewayd_node_invoke_seconds_count", cascade, node): 100,
    }


def test_a_node_that_is_down_shows_no_vitals():
    got = samples(node_series([make_node(up=False)], NOW_MS + 1))
    assert got["gatewayd_node_up", ("node", "kitchen")] == 0
    assert not [key for key in got if key[0] in ("gatewayd_node_rssi_dbm", "gatewayd_node_invoke_seconds_sum")]


def test_no_nodes_no_series():
    assert node_series([], NOW_MS) == ""


def test_what_a_node_says_is_escaped():
    hostile = 'a"b\\c\nd} 1'
    got = samples(node_series([make_node(hardware=hostile)], NOW_MS + 1))
    assert [dict(key[1:])["hardware"] for key in got if key[0] == "gatewayd_node_info"] == [hostile]


def test_a_cascade_reported_twice_is_one_series():
    text = node_series([make_node(work=(WORK, WORK._replace(invokes=200)))], NOW_MS + 1)
    lines = [line.rsplit(" ", 1)[0] for line in text.splitlines()]
    assert len(lines) == len(set(lines))
    assert samples(text)["gatewayd_node_invoke_seconds_count", ("cascade", "wakeword"), ("node", "kitchen")] == 200


@pytest.mark.skipif(not shutil.which("promtool"), reason="Debian package prometheus")
def test_promtool_has_nothing_to_say():
    nodes = [make_node(f"node-{i}", up=i % 2 == 0, battery=None if i % 3 else 1e-7, work=(WORK,) * (i % 3)) for i in range(6)]
    text = used_metrics().exposition([*nodes, Node("fresh")], NOW_MS + 1)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


# ---- HTTP


async def ask(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_http():
    said = ""
    async with serve(Http(port=0), lambda: b"x 1\n", lambda: said) as port:
        for request, status, body in (
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"x 1\n"),
            (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", b"200", b"x 1\n"),
            (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200", b""),
            (b"GET /healthz HTTP/1.1\r\n\r\n", b"200", b"ok\n"),
            (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404", None),
            (b"POST /metrics HTTP/1.1\r\n\r\n", b"405", b""),
        ):
            head, _, got = (await ask(port, request)).partition(b"\r\n\r\n")
            assert head.split(b" ")[1] == status
            assert body is None or got == body
        said = "the store fails"
        assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"the store fails\n")
        assert b"503" in await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    "garbage", [b"\r\n\r\n", b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"A" * 100_000, b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 5_000]
)
async def test_http_survives_garbage(garbage):
    async with serve(Http(port=0), lambda: b"x 1\n", lambda: "") as port:
        with contextlib.suppress(ConnectionError):
            await ask(port, garbage)
        assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")).endswith(b"x 1\n")


async def test_one_slow_scrape_does_not_stop_the_loop():
    started, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow():
        loop.call_soon_threadsafe(started.set)
        assert gate.wait(10)
        return b"late\n"

    async with serve(Http(port=0), slow, lambda: "") as port:
        scrape = asyncio.create_task(ask(port, b"GET /metrics HTTP/1.1\r\n\r\n"))
        await started.wait()
        assert b"ok" in await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")
        gate.set()
        assert (await scrape).endswith(b"late\n")


async def test_a_port_that_is_taken_is_a_configuration_error():
    async with serve(Http(port=0), bytes, str) as port:
        with pytest.raises(ConfigError, match=str(port)):
            async with serve(Http(port=port), bytes, str):
                pass
