"""`gatewayctl token`: who may use the fleet page and the HTTP API."""

import json
import re
import time

import typer
from rich.console import Console
from rich.table import Table

from gatewayd import audit
from gatewayd.cli.audit import operator
from gatewayd.cli.options import nearest
from gatewayd.config import Config
from gatewayd.store import Store
from gatewayd.tokens import Scope, Tokens

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", re.ASCII)


def add(config: Config, name: str, scope: Scope, *, as_json: bool) -> None:
    """Make a token and print it. Raises StoreError, and BadParameter for a name that is none or is taken."""
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r} is not a name: letters, digits and . _ @ -")
    with Store(config.store, config.store_url) as store:
        token = Tokens(store).add(name, scope)
        if token is None:
            raise typer.BadParameter(f"there is a token {name!r} already; `gatewayctl token revoke {name}` ends it")
        audit.record(store, operator(), "token.add", name, scope)
    typer.echo(json.dumps({"name": name, "scope": scope, "token": token}) if as_json else token)


def show_tokens(config: Config, *, as_json: bool) -> None:
    """Print what is known of tokens, which is not themselves. Raises StoreError."""
    with Store(config.store, config.store_url) as store:
        tokens = Tokens(store).all()
    if as_json:
        for token in tokens:
            typer.echo(json.dumps({"name": token.name, "scope": token.scope, "created_s": token.created_s}))
        return
    table = Table("name", "scope", "since")
    for token in tokens:
        table.add_row(token.name, token.scope, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(token.created_s)))
    Console(markup=False).print(table)


def revoke(config: Config, name: str) -> None:
    """End a token. Raises StoreError, and BadParameter where there is none of that name."""
    with Store(config.store, config.store_url) as store:
        if not Tokens(store).revoke(name):
            raise typer.BadParameter(f"there is no token {name!r}{nearest(name, [one.name for one in Tokens(store).all()])}")
        audit.record(store, operator(), "token.revoke", name)
    typer.echo(f"{name}: revoked", err=True)
