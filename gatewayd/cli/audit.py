"""`gatewayctl audit`, and who it is that gives gatewayctl's commands."""

import getpass
import json
import os
import time

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gatewayd import audit
from gatewayd.config import Config
from gatewayd.store import Store


def operator() -> str:
    """Who gives this command, for audit.record()."""
    try:
        return f"cli:{os.environ.get('SUDO_USER') or getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name
        return f"cli:{os.getuid()}"


def show_audit(config: Config, *, limit: int, as_json: bool) -> None:
    """Print the newest changes, the newest last. Raises StoreError."""
    with Store(config.store, config.store_url) as store:
        entries = sorted(audit.entries(store, limit))
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry._asdict()))
        return
    table = Table("when", "who", "what", "of", "detail", "from")
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at_s))
        table.add_row(when, *map(escape, (entry.who, entry.what, entry.target, entry.detail, entry.address)))
    Console().print(table)
