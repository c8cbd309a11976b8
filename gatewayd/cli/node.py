"""`gatewayctl node`: what is in one node's flash before the node itself is, and the broker's half of its key."""

import json
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import typer
from cryptography import x509

from gatewayd import provisioning, signing
from gatewayd.config import Config
from gatewayd.core import image, wire
from gatewayd.core.types import Provisioning, Security
from gatewayd.errors import ConfigError, RefusedError
from gatewayd.nodekeys import new_key, set_psk

_BROKER = re.compile(r"([A-Za-z0-9._-]{1,63}):(\d{1,5})", re.ASCII)


class Request(NamedTuple):
    """What one node shall have in its flash. Without certificates and `plain`: a new key, which is printed or goes into `psk_file`."""

    node: str
    broker: str
    keys: list[Path]
    psk_file: Path | None
    ca: Path | None
    certificate: Path | None
    private_key: Path | None
    plain: bool
    user: str | None
    password_file: Path | None
    image: Path | None
    size_bytes: int


def flash_image(request: Request, output: Path, *, force: bool) -> None:
    """Write a flash image, and tell the broker the node's key. Raises ConfigError, RefusedError, and BadParameter."""
    made = _provisioning(request)
    flash = provisioning.flash_image(made, _read(request.image) if request.image else b"", request.size_bytes)
    write_new(output, flash, force=force)
    if made.psk and request.psk_file:
        try:
            set_psk(request.psk_file, made.id, made.psk)
        except OSError as error:
            output.unlink()  # a key that no broker has
            raise ConfigError(f"psk_file: {error}") from error
    typer.echo(f"{output}: {len(flash):,} bytes, for {made.id} at {request.broker} ({made.security})", err=True)
    if made.psk and request.psk_file:
        typer.echo(f"{request.psk_file}: has the key of {made.id}; now: systemctl reload mosquitto", err=True)
    elif made.psk:
        typer.echo(f"{made.id}:{made.psk.hex()}")
        typer.echo("This line, the broker's half of the key, belongs in mosquitto's psk_file; then: systemctl reload mosquitto", err=True)


def show(file: Path, *, as_json: bool) -> None:
    """Print what a flash image says, without its secrets. Raises ConfigError, DecodeError."""
    flash = _read(file)
    facts = _facts(provisioning.read(flash), flash)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name:<12} {' '.join(value) if isinstance(value, list) else value}")


def split_broker(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises BadParameter."""
    address = _BROKER.fullmatch(text)
    if address is None or not 0 < int(address[2]) < 1 << 16:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT with a name or an IPv4 address")
    return address[1], int(address[2])


def broker_of(config: Config, given: str | None) -> tuple[str, int]:
    """Host and port of the broker for nodes: as given, or as the configuration says. Raises ConfigError, BadParameter."""
    broker = given or config.enrolment.broker
    if not broker:
        raise ConfigError("where do nodes find the broker? enrolment.broker, or --broker HOST:PORT")
    return split_broker(broker)


def _provisioning(request: Request) -> Provisioning:
    if not wire.valid_node_id(request.node):
        raise typer.BadParameter(f"{request.node!r} is not a node's name")
    host, port = split_broker(request.broker)
    certificates = [path for path in (request.ca, request.certificate, request.private_key) if path]
    if request.plain + bool(certificates) + bool(request.psk_file) > 1 or len(certificates) not in (0, 3):
        raise typer.BadParameter("either --plain, or --psk-file, or all of --ca, --certificate and --private-key")
    found = Provisioning(
        id=request.node,
        host=host,
        port=port,
        security=Security.PLAIN,
        keys=tuple(signing.raw(signing.load_public(path)) for path in request.keys),
        user=request.user,
        password=first_line(request.password_file) if request.password_file else None,
    )
    if certificates:
        ca, certificate, private_key = provisioning.x509_credentials(*map(_read, certificates))
        return found._replace(security=Security.X509, ca=ca, certificate=certificate, private_key=private_key)
    return found if request.plain else found._replace(security=Security.PSK, psk=new_key())


def _facts(found: Provisioning, flash: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": found.id, "broker": f"{found.host}:{found.port}", "security": found.security.value}
    facts |= {name: text for name, text in (("user", found.user), ("wifi", found.ssid)) if text}
    for name, der in (("ca", found.ca), ("certificate", found.certificate)):
        if der:
            facts[name] = _certificate(der)
    facts["keys"] = [key.hex() for key in found.keys]
    if found.image_bytes:
        facts["image"] = _image(found, flash[provisioning.SECTOR_BYTES :][: found.image_bytes])
    return facts


def _certificate(der: bytes) -> str:
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        return f"BAD: {error}"
    return f"{certificate.subject.rfc4514_string()}, until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _image(found: Provisioning, data: bytes) -> str:
    try:
        parsed = image.parse(data)
        image.verify(parsed, provisioning.keyring(found))
    except RefusedError as error:
        return f"BAD: {error}"
    return f"{parsed.cascade} {parsed.version}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(error)) from error


def first_line(path: Path) -> str:
    """What a file says, up to the first end of a line. Raises ConfigError."""
    try:
        return _read(path).decode().split("\n", 1)[0]
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error


def _create(path: Path) -> BinaryIO:
    """A new file for its owner's eyes only."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def write_new(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file that only its owner can read. Raises ConfigError, also where it is there and `force` is not."""
    try:
        if force:
            path.unlink(missing_ok=True)
        with _create(path) as stream:
            stream.write(data)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already: --force overwrites it") from error
    except OSError as error:
        raise ConfigError(str(error)) from error
