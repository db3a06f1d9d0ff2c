"""Many runs in one compiled program: populations, and the points of a sweep."""

import contextlib
import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rljax.base import Algorithm, State
from rljax.envs.variation import fixed_dtype
from rljax.numerics.random import is_key
from rljax.numerics.sharding import device_mesh, shard_leading_axis
from rljax.numerics.validation import check_column, check_name


@functools.cache
def population(
    algorithm: Algorithm[State],
    task_axes: Any = None,
    devices: tuple[Any, ...] | Mesh | None = None,
) -> Algorithm[State]:
    """Lifts an algorithm over a leading axis of keys and hyperparameters: a population.

    Args:
        algorithm: what every member runs.
        task_axes: which leaves of the task have a leading axis over the members, as
            `jax.vmap` takes it: 0 for all, None for none, or a hashable pytree of both.
        devices: divide the members among these, or over the axis `population` of a mesh,
            with task_axes 0 or None; the number of members must be a multiple of theirs.
            By default the arguments' devices.

    Returns:
        An algorithm whose `init` takes `[N]` keys and hyperparameters with leaves `[N]`,
        and whose states and metrics have a leading axis N.
    """
    init = jax.vmap(algorithm.init, in_axes=(0, 0, task_axes))
    step = jax.vmap(algorithm.step, in_axes=(0, task_axes))
    if devices is None:
        return Algorithm(init, step, algorithm.check)
    init = map_over_devices(init, (0, 0, task_axes), devices)
    step = map_over_devices(step, (0, task_axes), devices)
    return Algorithm(init, step, algorithm.check)


def map_over_devices(
    function: Any, in_axes: tuple[Any, ...], devices: tuple[Any, ...] | Mesh
) -> Any:
    """Runs a function of `[N]` members on several devices, each with N / D of them.

    On a CPU a device takes a few members at a time, whose arrays then stay in its cache.
    `in_axes` is 0 for an argument with a leading axis N, a multiple of D, or None. On a
    mesh of one device it is the function itself.
    """
    if not isinstance(devices, Mesh):
        devices = device_mesh(devices, "population")
    elif devices.size == 1:
        return function
    on_cpu = devices.devices.flat[0].platform == "cpu"
    few = _in_blocks(function, in_axes) if on_cpu else function
    return shard_leading_axis(few, in_axes, devices, "population")


def evaluate_each(
    evaluate: Callable[[Any, jax.Array], dict[str, jax.Array]], mesh: Mesh
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """Returns the evaluation of a population, of that of one member.

    Args:
        evaluate: `(state, key) -> metrics`.
        mesh: the population's, whose devices evaluate their members without waiting for
            one another.
    """

    def evaluate_all(states: Any, key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(states.step))
        return map_over_devices(jax.vmap(evaluate), (0, 0), mesh)(states, keys)

    return evaluate_all


def _in_blocks(function: Any, in_axes: tuple[Any, ...]) -> Any:
    """A function of `[N]` members that runs blocks of equal size, eight or fewer."""

    def in_blocks(*args: Any) -> Any:
        mapped = [x for x, axis in zip(args, in_axes, strict=True) if axis == 0]
        count = jax.tree.leaves(mapped)[0].shape[0]
        num_blocks = -(-count // 8)
        if num_blocks == 1:
            return function(*args)
        size = -(-count // num_blocks)
        # The last block is filled with the last member, whose copies are dropped.
        rows = np.minimum(np.arange(num_blocks * size), count - 1)
        if len(rows) > count:
            mapped = member(mapped, rows)

        def block(members: list[Any]) -> Any:
            rest, pairs = iter(members), zip(args, in_axes, strict=True)
            return function(
                *(reusable(x) if axis is None else next(rest) for x, axis in pairs)
            )

        few = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), mapped)
        out = jax.lax.map(block, few)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)

    return in_blocks


def replicate(hyperparams: Any, num_members: int) -> Any:
    """Gives all members the same hyperparameters: scalars become float32 `[N]`."""
    return jax.tree.map(lambda x: jnp.full(num_members, x, jnp.float32), hyperparams)


def decay_over(hyperparams: Any, num_updates: int) -> Any:
    """Lets the learning rate fall to 0 over a run of so many updates.

    A `decay_updates` that is finite stays; what has no such field is returned as it is.
    """
    if getattr(hyperparams, "decay_updates", None) != math.inf:
        return hyperparams
    return hyperparams.replace(decay_updates=num_updates)


def stack(numbers: Any, **values: Sequence[float] | np.ndarray) -> Any:
    """Gives every member its numbers: leaves `[N]`.

    Args:
        numbers: hyperparameters, or an environment's parameters: a dataclass, NamedTuple
            or dictionary of numbers, or of arrays, which get a leading axis.
        values: N for each field named; the other fields are the same for all.

    Raises:
        ValueError: a field does not exist or is static, there are no or unequally many
            values, or one does not fit into float32, or int32 for whole numbers.

    Example:
        >>> from rljax import PPOHyperparams
        >>> stack(PPOHyperparams(), learning_rate=[1e-4, 1e-3]).gamma.tolist()
        [0.9900000095367432, 0.9900000095367432]
    """
    fields = field_names(numbers)
    if not fields or jax.tree_util.treedef_is_leaf(jax.tree.structure(numbers)):
        raise ValueError(
            f"stack takes numbers that may be traced, got {type(numbers).__name__}, "
            f"whose fields fix shapes. Train one population for each of its values; "
            f"sweeps of `grid` points do."
        )
    for name, column in values.items():
        check_name(name, fields, type(numbers).__name__)
        check_column(name, column, static=False)
    sizes = {len(column) for column in values.values()}
    if len(sizes) != 1:
        counts = ", ".join(f"{name}: {len(x)}" for name, x in values.items()) or "none"
        raise ValueError(
            f"stack needs equally many values for each field, got {counts}. Give as many "
            f"as there are members; `grid` makes all combinations."
        )
    (size,) = sizes
    static = static_fields(numbers)
    if swept := sorted(values.keys() & set(static)):
        raise ValueError(
            f"{swept[0]} is static (pytree_node=False), the same for all. Train one "
            f"population for each of its values."
        )

    def column_of(name: str) -> Any:
        value, kind = field(numbers, name), kind_of(numbers, name)
        if name in static:
            return value
        if name not in values and (kind is bool or not _is_scalar(value)):
            return jax.tree.map(lambda x: jnp.stack([fixed_dtype(x)] * size), value)
        whole = kind is int
        dtype: Any = np.int32 if whole else np.float32
        column = np.asarray(values.get(name, [value] * size))
        if whole:
            wrong = (column != np.rint(column)) | (abs(column) >= 2**31)
            rule = "whole numbers below 2**31"
        else:
            with np.errstate(over="ignore", under="ignore"):
                exact = column.astype(dtype)
            wrong = (exact == 0) != (column == 0)
            wrong |= np.isinf(exact) != np.isinf(column)
            rule = "numbers that fit into float32"
        if wrong.any():
            raise ValueError(
                f"{name} must be {rule}, got {column[wrong][0]}. Change it."
            )
        return jnp.asarray(column.astype(dtype))

    return type(numbers)(**{name: column_of(name) for name in fields})


def static_fields(numbers: Any) -> list[str]:
    """The fields of a dataclass that are no part of its pytree, as Flax marks them."""
    if not dataclasses.is_dataclass(numbers):
        return []
    fields = dataclasses.fields(numbers)
    return [f.name for f in fields if not f.metadata.get("pytree_node", True)]


def _is_scalar(value: Any) -> bool:
    """Whether it is one number, rather than an array or a structure of numbers."""
    return isinstance(value, int | float | np.generic | np.ndarray | jax.Array) and (
        jnp.ndim(value) == 0
    )


def field_names(numbers: Any) -> list[str]:
    """The names in a dataclass, a NamedTuple or a dictionary; none of anything else."""
    if isinstance(numbers, dict):
        return list(numbers)
    if dataclasses.is_dataclass(numbers):
        flax = ("parent", "name")  # every module has these
        fields = dataclasses.fields(numbers)
        return [f.name for f in fields if f.init and f.name not in flax]
    return list(getattr(numbers, "_fields", ()))


def field(numbers: Any, name: str) -> Any:
    """The value of that name in a dataclass, a NamedTuple or a dictionary."""
    return numbers[name] if isinstance(numbers, dict) else getattr(numbers, name)


def with_fields(numbers: Any, **values: Any) -> Any:
    """The same with other values of some names."""
    if isinstance(numbers, dict):
        return numbers | values
    if hasattr(numbers, "_fields"):
        return numbers._replace(**values)
    return dataclasses.replace(numbers, **values)


def kind_of(struct: Any, name: str) -> type:
    """int, float or another type: of a dataclass's field as annotated, or else its value.

    A number's annotation decides, so that a default written `1` does not forbid `0.5`.
    """
    with contextlib.suppress(NameError, TypeError):  # an annotation out of reach
        hint = typing.get_type_hints(type(struct)).get(name)
        for kind in (float, int):
            if hint is kind or kind in typing.get_args(hint):  # as in float | jax.Array
                return kind
    value = field(struct, name)
    kinds = {"i": int, "u": int, "f": float}
    is_plain = isinstance(value, bool | int | float | tuple | str)
    return type(value) if is_plain else kinds.get(np.asarray(value).dtype.kind, object)


def member(tree: Any, index: int | slice | np.ndarray) -> Any:
    """One member of a population's state, or several of them."""
    return jax.tree.map(lambda x: x[index], reusable(tree))


def reusable(tree: Any) -> Any:
    """The same tree with cloned keys, which may be used although the tree's are."""
    return jax.tree.map(lambda x: jax.random.clone(x) if is_key(x) else x, tree)
