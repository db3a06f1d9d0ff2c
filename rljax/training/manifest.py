"""Manifests: the settings, versions and device that a result depends on."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import math
import os
import platform
from typing import Any

import jax
import jax.numpy as jnp

from rljax.numerics.identity import identity
from rljax.numerics.precision import matmul_precision


def manifest(experiment: str, settings: Any) -> dict[str, Any]:
    """Returns the settings (a dataclass), versions and machine of a run, as JSON."""
    versions = {"python": platform.python_version()}
    for package in ("rljax", "jax", "jaxlib", "flax", "optax", "chex", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "settings": {"experiment": experiment} | flat(settings),
        "versions": versions,
        "machine": {
            "device": device(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "x64": jnp.result_type(float) == jnp.float64,
            "matmul_precision": matmul_precision(),
        },
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def device() -> str:
    """Returns the kind and number of JAX's devices, such as "cpu x 1"."""
    devices = jax.devices()
    return f"{devices[0].device_kind} x {len(devices)}"


def flat(settings: Any) -> dict[str, Any]:
    """Returns the fields of nested dataclasses as JSON values by dotted name.

    A field with the metadata `{"setting": False}` changes no result and is left out.
    """
    out: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not field.metadata.get("setting", True):
            continue
        if dataclasses.is_dataclass(value):
            out |= {f"{field.name}.{k}": v for k, v in flat(value).items()}
        else:
            out[field.name] = _json(value)
    return out


def _json(value: Any) -> Any:
    """JSON's own kinds as they are, and anything else as the text that identifies it."""
    if isinstance(value, tuple | list):
        return [_json(x) for x in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    if type(value) in (type(None), bool, int, float, str) and finite:
        return value
    return identity(value)


def differences(
    stored: dict[str, Any],
    wanted: dict[str, Any],
    places: tuple[str, str] = ("there", "here"),
) -> list[str]:
    """Returns a phrase for each entry in which two flat dictionaries differ."""
    return [
        f"{name} is {stored.get(name, 'absent')} {places[0]} and "
        f"{wanted.get(name, 'absent')} {places[1]}"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name) != wanted.get(name)
    ]
