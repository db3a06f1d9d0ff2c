"""By how much something rose on the same held-out prompts, and how sure that is."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Difference(NamedTuple):
    """What a stage changed in one measure.

    Attributes:
        before: mean over M prompts, or pairs.
        after: mean over the same.
        mean: after - before.
        interval: its 95 % interval.
    """

    before: float
    after: float
    mean: float
    interval: tuple[float, float]

    @property
    def is_gain(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.interval[0] > 0


def paired_difference(after: ArrayLike, before: ArrayLike) -> Difference:
    """Returns the mean of differences, prompt by prompt, with its normal 95 % interval.

    Args:
        after: `[M]`, at least two.
        before: `[M]` of the same prompts, or one number that all are compared with.

    Raises:
        ValueError: the shapes differ, or a number is not finite.

    Example:
        >>> paired_difference([1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]).mean
        0.5
    """
    late, early = np.asarray(after, np.float64), np.asarray(before, np.float64)
    if late.ndim != 1 or len(late) < 2 or early.shape not in ((), late.shape):
        raise ValueError(
            f"a difference needs numbers of the same two prompts or more, got shapes "
            f"{late.shape} and {early.shape}. Measure both on one set of prompts."
        )
    if not (np.isfinite(late).all() and np.isfinite(early).all()):
        raise ValueError(
            "a difference needs finite numbers, got NaN or infinity. Leave out prompts "
            "that could not be measured, of both."
        )
    apart = late - early
    mean, half = apart.mean(), 1.96 * apart.std(ddof=1) / math.sqrt(len(apart))
    interval = float(mean - half), float(mean + half)
    return Difference(float(early.mean()), float(late.mean()), float(mean), interval)
