"""Calibration: whether a difference of scores means the probability that it should.

A Bradley-Terry model says that a judge prefers the first completion of a pair with
probability sigma(d), d being the difference of scores. Where the chosen completion always
stands first there is but one class of outcome, and sigma(d) against it would only show
how near to 1 it is. Which one stands first is our choice, so both orders count, half
each. In bins that are symmetric about 1/2 the two orders of a pair lie in mirrored bins,
with the same gap; so it is enough to look at the order of the scores, in which sigma(|d|)
is the confidence, from 1/2 to 1, and ask how often a judge agrees. Each pair is then
counted once, and the intervals are as wide as so few pairs make them.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rljax.rlhf.evaluation.comparisons import credits
from rljax.rlhf.evaluation.proportions import Bin, proportion


class Calibration(NamedTuple):
    """How well sigma(d / T) predicts which of two completions is preferred.

    Where a pair's preference is a probability, each is the mean over draws from it.

    Attributes:
        ece: expected calibration error: the gap between confidence and accuracy of a bin,
            averaged over the pairs; 0 is best. It is never 0 by chance alone:
        ece_by_chance: about what a perfectly calibrated model with these confidences
            would show on as many pairs, each judged once.
        brier: mean of (sigma - outcome)^2; 1/4 for a model that always answers 1/2.
        nll: mean of -log of the outcome's probability, in nats; log 2 for such a model.
        temperature: the T* whose sigma(d / T*) has the least `nll` on these very pairs:
            above 1 the model is too sure, below 1 not sure enough. inf if 1/2 is the best
            prediction; 0 if every pair is in the right order.
        nll_at_temperature: with T*.
        reliability: bins of equal width of the confidence sigma(|d| / T), from 1/2 to 1;
            those without a pair are left out.
    """

    ece: float
    ece_by_chance: float
    brier: float
    nll: float
    temperature: float
    nll_at_temperature: float
    reliability: tuple[Bin, ...]


def calibration(
    differences: ArrayLike,
    probs: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
    num_bins: int = 10,
) -> Calibration:
    """Returns the calibration of sigma(differences / temperature).

    Args:
        differences: `[N]` of scores, finite.
        probs: `[N]`, the probability that the first is preferred; 1 unless given.
        temperature: T, above 0; choose it on other pairs than these, `fit_temperature`.
        num_bins: of confidence: 10 are each 0.05 wide.

    Raises:
        ValueError: an argument is out of its range.

    References:
        Guo et al. (2017), https://arxiv.org/abs/1706.04599; Brier (1950).
    """
    d, p = _check(differences, probs)
    if not 0 < temperature < math.inf or num_bins < 1:
        raise ValueError(
            f"a temperature must be positive and finite, and there must be a bin, got "
            f"{temperature} and {num_bins} bins. Use 1.0 for the scores as they are."
        )
    best = fit_temperature(d, p)
    confidence, right = _sigmoid(np.abs(d) / temperature), credits(d, p)
    scaled = np.floor((confidence - 0.5) * 2 * num_bins).astype(int)
    index = np.minimum(scaled, num_bins - 1)
    gaps, chances, bins = 0.0, 0.0, []
    for i in np.unique(index):
        here = index == i
        agreed, sure = proportion(right[here]), confidence[here]
        gaps += agreed.num_pairs * abs(agreed.share - sure.mean())
        # Sum of as many coins, whose mean distance from the mean is that of a normal.
        chances += math.sqrt(2 / math.pi * float((sure * (1 - sure)).sum()))
        low, high = (0.5 + j / (2 * num_bins) for j in (i, i + 1))
        bins.append(Bin(low, high, float(sure.mean()), agreed))
    # (1 - confidence)^2 where a judge agrees, confidence^2 where not.
    squares = right * (1 - confidence) ** 2 + (1 - right) * confidence**2
    return Calibration(
        ece=gaps / len(d),
        ece_by_chance=chances / len(d),
        brier=float(squares.mean()),
        nll=negative_log_likelihood(d, p, temperature),
        temperature=best,
        nll_at_temperature=negative_log_likelihood(d, p, best),
        reliability=tuple(bins),
    )


def negative_log_likelihood(
    differences: ArrayLike, probs: ArrayLike | None = None, temperature: float = 1.0
) -> float:
    """Returns the mean over pairs of -p log sigma(d / T) - (1 - p) log sigma(-d / T).

    In nats; T may be inf, or 0: then it is the limit, inf if a pair is in wrong order.

    Raises:
        ValueError: an argument is out of its range.
    """
    d, p = _check(differences, probs)
    if not temperature >= 0:
        raise ValueError(
            f"temperature must be at least 0, got {temperature}. Raise it."
        )
    gain = np.where(d > 0, p, np.where(d < 0, 1 - p, 0.5))  # of the scores' order
    size = np.abs(d)
    if temperature > 0:
        with np.errstate(over="ignore"):
            size = size / temperature
    else:
        size = np.where(size > 0, math.inf, 0.0)
    # log(1 + e^size) = size + log(1 + e^-size)
    lost = np.where(gain < 1, (1 - gain) * np.where(gain < 1, size, 0.0), 0.0)
    return float((np.log1p(np.exp(-size)) + lost).mean())


def fit_temperature(differences: ArrayLike, probs: ArrayLike | None = None) -> float:
    """Returns the T that minimizes the negative log-likelihood of sigma(d / T).

    The likelihood is convex in b = 1 / T. With the scores' order as the order of each
    pair, so that d >= 0, and w the chance that a judge disagrees with it, its slope is
    mean(d w) - mean(d sigma(-b d)): the second falls from half of mean(d) to 0, and meets
    the first once, or not at all.

    Args:
        differences: `[N]` of scores, finite.
        probs: `[N]`, the probability that the first is preferred; 1 unless given.

    Returns:
        T; 0.0 where every pair is in the right order or tied, so that the less the
        better; inf where no T is better than to answer 1/2.

    Raises:
        ValueError: an argument is out of its range.

    References:
        Guo et al. (2017), https://arxiv.org/abs/1706.04599.

    Example:
        >>> float(round(np.exp(1 / fit_temperature([1, 1, 1, -1])), 6))  # odds of 3 : 1
        3.0
    """
    d, p = _check(differences, probs)
    scale = float(np.abs(d).max())
    if scale == 0:
        return math.inf
    size, wrong = np.abs(d) / scale, 1 - credits(d, p)
    target = float((size * wrong).mean())

    def right_hand(b: float) -> float:
        return float((size / (1 + np.exp(np.minimum(b * size, 700.0)))).mean())

    if target == 0:
        return 0.0
    if target >= right_hand(0.0):
        return math.inf
    low = high = 1.0
    while right_hand(low) < target:
        low /= 2
    while right_hand(high) > target and high < 1e300:
        high *= 2
    for _ in range(60):  # high is at most twice low after the first few
        middle = math.sqrt(low) * math.sqrt(high)
        if right_hand(middle) > target:
            low = middle
        else:
            high = middle
    return scale / (math.sqrt(low) * math.sqrt(high))


def _check(
    differences: ArrayLike, probs: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as float64, or raises a ValueError that says what is wrong."""
    d = np.asarray(differences, np.float64)
    p = np.ones(d.shape) if probs is None else np.asarray(probs, np.float64)
    if d.ndim != 1 or not len(d) or p.shape != d.shape:
        raise ValueError(
            f"calibration needs differences [N] of at least one pair, and as many "
            f"probabilities, got {d.shape} and {p.shape}. Give one of each a pair."
        )
    if not np.isfinite(d).all() or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"differences must be finite, and probabilities in [0, 1], got "
            f"{(~np.isfinite(d)).sum()} and {(~((p >= 0) & (p <= 1))).sum()} that are "
            f"not. Leave out pairs that could not be scored."
        )
    return d, p


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
