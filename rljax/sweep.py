"""Many runs in one compiled program: populations, and the points of a sweep."""

import dataclasses
import difflib
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Algorithm, State
from rljax.sharding import split

Value: TypeAlias = float | int | bool | tuple[int, ...]
Point: TypeAlias = dict[str, Value]
"""One configuration of a sweep: values by the names of what they replace."""


@functools.cache
def population(
    algorithm: Algorithm[State],
    task_axes: Any = None,
    devices: tuple[Any, ...] | None = None,
) -> Algorithm[State]:
    """Lifts an algorithm over a leading axis of keys and hyperparameters: a population.

    Args:
        algorithm: what every member runs.
        task_axes: which leaves of the task have a leading axis over the members, as
            `jax.vmap` takes it: 0 if all have, None if none has, or a hashable pytree
            of 0 and None to sweep some of an environment's parameters.
        devices: share the members out to these, a multiple of whose number there must
            be, with task_axes 0 or None; by default they are where the arguments are.

    Returns:
        An algorithm whose `init` takes `[N]` keys and hyperparameters with leaves `[N]`,
        and whose states and metrics have a leading axis N.
    """
    init = jax.vmap(algorithm.init, in_axes=(0, 0, task_axes))
    step = jax.vmap(algorithm.step, in_axes=(0, task_axes))
    if devices is None:
        return Algorithm(init, step)
    return Algorithm(
        init=share_out(init, (0, 0, task_axes), devices),
        step=share_out(step, (0, task_axes), devices),
    )


def share_out(function: Any, in_axes: tuple[Any, ...], devices: tuple[Any, ...]) -> Any:
    """Runs a function of `[N]` members on several devices, each with N / D of them.

    On a CPU a device takes a few members at a time, whose arrays then stay in its cache.

    Args:
        function: maps over a leading axis of arguments and results.
        in_axes: 0 or None for each argument: whether it has that axis.
        devices: D of them, a divisor of N.
    """
    few = _in_blocks(function, in_axes) if devices[0].platform == "cpu" else function
    return split(few, in_axes, devices, "population")


def _in_blocks(function: Any, in_axes: tuple[Any, ...]) -> Any:
    """A function of `[N]` members that takes at most eight at a time."""

    def blocks(*args: Any) -> Any:
        members = [x for x, axis in zip(args, in_axes, strict=True) if axis == 0]
        count = jax.tree.leaves(members)[0].shape[0]
        size = max(size for size in range(1, 9) if count % size == 0)
        if size == count:
            return function(*args)

        def block(its: list[Any]) -> Any:
            mine = iter(its)
            given = zip(args, in_axes, strict=True)
            return function(
                *(next(mine) if axis == 0 else _again(x) for x, axis in given)
            )

        few = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), members)
        out = jax.lax.map(block, few)
        return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), out)

    return blocks


def replicate(hyperparams: Any, num_members: int) -> Any:
    """Gives all members the same hyperparameters: scalars become float32 `[N]`."""
    return jax.tree.map(lambda x: jnp.full(num_members, x, jnp.float32), hyperparams)


def stack(numbers: Any, **values: Sequence[float] | np.ndarray) -> Any:
    """Gives every member numbers of its own: leaves `[N]`.

    Args:
        numbers: hyperparameters, or an environment's parameters: a Flax struct of
            scalars.
        values: N for each field named; the other fields are the same for all.

    Raises:
        ValueError: there is no such field, it is static, none or unequally many values
            are given, or one does not fit into float32, or int32 for whole numbers.

    Example:
        >>> from rljax import PPOHyperparams
        >>> stack(PPOHyperparams(), learning_rate=[1e-4, 1e-3]).gamma.tolist()
        [0.9900000095367432, 0.9900000095367432]
    """
    if not _is_struct(numbers):
        raise ValueError(
            f"stack takes numbers that may be traced, got {type(numbers).__name__}, "
            f"whose fields fix shapes. Train one population for each of its values; "
            f"sweeps of `grid` points do."
        )
    fields = [field.name for field in dataclasses.fields(numbers)]
    for name, column in values.items():
        check_name(name, fields, type(numbers).__name__)
        _check_column(name, column, static=False)
    sizes = {len(column) for column in values.values()}
    if len(sizes) != 1:
        given = ", ".join(f"{name}: {len(x)}" for name, x in values.items()) or "none"
        raise ValueError(
            f"stack needs equally many values for each field, got {given}. Give as many "
            f"as there are members; `grid` makes all combinations."
        )
    (size,) = sizes

    def of_all(name: str) -> jax.Array:
        default = getattr(numbers, name)
        column = np.asarray(values.get(name, [default] * size))
        if isinstance(default, int):
            wrong = (column != np.rint(column)) | (abs(column) >= 2**31)
            rule, exact = "whole numbers below 2**31", column
        else:
            with np.errstate(over="ignore", under="ignore"):
                exact = column.astype(np.float32)
            wrong = ((exact == 0) != (column == 0)) | (
                np.isinf(exact) != np.isinf(column)
            )
            rule = "numbers that fit into float32"
        if wrong.any():
            raise ValueError(
                f"{name} must be {rule}, got {column[wrong][0]}. Change it."
            )
        return jnp.asarray(
            exact, jnp.int32 if isinstance(default, int) else jnp.float32
        )

    return type(numbers)(**{name: of_all(name) for name in fields})


def grid(**values: Sequence[Value]) -> tuple[Point, ...]:
    """All combinations of values, the last name's varying fastest.

    A value is a number, a bool, or a tuple of whole numbers: the widths of layers, say.

    Raises:
        ValueError: no name is given, or a name without values.

    Example:
        >>> grid(gamma=[0.9, 0.99], num_envs=[8])
        ({'gamma': 0.9, 'num_envs': 8}, {'gamma': 0.99, 'num_envs': 8})
    """
    if not values:
        raise ValueError("grid needs values for at least one name, got none.")
    for name, column in values.items():
        _check_column(name, column)
    return tuple(
        plain(dict(zip(values, combination, strict=True)))
        for combination in itertools.product(*values.values())
    )


def plain(point: Mapping[str, Any]) -> Point:
    """A point of plain Python values, whatever arrays they came from."""

    def value(given: Any) -> Any:
        if isinstance(given, tuple):
            return tuple(map(value, given))
        return (
            given if isinstance(given, bool | int | float) else np.asarray(given).item()
        )

    return {name: value(given) for name, given in point.items()}


class Uniform(NamedTuple):
    """Numbers spread evenly from `low` to `high`."""

    low: float
    high: float

    def at(self, quantile: float) -> float:
        """The number that this share of the distribution lies below."""
        return self.low + (self.high - self.low) * quantile


class LogUniform(NamedTuple):
    """Positive numbers whose logarithms are spread evenly from `low` to `high`'s."""

    low: float
    high: float

    def at(self, quantile: float) -> float:
        """The number that this share of the distribution lies below."""
        low, high = math.log(self.low), math.log(self.high)
        return math.exp(low + (high - low) * quantile)


class OneOf(NamedTuple):
    """Any of some values, equally likely."""

    values: tuple[Value, ...]

    def at(self, quantile: float) -> Value:
        """The value that this share of the distribution lies below."""
        return self.values[min(int(quantile * len(self.values)), len(self.values) - 1)]


Space: TypeAlias = Uniform | LogUniform | OneOf


def scatter(num_points: int, *, seed: int, **spaces: Space) -> tuple[Point, ...]:
    """Random points, each name's values drawn on their own.

    Raises:
        ValueError: no point or no space is asked for, or a space holds nothing.
    """
    if num_points < 1 or not spaces:
        raise ValueError(
            f"scatter needs at least one point and one space, got {num_points} points "
            f"and {len(spaces)} spaces. Add some."
        )
    for name, space in spaces.items():
        check_space(name, space)
    quantiles = np.random.default_rng(seed).random((num_points, len(spaces)))
    return tuple(
        {
            name: space.at(q)
            for (name, space), q in zip(spaces.items(), row, strict=True)
        }
        for row in quantiles
    )


def check_space(name: str, space: Any) -> None:
    """Raises a ValueError if a space holds nothing to draw."""
    match space:
        case OneOf(values) if len(values):
            return
        case LogUniform(low, high) if 0 < low <= high < math.inf:
            return
        case Uniform(low, high) if -math.inf < low <= high < math.inf:
            return
    raise ValueError(
        f"{name} must be drawn from Uniform(low, high), LogUniform(low, high) with low > "
        f"0, or OneOf(values), low <= high and finite, got {space!r}. Change it."
    )


def check_name(name: str, fields: Sequence[str], of: str) -> None:
    """Raises a ValueError, which says what is nearest, if there is no such field."""
    if name not in fields:
        near = difflib.get_close_matches(name, fields, 1, 0.0)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"{of} has no {name!r}.{hint}")


def member(tree: Any, index: int | slice | np.ndarray) -> Any:
    """One member of a population's state, or several of them."""
    return jax.tree.map(lambda x: x[index], _again(tree))


def _again(tree: Any) -> Any:
    """The same numbers, with keys that may be used once more, on purpose."""

    def one(x: Any) -> Any:
        is_key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
        return jax.random.clone(x) if is_key else x

    return jax.tree.map(one, tree)


def _check_column(name: str, column: Any, *, static: bool = True) -> None:
    """Raises a ValueError if it is no list of values; static ones may be tuples, bools."""
    if isinstance(column, str) or not isinstance(
        column, Sequence | np.ndarray | jax.Array
    ):
        hint = [column] if isinstance(column, int | float) else [0.1, 0.2]
        raise ValueError(
            f"{name} needs a list of values, got {column!r}. Write {hint}, say."
        )
    if not len(column):
        raise ValueError(f"{name} needs at least one value, got none. Add one.")
    rule = (
        "numbers, or tuples of whole numbers such as (64, 64)" if static else "numbers"
    )
    for value in column:
        parts = value if static and isinstance(value, tuple) else (value,)
        kinds = "iu" if parts is value else "iufb" if static else "iuf"
        for part in map(np.asarray, parts):
            if part.ndim or part.dtype.kind not in kinds or np.isnan(part):
                raise ValueError(f"{name} must be {rule}, got {value!r}. Change it.")


def _is_struct(numbers: Any) -> bool:
    """Whether it is a dataclass that JAX takes apart, so that its fields are traced."""
    is_leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(numbers))
    return dataclasses.is_dataclass(numbers) and not is_leaf
