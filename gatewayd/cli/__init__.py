"""gatewayctl: one command for the daemon, its nodes and its operator. Each command's module is imported when it is called."""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gatewayd import __version__
from gatewayd.cli import complete, menu
from gatewayd.cli.options import ConfigFile, Json, Set, load_config
from gatewayd.errors import ConfigError, GatewaydError

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, help="Runs and looks after a fleet of tiny models.")
for name, group in menu.GROUPS.items():
    app.add_typer(group, name=name)


@app.command()
def run(config: ConfigFile = None, set_: Set = None) -> None:
    """Run the gateway until it is told to stop."""
    gc.disable()  # until it is up: what is imported stays, and looking for garbage among it takes time
    from gatewayd.cli.run import run_daemon  # noqa: PLC0415

    run_daemon(load_config(config, set_))


@app.command()
def events(
    config: ConfigFile = None,
    set_: Set = None,
    node: Annotated[str | None, typer.Option(help="Only this node's.", autocompletion=complete.nodes)] = None,
    cascade: Annotated[str | None, typer.Option(help="Only this cascade's.", autocompletion=complete.cascades)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)] = 20,
    json: Json = False,
) -> None:
    """The newest events with what was decided."""
    from gatewayd.cli.records import show_events  # noqa: PLC0415

    show_events(load_config(config, set_), node=node, cascade=cascade, limit=limit, as_json=json)


@app.command()
def audit(
    config: ConfigFile = None,
    set_: Set = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)] = 50,
    json: Json = False,
) -> None:
    """Who changed what, over HTTP and with gatewayctl."""
    from gatewayd.cli.audit import show_audit  # noqa: PLC0415

    show_audit(load_config(config, set_), limit=limit, as_json=json)


@app.command()
def backup(
    file: Path,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Also take the nodes' keys for another machine, under the passphrase in this file's first line.")
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Write database, bundles, configuration and keys to one file, while the gateway runs."""
    from gatewayd.cli.backup import make_backup  # noqa: PLC0415

    make_backup(load_config(config, set_), config, file, passphrase_file, force=force, as_json=json)


@app.command()
def restore(
    file: Path,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="On another machine: the passphrase of the nodes' keys, in this file's first line.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Make this gateway, which must not run, the one of a backup."""
    from gatewayd.cli.backup import restore_backup  # noqa: PLC0415

    restore_backup(file, config, set_, passphrase_file, yes=yes, as_json=json)


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
def doctor(config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """Check configuration, broker, models, disk and clock, and say what to do."""
    from gatewayd.cli.doctor import examine  # noqa: PLC0415

    raise typer.Exit(examine(config, set_, as_json=json))


@app.command("support-bundle")
def support_bundle(
    file: Annotated[Path | None, typer.Argument(show_default="gatewayd-support-TIME.tar.gz, here")] = None,
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Write what somebody who helps wants to see to one file, without secrets."""
    from gatewayd.cli.support import make_bundle  # noqa: PLC0415

    make_bundle(config, set_, file)


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
