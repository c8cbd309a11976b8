"""The stack of the core on a Cortex-M4 is bounded, whatever is said to it: nothing recurses, and the deepest chain of calls is counted."""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
from pathlib import Path

import m4
import pytest

OPEN_BYTES, INVOKE_BYTES, NODE_BYTES = 1536, 768, 3072
LIBRARY_BYTES = 64  # of memcpy() and the like
INDIRECT = "__indirect_call"
FOLDERS, FILES = {"core", "nn", "frontend", "monocypher"}, {"sha256", "sha512"}  # of mbedTLS the core needs the hashes alone
PORT = r"(?!)"  # what a port or a caller does there is not counted
# Which functions an indirect call reaches, by the function that makes it.
TARGETS = {
    "walk": r"(?!graph_)\w+_prepare",
    "graph_prepare": r"place_variables",
    "graph_open": r"reset",
    "run_record": r"(?!nn_)\w+_run",
    "sigmoid": r"logistic|tanh_of",
    "kernel_conv": r"filters_\w+",
    "nn_invoke_traced": PORT,
    "end_body": r"on_(connected|subscribed|published)",
    "payload_piece": r"on_(received|published)",
    **dict.fromkeys(("mqtt_link_down", "mqtt_transmitted"), "on_published"),
    **dict.fromkeys(("node_advance", "node_vitals_due", "send_events", "speak", "node_recall"), r"(mqtt|ble)_(room|send|recall)"),
    "smp_answer": r"smp_(os|image|stat|settings)_\w+",
    "string": r"cbor_(text|bytes)",
    **dict.fromkeys(("refresh", "node_say", "node_step", "node_take_verdict", "node_write_vitals", "speak_next"), PORT),
    **dict.fromkeys(("queue_next", "sense_feed", "smp_image_upload"), PORT),
    **dict.fromkeys(("improv_take", "provision_write"), PORT),
    **dict.fromkeys(("nor_erase", "nor_program", "nor_read", "slots_data"), PORT),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Bytes of stack of each function, and what it calls, as the compiler tells before the link is optimised."""
    try:
        m4.program()
    except m4.Missing as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("calls")
    for unit in json.loads((m4.ROOT / "build" / "m4" / "compile_commands.json").read_text()):
        source = Path(unit["file"])
        if source.parent.name in FOLDERS or source.stem in FILES:
            command = shlex.split(unit["command"])
            command[command.index("-o") + 1] = f"{folder / source.stem}.o"
            subprocess.run([*command, "-fno-lto", "-fcallgraph-info=su"], cwd=unit["directory"], check=True)
    bytes_: dict[str, int] = {}
    callees: dict[str, set[str]] = {}
    for text in (path.read_text() for path in folder.glob("*.ci")):
        for title, label in re.findall(r'node: { title: "(.*?)" label: "(.*?)"', text):
            if used := re.search(r"(\d+) bytes \((.*?)\)", label):
                assert used[2] == "static", title
                bytes_[title] = int(used[1])
        for caller, callee in re.findall(r'edge: { sourcename: "(.*?)" targetname: "(.*?)"', text):
            callees.setdefault(caller, set()).add(callee)
    return bytes_, callees


def short(title: str) -> str:
    """A function's name, without its file and what the compiler appends to a variant of it."""
    return title.rpartition(":")[2].partition(".")[0]


def deepest(calls: tuple[dict[str, int], dict[str, set[str]]], root: str) -> tuple[int, list[str]]:
    """The most stack from `root` on, and the calls that take it."""
    bytes_, callees = calls

    def reached(name: str) -> set[str]:
        found = callees.get(name, set())
        if INDIRECT not in found:
            return found
        return found - {INDIRECT} | {other for other in bytes_ if re.fullmatch(TARGETS[short(name)], short(other))}

    @functools.cache
    def below(name: str, above: frozenset[str]) -> tuple[int, list[str]]:
        assert name not in above, f"{name} calls itself"
        most, chain = max((below(other, above | {name}) for other in reached(name)), default=(0, []))
        return bytes_.get(name, LIBRARY_BYTES) + most, [name, *chain]

    assert root in bytes_
    return below(root, frozenset())


@pytest.mark.parametrize(
    ("root", "limit"),
    [
        *(("nn_open", OPEN_BYTES), ("nn_reset", INVOKE_BYTES), ("nn_invoke", INVOKE_BYTES)),
        *((f"node_{call}", NODE_BYTES) for call in ("init", "load", "provision", "link_up", "link_down", "receive", "transmitted")),
        *((f"node_{call}", NODE_BYTES) for call in ("step", "feed", "event", "manage", "stop")),
        *((f"node_ble_{call}", NODE_BYTES) for call in ("advertisement", "connected", "subscribed", "written", "notification")),
        ("node_ble_disconnected", NODE_BYTES),
    ],
)
def test_the_stack_is_bounded(calls: tuple[dict[str, int], dict[str, set[str]]], root: str, limit: int) -> None:
    most, chain = deepest(calls, root)
    assert most <= limit, chain
