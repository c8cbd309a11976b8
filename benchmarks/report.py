"""Keeps what was measured: results.json, a flat map from a dotted name to a result, and RESULTS.md, which is made from it."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
REPORT = FOLDER / "RESULTS.md"


class Result(NamedTuple):
    """One measurement. `ratio` is value / reference where both are the same kind of thing; `goal` is the largest value that is good,
    or the `least`.

    A reference is measured in the same run, unless it is `recorded`: a figure from elsewhere, which the note names.
    """

    value: float
    unit: str
    goal: float | None = None
    reference: float | None = None
    ratio: float | None = None
    note: str = ""
    recorded: bool = False
    least: bool = False


def met(value: float, goal: float, *, least: bool) -> bool:
    """Whether a value is as good as its goal."""
    return value >= goal if least else value <= goal


def keep(measured: dict[str, Result]) -> None:
    """Add `measured` to results.json, replacing what had the same names, and make RESULTS.md anew."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = f"{os.getloadavg()[0]:.1f}"
    for name, result in measured.items():
        results[name] = {**result._asdict(), "date": now, "machine": _machine(), "load": load}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    REPORT.write_text(report(results))


def report(results: dict[str, dict[str, object]]) -> str:
    """RESULTS.md."""
    lines = [
        "# Benchmarks",
        "",
        "Made from `results.json` by `make bench`; not edited by hand. A goal is the largest value that is good, or with ≥ the least. Load is the machine's load average",
        "at the end of the run: above 1 on two cores somebody else was working too. A reference marked * was recorded earlier and elsewhere: it was not",
        "measured in the run.",
        "",
        "| name | value | goal | | reference | ratio | date | load |",
        "|---|--:|--:|---|--:|--:|---|--:|",
    ]
    for name, result in sorted(results.items()):
        goal, value = result["goal"], result["value"]
        least = bool(result.get("least"))
        judged = "" if goal is None else "met" if met(value, goal, least=least) else "**missed**"  # type: ignore[arg-type]
        reference = _cell(result["reference"]) + (" *" if result.get("recorded") else "")
        cells = (name, f"{value} {result['unit']}", "≥ " * least + _cell(goal), judged, reference, _cell(result["ratio"]))
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
