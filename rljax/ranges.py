"""Whether numbers lie where they must, found on the host before anything is traced."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


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
    for name, (low, high) in ranges.items():
        value = _values(numbers, name)
        _require(
            name, value, (value >= low) & (value <= high), f"in [{low:g}, {high:g}]"
        )
    for name in positive:
        value = _values(numbers, name)
        _require(name, value, (value > 0) & (value < math.inf), "in (0, inf)")


def _values(numbers: Any, name: str) -> np.ndarray:
    return np.asarray(getattr(numbers, name), np.float64)


def _require(name: str, value: np.ndarray, inside: Any, where: str) -> None:
    if not np.all(inside):
        raise ValueError(
            f"{name} must lie {where}, got {value[~inside].flat[0]:g}. Choose a value in "
            f"that range."
        )
