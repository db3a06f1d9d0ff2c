"""Meshes of devices, and functions split over them along the leading axis."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec


def device_mesh(devices: Sequence[Any], name: str) -> Mesh:
    """The devices as a mesh of one axis."""
    return jax.make_mesh(
        (len(devices),), (name,), axis_types=(AxisType.Auto,), devices=devices
    )


def shard_leading_axis(
    function: Callable[..., Any],
    in_axes: Sequence[int | None],
    devices: Sequence[Any],
    name: str,
) -> Callable[..., Any]:
    """Runs a function on several devices, each with its share of the leading axis.

    The devices never wait for one another, as they would if XLA split the program.

    Args:
        function: maps over a leading axis of arguments and results.
        in_axes: 0 or None for each argument: whether it has that axis.
        devices: D of them, a divisor of the axis' length.
        name: what the axis is of.
    """
    shared, whole = PartitionSpec(name), PartitionSpec()
    return jax.shard_map(
        function,
        mesh=device_mesh(devices, name),
        in_specs=tuple(whole if axis is None else shared for axis in in_axes),
        out_specs=shared,
        check_vma=False,
    )
