"""gatewayctl: one command for the daemon, its nodes and its operator. Each command's module is imported when it is called."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gatewayd import __version__
from gatewayd.errors import ConfigError, GatewaydError

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, help="Runs and looks after a fleet of tiny models.")
nodes_app = typer.Typer(no_args_is_help=True, help="The nodes that were heard.")
app.add_typer(nodes_app, name="nodes")
cascade_app = typer.Typer(no_args_is_help=True, help="Cascades: a node model, a gateway model and the policy between them.")
app.add_typer(cascade_app, name="cascade")
keys_app = typer.Typer(no_args_is_help=True, help="The keys with which cascades are signed.")
app.add_typer(keys_app, name="keys")

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; default /etc/gatewayd/gatewayd.toml.")]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one setting, like mqtt.port=1884.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]


def load_config(path: Path | None, overrides: list[str] | None) -> Any:
    """The configuration with the command line's overrides. Raises ConfigError."""
    from gatewayd import config  # noqa: PLC0415 -- see above

    return config.load(path, dict(config.assignment(text) for text in overrides or []))


@app.command()
def run(config: ConfigFile = None, set_: Set = None) -> None:
    """Run the gateway until it is told to stop."""
    from gatewayd.cli.run import run_daemon  # noqa: PLC0415

    run_daemon(load_config(config, set_))


@nodes_app.command("list")
def nodes_list(config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """Every node that was ever heard."""
    from gatewayd.cli.records import show_nodes  # noqa: PLC0415

    show_nodes(load_config(config, set_), as_json=json)


@nodes_app.command("enroll")
def nodes_enroll(nodes: list[str], config: ConfigFile = None, set_: Set = None) -> None:
    """Trust nodes: their events are judged and answered from now on."""
    from gatewayd.cli.records import enroll  # noqa: PLC0415

    enroll(load_config(config, set_), nodes, enrolled=True)


@nodes_app.command("dismiss")
def nodes_dismiss(nodes: list[str], config: ConfigFile = None, set_: Set = None) -> None:
    """Take trust back: their events are still recorded, and no more."""
    from gatewayd.cli.records import enroll  # noqa: PLC0415

    enroll(load_config(config, set_), nodes, enrolled=False)


@cascade_app.command("image")
def cascade_image(folder: Path, output: Path, key: Annotated[Path | None, typer.Option(help="Private key to sign with.")] = None) -> None:
    """Make the image that a node installs from a cascade's folder."""
    from gatewayd.cli.bundles import make_image  # noqa: PLC0415

    make_image(folder, output, key=key)


@cascade_app.command("build")
def cascade_build(
    folder: Path,
    key: Annotated[Path, typer.Option(help="Private key to sign with.")],
    counter: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Security counter: raise it to make older images refused.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: NAME-VERSION.bundle here.")] = None,
) -> None:
    """Make the signed bundle of a cascade: all that its nodes and gateways need, in one file."""
    from gatewayd.cli.bundles import build  # noqa: PLC0415

    build(folder, key, counter, output)


@cascade_app.command("inspect")
def cascade_inspect(
    file: Path,
    key: Annotated[list[Path] | None, typer.Option(help="Public key that may have signed it; may be given several times.")] = None,
    json: Json = False,
) -> None:
    """Show what is in a bundle, and whether it is whole and signed."""
    from gatewayd.cli.bundles import inspect  # noqa: PLC0415

    inspect(file, key or [], as_json=json)


@keys_app.command("make")
def keys_make(file: Path, passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for one.")] = False) -> None:
    """Make a key pair: FILE signs and stays with the operator, FILE.pub verifies."""
    from gatewayd.cli.bundles import make_key  # noqa: PLC0415

    make_key(file, passphrase=passphrase)


@keys_app.command("show")
def keys_show(file: Path, json: Json = False) -> None:
    """Print the public key in FILE, for gateways, and as C for a node's firmware."""
    from gatewayd.cli.bundles import show_key  # noqa: PLC0415

    show_key(file, as_json=json)


@app.command()
def events(
    config: ConfigFile = None,
    set_: Set = None,
    node: Annotated[str | None, typer.Option(help="Only this node's.")] = None,
    cascade: Annotated[str | None, typer.Option(help="Only this cascade's.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)] = 20,
    json: Json = False,
) -> None:
    """The newest events with what was decided."""
    from gatewayd.cli.records import show_events  # noqa: PLC0415

    show_events(load_config(config, set_), node=node, cascade=cascade, limit=limit, as_json=json)


@app.command()
def watch(
    config: ConfigFile = None,
    set_: Set = None,
    record: Annotated[Path | None, typer.Option(help="Also write what nodes say to this file, for the replay transport.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after so long.")] = None,
) -> None:
    """Everything that nodes and gateway say, live and decoded."""
    from gatewayd.cli.watch import watch_broker  # noqa: PLC0415

    watch_broker(load_config(config, set_), record=record, seconds=seconds)


@app.command()
def doctor(config: ConfigFile = None, set_: Set = None) -> None:
    """Check configuration, broker, models, disk and clock, and say what to do."""
    from gatewayd.cli.doctor import examine  # noqa: PLC0415

    raise typer.Exit(examine(config, set_))


@app.command()
def demo(once: Annotated[bool, typer.Option("--once", help="Stop when it has proved itself; the last line is JSON.")] = False) -> None:
    """A whole site on this machine, with real nodes, broker, speech and vibration. Needs the source tree and `make node`."""
    from gatewayd.demo.play import play  # noqa: PLC0415

    raise typer.Exit(play(once=once))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point. An error of ours is a line on stderr, never a traceback; a configuration that cannot be used exits with EX_CONFIG."""
    try:
        app()
    except GatewaydError as error:
        typer.echo(f"gatewayctl: {error}", err=True)
        sys.exit(os.EX_CONFIG if isinstance(error, ConfigError) else 1)
