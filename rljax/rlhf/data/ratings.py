"""Rated texts, and pairs of them: by their mean ratings, or as two raters would judge.

A pair is two places among the texts, the preferred one first. To keep each text in one
split only, divide the texts first, and draw the pairs of each split from its texts.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rljax.numerics.validation import check_at_least
from rljax.rlhf.data.pairs import Example


class Rated(NamedTuple):
    """A text, such as a prompt's completion, and what each of its raters gave it."""

    example: Example
    ratings: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean rating; NaN of none."""
        return math.fsum(self.ratings) / len(self.ratings) if self.ratings else math.nan


class RatedPairs(NamedTuple):
    """Pairs of rated texts.

    Attributes:
        places: `[N, 2]` int, of the preferred text and of the other.
        gaps: `[N]` float, by how much the first's mean is higher; below 0 where raters
            preferred the text of the lower mean.
        probs: `[N]` float, how often a rater of each, taken at random, prefers the first,
            of those who do not rate both alike; 1 for pairs by mean. The best accuracy
            that can be expected of anyone is the mean of `np.maximum(probs, 1 - probs)`.

    Of `rated` texts, `[Preference((rated[i].example, rated[j].example)) for i, j in
    pairs.places]` is what `tokenize_rankings` takes.
    """

    places: np.ndarray
    gaps: np.ndarray
    probs: np.ndarray


def split_places(
    keys: Sequence[Hashable], shares: Sequence[float], *, seed: int = 0
) -> list[np.ndarray]:
    """Divides rows at random into splits, equal keys into the same one.

    Args:
        keys: of each row: its text, or its prompt, which must not come in two splits.
        shares: of the keys that each split gets, above 0, with the sum 1.
        seed: of the shuffle.

    Returns:
        The places of the rows of each split, in increasing order.

    Raises:
        ValueError: shares are out of range, or a split gets nothing.

    Example:
        >>> [places.tolist() for places in split_places("abab", [0.5, 0.5])]
        [[0, 2], [1, 3]]
    """
    if not shares or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"shares must be above 0 and have the sum 1, got {list(shares)}. Divide them "
            f"by their sum."
        )
    numbers: dict[Hashable, int] = {}
    groups = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    order = np.random.default_rng(seed).permutation(len(numbers))
    ends = np.rint(np.cumsum(shares) * len(numbers)).astype(int)
    split_of = np.empty(len(numbers), int)
    split_of[order] = np.searchsorted(ends, np.arange(len(numbers)), side="right")
    splits = [np.flatnonzero(split_of[groups] == i) for i in range(len(shares))]
    if not all(map(len, splits)):
        raise ValueError(
            f"{len(numbers)} different rows cannot be divided into shares of "
            f"{list(shares)}: one would be empty. Use more rows, or fewer splits."
        )
    return splits


def pairs_by_gap(
    means: ArrayLike,
    *,
    min_gap: float = 0.0,
    num_pairs: int | None = None,
    seed: int = 0,
) -> RatedPairs:
    """Returns pairs whose mean ratings differ by more than a gap, the higher one first.

    All such pairs are as likely, and none comes twice.

    Args:
        means: `[T]`, the texts' mean ratings.
        min_gap: what the difference is above, at least 0.
        num_pairs: how many to draw; None takes all, in a random order.
        seed: of the draw.

    Raises:
        ValueError: a rating is not finite, or there are not so many pairs.
    """
    values = _finite(means)
    wanted = _check_wanted(min_gap, num_pairs)
    eligible = _Eligible(values, min_gap, strict=True)
    if wanted is None:
        wanted = eligible.total
    if not 0 < wanted <= eligible.total:
        raise _too_few(wanted, eligible.total, len(values), f"by more than {min_gap:g}")
    rng = np.random.default_rng(seed)
    places = eligible.draw(rng, wanted)
    return RatedPairs(places, _gaps(values, places), np.ones(wanted))


def pairs_by_raters(
    ratings: Sequence[Sequence[float]],
    *,
    min_gap: float = 0.0,
    num_pairs: int,
    seed: int = 0,
) -> RatedPairs:
    """Returns pairs as two raters judge them, so that labels are noisy as people are.

    Two texts are drawn, and a rater of each: the text with the higher of the two numbers
    is preferred. Where the numbers are equal, other texts are drawn. No two texts come
    twice together.

    Args:
        ratings: of each text, what its raters gave it.
        min_gap: what the means differ by, at least; 0 allows all pairs.
        num_pairs: how many to draw.
        seed: of the draw.

    Raises:
        ValueError: a text has no rating, one is not finite, or there are not so many pairs.
    """
    if empty := [i for i, some in enumerate(ratings) if not len(some)]:
        raise ValueError(f"text {empty[0]} has no ratings. Leave it out.")
    _check_wanted(min_gap, num_pairs)
    counts = np.array([len(some) for some in ratings], np.int64)
    values = _finite(np.concatenate([[], *ratings]))
    starts = np.cumsum(counts) - counts
    means = np.array([math.fsum(some) / len(some) for some in ratings])
    eligible = _Eligible(means, min_gap, strict=False)
    rng = np.random.default_rng(seed)
    drawn = min(eligible.total, 2 * num_pairs)
    while True:
        places = eligible.draw(rng, drawn)
        raters = starts[places] + rng.integers(counts[places])
        first, second = values[raters].T
        differs = first != second
        if differs.sum() >= num_pairs or drawn == eligible.total:
            break
        drawn = min(eligible.total, 2 * drawn)
    if differs.sum() < num_pairs:
        most, rule = int(differs.sum()), f"by at least {min_gap:g}, and as rated once"
        raise _too_few(num_pairs, most, len(means), rule)
    swapped = (second > first)[:, None]
    places = np.where(swapped, places[:, ::-1], places)[differs][:num_pairs]
    probs = np.array([_agreement(ratings[i], ratings[j]) for i, j in places])
    return RatedPairs(places, _gaps(means, places), probs)


def _agreement(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns how often a rating of the first is higher, of those that differ."""
    signs = np.sign(np.subtract.outer(np.asarray(first), np.asarray(second)))
    return float((signs > 0).sum() / max((signs != 0).sum(), 1))


class _Eligible:
    """All pairs of texts whose means differ enough, by number."""

    def __init__(self, means: np.ndarray, min_gap: float, *, strict: bool):
        self._order = np.argsort(means, kind="stable")
        ordered = means[self._order]
        low, high = np.zeros(len(means), np.int64), np.arange(len(means))
        # How many of the texts before each are far enough below it, by bisection.
        while (low < high).any():
            middle = (low + high) // 2
            gap = ordered - ordered[middle]
            far = gap > min_gap if strict else gap >= min_gap
            open_ = low < high
            low = np.where(open_ & far, middle + 1, low)
            high = np.where(open_ & ~far, middle, high)
        self._ends = np.cumsum(low)
        self._counts = low
        self.total = int(low.sum())

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Returns `[size, 2]` places of different pairs, the higher mean first."""
        numbers = rng.choice(self.total, size, replace=False)
        higher = np.searchsorted(self._ends, numbers, side="right")
        lower = numbers - (self._ends - self._counts)[higher]
        return np.stack([self._order[higher], self._order[lower]], axis=1)


def _gaps(means: np.ndarray, places: np.ndarray) -> np.ndarray:
    return means[places[:, 0]] - means[places[:, 1]]


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(
            f"ratings must be finite, got {array[~np.isfinite(array)][0]}. Leave out "
            f"texts without a rating."
        )
    return array


def _check_wanted(min_gap: float, num_pairs: int | None) -> int | None:
    if not 0 <= min_gap < math.inf:
        raise ValueError(f"min_gap must be at least 0, got {min_gap:g}. Raise it.")
    if num_pairs is not None:
        check_at_least(1, num_pairs=num_pairs)
    return num_pairs


def _too_few(wanted: int, most: int, num_texts: int, rule: str) -> ValueError:
    return ValueError(
        f"{wanted:,} pairs were asked for, and {num_texts:,} texts have {most:,} whose "
        f"ratings differ {rule}. Use fewer pairs, a smaller min_gap, or more texts."
    )
