"""A real Prometheus scrapes the running gateway, and answers which nodes are down right after one was killed."""

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request

import pytest
from live import Live, Node, event, until

from gatewayd.core import wire
from gatewayd.core.types import Reason
from gatewayd.demo import site

pytestmark = [
    pytest.mark.skipif(not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"), reason=f"needs {program}")
    for program in ("mosquitto", "prometheus", "promtool")
]
CONFIG = """
global: { scrape_interval: 200ms, scrape_timeout: 200ms }
scrape_configs: [{ job_name: gatewayd, static_configs: [{ targets: ["127.0.0.1:PORT"] }] }]
"""


def down(port):
    """The answer to `gatewayd_node_up == 0`: the nodes that are down."""
    query = urllib.parse.urlencode({"query": "gatewayd_node_up == 0"})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=10) as answer:
        return sorted(series["metric"]["node"] for series in json.load(answer)["data"]["result"])


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query=gatewayd_node_up", timeout=10) as answer:
        return len(json.load(answer)["data"]["result"])


async def test_which_nodes_are_down(tmp_path, host_build):
    live = Live(tmp_path)
    port = site.free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.replace("PORT", str(live.http_port)))
    command = (
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
    )
    log = tmp_path / "prometheus.log"
    async with (
        live.broker(),
        live.gateway(),
        site.process(command, log) as prometheus,
        site.process(site.node_command(tmp_path, "victim", live.mqtt_port, (), ()), tmp_path / "victim.log") as victim,
        site.process(site.node_command(tmp_path, "other", live.mqtt_port, (), ()), tmp_path / "other.log"),
    ):
        await site.listening(port, prometheus, log)
        await until(lambda: scraped(port) == 2 and down(port) == [], live.said)
        victim.kill()
        await until(lambda: down(port) == ["victim"], live.said)
        async with site.process(site.node_command(tmp_path, "victim", live.mqtt_port, (), ()), tmp_path / "victim.log"):
            await until(lambda: down(port) == [], live.said)
        await until(lambda: down(port) == ["victim"])  # it said goodbye


async def test_promtool_has_nothing_to_say_of_a_gateway_at_work(tmp_path):
    live = Live(tmp_path)
    async with live.broker(), live.gateway(), Node(live) as node, Node(live, "n2") as silent:
        await node.birth()
        await silent.say("event", b"garbage")
        for seq, reason in enumerate(Reason):
            await node.say("event", wire.encode(event(seq, reason=reason)))
        await node.verdicts(2)
        await until(lambda: len(live.stored()) == 3)
        text = live.get("/metrics")
        for name in (
            "escalation_latency_seconds_bucket",
            "node_up",
            "node_invoke_seconds_count",
            "rejected_messages_total",
            "durable_seconds",
        ):
            assert f"\ngatewayd_{name}" in text
    done = subprocess.run(  # noqa: ASYNC221 -- nothing else runs
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
