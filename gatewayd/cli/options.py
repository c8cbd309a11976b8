"""What commands have in common: their options, and texts with units that become numbers."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from gatewayd.cli import complete

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", readable=False, help="Configuration file; default /etc/gatewayd/gatewayd.toml.")
]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one setting, like mqtt.port=1884.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]
NodeName = Annotated[str, typer.Argument(metavar="ID", autocompletion=complete.nodes)]
NodeNames = Annotated[list[str], typer.Argument(metavar="ID...", autocompletion=complete.nodes)]
RolloutId = Annotated[str, typer.Argument(metavar="ID", autocompletion=complete.rollouts)]
Because = Annotated[str, typer.Option(metavar="TEXT", help="Why; `explain` repeats it.")]

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


def time_option(help_: str, default: str) -> Any:
    """An option that takes a time."""
    return typer.Option(parser=duration, metavar="TIME", help=help_, show_default=default)


def nearest(word: str, known: Iterable[str]) -> str:
    """A question about the nearest of those that are known, to append to an error; empty where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def load_config(path: Path | None, overrides: list[str] | None) -> Any:
    """The configuration with the command line's overrides. Raises ConfigError."""
    from gatewayd import config  # noqa: PLC0415 -- not for `--help`

    return config.load(path, assignments(overrides))


def assignments(overrides: list[str] | None) -> dict[str, str]:
    """What `--set` said. Raises ConfigError."""
    from gatewayd import config  # noqa: PLC0415

    return dict(config.assignment(text) for text in overrides or [])
