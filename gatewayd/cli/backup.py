"""`gatewayctl backup` and `gatewayctl restore`."""

import json
import time
from pathlib import Path

import typer

from gatewayd import audit, backup, config
from gatewayd.backup import NODE_KEYS, Manifest
from gatewayd.cli.audit import operator
from gatewayd.cli.options import assignments
from gatewayd.cli.progress import bar
from gatewayd.config import Config
from gatewayd.errors import ConfigError
from gatewayd.restore import restore
from gatewayd.store import Store

_STEPS = {"database": "copies the database", "check": "checks it", "file": "writes"}


def make_backup(settings: Config, configuration: Path | None, file: Path, *, force: bool, as_json: bool) -> None:
    """Write a backup. Raises ConfigError, StoreError."""
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: --force overwrites it")
    with bar(_STEPS) as progress:
        manifest = backup.make(settings, config.where(configuration), file, progress)
    with Store(settings.store, settings.store_url) as store:
        audit.record(store, operator(), "gateway.backup", settings.gateway.id, str(file))
    if as_json:
        typer.echo(manifest.model_dump_json())
        return
    typer.echo(f"{file}: {_content(manifest)}")
    for path in manifest.left_out:
        typer.echo(f"not in it: {path}, which is not in the configuration's folder", err=True)
    if f"config/{NODE_KEYS}" in manifest.members:
        typer.echo("the nodes' keys in it can only be read on this machine: see docs/operations.md, 'Another machine'", err=True)


def restore_backup(file: Path, configuration: Path | None, overrides: list[str] | None, *, yes: bool, as_json: bool) -> None:
    """Make this gateway the one of a backup. Raises ConfigError, StoreError; then it is as it was."""
    if not yes:
        typer.confirm(f"Replace this gateway's state and configuration by what is in {file}?", abort=True, err=True)
    with bar({"file": "reads", "check": "checks"}) as progress:
        manifest, settings, kept = restore(file, config.where(configuration), assignments(overrides), progress)
    with Store(settings.store, settings.store_url) as store:
        audit.record(store, operator(), "gateway.restore", settings.gateway.id, str(file))
    if as_json:
        typer.echo(json.dumps({**manifest.model_dump(), "kept": str(kept)}))
        return
    typer.echo(f"restored: {_content(manifest)}\nwhat was there before is in {kept}; remove it when all is well")


def _content(manifest: Manifest) -> str:
    of = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.created_s))
    size = sum(member.size_bytes for member in manifest.members.values())
    return (
        f"{manifest.gateway} as of {of}: {manifest.nodes} nodes, {manifest.events:,} events, {len(manifest.members)} files, {size:,} bytes"
    )
