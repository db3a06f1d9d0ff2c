"""A text that differs whenever two values do: by it a folder knows whose results it has."""

import dataclasses
import dis
import enum
import functools
import hashlib
import importlib
import inspect
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import jax
import numpy as np

from rljax.numerics.random import is_key

_PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath)


def identity(value: Any) -> str:
    """Describes a value completely: other values, dtypes or structure, another text.

    The same in every process. Numbers appear in full; arrays of more than eight by dtype,
    shape and digest; objects by class and attributes; functions and classes by the name
    that they are imported by, or else by their code and the values it refers to, so that
    another Python may describe them otherwise.

    Raises:
        ValueError: it holds something that cannot be described: an object without
            attributes, or one within itself.

    Example:
        >>> identity({"rate": 0.1, "sizes": np.float32([1, 2])})
        "{'rate': 0.1, 'sizes': float32[2](1.0, 2.0)}"
    """
    return _describe(value, ())


def _describe(value: Any, within: tuple[int, ...]) -> str:
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if value is ... or value is NotImplemented or isinstance(value, range | slice):
        return repr(value)
    if type(value) in _PLAIN or isinstance(value, PurePath):
        return repr(value)
    if isinstance(value, int | float | complex | str | bytes) and not isinstance(
        value, np.generic
    ):
        base: Any = next(x for x in type(value).__mro__ if x in _PLAIN)
        return f"{_name(type(value))}({base.__repr__(value)})"
    if isinstance(value, np.ma.MaskedArray):
        return f"masked({_array(value.filled())}, {_array(np.ma.getmaskarray(value))})"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _array(value)
    if isinstance(value, np.dtype | jax.tree_util.PyTreeDef):
        return str(value)
    if isinstance(value, types.ModuleType):
        return value.__name__
    if id(value) in within and isinstance(value, type | types.FunctionType):
        return _name(value)  # it refers to itself
    if id(value) in within:
        raise ValueError(
            f"{type(value).__name__} holds itself, so that it cannot be identified. Keep "
            f"the reference out of it."
        )
    inner = functools.partial(_describe, within=(*within, id(value)))
    if isinstance(value, type):
        return _class(value, inner)
    kind = "" if type(value) in (tuple, list, dict) else inner(type(value))
    if isinstance(value, Mapping):
        pairs = [f"{inner(k)}: {inner(value[k])}" for k in value]
        return f"{kind}{{{', '.join(sorted(pairs))}}}"
    if isinstance(value, set | frozenset):
        return f"{kind}{{{', '.join(sorted(map(inner, value)))}}}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _call(kind, dict(zip(value._fields, value, strict=True)), inner)
    if isinstance(value, list | tuple):
        ends = "[]" if isinstance(value, list) else "()"
        return f"{kind}{ends[0]}{', '.join(map(inner, value))}{ends[1]}"
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args]
        return f"partial({', '.join(map(inner, parts))}, {inner(value.keywords)})"
    if isinstance(value, types.MethodType):
        return f"{inner(value.__self__)}.{value.__name__}"
    if name := _imported_as(value):
        return name
    if isinstance(value, types.FunctionType):
        return _function(value, inner)
    if callable(wrapped := getattr(value, "__wrapped__", None)):  # jitted, cached
        return f"{kind}({inner(wrapped)})"
    return _call(kind, _attributes(value), inner)


def tree_sha256(tree: Any) -> str:
    """Returns a hash of the leaves of a tree and of their places in it."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        total.update(f"{jax.tree_util.keystr(path)} {identity(leaf)}".encode())
    return total.hexdigest()


def _call(kind: str, fields: Mapping[str, Any], inner: Any) -> str:
    return f"{kind}({', '.join(f'{k}={inner(v)}' for k, v in fields.items())})"


def _array(value: Any) -> str:
    if is_key(value):
        return f"{value.dtype}{_array(jax.random.key_data(value))}"
    host = np.asarray(value)
    kind = f"{host.dtype}[{','.join(map(str, host.shape))}]"
    if host.dtype == object:
        raise ValueError(
            "an array of objects cannot be identified. Make it a tuple, or numbers."
        )
    if host.size <= 8:
        return f"{kind}({', '.join(map(str, host.ravel().tolist()))})"
    digest = hashlib.sha256(np.ascontiguousarray(host).tobytes()).hexdigest()
    return f"{kind}(sha256 {digest[:32]})"


def _class(value: type, inner: Any) -> str:
    """A class by the name it is imported by, or else by its methods and attributes."""
    if value.__module__ == "builtins" or _imported_as(value):
        return _name(value)
    called = {"__call__", "__init__", "__post_init__"}
    if dataclasses.is_dataclass(value):
        called.remove("__init__")  # made of the fields
    unwrap: Any = inspect.unwrap  # staticmethods, jitted ones and others, too
    parts = {
        name: unwrap(x.fget if isinstance(x, property) else x)
        for name, x in vars(value).items()
        if not isinstance(x, type) and (name in called or not name.startswith("__"))
    }
    kinds = (types.FunctionType, *_PLAIN, tuple, np.ndarray, np.generic, jax.Array)
    parts = {name: x for name, x in parts.items() if isinstance(x, kinds)}
    text = inner((parts, value.__bases__))
    return f"{_name(value)}<sha256 {hashlib.sha256(text.encode()).hexdigest()[:32]}>"


def _name(value: Any) -> str:
    prefix = "" if value.__module__ == "builtins" else f"{value.__module__}."
    return f"{prefix}{value.__qualname__}"


def _imported_as(value: Any) -> str | None:
    """The dotted name under which a function is found; None if there is none."""
    module, name = (getattr(value, x, None) for x in ("__module__", "__qualname__"))
    name = name or getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return f"{module}.{name}" if found is value else None


def _function(value: types.FunctionType, inner: Any) -> str:
    """A lambda or a function within another: its code, and what it refers to."""

    def code(of: types.CodeType) -> Any:
        constants = [
            code(x) if isinstance(x, types.CodeType) else x for x in of.co_consts
        ]
        return of.co_code.hex(), constants, of.co_names

    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    names = sorted(_global_names(value.__code__))
    values = {name: value.__globals__.get(name) for name in names}
    parts = (
        *(code(value.__code__), cells, values),
        *(value.__defaults__, value.__kwdefaults__),
    )
    digest = hashlib.sha256(inner(parts).encode()).hexdigest()
    return f"{value.__qualname__}(sha256 {digest[:32]})"


def _global_names(code: types.CodeType) -> set[str]:
    """The names that a function, and those within it, take from their module."""
    names = {x.argval for x in dis.get_instructions(code) if x.opname == "LOAD_GLOBAL"}
    inner = (x for x in code.co_consts if isinstance(x, types.CodeType))
    return names.union(*map(_global_names, inner))


def _attributes(value: Any) -> dict[str, Any]:
    """What an object consists of."""
    if dataclasses.is_dataclass(value):
        # A Flax module's parent and name are its place, not what it computes.
        skipped = ("parent", "name") if hasattr(value, "scope") else ()
        fields = [f.name for f in dataclasses.fields(value) if f.name not in skipped]
        found = {name: getattr(value, name) for name in fields}
        if hasattr(value, "scope"):
            return found
        # What a subclass that is no dataclass itself adds, other than what it caches.
        for name, x in getattr(value, "__dict__", {}).items():
            cached = getattr(type(value), name, None)
            if name not in found and not isinstance(cached, functools.cached_property):
                found[name] = x
        return found
    found = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                found[name] = getattr(value, name)
    plain_python = type(value).__module__ != "builtins" and (
        hasattr(value, "__dict__") or hasattr(type(value), "__slots__")
    )
    if not plain_python:
        raise ValueError(
            f"{value!r} cannot be identified: a {_name(type(value))} has no attributes. "
            f"Put it into a frozen dataclass, as numbers."
        )
    return dict(sorted(found.items()))
