"""Statistics over runs: means and chances over a handful of seeds, with intervals."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of the scores: robust to a lucky or an unlucky run.

    A quarter of them, rounded down, is left out at either end. NaN if any score is: a
    run that diverged must not vanish among those left out.

    Raises:
        ValueError: there is no score.

    References:
        Agarwal et al. (2021), https://arxiv.org/abs/2108.13264.

    Example:
        >>> interquartile_mean([0, 1, 2, 100])
        1.5
    """
    runs = np.asarray(scores, np.float64).ravel()
    if not len(runs):
        raise ValueError("a mean needs at least one score, got none. Pass the scores.")
    return float(_interquartile_means(runs[None])[0])


class Improvement(NamedTuple):
    """How likely a run of one kind is to beat a run of another.

    Attributes:
        probability: of a higher score, a tie counting half; NaN if any score is.
        interval: its percentile bootstrap interval; None where there is none.
    """

    probability: float
    interval: tuple[float, float] | None


def probability_of_improvement(
    scores: ArrayLike,
    others: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2_000,
    seed: int = 0,
) -> Improvement:
    """P(X > Y) + P(X = Y) / 2 over runs X, `[N]`, and runs Y, `[M]`.

    Raises:
        ValueError: there is no score of one kind.

    References:
        Mann & Whitney (1947); Agarwal et al. (2021), https://arxiv.org/abs/2108.13264.

    Example:
        >>> probability_of_improvement([3, 4], [1, 3]).probability
        0.875
    """
    runs, theirs = (np.asarray(x, np.float64).ravel() for x in (scores, others))
    if not len(runs) or not len(theirs):
        raise ValueError(
            f"a probability needs at least one score of either kind, got {len(runs)} "
            f"and {len(theirs)}. Pass the scores."
        )
    if np.isnan(runs).any() or np.isnan(theirs).any():
        return Improvement(np.nan, None)
    wins = (np.sign(runs[:, None] - theirs[None]) + 1) / 2
    probability = float(wins.mean())
    if min(wins.shape) < 2:
        return Improvement(probability, None)
    # How often each run is drawn decides a resample's mean.
    generator = np.random.default_rng(seed)
    drawn, drawn_theirs = (
        generator.multinomial(count, np.full(count, 1 / count), num_resamples) / count
        for count in wins.shape
    )
    resampled = ((drawn @ wins) * drawn_theirs).sum(axis=1)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Improvement(probability, (float(low), float(high)))


def bootstrap_interval(
    scores: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the interquartile mean over runs.

    Args:
        scores: `[N]`, or `[N, K]` of N runs in each of K strata, such as tasks: then
            runs are resampled in each stratum, and the mean is of all scores together.
        confidence: how often such an interval holds the true mean.
        num_resamples: how often to resample.
        seed: of the resamples.

    Returns:
        Its two ends; None for fewer than two runs, and where a score is NaN.
    """
    runs = np.asarray(scores, np.float64)
    if len(runs) < 2 or np.isnan(runs).any():
        return None
    strata, generator = runs.reshape(len(runs), -1).T, np.random.default_rng(seed)
    size = num_resamples, len(runs)
    resamples = np.concatenate([generator.choice(x, size) for x in strata], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(_interquartile_means(resamples), [tail, 1 - tail])
    return float(low), float(high)


def summarize(returns: ArrayLike) -> dict[str, Any]:
    """The headline figures of the final returns of runs `[N]`.

    A run that diverged, whose return is NaN or None, is counted, and left out of the mean
    and its interval.
    """
    every = np.asarray(returns, np.float64)
    finite = every[~np.isnan(every)]
    return {
        "returns": every.tolist(),
        "return_iqm": interquartile_mean(finite) if len(finite) else math.nan,
        "return_ci95": bootstrap_interval(finite),
        "diverged": len(every) - len(finite),
    }


def _interquartile_means(rows: np.ndarray) -> np.ndarray:
    """The interquartile mean of each row of `[R, N]`."""
    count = rows.shape[1]
    cut = count // 4
    means = np.sort(rows, axis=1)[:, cut : count - cut].mean(axis=1)
    return np.where(np.isnan(rows).any(axis=1), np.nan, means)
