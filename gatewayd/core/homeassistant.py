"""What Home Assistant is told: its device-based MQTT discovery, and the states behind it. Values in, bytes out.

One topic has all states of a device, as JSON, and each entity picks its own: a change is one message. Numbers are rounded to what a person
would see change, so that thousands of nodes that report every minute are silent while nothing happens.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gatewayd import __version__
from gatewayd.core import rollout, update
from gatewayd.core.cascade import Policy
from gatewayd.core.registry import Node
from gatewayd.core.rollout import Rollout
from gatewayd.core.types import Record, SlotState
from gatewayd.core.update import Update

ONLINE, OFFLINE = b"online", b"offline"
_RSSI_STEP_DBM = 5
_BEFORE_TRIAL = (update.State.ADMITTED, update.State.UPLOADING, update.State.VERIFIED)
_RUNNING = frozenset({*_BEFORE_TRIAL, update.State.TRIAL, update.State.JUDGING, update.State.CONFIRMING, update.State.REVERTING})
_STOPPED = frozenset({rollout.State.HALTED, rollout.State.ROLLING_BACK, rollout.State.ROLLED_BACK, rollout.State.ABORTED})
Json = dict[str, Any]


class Model(NamedTuple):
    """What there is to install of a cascade on one node."""

    latest: str  # version; empty where nothing newer is known than what it has
    update: Update | None = None  # of an open rollout


def model(current: str, coming: tuple[Rollout, Update] | None) -> Model:
    """By the version that the gateway works with, and what an open rollout brings; one that was stopped brings nothing any more."""
    if coming is None:
        return Model(current)
    stopped = coming[0].state in _STOPPED or coming[1].state in update.BAD | {update.State.REVERTING}
    return Model(current if stopped else coming[0].version, coming[1])


class Names:
    """Topics and ids of one gateway's devices: no id of a node or a gateway has an underscore or a slash."""

    def __init__(self, prefix: str, gateway_id: str) -> None:
        self.gateway = f"gatewayd_{gateway_id}"
        self.root = f"gatewayd/{gateway_id}"
        self.status = f"{self.root}/status"
        self.state = f"{self.root}/state"
        self.prefix = prefix

    def device(self, node: str) -> str:
        """The id of a node's device."""
        return f"{self.gateway}_{node}"

    def config(self, device: str) -> str:
        """Where a device is announced."""
        return f"{self.prefix}/device/{device}/config"

    def node_of(self, topic: str) -> str | None:
        """Whose announcement `topic` is; None where it is not of a node of this gateway."""
        device = topic.removeprefix(f"{self.prefix}/device/").removesuffix("/config")
        return device.removeprefix(f"{self.gateway}_") if device.startswith(f"{self.gateway}_") else None

    def node_state(self, node: str) -> str:
        """Where a node's states are."""
        return f"{self.root}/node/{node}/state"

    def event(self, node: str, cascade: str) -> str:
        """Where a node's events of a cascade are told."""
        return f"{self.root}/node/{node}/{cascade}"


def gateway_config(names: Names, gateway_id: str) -> bytes:
    """The gateway's own device."""
    count = {"p": "sensor", "state_class": "measurement", "entity_category": "diagnostic"}
    link = {"p": "binary_sensor", "name": "Connection", "device_class": "connectivity", "entity_category": "diagnostic"}
    components: dict[str, Json] = {
        "connection": {**link, "state_topic": names.status, "payload_on": "online", "payload_off": "offline", "availability": []},
        "nodes_up": {**count, "name": "Nodes up", "value_template": "{{ value_json.up }}"},
        "nodes": {**count, "name": "Nodes", "value_template": "{{ value_json.nodes }}"},
    }
    device = {"ids": [names.gateway], "name": f"gatewayd {gateway_id}", "mf": "gatewayd", "sw": __version__}
    return _config(names, names.gateway, device, names.state, components)


def gateway_state(up: int, nodes: int) -> bytes:
    """The states of the gateway's own device."""
    return _dumps({"up": up, "nodes": nodes})


def cascades_of(node: Node) -> tuple[str, ...]:
    """Of which it has a model, or reports work."""
    slots = {slot.cascade for slot in node.info.slots if slot.cascade} if node.info else set()
    return tuple(sorted(slots | ({one.cascade for one in node.vitals.cascades} if node.vitals else set())))


def node_config(names: Names, node: Node, policies: Mapping[str, Policy], gone: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """A node's device, and the platforms of its components by their id. Those in `gone` that it has no more are taken out."""
    components = _components(names, node, policies)
    platforms = {name: component["p"] for name, component in components.items()}
    removed: Json = {name: {"p": platform} for name, platform in gone.items() if name not in platforms}
    device = {"ids": [names.device(node.id)], "name": node.id, "via_device": names.gateway}
    if node.info is not None:
        device |= {"mdl": node.info.board, "hw": node.info.hardware, "sw": node.info.firmware}
    encoded = _config(names, names.device(node.id), device, names.node_state(node.id), components, removed)
    return encoded, {**gone, **platforms}


def _components(names: Names, node: Node, policies: Mapping[str, Policy]) -> dict[str, Json]:
    link = {"p": "binary_sensor", "name": "Connection", "device_class": "connectivity", "entity_category": "diagnostic"}
    level = {"p": "sensor", "state_class": "measurement", "entity_category": "diagnostic"}
    found: dict[str, Json] = {"connection": {**link, "value_template": "{{ value_json.connection }}"}}
    if node.vitals is not None and node.vitals.battery is not None:
        battery = {"name": "Battery", "device_class": "battery", "unit_of_measurement": "%"}
        found["battery"] = {**level, **battery, "value_template": "{{ value_json.battery }}"}
    if node.vitals is not None and node.vitals.rssi_dbm is not None:
        signal = {"name": "Signal", "device_class": "signal_strength", "unit_of_measurement": "dBm"}
        found["signal"] = {**level, **signal, "value_template": "{{ value_json.signal }}"}
    if policies:
        found["action"] = {"p": "sensor", "name": "Last action", "value_template": "{{ value_json.action }}"}
    for cascade in cascades_of(node):
        if cascade in policies:
            event = {"p": "event", "name": f"{cascade} event", "state_topic": names.event(node.id, cascade)}
            found[f"{cascade}_event"] = {**event, "event_types": event_types(policies[cascade])}
        if _installed(node, cascade) is not None:
            model = {"p": "update", "name": f"{cascade} model", "title": f"{cascade} model", "entity_category": "diagnostic"}
            found[f"{cascade}_model"] = {**model, "value_template": f"{{{{ value_json.models['{cascade}'] | tojson }}}}"}
    return found


def _config(names: Names, device_id: str, device: Json, state: str, components: Mapping[str, Json], removed: Json | None = None) -> bytes:
    named = {name: {**component, "uniq_id": f"{device_id}_{name}"} for name, component in components.items()}
    return _dumps({
        "dev": device,
        "o": {"name": "gatewayd", "sw": __version__},
        "stat_t": state,
        "avty": [{"topic": names.status}],
        "qos": 1,
        "cmps": {**(removed or {}), **named},
    })  # fmt: skip


def node_state(node: Node, models: Mapping[str, Model], action: str, now_ms: int) -> bytes:
    """All states of a node. One that sleeps as it said is there."""
    vitals = node.vitals
    told: Json = {  # null is "unknown" there
        "connection": "ON" if node.up(now_ms) or node.asleep(now_ms) else "OFF",
        "battery": None if vitals is None or vitals.battery is None else round(100 * vitals.battery),
        "signal": None if vitals is None or vitals.rssi_dbm is None else _RSSI_STEP_DBM * round(vitals.rssi_dbm / _RSSI_STEP_DBM),
        "action": action,
        "models": {cascade: _model(node, cascade, models.get(cascade)) for cascade in cascades_of(node)},
    }
    return _dumps(told)


def _model(node: Node, cascade: str, model: Model | None) -> Json:
    """The state of an `update` entity."""
    installed = _installed(node, cascade) or ""
    now = model.update if model and model.update and model.update.state in _RUNNING else None
    sent = now is not None and now.state in _BEFORE_TRIAL
    return {
        "installed_version": installed,
        "latest_version": (model.latest if model else "") or installed,
        "update_percentage": 100 * now.offset_bytes // now.size_bytes if now and sent else None,
        "in_progress": now is not None,
        "release_summary": _summary(now),
    }


def _summary(now: Update | None) -> str:
    match now and now.state:
        case None:
            return ""
        case update.State.REVERTING:
            return "It goes back to the model before."
        case state if state in _BEFORE_TRIAL:
            return "The model is on its way to the node."
        case _:
            return "The node runs it on trial: it goes back by itself unless it is confirmed."


def _installed(node: Node, cascade: str) -> str | None:
    """The version that counts: what is on trial is not installed yet."""
    slots = [slot for slot in node.info.slots if slot.cascade == cascade] if node.info else []
    return next((slot.version or "" for slot in slots if slot.state is SlotState.CONFIRMED), None)


def event_types(policy: Policy) -> list[str]:
    """What an event can be: an action that the policy knows, else accepted or rejected."""
    actions = {policy.action, *policy.actions.values(), *(command.action for command in policy.commands)} - {""}
    return ["accepted", "rejected", *sorted(actions)]


def event(record: Record, policy: Policy) -> bytes:
    """A decided event. What was heard is not told: that is nobody's business but the gateway's."""
    assert record.verdict is not None
    verdict = record.verdict
    kind = verdict.action if verdict.action in event_types(policy) else "accepted" if verdict.accepted else "rejected"
    return _dumps({
        "event_type": kind,
        "label": verdict.label,
        "score": round(verdict.score, 3),
        "basis": verdict.basis.value,
    })  # fmt: skip


def components(config: bytes) -> dict[str, str]:
    """The platforms of an announced device's components; nothing where it is not ours to read."""
    try:
        found: Iterable[tuple[str, Json]] = json.loads(config)["cmps"].items()
        return {name: str(component["p"]) for name, component in found}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _dumps(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
