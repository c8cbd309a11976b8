"""Whether the demo did what it is for: what the store holds, against what really happened on the stage."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gatewayd.core.rollout import Rollout
from gatewayd.core.update import State, Update
from gatewayd.demo import wireless
from gatewayd.demo.stage import Sensor
from gatewayd.records import StoredEvent

MIN_UNDERSTOOD = 0.6  # of the commands that were spoken; every number is printed


def account(sensors: Sequence[Sensor], events: Sequence[StoredEvent], answer_s: Mapping[tuple[str, int, int], float]) -> dict[str, Any]:
    """The counts of one run. `answer_s`: seconds between event and verdict as seen at the broker, by (node, session, seq)."""
    triggers = [event for event in events if event.reason == "trigger"]
    follows = [event for event in events if event.reason == "follow" and event.accepted]
    audits = [event for event in events if event.reason == "audit" and event.basis == "gateway"]
    spoken = [(sensor.node, line.command) for sensor in sensors for line in sensor.lines if line.command]
    understood = [(event.node, event.verdict_label or "") for event in follows]
    confirmed = [event for event in triggers if event.accepted and event.cascade == "vibration" and event.basis == "gateway"]
    failing = {sensor.node for sensor in sensors if sensor.fails}
    overhead_ms = [1e3 * value for value in _overheads_s(events, answer_s)]
    return {
        "events": len(events),
        "accepted": sum(bool(event.accepted) for event in triggers),
        "rejected": sum(event.accepted is False for event in triggers),
        "commands": len(_matched(understood, spoken)),
        "commands_spoken": len(spoken),
        "commands_wrong": len(understood) - len(_matched(understood, spoken)),
        "anomalies_confirmed": sum(event.node in failing for event in confirmed),
        "anomalies_false": sum(event.node not in failing for event in confirmed),
        "audit": len(audits),
        "without_opinion": sum(event.basis in ("overload", "timeout", "failed") for event in events),
        "escalation_overhead_p50_ms": round(float(np.percentile(overhead_ms, 50)), 2) if overhead_ms else None,
        "escalation_overhead_p99_ms": round(float(np.percentile(overhead_ms, 99)), 2) if overhead_ms else None,
    }


def shortfalls(outcome: Mapping[str, Any], nodes: int) -> list[str]:
    """What did not hold; empty where the whole path is proved."""
    expected = (
        (outcome["nodes"] == nodes, f"all {nodes} nodes are up"),
        (outcome["accepted"] > 0, "suspicions were accepted"),
        (outcome["rejected"] > 0, "suspicions were rejected"),
        (outcome["commands"] >= MIN_UNDERSTOOD * outcome["commands_spoken"], f"{MIN_UNDERSTOOD:.0%} of the commands were understood"),
        (outcome["commands_wrong"] == 0, "no command was taken for another"),
        (outcome["anomalies_confirmed"] > 0, "the failing bearing was found"),
        (outcome["anomalies_false"] == 0, "no healthy motor was blamed"),
        (outcome["audit"] > 0, "audit samples were judged"),
        (outcome["lost"] == 0, "no event was lost"),
        (outcome["ble_nodes"] == len(wireless.NODES), f"{len(wireless.NODES)} nodes were heard over Bluetooth LE"),
        (outcome["ble_events"] > 0, "events came over Bluetooth LE"),
        (outcome["radio_changes"] > 0, "a node that lost one radio was spoken to over the other"),
        (outcome["without_opinion"] == 0, "every escalation got its opinion"),
        (outcome["escalation_overhead_p50_ms"] is not None, "the overhead was measured"),
        *_rollouts_expected(outcome["rollout_good"], outcome["rollout_bad"], nodes),
    )
    return [what for held, what in expected if not held]


def _rollouts_expected(good: Mapping[str, Any], bad: Mapping[str, Any], nodes: int) -> Iterable[tuple[bool, str]]:
    yield good["state"] == "done" and good["gate"] == "pass", "the gate let the better model pass"
    yield good["confirmed"] == good["running_it"] == nodes, f"all {nodes} nodes run the better model"
    yield bad["state"] == "rolled_back" and bad["gate"] == "fail", "the gate halted the spoilt model"
    yield bad["group"] == 1 and 0 < bad["attempted"] <= bad["canaries"] < nodes, "only canaries tried the spoilt model"
    yield bad["confirmed"] == bad["running_it"] == 0, "no node runs the spoilt model"


def rolled_out(one: Rollout, updates: Collection[Update], running: Collection[str], seconds: float) -> dict[str, Any]:
    """How a rollout ended; `running` are the nodes that say that they run its model."""
    return {
        "id": one.id,
        "version": one.version,
        "state": one.state.value,
        "group": one.group + 1,
        "gate": "pass" if one.cleared else "fail" if one.cause.startswith("the gate has failed") else "hold",
        "canaries": len(one.groups[0]),
        "attempted": sum(update.started_s is not None for update in updates),
        "confirmed": sum(update.state is State.CONFIRMED for update in updates),
        "running_it": len(running),
        "because": one.cause,
        "seconds": round(seconds),
    }


def _overheads_s(events: Iterable[StoredEvent], answer_s: Mapping[tuple[str, int, int], float]) -> list[float]:
    """Event to verdict at the broker, less waiting for a worker and the model itself."""
    seen = ((event, answer_s.get((event.node, event.session, event.seq))) for event in events if event.basis == "gateway")
    return [seconds - event.wait_s - event.model_s for event, seconds in seen if seconds is not None]


def _matched(understood: Sequence[tuple[str, str]], spoken: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of `understood` that were spoken there, each spoken command once."""
    left = list(spoken)
    matched = []
    for one in understood:
        if one in left:
            left.remove(one)
            matched.append(one)
    return matched
