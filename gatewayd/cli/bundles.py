"""`gatewayctl keys` and `gatewayctl cascade`: the operator's key, and what is made and seen with it."""

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table

from gatewayd import bundle, signing
from gatewayd.core.image import key_hash
from gatewayd.errors import ConfigError

_C_BYTES_A_LINE = 8


def make_key(path: Path, *, passphrase: bool) -> None:
    """Write a new key pair and show its public half. Raises ConfigError."""
    secret = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True) if passphrase else ""
    show_key(signing.make(path, secret), as_json=False)
    typer.echo(f"\n{path} signs: keep it off the gateway, and keep a copy. {path}.pub verifies: it goes to gateways and nodes.")


def show_key(path: Path, *, as_json: bool) -> None:
    """Print the public key in `path` as gateways and nodes name it. Raises ConfigError."""
    key = _private(path).public_key() if signing.encrypted(path) else signing.load_public(path)
    raw, name = signing.raw(key), key_hash(key)
    if as_json:
        typer.echo(json.dumps({"public_key": raw.hex(), "key_hash": name.hex()}))
        return
    lines = [raw[i : i + _C_BYTES_A_LINE] for i in range(0, len(raw), _C_BYTES_A_LINE)]
    array = "\n".join("    " + " ".join(f"0x{byte:02x}," for byte in line) for line in lines)
    typer.echo(f"public key  {raw.hex()}\nkey hash    {name.hex()}\n\nstatic const uint8_t public_key[32] = {{\n{array}\n}};")


def make_image(folder: Path, output: Path, *, key: Path | None) -> None:
    """Write the image that a node installs. Raises CascadeError, ConfigError, MissingPackageError."""
    _write(output, bundle.node_image(bundle.read(folder), key=_private(key) if key else None))


def build(folder: Path, key: Path, counter: int, output: Path | None) -> None:
    """Write the signed bundle of a cascade. Raises CascadeError, ConfigError, MissingPackageError."""
    source = bundle.read(folder)
    secret = _private(key)
    with Console(stderr=True).status(f"building {source.cascade.name} {source.cascade.version} ..."):
        data = bundle.build(source, counter=counter, key=secret)
    output = output or Path(f"{source.cascade.name}-{source.cascade.version}.bundle")
    _write(output, data)
    before, after = len(bundle.node_model(source)), len(bundle.parse_bundle(data, None).image.payload)
    typer.echo(f"{output}: {len(data):,} bytes; the node's model {before:,} -> {after:,} bytes")


def inspect(path: Path, keys: list[Path], *, as_json: bool) -> None:
    """Print what is in a bundle; its signatures are checked against `keys`. Raises CascadeError, ConfigError."""
    opened = bundle.open_bundle(path, signing.keyring(keys) if keys else None)
    facts = _facts(opened, verified=bool(keys))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    console = Console(highlight=False, soft_wrap=True)
    for title, rows in facts.items():
        table = Table(title, Column(overflow="fold"), show_edge=False)
        for name, value in rows.items():
            table.add_row(name, f"{value['size_bytes']:,} bytes  sha256 {value['sha256']}" if title == "members" else str(value))
        console.print(table, "")


def _facts(opened: bundle.Bundle, *, verified: bool) -> dict[str, dict[str, Any]]:
    manifest, image, cascade = opened.manifest, opened.image, opened.cascade
    about = manifest.model_dump(exclude={"members"})
    signature = "verified" if verified else "NOT CHECKED: name the public key with --key"
    assert image.self_test is not None
    return {
        "bundle": {**about, "title": cascade.title, "license": cascade.license, "signature": signature},
        "members": manifest.model_dump()["members"],
        "node image": {
            "size_bytes": image.size_bytes,
            "model_bytes": len(image.payload),
            "sha256": image.sha256.hex(),
            "arena_bytes": image.arena_bytes,
            "operators": [n for n in range(8 * len(image.operators)) if image.operators[n // 8] >> n % 8 & 1],
            "front_end": cascade.node.front_end.model_dump(),  # compared with the image's, as decision is
            "decision": cascade.node.decision.model_dump(),
            "self_test": {"input_bytes": len(image.self_test.inputs), "output_bytes": len(image.self_test.outputs)},
        },
        "gateway": cascade.gateway.model_dump() if cascade.gateway else {},
        "policy": cascade.policy.model_dump(),
    }


def _private(path: Path) -> Any:
    secret = typer.prompt(f"Passphrase of {path}", hide_input=True) if signing.encrypted(path) else ""
    return signing.load_private(path, secret)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(str(error)) from error
