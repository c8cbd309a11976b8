"""gatewayd.plugins."""

import builtins
import importlib
import pkgutil
import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import pytest

import gatewayd.escalators
from gatewayd import plugins
from gatewayd.errors import ConfigError, MissingPackageError


@pytest.mark.parametrize("kind", sorted({m.name for m in pkgutil.iter_modules(gatewayd.escalators.__path__)} - plugins._HELPERS))
def test_every_module_that_is_no_helper_is_a_kind(kind):
    assert callable(plugins.escalator(kind).load)


@pytest.mark.parametrize("helper", sorted(plugins._HELPERS))
def test_helpers_are_no_kinds(helper):
    assert not hasattr(importlib.import_module(f"gatewayd.escalators.{helper}"), "load")
    with pytest.raises(ConfigError, match="no escalator of kind"):
        plugins.escalator(helper)


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match="'wakewrod'; did you mean 'wakeword'"):
        plugins.escalator("wakewrod")


@pytest.mark.parametrize("kind", ["", "..config", "os", "litert.x"])
def test_a_kind_is_not_a_path(kind):
    with pytest.raises(ConfigError):
        plugins.escalator(kind)


def test_a_missing_package_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_numpy(name, *rest):
        if name.split(".")[0] == "numpy":
            raise ModuleNotFoundError(f"No module named {name!r}", name="numpy")
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "gatewayd.escalators.litert", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_numpy)
    with pytest.raises(MissingPackageError, match=r"gatewayd\[litert\]"):
        plugins.escalator("litert")


def test_others_are_found_by_entry_point_and_do_not_replace_ours(monkeypatch):
    module = ModuleType("theirs")
    monkeypatch.setitem(sys.modules, "theirs", module)
    points = EntryPoints(EntryPoint(name, "theirs", "gatewayd.escalators") for name in ("thermal", "litert"))
    monkeypatch.setattr(plugins, "entry_points", lambda group: points.select(group=group))
    assert plugins.escalator("thermal") is module
    assert plugins.escalator("litert") is not module
