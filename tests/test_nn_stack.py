"""The stack of the engine on a Cortex-M4 is bounded whatever a file says: nothing recurses, and the deepest chain of calls is counted."""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
from pathlib import Path

import m4
import pytest

OPEN_BYTES, INVOKE_BYTES = 1536, 768
LIBRARY_BYTES = 64  # of memcpy() and the like
INDIRECT = "__indirect_call"
# Which functions an indirect call reaches, by the function that makes it.
TARGETS = {
    "walk": r"(?!graph_)\w+_prepare",
    "graph_prepare": r"place_variables",
    "graph_open": r"reset",
    "run_record": r"(?!nn_)\w+_run",
    "sigmoid": r"logistic|tanh_of",
    "kernel_conv": r"filters_\w+",
    "nn_invoke_traced": r"(?!)",  # the caller's
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Bytes of stack of each function, and what it calls, as the compiler tells for the firmware's own build."""
    try:
        m4.program()
    except m4.Missing as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("calls")
    for unit in json.loads((m4.ROOT / "build" / "m4" / "compile_commands.json").read_text()):
        source = Path(unit["file"])
        if source.parent.name == "nn":
            command = shlex.split(unit["command"])
            command[command.index("-o") + 1] = f"{folder / source.stem}.o"
            subprocess.run([*command, "-fcallgraph-info=su"], cwd=unit["directory"], check=True)
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

    return below(root, frozenset())


@pytest.mark.parametrize(("root", "limit"), [("nn_open", OPEN_BYTES), ("nn_reset", INVOKE_BYTES), ("nn_invoke", INVOKE_BYTES)])
def test_the_stack_is_bounded(calls: tuple[dict[str, int], dict[str, set[str]]], root: str, limit: int) -> None:
    most, chain = deepest(calls, root)
    assert most <= limit, chain
