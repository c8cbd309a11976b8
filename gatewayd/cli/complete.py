"""What the shell offers for an argument: names from the database. Nothing heavy is imported, and whatever goes wrong is silence."""

import os
import sqlite3
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import typer

_TIMEOUT_S = 0.2
_KEY = "gateway.state_dir"


def _names(query: str) -> Callable[[typer.Context, str], list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            database = _state_dir(ctx) / "gatewayd.db"
            with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)) as connection:
                found = [str(row[0]) for row in connection.execute(query)]
        except Exception:  # noqa: BLE001 -- a shell that waits for a word is no place for an error
            return []
        return sorted({word for text in found for word in text.split() if word.startswith(incomplete)})

    return complete


def _state_dir(ctx: typer.Context) -> Path:
    """As gatewayd.config finds it, without the second that its import takes on a Raspberry Pi."""
    said = [text.removeprefix(f"{_KEY}=") for text in ctx.params.get("set_") or () if text.startswith(f"{_KEY}=")]
    if said or (said := [os.environ.get("GATEWAYD_GATEWAY__STATE_DIR", "")]) != [""]:
        return Path(said[-1])
    file = Path(ctx.params.get("config") or os.environ.get("GATEWAYD_CONFIG") or "/etc/gatewayd/gatewayd.toml")
    tree = tomllib.loads(file.read_text()) if file.exists() else {}
    return Path(tree.get("gateway", {}).get("state_dir", "/var/lib/gatewayd"))


nodes = _names("SELECT id FROM nodes")
labels = _names("SELECT labels FROM nodes")
rollouts = _names("SELECT id FROM rollouts")
cascades = _names(  # from one to the next in the index of events_judged: there may be millions of events
    "WITH RECURSIVE found (name) AS (SELECT min(cascade) FROM events WHERE basis <> 'node' UNION ALL"
    " SELECT (SELECT min(cascade) FROM events WHERE basis <> 'node' AND cascade > name) FROM found WHERE name IS NOT NULL)"
    " SELECT name FROM found WHERE name IS NOT NULL"
)
tokens = _names("SELECT name FROM tokens")
