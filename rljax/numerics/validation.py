"""Whether numbers lie where they must, found on the host before anything is traced."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
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


def check_name(name: str, fields: Sequence[str], of: str) -> None:
    """Raises a ValueError, which says what is nearest, if there is no such field."""
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
