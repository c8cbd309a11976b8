"""`gatewayctl keys`."""

from pathlib import Path
from typing import Annotated

import typer

from gatewayd.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="The keys with which cascades are signed.")


@app.command("make")
def keys_make(file: Path, passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for one.")] = False) -> None:
    """Make a key pair: FILE signs and stays with the operator, FILE.pub verifies."""
    from gatewayd.cli.bundles import make_key  # noqa: PLC0415

    make_key(file, passphrase=passphrase)


@app.command("show")
def keys_show(file: Path, json: Json = False) -> None:
    """Print the public key in FILE, for gateways, and as C for a node's firmware."""
    from gatewayd.cli.bundles import show_key  # noqa: PLC0415

    show_key(file, as_json=json)
