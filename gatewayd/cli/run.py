"""`gatewayctl run`: the daemon. Logs go to stderr; under systemd with the journal's priority prefixes (sd-daemon(3))."""

import asyncio
import logging
import os

from gatewayd import app
from gatewayd.config import Config

_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{record.name}: {super().format(record)}"


def run_daemon(config: Config) -> None:
    """Run until SIGTERM or SIGINT."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(_JournalFormatter() if "JOURNAL_STREAM" in os.environ else plain)
    logging.basicConfig(level=config.gateway.log_level.upper(), handlers=[handler])
    logging.captureWarnings(capture=True)
    asyncio.run(app.run(config))
