"""Whether numbers lie where they must, found on the host before anything is traced."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.numerics.processes import to_host


def check_ranges(
    numbers: Any,
    ranges: Mapping[str, tuple[float, float]],
    positive: Sequence[str] = (),
) -> None:
    """Checks the fields of a struct, whose values may be arrays.

    Args:
        numbers: hyperparameters, or an environment's parameters.
        ranges: the least and the greatest value that each field may have.
        positive: fields that must be greater than 0, and finite.

    Raises:
        ValueError: a value out of its range.
    """
    for name, bounds in [*ranges.items(), *((name, None) for name in positive)]:
        value = np.asarray(to_host(getattr(numbers, name)), np.float64)
        if bounds is None:
            inside, where = (value > 0) & (value < math.inf), "(0, inf)"
        else:
            low, high = bounds
            inside, where = (value >= low) & (value <= high), f"[{low:g}, {high:g}]"
        if not np.all(inside):
            raise ValueError(
                f"{name} must lie in {where}, got {value[~inside].flat[0]:g}. Choose a "
                f"value in that range."
            )


def check_name(name: str, fields: Sequence[str], of: str) -> None:
    """Raises a ValueError, with the nearest name, if there is no such field."""
    if name not in fields:
        near = difflib.get_close_matches(name, fields, 1, 0.0)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"{of} has no {name!r}.{hint}")


def check_column(name: str, column: Any, *, static: bool = True) -> None:
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


def check_at_least(least: int, **counts: float) -> None:
    """Raises a ValueError if one of these numbers, by name, is below the least allowed."""
    for name, value in counts.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}. Raise it.")


def check_positive_integers(config: Any, *names: str) -> None:
    """Raises a ValueError if a field of these names is not a whole number above 0."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(
                f"{name} must be a positive integer, got {value!r}. Use {name} >= 1."
            )


def check_minibatches(config: Any) -> None:
    """Raises a ValueError if a batch cannot be cut into a configuration's minibatches.

    Of `num_envs * num_steps` transitions; with `normalize_advantages` at least two each.
    """
    batch_size, num_minibatches = config.batch_size, config.num_minibatches
    sizes = f"num_envs * num_steps = {config.num_envs:,} * {config.num_steps:,}"
    if batch_size >= 2**31:  # indices are int32
        raise ValueError(
            f"num_envs * num_steps must be less than 2**31, got {sizes}. Use fewer of "
            f"either."
        )
    if config.normalize_advantages and num_minibatches == batch_size:
        raise ValueError(
            f"a minibatch needs two transitions to normalize their advantages, got "
            f"num_minibatches={num_minibatches} for a batch of {batch_size}. Use fewer "
            f"minibatches, or normalize_advantages=False."
        )
    if batch_size % num_minibatches:
        nearest = nearest_divisor(batch_size, num_minibatches)
        raise ValueError(
            f"num_envs * num_steps must be divisible by num_minibatches, got {sizes} = "
            f"{batch_size} and {num_minibatches}. Choose num_minibatches from the "
            f"divisors of {batch_size}: the nearest is {nearest}."
        )


def check_scalars(hyperparams: Any) -> None:
    """Raises a ValueError if a hyperparameter is an array of several numbers."""
    for name in hyperparams.__dataclass_fields__:
        if shape := jnp.shape(getattr(hyperparams, name)):
            raise ValueError(
                f"{name} must be a scalar, got an array of shape {shape}. To train one "
                f"agent for each value, lift the algorithm with population(...)."
            )


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` that is nearest to `wanted`; the smaller of two."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = small + [number // d for d in small]
    return min(divisors, key=lambda d: (abs(d - wanted), d))


def updates_within(total_steps: int, batch_size: int) -> int:
    """The largest number of updates within a budget of environment steps.

    Args:
        total_steps: the budget.
        batch_size: environment steps that an update takes.

    Raises:
        ValueError: the budget does not pay for one update, or for 2**31 or more.
    """
    if total_steps < batch_size:
        raise ValueError(
            f"total_steps must pay for at least one update, got {total_steps:,} where an "
            f"update takes num_envs * num_steps = {batch_size:,} environment steps. Use "
            f"total_steps >= {batch_size}, or smaller num_envs or num_steps."
        )
    if total_steps // batch_size >= 2**31:
        raise ValueError(
            f"total_steps must take fewer than 2**31 updates, got {total_steps:,}, which "
            f"takes {total_steps // batch_size:,}. Use fewer."
        )
    return total_steps // batch_size
