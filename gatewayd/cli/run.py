"""`gatewayctl run`: the daemon. Logs go to stderr; under systemd to its journal, with fields and message ids."""

import asyncio
import logging
import os

from logging_journald import check_journal_stream

from gatewayd import app
from gatewayd.config import Config
from gatewayd.errors import ConfigError
from gatewayd.journal import JournalHandler


def run_daemon(config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigError where root would leave files that the daemon's own user cannot write."""
    folder = config.gateway.state_dir
    if os.geteuid() == 0 and folder.exists() and folder.stat().st_uid:
        raise ConfigError(f"{folder} is {folder.owner()}'s: systemctl start gatewayd, or: runuser -u {folder.owner()} -- gatewayctl run")
    if check_journal_stream():
        handler: logging.Handler = JournalHandler()
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=config.gateway.log_level.upper(), handlers=[handler])
    logging.captureWarnings(capture=True)
    asyncio.run(app.run(config))
