"""gatewayd.metrics."""

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client.parser import text_string_to_metric_families

from gatewayd.core import gate, rollout
from gatewayd.core.registry import Clock, Link, Node
from gatewayd.core.types import (
    Basis,
    CascadeVitals,
    Event,
    Info,
    NodeState,
    Opinion,
    Reason,
    Record,
    Slot,
    SlotState,
    Verdict,
    Vitals,
)
from gatewayd.core.update import State, Update, refusal
from gatewayd.errors import StoreError
from gatewayd.metrics import FAILURES, OTHER, REFUSALS, RESETS, ROLLBACKS, Metrics, node_series

NOW_MS = 1_000_000
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
WORK = CascadeVitals("wakeword", bytes(range(8)), 100, 5_000_000, 20_000, 10, 0.1, 0.01, (0,) * 8)
SLOT = Slot(1, 0, SlotState.CONFIRMED, 65_536, "wakeword", bytes(range(32)), "1.0.0", 1, 50_000)
UPDATE = Update("n1", bytes(32), 50_000, State.UPLOADING, 1_000.0)
ROLLOUT = rollout.Rollout("1", "wakeword", "2.0.0", bytes(32), 50_000, (("n1",), ("n2", "n3")), rollout.Rules(), rollout.State.RUNNING)
HOSTILE = 'a"b\\c\nd} 1'


def make_node(name="kitchen", *, up=True, battery=0.5, work=(WORK,), hardware="esp32s3", slots=(SLOT,)):
    info = Info(7, hardware, "devkit", "1.2.3", "power-on", bytes(16), 50_000, ("audio",), 60, slots)
    vitals = Vitals(7, 100, 1_000, 0, 3, tuple(work), battery, -60, 20_480, 1_024)
    state = NodeState.READY if up else NodeState.LOST
    return Node(name, session=7, info=info, vitals=vitals, links={"mqtt": Link(NOW_MS, state)}, heard_unix_s=1.7e9, messages=9, lost=2)


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
    metrics.ota_jobs.inc()
    metrics.ota_resumes.inc()
    metrics.ota_duration.observe(90)
    metrics.uploaded("mqtt", 50_000, 0)
    metrics.update(UPDATE, UPDATE._replace(state=State.REJECTED, reason="self-test"))
    metrics.smp_request("timeout")
    metrics.rollout(ROLLOUT, {"n1": UPDATE})
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
        ("gatewayd_node_asleep", node): 0,
        ("gatewayd_node_enrolled", node): 0,
        ("gatewayd_node_reboots_total", node): 0,
        ("gatewayd_node_last_seen_timestamp_seconds", node): 1.7e9,
        ("gatewayd_node_messages_total", node): 9,
        ("gatewayd_node_messages_lost_total", node): 2,
        ("gatewayd_node_info", ("board", "devkit"), ("firmware", "1.2.3"), ("hardware", "esp32s3"), node): 1,
        ("gatewayd_node_events_queued", node): 0,
        ("gatewayd_node_events_dropped_total", node): 3,
        ("gatewayd_node_battery_ratio", node): 0.5,
        ("gatewayd_node_rssi_dbm", node): -60,
        ("gatewayd_node_heap_free_bytes", node): 20_480,
        ("gatewayd_node_stack_free_bytes", node): 1_024,
        ("gatewayd_node_model_info", cascade, ("model", "0001020304050607"), node, ("state", "confirmed"), ("version", "1.0.0")): 1,
        ("gatewayd_node_arena_used_bytes", cascade, node): 20_000,
        ("gatewayd_node_invoke_seconds_sum", cascade, node): 5.0,
        ("gatewayd_node_invoke_seconds_count", cascade, node): 100,
    }


def test_a_node_that_is_down_shows_no_vitals():
    got = samples(node_series([make_node(up=False)], NOW_MS + 1))
    assert got["gatewayd_node_up", ("node", "kitchen")] == 0
    assert not [key for key in got if key[0] in ("gatewayd_node_rssi_dbm", "gatewayd_node_invoke_seconds_sum")]


def test_a_clock_that_has_been_watched_long_enough_shows_its_skew():
    node = make_node()
    node.clock = Clock(7, NOW_MS - 1_000_000, NOW_MS - 1_000_000, NOW_MS, -2_500)
    got = samples(node_series([node], NOW_MS + 1))
    assert got["gatewayd_node_clock_skew_ratio", ("node", "kitchen")] == -0.0025
    node.clock.first_ms = NOW_MS - 1_000
    assert "clock_skew" not in node_series([node], NOW_MS + 1)


def test_no_nodes_no_series():
    assert node_series([], NOW_MS) == ""


def test_what_a_node_says_is_escaped():
    got = samples(node_series([make_node(hardware=HOSTILE, slots=(SLOT._replace(version=HOSTILE),))], NOW_MS + 1))
    assert [dict(key[1:])["hardware"] for key in got if key[0] == "gatewayd_node_info"] == [HOSTILE]
    assert [dict(key[1:])["version"] for key in got if key[0] == "gatewayd_node_model_info"] == [HOSTILE]


def test_a_cascade_reported_twice_is_one_series():
    text = node_series([make_node(work=(WORK, WORK._replace(invokes=200)))], NOW_MS + 1)
    lines = [line.rsplit(" ", 1)[0] for line in text.splitlines()]
    assert len(lines) == len(set(lines))
    assert samples(text)["gatewayd_node_invoke_seconds_count", ("cascade", "wakeword"), ("node", "kitchen")] == 200


@pytest.mark.parametrize(
    ("slots", "runs"),
    [
        ((), []),
        ((SLOT._replace(state=SlotState.VERIFIED), SLOT._replace(state=SlotState.REJECTED), Slot(2, 0, SlotState.EMPTY, 9)), []),
        ((SLOT, SLOT._replace(slot=1, version="2.0.0", state=SlotState.RECEIVING)), [("1.0.0", "confirmed")]),
        ((SLOT, SLOT._replace(slot=1, version="2.0.0", state=SlotState.TEST)), [("2.0.0", "test")]),
        ((SLOT._replace(version="2.0.0", state=SlotState.TEST), SLOT._replace(slot=1)), [("2.0.0", "test")]),
        ((SLOT, SLOT), [("1.0.0", "confirmed")]),
        ((SLOT._replace(sha256=None, version=None),), [("", "confirmed")]),
    ],
)
def test_the_model_that_runs_is_the_one_on_test_or_the_confirmed_one(slots, runs):
    text = node_series([make_node(slots=slots)], NOW_MS + 1)
    labels = [dict(key[1:]) for key in samples(text) if key[0] == "gatewayd_node_model_info"]
    assert [(label["version"], label["state"]) for label in labels] == runs
    assert text.count("\ngatewayd_node_model_info{") == len(runs)


# ---- certificates


def test_the_first_certificate_of_a_file_to_end_is_told(tmp_path):
    metrics = Metrics()
    metrics.certificates.files = {"mqtt-ca": tmp_path / "ca.pem", "http": tmp_path / "none.pem"}
    (tmp_path / "ca.pem").write_bytes(certificate(days=30) + certificate(days=3))
    got = samples(metrics.exposition([], NOW_MS))
    ends = {key[1:]: value for key, value in got.items() if key[0] == "gatewayd_certificate_expiry_timestamp_seconds"}
    assert ends == {(("certificate", "mqtt-ca"),): (BEGAN + timedelta(days=3)).timestamp()}
    (tmp_path / "ca.pem").write_bytes(certificate(days=60))  # renewed
    (tmp_path / "none.pem").write_text("no certificate")
    got = samples(metrics.exposition([], NOW_MS))
    assert got["gatewayd_certificate_expiry_timestamp_seconds", ("certificate", "mqtt-ca")] == (BEGAN + timedelta(days=60)).timestamp()
    assert ("gatewayd_certificate_expiry_timestamp_seconds", ("certificate", "http")) not in got


def certificate(days):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, BEGAN, BEGAN + timedelta(days=days))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# ---- updates


def labels(metrics, name):
    """Label values -> count, of what was counted."""
    got = samples(metrics.exposition([], NOW_MS))
    return {tuple(value for _, value in key[1:]): count for key, count in got.items() if key[0] == f"gatewayd_{name}" and count}


def test_the_refusals_are_the_words_of_the_contract():
    text = (Path(__file__).parent.parent / "docs" / "nodelink.md").read_text()
    of_images = text.split("| reason | what is wrong |")[1].split("\n\n")[0]
    of_bundles = text.split("Reasons: ")[1].split("and those of images")[0]
    words = {word for row in of_images.splitlines() for word in re.findall("`([a-z-]+)`", row.split("|")[1] if "|" in row else "")}
    words |= set(re.findall("`([a-z-]+)`", of_bundles))
    assert words | {"disk", OTHER} == REFUSALS


def test_the_resets_are_the_words_of_the_contract():
    text = (Path(__file__).parent.parent / "docs" / "nodelink.md").read_text()
    table = text.split("## Reset reasons")[1].split("\n\n")[2]
    assert {*re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE), OTHER} == RESETS


def ends(state, reason="", before=UPDATE):
    """Metrics after one update has ended."""
    metrics = Metrics()
    metrics.update(before, before._replace(state=state, reason=reason, since_s=1_090.0))
    return metrics


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("self-test", "self-test"),
        ("silent while uploading", "silent"),
        ("slept too long", "slept"),
        ("reset", "reset"),
        (refusal(1, 27), "counter"),
        (refusal(1, 12), "flash"),
        (refusal(0, 27), "smp"),
        ("", OTHER),
        (HOSTILE, OTHER),
        ("x" * 64, OTHER),
    ],
)
@pytest.mark.parametrize("state", [State.FAILED, State.REJECTED, State.TIMED_OUT])
def test_what_a_node_says_never_becomes_a_label(state, reason, label):
    metrics = ends(state, reason)
    assert labels(metrics, "ota_failed_total") == {(label,): 1}
    assert labels(metrics, "ota_rollbacks_total") == labels(metrics, "ota_refused_total") == {}


def test_what_the_gateway_refuses_by_itself_is_counted_as_that_too():
    metrics = ends(State.REJECTED, "arena", UPDATE._replace(state=State.WAITING))
    assert labels(metrics, "ota_refused_total") == labels(metrics, "ota_failed_total") == {("arena",): 1}


def causes():
    """Why rollouts go back, in their own words."""
    nodes = {name: rollout.Node(State.JUDGING) for name in ("n1", "n2", "n3")}
    worse = gate.Verdict(gate.Answer.FAIL, 1, 9, 200.0, ())
    failed = {**nodes, "n1": rollout.Node(State.FAILED)}
    many = ROLLOUT._replace(groups=(("n1", "n2", "n3"),), rules=rollout.Rules(success_ratio=0.1))
    for one, states, verdict, label in (
        (ROLLOUT, nodes, worse, "gate"),
        (ROLLOUT, failed, gate.NO_EVIDENCE, "errors"),
        (many, {**failed, "n2": rollout.Node(State.FAILED)}, gate.NO_EVIDENCE, "errors"),
    ):
        halted, _ = rollout.step(one, states, verdict, 0.0)
        assert halted.state is rollout.State.HALTED
        yield halted.cause, label
    yield from (
        ("reset", "reset"),
        ("reset by fault", "reset"),
        (f"reset by {HOSTILE}", "reset"),
        ("deadline", "deadline"),
        ("operator", "operator"),
        (HOSTILE, OTHER),
        ("self-test", OTHER),
        ("", OTHER),
    )


@pytest.mark.parametrize(("cause", "label"), [*causes()])
def test_why_an_update_was_taken_back(cause, label):
    metrics = ends(State.ROLLED_BACK, cause)
    assert labels(metrics, "ota_rollbacks_total") == {(label,): 1}
    assert labels(metrics, "ota_failed_total") == {}


def test_what_never_began_was_not_taken_back():
    metrics = ends(State.ROLLED_BACK, "operator", UPDATE._replace(state=State.WAITING))
    assert labels(metrics, "ota_rollbacks_total") == labels(metrics, "ota_failed_total") == {}


def test_what_is_under_way_is_no_failure_and_a_confirmation_has_taken_its_time():
    for state in State:
        if state not in (State.FAILED, State.REJECTED, State.TIMED_OUT, State.ROLLED_BACK, State.CONFIRMED):
            metrics = ends(state)
            assert labels(metrics, "ota_failed_total") == labels(metrics, "ota_rollbacks_total") == {}
    got = samples(ends(State.CONFIRMED, before=UPDATE._replace(started_s=1_000.0)).exposition([], NOW_MS))
    assert (got["gatewayd_ota_duration_seconds_count",], got["gatewayd_ota_duration_seconds_sum",]) == (1, 90)
    assert samples(ends(State.CONFIRMED).exposition([], NOW_MS))["gatewayd_ota_duration_seconds_count",] == 0  # it ran there already


def test_bytes_of_an_upload():
    metrics = Metrics()
    for offset, before in ((4_000, 0), (8_000, 4_000), (8_000, 8_000), (4_096, 8_000)):  # the last: the node has lost some
        metrics.uploaded("mqtt", offset, before)
    assert labels(metrics, "ota_bytes_total") == {("mqtt",): 8_000}


def test_all_reasons_come_from_closed_sets():
    metrics = Metrics()
    for word in (*REFUSALS, *FAILURES, *ROLLBACKS, *RESETS, HOSTILE):
        metrics.ota_refused(word)
        metrics.reset(word)
        for state in State:
            metrics.update(UPDATE, UPDATE._replace(state=state, reason=word))
    for name, known in (("ota_refused_total", REFUSALS), ("ota_failed_total", FAILURES), ("node_resets_total", RESETS)):
        assert {word for (word,) in labels(metrics, name)} == known
    assert {word for (word,) in labels(metrics, "ota_rollbacks_total")} <= ROLLBACKS


def test_a_reason_is_shown_before_it_first_happens():
    """So that an alert on growth sees it grow."""
    got = samples(Metrics().exposition([], NOW_MS))
    assert {dict(key[1:])["reason"] for key in got if key[0] == "gatewayd_ota_failed_total"} == FAILURES


def test_a_rollout_that_has_ended_leaves_nothing_behind():
    metrics = Metrics()
    other = ROLLOUT._replace(id="2", cascade="vibration")
    metrics.rollout(
        ROLLOUT, {name: UPDATE._replace(state=State.CONFIRMED if name == "n1" else State.WAITING) for name in ("n1", "n2", "n3")}
    )
    metrics.rollout(other, {"n1": UPDATE})
    metrics.rollout(other, {"n1": UPDATE._replace(state=State.JUDGING)})
    shown = {("wakeword", "confirmed"): 1, ("wakeword", "waiting"): 2, ("vibration", "judging"): 1}
    assert labels(metrics, "rollout_nodes") == shown
    metrics.rollout_ended(ROLLOUT)
    assert labels(metrics, "rollout_nodes") == {("vibration", "judging"): 1}
    metrics.rollout_ended(other)
    assert labels(metrics, "rollout_nodes") == {}


def test_the_oldest_update_on_trial_is_told_until_none_is():
    metrics = Metrics()
    on_trial = UPDATE._replace(state=State.JUDGING, started_s=2_000.0)
    updates = {"n1": on_trial, "n2": on_trial._replace(started_s=1_500.0), "n3": UPDATE._replace(started_s=500.0)}
    metrics.rollout(ROLLOUT, updates)
    metrics.rollout(ROLLOUT._replace(id="2"), {"n4": on_trial._replace(started_s=1_800.0)})
    assert labels(metrics, "rollout_oldest_trial_timestamp_seconds") == {("wakeword",): 1_500}
    metrics.rollout(ROLLOUT, {"n1": UPDATE._replace(state=State.CONFIRMED, started_s=500.0)})
    assert labels(metrics, "rollout_oldest_trial_timestamp_seconds") == {("wakeword",): 1_800}
    metrics.rollout_ended(ROLLOUT._replace(id="2"))
    assert labels(metrics, "rollout_oldest_trial_timestamp_seconds") == {}


@pytest.mark.parametrize(
    ("state", "cause", "label"),
    [
        (rollout.State.PAUSED, "operator", "operator"),
        (rollout.State.PAUSED, "I want to sleep", "operator"),
        (rollout.State.PAUSED, rollout.NO_EVIDENCE, "evidence"),
        (rollout.State.AWAITING_APPROVAL, "", "approval"),
    ],
)
def test_what_a_rollout_waits_for(state, cause, label):
    metrics = Metrics()
    metrics.rollout(ROLLOUT._replace(state=state, cause=cause), {})
    assert labels(metrics, "rollout_paused") == {(label,): 1}
    metrics.rollout(ROLLOUT, {})
    got = samples(metrics.exposition([], NOW_MS))
    assert {key[1:]: count for key, count in got.items() if key[0] == "gatewayd_rollout_paused"} == {
        (("cause", cause),): 0 for cause in ("operator", "evidence", "approval")
    }


@pytest.mark.skipif(not shutil.which("promtool"), reason="Debian package prometheus")
def test_promtool_has_nothing_to_say():
    nodes = [make_node(f"node-{i}", up=i % 2 == 0, battery=None if i % 3 else 1e-7, work=(WORK,) * (i % 3)) for i in range(6)]
    text = used_metrics().exposition([*nodes, Node("fresh")], NOW_MS + 1)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
