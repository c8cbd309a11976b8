"""An update over MQTT: what a rollout to a thousand nodes takes beside bare publishing, and what it costs the gateway."""

import asyncio
import os
import re
import sys
import time
from pathlib import Path

import paho.mqtt.client as paho
import psutil
from paho.mqtt.enums import CallbackAPIVersion
from report import Result
from smp.os_management import EchoWriteRequest

from gatewayd.demo import site

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from fleet_site import FleetSite
from live import until

NODES = 1_000
_PIECE_BYTES = 4_352  # a node's largest frame
_CONCURRENT = 64


async def rollout(folder: Path) -> dict[str, Result]:
    """One model to a thousand nodes of the real core: delivered, verified, tested and confirmed, each step on disk at both ends."""
    ours = FleetSite(_made(folder / "ota"))
    async with ours.broker(), ours.fleet(NODES, "--vitals-s", "300"), ours.gateway() as running:
        await until(lambda: ours.series("gatewayd_mqtt_connected") and len(ours.known()) == NODES, ours.said, 120)
        plain_s = await asyncio.to_thread(_publish, ours, ours.bundle_image())
        gateway = psutil.Process(running.pid)
        ours.rollout(
            *("start", ours.bundle, "--yes", "--no-gate", "--soak", "0s", "--groups", "100%", "--concurrent", _CONCURRENT, "--success", "1")
        )
        began, cpu_s = time.monotonic(), _cpu_s(gateway)
        await until(lambda: _closed(ours), ours.said, 600)
        took_s, cpu_s = time.monotonic() - began, _cpu_s(gateway) - cpu_s
        confirmed = ours._rows("SELECT count(*) FROM updates WHERE state = 'confirmed'")[0][0]  # noqa: SLF001
    says = ours.fleet_says()
    if (confirmed, says["confirms"], says["repeated"]) != (NODES, NODES, 0):
        raise RuntimeError(f"{confirmed} confirmed; the fleet says {says}")
    size = len(ours.bundle_image())
    return {
        "ota.mqtt_1000_ratio": Result(
            round(took_s / plain_s, 2),
            "x",
            2.0,
            round(plain_s, 2),
            round(took_s / plain_s, 2),
            f"Wall time from `rollout start` to the last of {NODES} nodes confirmed ({took_s:.1f} s, {_CONCURRENT} transfers at a time, an image of {size} bytes; "
            f"every node verifies digest, Ed25519 and self-test; all processes share the two cores). Reference (s): the same bytes in pieces of {_PIECE_BYTES} "
            "by paho at QoS 0 through the same broker to the same nodes, until each has answered an echo behind them.",
        ),
        "ota.gateway_cpu_ms_per_node": Result(
            round(1e3 * cpu_s / NODES, 2),
            "ms",
            note=f"CPU of the gateway's process (user and system, all threads) in the same rollout, for each of {NODES} nodes: admission, {-(-size // _PIECE_BYTES)} pieces "
            "and their answers, trial, confirmation, info published anew, each state committed.",
        ),
    }


def _publish(site: FleetSite, image: bytes) -> float:
    """Seconds until the bytes have passed to every node, by nothing but publishing."""
    answered: set[str] = set()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.max_queued_messages_set(0)
    client.on_message = lambda _client, _userdata, message: answered.add(message.topic)
    client.connect("127.0.0.1", site.mqtt_port)
    client.subscribe("nodelink/1/up/+/smp")
    client.loop_start()
    time.sleep(1)
    topics = [f"nodelink/1/down/fleet-{number}/smp" for number in range(NODES)]
    echo = EchoWriteRequest(d="there").BYTES
    began = time.monotonic()
    for start in range(0, len(image), _PIECE_BYTES):
        piece = b"\xff" + image[start : start + _PIECE_BYTES - 1]  # no SMP request: it is dropped where it comes
        for topic in topics:
            client.publish(topic, piece)
    for topic in topics:
        client.publish(topic, echo)
    while len(answered) < NODES and time.monotonic() - began < 120:
        time.sleep(0.005)
    took_s = time.monotonic() - began
    client.loop_stop()
    client.disconnect()
    if len(answered) < NODES:
        raise RuntimeError(f"only {len(answered)} of {NODES} nodes have answered")
    return took_s


def _closed(site: FleetSite) -> bool:
    return site._rows("SELECT closed FROM rollouts WHERE id = 1") == [(1,)]  # noqa: SLF001


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _made(folder: Path) -> Path:
    folder.mkdir()
    os.chmod(folder, 0o755)  # noqa: PTH101 -- the broker has a user of its own
    return folder


async def powercut(folder: Path) -> dict[str, Result]:
    """How many cuts of the power an update on a small slot survives."""
    program = site.NODE_PROGRAM.parents[2] / "tests" / "test_update_powercut"
    async with site.process([program, "2"], folder / "log") as running:
        await running.wait()
    found = re.search(r"ota.power_cuts=(\d+) ota.power_cut_failures=(\d+)", (folder / "log").read_text())
    if found is None:
        raise RuntimeError((folder / "log").read_text())
    note = (
        "Before, inside (torn writes and erases, units that cannot be read) and after every flash operation of three updates, every pair of cuts with the "
        'second in the recovery, and sampled triples; the invariants of docs/nodelink.md, "Slots", after each. `make powercut` goes on longer.'
    )
    return {
        "ota.power_cuts": Result(int(found[1]), "cuts", note=note),
        "ota.power_cut_failures": Result(int(found[2]), "cuts", 0, note="Of these, how many broke an invariant."),
    }


SUBJECTS = {"ota": rollout, "powercut": powercut}
