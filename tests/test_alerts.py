"""deploy/prometheus/rules against what a real Prometheus recorded of a real gateway (record_alerts.py): promtool replays it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy" / "prometheus" / "rules" / "gatewayd.yml"
RECORDINGS = Path(__file__).parent / "alerts"
DAY_S = 86_400
NUMBER = r"-?[\d.]+(?:e[-+]?\d+)?"
RUN = re.compile(rf"({NUMBER})([-+]{NUMBER.removeprefix('-?')})x(\d+)")
pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool")

# situation -> what fires in it, and nothing else does: the alert with those labels that its words use
FIRES = {
    "healthy": [],
    "node-down": [("GatewaydNodeDown", {"node": "cellar"})],
    "gateway-down": [("GatewaydDown", {})],
    "broker-lost": [("GatewaydBrokerLost", {})],
    "disk-fails": [("GatewaydStoreFails", {})],
    "queue-full": [("GatewaydQueueFull", {"queue": "escalation"}), ("GatewaydOverload", {"cascade": "fake"})],
    "certificate-ends": [("GatewaydCertificateExpires", {"certificate": "mqtt-ca"}), ("GatewaydBrokerLost", {})],
    "update-fails": [("GatewaydUpdateFailed", {"reason": "self-test"}), ("GatewaydRolloutHalted", {})],
    "taken-back": [("GatewaydUpdateRolledBack", {"reason": "operator"})],
    "trial-forgotten": [("GatewaydTrialUnconfirmed", {"cascade": "wakeword"}), ("GatewaydRolloutPaused", {"cause": "operator"})],
    "bundle-damaged": [
        ("GatewaydBundleRefused", {"reason": "digest"}),
        ("GatewaydUpdateFailed", {"reason": "digest"}),
        ("GatewaydRolloutHalted", {}),
    ],
    "crashes": [("GatewaydNodesCrash", {"reason": "watchdog"})],
    "events-lost": [("GatewaydEventsLost", {"node": "n1"})],
    "battery-falls": [("GatewaydBatteryFalls", {"node": "n1"})],
    "clock-runs-fast": [("GatewaydClockSkew", {"node": "n1"})],
    "agreement-falls": [("GatewaydAgreementFell", {"cascade": "fake"})],
}


def recorded(situation):
    """Series -> values in promtool's notation, and the seconds between two."""
    recording = json.loads((RECORDINGS / f"{situation}.json").read_text())
    return recording["series"], recording["interval_s"]


def length(values):
    """How many samples a notation stands for."""
    return sum(int(run.rpartition("x")[2]) + (not run.startswith("_")) for run in values.split())


def replay(folder, series, interval_s, end_s, fired):
    """Let promtool evaluate the rules over `series`; `fired` is all that may have fired by the end. Returns its exit status and words."""
    labels = ["alertname", *sorted({label for _, own in fired for label in own})]
    expected = [
        {"labels": "{" + ", ".join(f'{key}="{value}"' for key, value in {"alertname": alert, **own}.items()) + "}", "value": 1}
        for alert, own in fired
    ]
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{max(15, interval_s)}s",
        "tests": [
            {
                "interval": f"{interval_s}s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'group by ({", ".join(labels)}) (count_over_time(ALERTS{{alertstate="firing"}}[{end_s}s]))',
                        "eval_time": f"{end_s}s",
                        "exp_samples": expected,
                    }
                ],
            }
        ],
    }
    file = folder / "test.yml"
    file.write_text(json.dumps(test))  # which is YAML too
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("situation", FIRES)
def test_a_recorded_situation_fires_its_alerts_and_no_other(situation, tmp_path):
    series, interval_s = recorded(situation)
    end_s = max(map(length, series.values())) * interval_s
    assert replay(tmp_path, series, interval_s, end_s, FIRES[situation])[0] == 0, replay(tmp_path, series, interval_s, end_s, [])[1]


def again(series, values, samples):
    """The recording of one series, and its last third again and again: a counter grows as it did."""
    tail, taken = [], 0
    for run in reversed(values.split()):
        if run.startswith("_") or taken >= length(values) / 3:
            break
        tail.insert(0, [float(number) for number in RUN.fullmatch(run).groups()])
        taken += length(run)
    if not tail:
        return values  # it was gone when the recording ended
    (first, _, _), (start, growth, more) = tail[0], tail[-1]
    grown = start + growth * more - first if "_total{" in series else 0
    for turn in range(1, (samples - length(values)) // taken + 2):
        values += "".join(f" {start + grown * turn:.10g}{growth:+.10g}x{more:.0f}" for start, growth, more in tail)
    return values


def test_a_healthy_day_fires_nothing(tmp_path):
    series, interval_s = recorded("healthy")
    samples = DAY_S // interval_s
    day = {name: again(name, values, samples) for name, values in series.items()}
    assert all(length(values) >= samples for name, values in day.items() if name.startswith(("gatewayd_node", "gatewayd_cascade")))
    status, said = replay(tmp_path, day, interval_s, DAY_S, [])
    assert status == 0, said
    broken = dict(day)  # the same day without one of its nodes fires, so the silence above means something
    node = next(name for name in day if name.startswith("gatewayd_node_up"))
    broken[node] = f"1+0x{samples // 2} 0+0x{samples // 2}"
    assert replay(tmp_path, broken, interval_s, DAY_S, [])[0] != 0


def alerts():
    """Alert -> the text of its rule."""
    return {text.split("\n", 1)[0].strip(): text for text in RULES.read_text().split("- alert:")[1:]}


def test_every_alert_is_fired_by_a_recording_and_names_what_its_situation_has():
    fired = {alert: own for situation in FIRES.values() for alert, own in situation}
    assert fired.keys() == alerts().keys()
    for alert, text in alerts().items():
        assert set(re.findall(r"\$labels\.(\w+)", text)) - {"instance"} == fired[alert].keys(), alert


def test_every_alert_says_where_to_read_on():
    operations = (ROOT / "docs" / "operations.md").read_text()
    for alert, text in alerts().items():
        assert f"runbook: docs/operations.md#{alert.lower()}\n" in text
        assert f"### {alert}\n" in operations
        assert all(f"{word}:" in text for word in ("severity", "summary", "description"))
