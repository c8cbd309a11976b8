"""The gateway, unchanged, with every raw figure of Metrics.stored written to a file at the end: `probed_gateway.py OUTPUT CONFIG`."""

import json
import sys
from pathlib import Path

from gatewayd import config
from gatewayd.cli.run import run_daemon
from gatewayd.core.types import Record
from gatewayd.metrics import Metrics


def main() -> None:
    """Run the daemon until SIGTERM."""
    output, file = map(Path, sys.argv[1:3])
    figures: list[tuple[float, float, float]] = []  # seconds: arrival to disk, of it waiting for a worker, of it in the model
    plain = Metrics.stored

    def stored(self: Metrics, record: Record, durable_s: float) -> None:
        opinion = record.opinion
        figures.append((durable_s, opinion.wait_s if opinion else 0.0, opinion.model_s if opinion else 0.0))
        plain(self, record, durable_s)

    Metrics.stored = stored  # type: ignore[method-assign]
    try:
        run_daemon(config.load(file))
    finally:
        output.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
