"""Finds the module of a kind of larger model: ours in `gatewayd.escalators`, others' by entry point."""

import difflib
import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType

from gatewayd.errors import ConfigError, MissingPackageError

_PACKAGE = "gatewayd.escalators"  # also the name of the entry points' group
_HELPERS = {"audio", "workers"}  # modules there that are no kind


def escalator(kind: str) -> ModuleType:
    """The module (a `ports.ModelModule`) of `kind`; ours win over others' of the same name.

    Raises ConfigError, naming the nearest kind, where there is none, and MissingPackageError where ours needs what is not installed.
    """
    ours = {module.name for module in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__)} - _HELPERS
    if kind in ours:
        try:
            return importlib.import_module(f"{_PACKAGE}.{kind}")
        except ModuleNotFoundError as exc:
            raise MissingPackageError(exc.name or kind, kind) from exc  # an extra has the name of its kind
    theirs = {point.name: point for point in entry_points(group=_PACKAGE)}
    if kind not in theirs:
        nearest = difflib.get_close_matches(kind, sorted(ours | theirs.keys()), n=1, cutoff=0.0)[0]
        raise ConfigError(f"there is no escalator of kind {kind!r}; did you mean {nearest!r}?")
    module: ModuleType = theirs[kind].load()
    return module
