"""The points of a sweep: configurations, as a grid or at random."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rljax.numerics.validation import check_column

Value: TypeAlias = float | int | bool | tuple[int, ...]
Point: TypeAlias = dict[str, Value]
"""One configuration of a sweep: values by the names of what they replace."""


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
        check_column(name, column)
    return tuple(
        plain(dict(zip(values, combination, strict=True)))
        for combination in itertools.product(*values.values())
    )


def plain(point: Mapping[str, Any]) -> Point:
    """A point whose scalars, such as NumPy's, have become Python's."""
    return {name: plain_value(x) for name, x in point.items()}


def plain_value(x: Any) -> Value:
    """A scalar, or a tuple or list of them, as Python's own."""
    if isinstance(x, tuple | list):
        return tuple(map(plain_value, x))  # type: ignore[arg-type]
    return x if type(x) in (bool, int, float) else np.asarray(x).item()


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


def random_points(num_points: int, *, seed: int, **spaces: Space) -> tuple[Point, ...]:
    """Random points, each name's values drawn independently.

    Raises:
        ValueError: there is no point or no space, or a space holds nothing.
    """
    if num_points < 1 or not spaces:
        raise ValueError(
            f"random_points needs at least one point and one space, got {num_points} points "
            f"and {len(spaces)} spaces. Add some."
        )
    for name, space in spaces.items():
        check_space(name, space)
    quantiles = np.random.default_rng(seed).random((num_points, len(spaces)))
    return tuple(
        {name: spaces[name].at(q) for name, q in zip(spaces, row, strict=True)}
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
