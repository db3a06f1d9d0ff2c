"""The public names: sorted, complete, documented."""

import importlib
import inspect
import pkgutil

import pytest

import rljax

MODULES = ["rljax"] + [
    m.name for m in pkgutil.walk_packages(rljax.__path__, prefix="rljax.")
]


def test_all_is_sorted_and_resolves():
    assert rljax.__all__ == sorted(rljax.__all__)
    for name in rljax.__all__:
        assert getattr(rljax, name).__doc__, name


@pytest.mark.parametrize("name", MODULES)
def test_every_public_callable_has_a_docstring(name):
    try:
        module = importlib.import_module(name)
    except ImportError:
        assert name == "rljax.interop.stable_baselines3"
        pytest.skip("Stable-Baselines3 is not installed here")
    assert module.__doc__
    for attribute, value in vars(module).items():
        if (
            not attribute.startswith("_")
            and (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == name
        ):
            assert inspect.getdoc(value), f"{name}.{attribute}"
