import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
FIELDS = {"value", "unit", "reference", "ratio", "goal", "date"}
GATEWAY = {
    *("cpu_ratio_to_paho", "durable_p99_ms", "escalation_overhead_p50_ms", "escalation_overhead_p99_ms"),
    *("rss_10k_mb", "scrape_10k_ms", "ready_s"),
}

BLE = {"ota_ratio_15ms", "ota_ratio_50ms", "scan_cpu_100"}


@pytest.fixture
def report():
    spec = importlib.util.spec_from_file_location("benchmarks_report", FOLDER / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results():
    return json.loads((FOLDER / "results.json").read_text())


def test_results_are_a_flat_map_that_tools_can_read(results):
    assert {f"gateway.{name}" for name in GATEWAY} | {f"ble.{name}" for name in BLE} <= results.keys()
    for name, result in results.items():
        assert "." in name
        assert result.keys() >= FIELDS
        assert isinstance(result["value"], int | float)
        assert isinstance(result["unit"], str)
        assert result["date"]
        assert all(result[key] is None or isinstance(result[key], int | float) for key in ("reference", "ratio", "goal"))


def test_the_readable_report_is_made_from_the_results(report, results):
    assert (FOLDER / "RESULTS.md").read_text() == report.report(results)


def test_a_missed_goal_is_called_missed(report, results):
    one = next(iter(results.values()))
    one = {**one, "goal": 1.0, "at_least": False}
    met, missed = {**one, "value": 1.0}, {**one, "value": 1.1}
    lines = report.report({"a.met": met, "a.missed": missed}).splitlines()
    assert "**missed**" in next(line for line in lines if "| a.missed |" in line)
    assert "**missed**" not in next(line for line in lines if "| a.met |" in line)


def test_a_goal_may_be_the_least_that_is_good(report, results):
    one = {**next(iter(results.values())), "goal": 0.7, "at_least": True}
    lines = report.report({"a.met": {**one, "value": 0.7}, "a.missed": {**one, "value": 0.6}}).splitlines()
    assert [line.split(" | ")[2:4] for line in lines if "| a." in line] == [["≥ 0.7", "met"], ["≥ 0.7", "**missed**"]]


def test_a_reference_that_was_not_measured_is_marked(report, results):
    one = {**next(iter(results.values())), "reference": 7.5}
    lines = report.report({"a.recorded": {**one, "recorded": True}, "a.measured": {**one, "recorded": False}}).splitlines()
    assert "| 7.5 * |" in next(line for line in lines if "| a.recorded |" in line)
    assert "| 7.5 |" in next(line for line in lines if "| a.measured |" in line)


def test_what_is_measured_again_replaces_only_itself(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(report, "REPORT", tmp_path / "RESULTS.md")
    report.keep({"a.one": report.Result(1.0, "ms"), "a.two": report.Result(2.0, "ms", 3.0)})
    report.keep({"a.two": report.Result(4.0, "ms", 3.0)})
    kept = json.loads(report.RESULTS.read_text())
    assert {name: one["value"] for name, one in kept.items()} == {"a.one": 1.0, "a.two": 4.0}
    assert report.REPORT.read_text() == report.report(kept)
