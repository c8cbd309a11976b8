"""Keeps what was measured: results.json, a flat map from a dotted name to a result, and RESULTS.md, which is made from it."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
REPORT = FOLDER / "RESULTS.md"


class Result(NamedTuple):
    """One measurement. `ratio` is value / reference where both are the same kind of thing; `goal` is the largest value that is good, or the
    smallest, where it is a goal to be `at_least`.

    A reference is measured in the same run, unless it is `recorded`: a figure from elsewhere, which the note names.
    """

    value: float
    unit: str
    goal: float | None = None
    reference: float | None = None
    ratio: float | None = None
    note: str = ""
    recorded: bool = False
    at_least: bool = False


def judged(result: Mapping[str, Any]) -> tuple[str, str]:
    """The goal, and whether it is met; empty where there is none."""
    goal, value, at_least = result["goal"], result["value"], result.get("at_least", False)
    if goal is None:
        return "", ""
    return f"{'≥ ' if at_least else ''}{goal}", "met" if (value >= goal if at_least else value <= goal) else "missed"


def keep(measured: dict[str, Result]) -> None:
    """Add `measured` to results.json, replacing what had the same names, and make RESULTS.md anew."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = f"{os.getloadavg()[0]:.1f}"
    for name, result in measured.items():
        results[name] = {**result._asdict(), "date": now, "machine": _machine(), "load": load}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    REPORT.write_text(report(results))


def report(results: Mapping[str, Mapping[str, Any]]) -> str:
    """RESULTS.md."""
    lines = [
        "# Benchmarks",
        "",
        "Made from `results.json` by `make bench`; not edited by hand. A goal is the largest value that is good, or, after ≥, the smallest. Load is the",
        "machine's load average at the end of the run: above 1 on two cores somebody else was working too. A reference marked * was recorded earlier and",
        "elsewhere: it was not measured in the run.",
        "",
        "| name | value | goal | | reference | ratio | date | load |",
        "|---|--:|--:|---|--:|--:|---|--:|",
    ]
    for name, result in sorted(results.items()):
        goal, met = judged(result)
        reference = _cell(result["reference"]) + (" *" if result.get("recorded") else "")
        cells = (name, f"{result['value']} {result['unit']}", goal, met.replace("missed", "**missed**"), reference, _cell(result["ratio"]))
        lines.append(f"| {' | '.join((*cells, str(result['date']), str(result['load'])))} |")
    lines += ["", "## How it was measured", ""]
    lines += [f"- `{name}`: {result['note']}" for name, result in sorted(results.items()) if result["note"]]
    lines += ["", "## Machines", ""]
    lines += [f"- {machine}" for machine in sorted({str(result["machine"]) for result in results.values()})]
    return "\n".join([*lines, ""])


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _machine() -> str:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    mosquitto = subprocess.run(["mosquitto", "-h"], capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/usr/bin"})
    packages = ", ".join(f"{name} {version(name)}" for name in ("paho-mqtt", "cbor2", "pydantic", "sqlalchemy"))
    return (
        f"{platform.machine()}, {model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"{mosquitto.stdout.splitlines()[0]}, {packages}"
    )
