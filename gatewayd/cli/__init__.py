"""gatewayctl: one command for the daemon, its nodes and its operator. Each command's module is imported when it is called."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gatewayd import __version__
from gatewayd.errors import ConfigError, GatewaydError

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, help="Runs and looks after a fleet of tiny models.")
nodes_app = typer.Typer(no_args_is_help=True, help="The nodes that were heard.")
app.add_typer(nodes_app, name="nodes")
node_app = typer.Typer(no_args_is_help=True, help="One node: what is in its flash, and its pairing.")
app.add_typer(node_app, name="node")
cascade_app = typer.Typer(no_args_is_help=True, help="Cascades: a node model, a gateway model and the policy between them.")
app.add_typer(cascade_app, name="cascade")
keys_app = typer.Typer(no_args_is_help=True, help="The keys with which cascades are signed.")
app.add_typer(keys_app, name="keys")
rollout_app = typer.Typer(no_args_is_help=True, help="Bringing a cascade to its nodes, group by group.")
app.add_typer(rollout_app, name="rollout")

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; default /etc/gatewayd/gatewayd.toml.")]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one setting, like mqtt.port=1884.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]

_UNITS_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20}
_SIZE = re.compile(r"(\d{1,9})([KM]?)", re.ASCII)
_MAX_SIZE_BYTES = 1 << 28
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", re.ASCII)


def duration(text: str | float) -> float:
    """Seconds in "90s", "30m", "2h" or "1d"; a default is seconds already. Raises BadParameter."""
    if isinstance(text, float):
        return text
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a time like 90s, 30m, 2h or 1d")
    return float(match[1]) * _UNITS_S[match[2]]


def size(text: str | int) -> int:
    """Bytes in "4096", "64K" or "16M"; a default is bytes already. Raises BadParameter."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    found = int(match[1]) * _UNITS_BYTES[match[2]] if match else 0
    if not 0 < found <= _MAX_SIZE_BYTES:
        raise typer.BadParameter(f"{text!r} is not a size like 4096, 64K or 16M")
    return found


def _time_option(help_: str, default: str) -> Any:
    return typer.Option(parser=duration, metavar="TIME", help=help_, show_default=default)


NodeName = Annotated[str, typer.Argument(metavar="ID")]
RolloutId = Annotated[str, typer.Argument(metavar="ID")]
Because = Annotated[str, typer.Option(metavar="TEXT", help="Why; `explain` repeats it.")]


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


@nodes_app.command("label")
def nodes_label(
    nodes: list[str],
    add: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Give this label; may be given several times.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Take this label away.")] = None,
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Give nodes labels by which a rollout can choose them."""
    from gatewayd.cli.records import label  # noqa: PLC0415

    label(load_config(config, set_), nodes, add or [], remove or [])


@node_app.command("flash-image")
def node_flash_image(
    id_: NodeName,
    output: Path,
    broker: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the node finds its broker: a name or an IPv4 address.")],
    key: Annotated[list[Path] | None, typer.Option(help="Public key of who may sign its images; may be given four times.")] = None,
    psk_file: Annotated[Path | None, typer.Option(help="mosquitto's psk_file, which gets the node's key; otherwise it is printed.")] = None,
    ca: Annotated[Path | None, typer.Option(help="X.509 instead of a pre-shared key: whom it believes of brokers.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="X.509: what it shows.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="X.509: the key of that, on the curve P-256.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="No TLS.")] = False,
    user: Annotated[str | None, typer.Option(help="User for the broker, where neither key nor certificate says it.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File whose first line is that user's password.")] = None,
    image: Annotated[Path | None, typer.Option(help="Signed image that it installs when it has none.")] = None,
    size_: Annotated[
        int,
        typer.Option("--size", parser=size, metavar="BYTES", help="Fill up to this size, like 16M, with erased flash.", show_default=False),
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUTPUT.")] = False,
) -> None:
    """Make what a node needs in its flash: its name, a new key, its broker, the public keys that it trusts."""
    from gatewayd.cli.node import Request, flash_image  # noqa: PLC0415

    request = Request(id_, broker, key or [], psk_file, ca, certificate, private_key, plain, user, password_file, image, size_)
    flash_image(request, output, force=force)


@node_app.command("show")
def node_show(file: Path, json: Json = False) -> None:
    """What a flash image says, without its secrets."""
    from gatewayd.cli.node import show  # noqa: PLC0415

    show(file, as_json=json)


@node_app.command("pair")
def node_pair(
    id_: NodeName,
    passkey: Annotated[
        str | None, typer.Option(metavar="DIGITS", help="The six digits that the node shows, if it shows a passkey.")
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Pair with a node over Bluetooth LE, while it is here and advertises."""
    from gatewayd.cli.pair import pair  # noqa: PLC0415

    pair(load_config(config, set_), id_, passkey)


@node_app.command("unpair")
def node_unpair(id_: NodeName, config: ConfigFile = None, set_: Set = None) -> None:
    """Forget the bond with a node."""
    from gatewayd.cli.pair import unpair  # noqa: PLC0415

    unpair(load_config(config, set_), id_)


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


@rollout_app.command("start")
def rollout_start(
    bundle: Path,
    node: Annotated[list[str] | None, typer.Option(help="Only this node; may be given several times, as the next two.")] = None,
    board: Annotated[list[str] | None, typer.Option(help="Only nodes of this board.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only nodes with this label.")] = None,
    groups: Annotated[str, typer.Option(metavar="SIZES", help="How many shall have it after each group.")] = "1,10%,100%",
    soak: Annotated[float, _time_option("How long a group runs it before the next may begin.", "1d")] = 86_400.0,
    success: Annotated[float, typer.Option(min=0.01, max=1, help="Share of a group that must be confirmed.")] = 0.9,
    error_limit: Annotated[float, typer.Option(min=0, max=1, help="Share of those attempted that may go wrong.")] = 0.1,
    min_attempted: Annotated[int, typer.Option(min=1, help="That share is not looked at before so many were attempted.")] = 1,
    approval: Annotated[bool, typer.Option("--approval", help="Wait for `approve` before each further group.")] = False,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Do not ask whether the new model is worse in the field.")] = False,
    gate_patience: Annotated[float, _time_option("How long to wait for enough evidence.", "14d")] = 1_209_600.0,
    margin: Annotated[float, typer.Option(min=0.01, max=0.9, help="Loss of quality that the gate must exclude.")] = 0.15,
    concurrent: Annotated[int, typer.Option(min=1, max=1_000, help="Transfers at the same time.")] = 4,
    bytes_per_hour: Annotated[int | None, typer.Option(min=1, help="Air time that transfers may take.", show_default="no limit")] = None,
    min_battery: Annotated[float, typer.Option(min=0, max=1, help="Charge that a node with a battery must have.")] = 0.3,
    sleep_limit: Annotated[float, _time_option("How long to wait for a node that sleeps or is away.", "7d")] = 604_800.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Bring a bundle to its nodes, a canary first."""
    from gatewayd.cli.rollouts import start  # noqa: PLC0415
    from gatewayd.core.rollout import Rules  # noqa: PLC0415

    rules = Rules(
        success_ratio=success,
        min_attempted=min_attempted,
        error_limit=error_limit,
        soak_s=soak,
        gate=not no_gate,
        margin=margin,
        gate_patience_s=gate_patience,
        approval=approval,
        concurrent=concurrent,
        bytes_per_hour=bytes_per_hour,
        min_battery=min_battery,
        sleep_limit_s=sleep_limit,
    )
    wanted = {"nodes": node or [], "boards": board or [], "labels": label or []}
    start(load_config(config, set_), bundle, wanted, groups, rules, yes=yes, as_json=json)


@rollout_app.command("list")
def rollout_list(config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """Every rollout that there was."""
    from gatewayd.cli.rollouts import show_list  # noqa: PLC0415

    show_list(load_config(config, set_), as_json=json)


@rollout_app.command("status")
def rollout_status(id_: RolloutId, config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """How far one and each of its nodes is."""
    from gatewayd.cli.rollouts import show_status  # noqa: PLC0415

    show_status(load_config(config, set_), id_, as_json=json)


@rollout_app.command("watch")
def rollout_watch(id_: RolloutId, config: ConfigFile = None, set_: Set = None) -> None:
    """Follow one to its end; fails where it was not done."""
    from gatewayd.cli.rollouts import watch as watch_rollout  # noqa: PLC0415

    watch_rollout(load_config(config, set_), id_)


@rollout_app.command("explain")
def rollout_explain(id_: RolloutId, config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """Why one moved, waits or stopped."""
    from gatewayd.cli.rollouts import show_explanation  # noqa: PLC0415

    show_explanation(load_config(config, set_), id_, as_json=json)


@rollout_app.command("pause")
def rollout_pause(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Begin and confirm nothing."""
    _order(id_, "pause", because, config, set_)


@rollout_app.command("resume")
def rollout_resume(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Go on after a pause."""
    _order(id_, "resume", because, config, set_)


@rollout_app.command("approve")
def rollout_approve(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Go on: with the next group, or without evidence."""
    _order(id_, "approve", because, config, set_)


@rollout_app.command("abort")
def rollout_abort(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Stop; what is confirmed stays."""
    _order(id_, "abort", because, config, set_)


@rollout_app.command("rollback")
def rollout_rollback(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Bring every node back."""
    _order(id_, "roll_back", because, config, set_)


def _order(id_: str, command: str, because: str, config: Path | None, overrides: list[str] | None) -> None:
    from gatewayd.cli.rollouts import give_order  # noqa: PLC0415
    from gatewayd.core.rollout import Command  # noqa: PLC0415

    give_order(load_config(config, overrides), id_, Command(command), because)


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
