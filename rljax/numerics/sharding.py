"""Meshes of devices, and what is divided among them: the one place that makes them.

A mesh has three named axes, of size 1 where they are not used:

    population  members of a population, which never wait for one another
    data        environments, or rows of a batch; gradients are added up over it
    model       parameters and optimizer states, in parts; rows as well
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

AXES = ("population", "data", "model")
ROWS = ("data", "model")
"""The axes over which environments and rows are divided."""


def device_mesh(devices: Sequence[Any] | None = None, axis: str = "data") -> Mesh:
    """Returns all devices, of all processes by default, along one axis of a mesh."""
    devices = jax.devices() if devices is None else devices
    return make_mesh(devices, **{axis: len(devices)})


def make_mesh(
    devices: Sequence[Any] | None = None,
    *,
    population: int = 1,
    data: int | None = None,
    model: int = 1,
) -> Mesh:
    """Returns devices as a mesh of three axes.

    Args:
        devices: all of all processes by default.
        population: size of the axis of members.
        data: that of environments and rows; by default what is left.
        model: that of parameters.

    Raises:
        ValueError: the sizes are not those of so many devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    count, rest = len(devices), population * model
    if min(population, model, 1 if data is None else data) < 1 or (
        count % rest if data is None else rest * data != count
    ):
        raise ValueError(
            f"a mesh's axes must multiply to its {count} devices, got population="
            f"{population}, data={data}, model={model}. Change one, or leave data out."
        )
    sizes, types = (population, count // rest, model), (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
    except (AssertionError, NotImplementedError):
        # A TPU's devices lie on a torus, which not all meshes fit.
        return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=types)


def split_rows(tree: Any, axis: int = 0) -> Any:
    """Divides arrays along an axis among the devices of the mesh in use, if there is one.

    Within a compiled program; the numbers are the same. Without a mesh, which
    `rljax.training.sharded` brings into use, nothing happens.

    Args:
        tree: leaves that have that axis, of environments or rows.
        axis: which.
    """
    mesh = jax.sharding.get_abstract_mesh()
    names = tuple(x for x in ROWS if x in mesh.axis_names and mesh.shape[x] > 1)
    if not names:
        return tree
    size = math.prod(mesh.shape[x] for x in names)

    def split(x: jax.Array) -> jax.Array:
        if x.shape[axis] % size:
            return x
        spec = PartitionSpec(*(None,) * (axis % x.ndim), names)
        return jax.lax.with_sharding_constraint(x, spec)

    return jax.tree.map(split, tree)


def gathered(tree: Any) -> Any:
    """Returns arrays whole on every device of the mesh in use, if there is one.

    Within a compiled program: for parameters that lie in parts, and that a loop would
    bring together anew in each of its turns.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get("model", 1) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def shard_leading_axis(
    function: Callable[..., Any],
    in_axes: Sequence[int | None],
    mesh: Mesh,
    axis: str,
) -> Callable[..., Any]:
    """Runs a function on several devices, each with its share of the leading axis.

    The devices never wait for one another, as they would if XLA split the program.

    Args:
        function: maps over a leading axis of arguments and results.
        in_axes: 0 or None for each argument: whether it has that axis.
        mesh: of devices; its other axes are the function's own.
        axis: of the mesh, whose size divides the leading axis' length.
    """
    shared, whole = PartitionSpec(axis), PartitionSpec()
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(whole if x is None else shared for x in in_axes),
        out_specs=shared,
        axis_names={axis},
        check_vma=False,
    )
