"""deploy/grafana/gatewayd.json: a real Prometheus that scrapes a real gateway answers every one of its queries."""

import asyncio
import itertools
import json
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from live import Node, event, until, vitals
from record_alerts import JudgedSite

from gatewayd.core import wire
from gatewayd.core.types import Reason
from gatewayd.demo import site

DEPLOY = Path(__file__).parent.parent / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "gatewayd.json").read_text())
RULES = DEPLOY / "prometheus" / "rules" / "gatewayd.yml"
CONFIG = """
global: { scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }
rule_files: [RULES]
scrape_configs: [{ job_name: gatewayd, static_configs: [{ targets: ["127.0.0.1:PORT"] }] }]
"""
VARIABLES = {"$instance": ".*", "$node": ".+", "$cascade": "wakeword", "$__rate_interval": "5s"}
# What a short test of a healthy site without Bluetooth and TLS cannot show; test_metrics.py and test_ble.py do.
ABSENT = {
    "gatewayd_ble_links",
    "gatewayd_ble_advertisements_total",
    "gatewayd_certificate_expiry_timestamp_seconds",
    "gatewayd_node_clock_skew_ratio",
}


def queries():
    """(panel's title, query) of the whole dashboard."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for note in DASHBOARD["annotations"]["list"]:
        yield note["name"], note["expr"]


def filled(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def variables():
    """`label_values(SELECTOR, LABEL)` of the dashboard's variables."""
    asked = [one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    return [re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups() for query in asked]


class Answers:
    """Prometheus on `port`."""

    def __init__(self, port):
        self.port = port

    def ask(self, query):
        arguments = urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{arguments}", timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{query}: {error.read().decode()}")

    def labels(self, metric):
        return {label for series in self.ask(metric) for label in series["metric"]}


def asked_of(query):
    """Metric -> labels by which `query` chooses or groups."""
    metrics = set(re.findall(r"(?:[a-z]+:)?gatewayd_\w+(?::\w+)?|process_\w+", query))
    selected = set(re.findall(r'(\w+)\s*[=!]~?\s*"', query))
    grouped = {label.strip() for group in re.findall(r"(?:by|on) \(([^)]*)\)", query) for label in group.split(",")}
    return metrics, selected | grouped


@pytest.mark.skipif(
    not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("mosquitto", "prometheus")),
    reason="needs mosquitto and prometheus",
)
async def test_every_query_is_answered_from_what_the_gateway_shows(tmp_path, host_build):
    live = JudgedSite(tmp_path)
    port = site.free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.replace("PORT", str(live.http_port)).replace("RULES", str(RULES)))
    command = (
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
    )
    fleet = ("--cascade", "wakeword", "--event-rate", "20", "--window-bytes", "64", "--vitals-s", "1")
    async with (
        live.broker(),
        live.gateway(),
        site.process(command, tmp_path / "prometheus.log") as prometheus,
        live.fleet(2, *fleet),
        Node(live, "auditor") as node,
    ):
        await site.listening(port, prometheus, tmp_path / "prometheus.log")
        await until(lambda: {"fleet-0", "fleet-1"} <= set(live.known()), live.said)
        await asyncio.to_thread(live.rollout, "start", live.bundle, "--yes", "--no-gate", "--soak", "1h", "--groups", "100%")
        await node.say("vitals", wire.encode(vitals()._replace(heap_free_bytes=20_000, stack_free_bytes=1_000)), qos=0)
        await node.say("event", b"garbage")
        auditing = asyncio.create_task(audits(node))
        answers = Answers(port)
        for title, query in queries():
            asked = filled(query)
            metrics, labels = asked_of(asked)
            assert metrics or "ALERTS" in query, title
            if metrics <= ABSENT or asked.endswith(("> 0", "== 1")):  # of trouble, which there is none; but it is a query
                answers.ask(asked)
                metrics -= ABSENT
            else:
                await until(lambda asked=asked: answers.ask(asked), title)
            for metric in metrics:
                await until(lambda metric=metric: answers.ask(metric), metric)
            known = {label for metric in metrics for label in answers.labels(metric)}
            assert labels - {"alertstate", "alertname"} <= known or not metrics, title
        for selector, label in variables():
            assert label in answers.labels(filled(selector))
        named = set(re.findall(r"(?<![:\w])gatewayd_\w+", RULES.read_text())) - ABSENT
        for metric in named:
            assert answers.ask(metric), metric
        auditing.cancel()
        await asyncio.wait((auditing,))


async def audits(node):
    """Windows without a suspicion, until cancelled."""
    for seq in itertools.count():
        await node.say("event", wire.encode(event(seq, reason=Reason.AUDIT, cascade="wakeword")))
        await asyncio.sleep(0.2)


def test_the_dashboard_has_no_key_that_grafana_does_not_know():
    plugins.register_default_plugins()
    back = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert unknown(DASHBOARD, back) == []


def unknown(ours, theirs, path=""):
    """The keys of `ours` that did not survive the way through Grafana's own schema."""
    if isinstance(ours, dict):
        gone = [f"{path}.{key}" for key in ours if key not in theirs]
        return gone + [deeper for key in ours if key in theirs for deeper in unknown(ours[key], theirs[key], f"{path}.{key}")]
    if isinstance(ours, list):
        return [deeper for number, one in enumerate(ours) for deeper in unknown(one, theirs[number], f"{path}[{number}]")]
    return []


def test_panels_stand_side_by_side_and_have_numbers_of_their_own():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("kind", ["datasources", "dashboards"])
def test_what_provisions_grafana_is_yaml_of_its_kind(kind):
    found = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / kind / "gatewayd.yml").read_text())
    assert found["apiVersion"] == 1
    assert {"datasources": "url", "dashboards": "options"}[kind] in (found.get("datasources") or found.get("providers"))[0]
