"""The engine and the front ends on a Cortex-M4 under QEMU, and the instructions that they execute there, exactly counted.

`python tests/m4.py count MODEL.tflite` prints what opening and an invocation on random input take, and the functions that take
most of it; `python tests/m4.py hop` the same of the audio front end; with `--function NAME` the disassembly of a function and how
often each of its instructions was executed. `--c99` counts portable C.
"""

from __future__ import annotations

import argparse
import bisect
import functools
import os
import re
import shutil
import struct
import subprocess
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parent.parent
RUNNER = ROOT / "node_firmware" / "tests" / "m4"
NEEDED = {
    "qemu-system-arm": "qemu-system-arm",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "cmake": "cmake",
    "ninja": "ninja-build",
    "gcc": "gcc",
}
ARENA_BYTES = 1 << 20
_ALIGNMENT = 16
_END = 0xFFFFFFFF


class Missing(Exception):  # noqa: N818
    """A program that is not installed."""


class Kind(IntEnum):
    """What runner.c does in a job."""

    TRACE = 0  # every tensor is a record
    INVOKE = 1  # nn_open() and every nn_invoke() are counted
    AUDIO = 2  # every row is a record, every call is counted
    VIBRATION = 3
    SPIN = 4  # counts a loop of `arena_bytes` turns


class Job(NamedTuple):
    """`inputs` are the bytes of each step, all of one length; `model` of a front end's job are its parameters (audio: or none)."""

    kind: Kind
    model: bytes = b""
    inputs: Sequence[bytes] = ()
    arena_bytes: int = ARENA_BYTES


class Step(NamedTuple):
    """`records` are (tensor index, bytes), or (0, a front end's row)."""

    status: int
    stack_bytes: int
    records: list[tuple[int, bytes]]


class Outcome(NamedTuple):
    """Of a job; the first three are the opening's. `memory_bytes` is the arena used, or the size of a front end's struct."""

    status: int
    memory_bytes: int
    stack_bytes: int
    steps: list[Step]


class Count(NamedTuple):
    """The instructions executed between two marks."""

    by_address: dict[int, int]
    program: Path

    @property
    def total(self) -> int:
        return sum(self.by_address.values())

    def by_function(self) -> dict[str, int]:
        """Most first."""
        symbols = functions(self.program)
        starts, counts = list(symbols), dict.fromkeys(symbols.values(), 0)
        for address, count in self.by_address.items():
            counts[symbols[starts[bisect.bisect(starts, address) - 1]]] += count
        return {name: count for name, count in sorted(counts.items(), key=lambda item: -item[1]) if count}


@functools.cache
def program(preset: str = "m4", name: str = "m4_runner") -> Path:
    """A program of node_firmware/tests/m4, up to date: as in `m4`, or `m4-c99` without DSP instructions."""
    return build(preset, name) / "tests" / "m4" / name


def build(preset: str, target: str) -> Path:
    """The folder of a preset, with `target` up to date."""
    for command, package in NEEDED.items():
        if not shutil.which(command):
            raise Missing(f"{command} is not installed (Debian: {package})")
    folder = ROOT / "build" / preset
    if not (folder / "build.ninja").is_file():
        _run("cmake", "-S", ROOT / "node_firmware", "--preset", preset)
    _run("flock", folder, "ninja", "-C", folder, target)
    return folder


class Size(NamedTuple):
    """Bytes, of a linked program."""

    flash: int
    ram: int


def size(preset: str, name: str) -> Size:
    """Without the stack."""
    text, data, bss, *_ = _run("arm-none-eabi-size", program(preset, name)).splitlines()[1].split()
    return Size(int(text) + int(data), int(data) + int(bss))


@functools.cache
def plugin() -> Path:
    """The counting plugin, for the installed QEMU's API."""
    target = ROOT / "build" / "m4" / "libicount.so"
    version = re.search(r"version (\d+)", _run("qemu-system-arm", "--version"))
    api = 2 if version and int(version[1]) >= 9 else 1
    flags = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-DICOUNT_API={api}")
    _run("gcc", *flags, "-o", f"{target}.{os.getpid()}", RUNNER / "icount.c")
    return Path(f"{target}.{os.getpid()}").replace(target)


def run(jobs: Sequence[Job], preset: str = "m4", *, timeout_s: float = 120) -> list[Outcome]:
    """All jobs in one QEMU."""
    return _qemu(jobs, preset, timeout_s)[0]


def count(jobs: Sequence[Job], preset: str = "m4", *, timeout_s: float = 300) -> tuple[list[Outcome], list[Count]]:
    """The same, and the counts of all jobs in their order: an opening, then invocations; or calls of a front end."""
    return _qemu(jobs, preset, timeout_s, counted=True)


def _qemu(jobs: Sequence[Job], preset: str, timeout_s: float, *, counted: bool = False) -> tuple[list[Outcome], list[Count]]:
    path = program(preset)
    with tempfile.TemporaryDirectory(prefix="m4-") as name:
        folder = Path(name)
        (folder / "jobs").write_bytes(b"".join(_packed(job) for job in jobs))
        command: list[str | Path] = [
            "qemu-system-arm",
            "-M",
            "mps2-an386",
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "none",
            "-kernel",
            path,
        ]
        command += ["-semihosting-config", "enable=on,target=native"]
        if counted:
            marks = {name: address for address, name in functions(path).items()}
            command += ["-plugin", f"{plugin()},begin={marks['count_begin']:#x},end={marks['count_end']:#x},out=counts,total=totals"]
        _run(*command, cwd=folder, timeout_s=timeout_s)
        outcomes = list(_outcomes(jobs, (folder / "results").read_bytes()))
        counts = [_count(text, path) for text in (folder / "counts").read_text().split("\n\n")[:-1]] if counted else []
        if counted:  # in both of the plugin's ways; the second has the instruction at `begin` too
            spans = struct.unpack_from("=8x2Q", (folder / "totals").read_bytes())
            assert spans == (len(counts), sum(one.total + 1 for one in counts))
    return outcomes, counts


def _packed(job: Job) -> bytes:
    sizes = {len(step) for step in job.inputs}
    assert len(sizes) <= 1, "steps of different lengths"
    header = struct.pack("<8I", job.kind, job.arena_bytes, len(job.model), len(job.inputs), *sizes or (0,), 0, 0, 0)
    return header + _padded(job.model) + _padded(b"".join(job.inputs))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


def _outcomes(jobs: Sequence[Job], data: bytes) -> Iterator[Outcome]:
    at = 0
    for job in jobs:
        opened, at = struct.unpack_from("<iII", data, at), at + 12
        steps = []
        for _ in job.inputs:
            records = []
            while (words := struct.unpack_from("<2I", data, at))[0] != _END:
                at += 8 + words[1]
                records.append((words[0], data[at - words[1] : at]))
            (status, stack), at = struct.unpack_from("<iI", data, at + 4), at + 12
            steps.append(Step(status, stack, records))
        status, memory, stack = opened
        yield Outcome(status, memory, stack, steps)


def _count(text: str, path: Path) -> Count:
    pairs = (line.split() for line in text.splitlines())
    return Count({int(address, 16): int(count, 16) for address, count in pairs}, path)


def returns(path: Path, function: str) -> list[int]:
    """Where the calls of `function` come back to."""
    code = _run("arm-none-eabi-objdump", "-d", path)
    return [int(address, 16) + 4 for address in re.findall(rf"([0-9a-f]+):\t.*\tbl\t.*<{function}>", code)]


def symbols(path: Path) -> dict[str, int]:
    """Where things are in a program."""
    lines = (line.split() for line in _run("arm-none-eabi-nm", path).splitlines())
    return {words[2]: int(words[0], 16) for words in lines if len(words) == 3}


@functools.cache
def functions(path: Path) -> dict[int, str]:
    """Addresses, in their order, of all symbols in the program's code."""
    lines = (line.split() for line in _run("arm-none-eabi-nm", "-n", path).splitlines())
    return {int(words[0], 16) & ~1: words[2] for words in lines if words[1] in "tTwW" and words[2][0] != "$"}


def _run(*command: str | Path, cwd: Path | None = None, timeout_s: float = 600) -> str:
    done = subprocess.run(command, cwd=cwd, timeout=timeout_s, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("count").add_argument("model", type=Path, nargs="+")
    commands.add_parser("hop")
    for command in commands.choices.values():
        command.add_argument("--c99", action="store_true", help="without DSP instructions")
        command.add_argument("--top", type=int, default=12, help="functions of each profile")
        command.add_argument("--function", help="show its instructions")
    arguments = parser.parse_args()
    preset = "m4-c99" if arguments.c99 else "m4"
    rng = np.random.default_rng(1)
    if arguments.command == "hop":
        noise = [rng.normal(0, 1000, 160).astype("<i2").tobytes() for _ in range(100)]
        (outcome,), counts = count([Job(Kind.AUDIO, inputs=noise)], preset)
        print(f"audio front end: {outcome.memory_bytes} bytes of state, {max(step.stack_bytes for step in outcome.steps)} of stack")
        _print({"hop": counts[-1]}, arguments)
        return
    for path in arguments.model:
        steps = [rng.bytes(1 << 17) for _ in range(8)]  # more than any model's input
        (outcome,), counts = count([Job(Kind.INVOKE, path.read_bytes(), steps)], preset)
        print(f"{path.name}: status {outcome.status}, arena {outcome.memory_bytes} bytes, stack {outcome.stack_bytes} to open")
        _print({"open": counts[0], "invoke": counts[-1]}, arguments)


def _print(counted: dict[str, Count], arguments: argparse.Namespace) -> None:
    for title, one in counted.items():
        print(f"  {title:30} {one.total:>10}")
        if arguments.function:
            _print_function(one, arguments.function)
            continue
        for name, number in [*one.by_function().items()][: arguments.top]:
            print(f"    {name:28} {number:>10} {100 * number / one.total:5.1f} %")


def _print_function(counted: Count, name: str) -> None:
    for line in _run("arm-none-eabi-objdump", f"--disassemble={name}", counted.program).splitlines():
        if found := re.match(r" *([0-9a-f]+):\t.*?\t(.*)", line):
            print(f"{counted.by_address.get(int(found[1], 16), 0):>12} {found[1]:>6} {found[2].expandtabs(8)}")


if __name__ == "__main__":
    main()
