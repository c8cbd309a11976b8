"""`make bench`: measures, prints, and keeps what was measured. `run.py [SUBJECT...]` measures only some."""

import asyncio
import sys
import tempfile
from pathlib import Path

import ble
import engine
import gateway
import node
import ota
import page
import report

SUBJECTS = {**engine.SUBJECTS, **gateway.SUBJECTS, **node.SUBJECTS, **ota.SUBJECTS, **ble.SUBJECTS, **page.SUBJECTS}


def main() -> None:
    """Run the subjects one after the other."""
    for name in sys.argv[1:] or SUBJECTS:
        with tempfile.TemporaryDirectory(prefix="gatewayd-bench-") as folder:
            Path(folder).chmod(0o755)
            measured = asyncio.run(SUBJECTS[name](Path(folder)))
        report.keep(measured)
        for key, result in measured.items():
            goal, met = report.judged(result._asdict())
            print(f"{key:40} {result.value:>8} {result.unit}{goal and f'  goal {goal}  {met.upper()}'}{_reference(result)}", flush=True)


def _reference(result: report.Result) -> str:
    if result.reference is None:
        return ""
    return f"  reference {result.reference}{' (recorded earlier)' if result.recorded else ''}, ratio {result.ratio}"


if __name__ == "__main__":
    main()
