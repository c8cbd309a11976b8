"""`gatewayctl node`."""

from pathlib import Path
from typing import Annotated

import typer

from gatewayd.cli.options import ConfigFile, Json, NodeName, Set, load_config, size

app = typer.Typer(no_args_is_help=True, help="One node: its key, what is in its flash, its pairing.")


Broker = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the node finds its broker; default enrolment.broker.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File for the node's flash; default ID.flash.", show_default=False)]
Keys = Annotated[list[Path] | None, typer.Option(help="Public key of who may sign its images; default cascades.keys.")]
Qr = Annotated[bool, typer.Option("--qr/--no-qr", help="Show the key as a QR code, too.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]


@app.command("add")
def node_add(
    id_: NodeName,
    broker: Broker = None,
    output: Output = None,
    key: Keys = None,
    label: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Give it this label; may be given several times.")] = None,
    qr: Qr = True,
    force: Force = False,
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Enrol a new node: a key for it and for mosquitto, what it may say, and a file for its flash. For root."""
    from gatewayd.cli.enrol import Handover, add  # noqa: PLC0415

    add(load_config(config, set_), Handover(id_, broker, key, output, qr, force), label or [])


@app.command("rotate")
def node_rotate(
    id_: NodeName,
    broker: Broker = None,
    output: Output = None,
    key: Keys = None,
    qr: Qr = True,
    force: Force = False,
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Replace a node's key. The node is off until it has the new one. For root."""
    from gatewayd.cli.enrol import Handover, rotate  # noqa: PLC0415

    rotate(load_config(config, set_), Handover(id_, broker, key, output, qr, force))


@app.command("revoke")
def node_revoke(id_: NodeName, config: ConfigFile = None, set_: Set = None) -> None:
    """Shut a node out, at once: no key, no connection, no trust. For root."""
    from gatewayd.cli.enrol import revoke  # noqa: PLC0415

    revoke(load_config(config, set_), id_)


@app.command("publish-keys", hidden=True)
def node_publish_keys(config: ConfigFile = None, set_: Set = None) -> None:
    """Make what mosquitto reads, of the keys at rest: what gatewayd-keys.service does at boot."""
    from gatewayd.nodekeys import NodeKeys  # noqa: PLC0415

    NodeKeys(load_config(config, set_).enrolment).publish()


@app.command("flash-image")
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


@app.command("show")
def node_show(file: Path, json: Json = False) -> None:
    """What a flash image says, without its secrets."""
    from gatewayd.cli.node import show  # noqa: PLC0415

    show(file, as_json=json)


@app.command("pair")
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


@app.command("provision")
def node_provision(
    id_: NodeName,
    broker: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the node finds its broker; without it, enrolment.broker of the configuration."),
    ] = None,
    passkey: Annotated[
        str | None, typer.Option(metavar="DIGITS", help="The six digits that the node shows, if it shows a passkey.")
    ] = None,
    address: Annotated[str, typer.Option(help="Which node is meant, where several wait.")] = "",
    ssid: Annotated[str | None, typer.Option(metavar="NAME", help="The Wi-Fi that it is to use, if it has one.")] = None,
    wifi_password_file: Annotated[Path | None, typer.Option(help="File whose first line is the password of that.")] = None,
    psk_file: Annotated[
        Path | None, typer.Option(help="A psk_file of mosquitto's that gets the node's key, instead of the keys that `node add` keeps.")
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Make a node that is nobody yet, and advertises here, this one: its name, a new key, its broker, whose images it takes."""
    from gatewayd.cli.provision import Request, provision  # noqa: PLC0415

    provision(load_config(config, set_), Request(id_, broker, passkey, address, ssid, wifi_password_file, psk_file))


@app.command("unpair")
def node_unpair(id_: NodeName, config: ConfigFile = None, set_: Set = None) -> None:
    """Forget the bond with a node."""
    from gatewayd.cli.pair import unpair  # noqa: PLC0415

    unpair(load_config(config, set_), id_)
