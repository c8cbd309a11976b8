"""`gatewayctl backup` and `gatewayctl restore`."""

import json
import time
from pathlib import Path

import typer

from gatewayd import audit, backup, config
from gatewayd.backup import SEALED, Manifest
from gatewayd.cli.audit import operator
from gatewayd.cli.options import assignments
from gatewayd.cli.progress import bar
from gatewayd.config import Config
from gatewayd.errors import ConfigError
from gatewayd.nodekeys import NodeKeys, unseal
from gatewayd.restore import restore, sealed_keys
from gatewayd.store import Store

_OTHER_MACHINE = (
    "they were encrypted for another: restore a backup that was made with --passphrase-file, or /var/lib/systemd/credential.secret of that"
    " machine, or give each node a new key: gatewayctl node rotate"
)
_STEPS = {"database": "copies the database", "check": "checks it", "file": "writes"}


def make_backup(
    settings: Config, configuration: Path | None, file: Path, passphrase_file: Path | None, *, force: bool, as_json: bool
) -> None:
    """Write a backup. Raises ConfigError, StoreError."""
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: --force overwrites it")
    sealed = NodeKeys(settings.enrolment).seal(_passphrase(passphrase_file)) if passphrase_file else b""
    with bar(_STEPS) as progress:
        manifest = backup.make(settings, config.where(configuration), file, progress, sealed)
    with Store(settings.store, settings.store_url) as store:
        audit.record(store, operator(), "gateway.backup", settings.gateway.id, str(file))
    if as_json:
        typer.echo(manifest.model_dump_json())
        return
    typer.echo(f"{file}: {_content(manifest)}")
    for path in manifest.left_out:
        typer.echo(f"not in it: {path}, which is not in the configuration's folder", err=True)
    if settings.enrolment.credential.exists() and SEALED not in manifest.members:
        typer.echo("the nodes' keys in it can be read on this machine only; --passphrase-file adds them for another one", err=True)


def restore_backup(
    file: Path, configuration: Path | None, overrides: list[str] | None, passphrase_file: Path | None, *, yes: bool, as_json: bool
) -> None:
    """Make this gateway the one of a backup. Raises ConfigError, StoreError; then it is as it was."""
    if not yes:
        typer.confirm(f"Replace this gateway's state and configuration by what is in {file}?", abort=True, err=True)
    keys = None
    if passphrase_file:
        if (sealed := sealed_keys(file)) is None:
            raise ConfigError(f"{file} has no keys for another machine")
        keys = unseal(sealed, _passphrase(passphrase_file))
    with bar({"file": "reads", "check": "checks"}) as progress:
        manifest, settings, kept = restore(file, config.where(configuration), assignments(overrides), progress)
    _put_keys(settings, keys)
    with Store(settings.store, settings.store_url) as store:
        audit.record(store, operator(), "gateway.restore", settings.gateway.id, str(file))
    if as_json:
        typer.echo(json.dumps({**manifest.model_dump(), "kept": str(kept)}))
        return
    typer.echo(f"restored: {_content(manifest)}\nwhat was there before is in {kept}; remove it when all is well")


def _put_keys(settings: Config, keys: dict[str, str] | None) -> None:
    """Those of a passphrase; otherwise see whether this machine can read those that came."""
    if keys is not None:
        NodeKeys(settings.enrolment).take(keys)
    elif settings.enrolment.credential.exists():
        try:
            NodeKeys(settings.enrolment).nodes()
        except ConfigError as error:
            typer.echo(f"this machine cannot read the nodes' keys: {error}\n{_OTHER_MACHINE}", err=True)


def _passphrase(file: Path) -> str:
    try:
        return file.read_text().split("\n", 1)[0]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"passphrase: {error}") from error


def _content(manifest: Manifest) -> str:
    of = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.created_s))
    size = sum(member.size_bytes for member in manifest.members.values())
    return (
        f"{manifest.gateway} as of {of}: {manifest.nodes} nodes, {manifest.events:,} events, {len(manifest.members)} files, {size:,} bytes"
    )
