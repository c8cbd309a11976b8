"""`gatewayctl token`."""

from typing import Annotated, Literal

import typer

from gatewayd.cli import complete
from gatewayd.cli.options import ConfigFile, Json, Set, load_config

app = typer.Typer(no_args_is_help=True, help="Who may use the fleet page and the HTTP API.")


@app.command("add")
def token_add(
    name: str,
    scope: Annotated[Literal["read", "operate"], typer.Option(help="operate: also change things.")] = "read",
    config: ConfigFile = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Make a token and print it. It is shown this once and kept nowhere."""
    from gatewayd.cli.tokens import add  # noqa: PLC0415

    add(load_config(config, set_), name, scope, as_json=json)


@app.command("list")
def token_list(config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """Every token's name and scope."""
    from gatewayd.cli.tokens import show_tokens  # noqa: PLC0415

    show_tokens(load_config(config, set_), as_json=json)


@app.command("revoke")
def token_revoke(name: Annotated[str, typer.Argument(autocompletion=complete.tokens)], config: ConfigFile = None, set_: Set = None) -> None:
    """Take a token back; whoever uses it is cut off within a second."""
    from gatewayd.cli.tokens import revoke  # noqa: PLC0415

    revoke(load_config(config, set_), name)
