"""`gatewayctl cascade`."""

from pathlib import Path
from typing import Annotated

import typer

from gatewayd.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Cascades: a node model, a gateway model and the policy between them.")


@app.command("image")
def cascade_image(folder: Path, output: Path, key: Annotated[Path | None, typer.Option(help="Private key to sign with.")] = None) -> None:
    """Make the image that a node installs from a cascade's folder."""
    from gatewayd.cli.bundles import make_image  # noqa: PLC0415

    make_image(folder, output, key=key)


@app.command("build")
def cascade_build(
    folder: Path,
    key: Annotated[Path, typer.Option(help="Private key to sign with.")],
    counter: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Security counter: raise it to make older images refused.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: NAME-VERSION.bundle here.")] = None,
) -> None:
    """Make the signed bundle of a cascade: all that its nodes and gateways need, in one file."""
    from gatewayd.cli.bundles import build  # noqa: PLC0415

    build(folder, key, counter, output)


@app.command("inspect")
def cascade_inspect(
    file: Path,
    key: Annotated[list[Path] | None, typer.Option(help="Public key that may have signed it; may be given several times.")] = None,
    json: Json = False,
) -> None:
    """Show what is in a bundle, and whether it is whole and signed."""
    from gatewayd.cli.bundles import inspect  # noqa: PLC0415

    inspect(file, key or [], as_json=json)
