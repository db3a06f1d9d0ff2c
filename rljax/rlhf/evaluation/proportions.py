"""Shares of pairs, such as an accuracy, with Wilson intervals; also bin by bin."""

import math
import statistics
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Proportion(NamedTuple):
    """A share of pairs, and the interval that holds the true one.

    Attributes:
        share: in [0, 1].
        num_pairs: at least 1.
        interval: its two ends.
    """

    share: float
    num_pairs: int
    interval: tuple[float, float]


class Bin(NamedTuple):
    """Pairs for which some number, such as a difference of lengths, is about the same.

    Attributes:
        low: the least that the number can be here, or is.
        high: the greatest.
        mean: of the number over the pairs.
        accuracy: of these pairs.
    """

    low: float
    high: float
    mean: float
    accuracy: Proportion


def wilson_interval(
    successes: float, count: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the Wilson score interval of a share, which lies within [0, 1].

    Successes that count in part, as ties do, are allowed: as their spread is less than
    that of whole ones, the interval is then too wide rather than too narrow.

    Args:
        successes: from 0 to `count`.
        count: of trials, at least 1.
        confidence: how often such an interval holds the true share, in (0, 1).

    Raises:
        ValueError: an argument is out of its range.

    References:
        Wilson (1927), "Probable inference, the law of succession, and statistical
        inference".

    Example:
        >>> [round(end, 4) for end in wilson_interval(8, 10)]
        [0.4902, 0.9433]
    """
    if count < 1 or not 0 <= successes <= count or not 0 < confidence < 1:
        raise ValueError(
            f"an interval needs a trial or more, successes from 0 to as many, and a "
            f"confidence between 0 and 1, got {successes} of {count} at {confidence}. "
            f"Count again."
        )
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / count, z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # Without rounding the ends are exact at a share of 0 and of 1.
    low = 0.0 if successes == 0 else max(middle - half, 0.0)
    high = 1.0 if successes == count else min(middle + half, 1.0)
    return low, high


def proportion(credits: ArrayLike) -> Proportion:
    """Returns the mean of credits `[N]` in [0, 1], a tie's being 1/2, with its interval.

    Raises:
        ValueError: there is none, or one is out of range.
    """
    values = np.asarray(credits, np.float64)
    count = len(values)
    if not count or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"a share needs at least one credit, each from 0 to 1, got {values}. Give "
            f"1 for a success, 0 for a failure, 1/2 for a tie."
        )
    total = min(math.fsum(values), float(count))
    return Proportion(total / count, count, wilson_interval(total, count))


def win_rate(after: ArrayLike, before: ArrayLike) -> Proportion:
    """Returns the share of prompts whose score has risen, a tie one half, with its interval.

    Args:
        after: `[N]` scores of completions.
        before: `[N]` scores of others, of the same prompts.

    Raises:
        ValueError: there is none, or a score is NaN.

    Example:
        >>> win_rate([0.5, 0.2, 0.9], [0.1, 0.2, 0.3]).share
        0.8333333333333334
    """
    rises = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return proportion(0.5 + 0.5 * np.sign(rises))


def accuracy_by(
    credits: ArrayLike, numbers: ArrayLike, *, num_bins: int = 5
) -> tuple[Bin, ...]:
    """Returns the accuracy over bins of a number, of about as many pairs each.

    Equal numbers share a bin, so that there may be fewer bins than asked for; none is
    empty.

    Args:
        credits: `[N]`, of each pair: 1 if right, 0 if wrong, 1/2 for a tie.
        numbers: `[N]`, finite.
        num_bins: how many, at most.

    Raises:
        ValueError: there is no bin, no pair, or a number for some pairs only.

    Example:
        >>> bins = accuracy_by([1, 0, 1, 1], [3, 1, 4, 1], num_bins=2)
        >>> [(b.low, b.high, b.accuracy.share) for b in bins]
        [(1.0, 1.0, 0.5), (3.0, 4.0, 1.0)]
    """
    rights, values = np.asarray(credits, np.float64), np.asarray(numbers, np.float64)
    if num_bins < 1 or rights.shape != values.shape or not len(rights):
        raise ValueError(
            f"bins need at least one bin, one pair, and a number for each, got "
            f"{num_bins} bins, credits {rights.shape}, numbers {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"a number by which pairs are binned must be finite, got "
            f"{values[~np.isfinite(values)][0]}. Leave such pairs out."
        )
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles = (np.cumsum(counts) - counts / 2) / len(values)  # of ranks, in (0, 1)
    index = np.floor(middles * num_bins).astype(int)[inverse]
    return tuple(_bin(rights[index == i], values[index == i]) for i in np.unique(index))


def _bin(credits: np.ndarray, values: np.ndarray) -> Bin:
    low, high = float(values.min()), float(values.max())
    return Bin(low, high, float(values.mean()), proportion(credits))
