"""Statistics over runs: what a handful of seeds says, and how sure it is."""

import numpy as np
from numpy.typing import ArrayLike


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of the scores: robust to a lucky or an unlucky run.

    A quarter of them, rounded down, is left out at either end.

    References:
        Agarwal et al. (2021), https://arxiv.org/abs/2108.13264.

    Example:
        >>> interquartile_mean([0, 1, 2, 100])
        1.5
    """
    ordered = np.sort(np.asarray(scores, np.float64).ravel())
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrap_interval(
    scores: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the interquartile mean over runs `[N]`.

    Returns:
        Its two ends, or None for fewer than two runs: one run says nothing of spread.
    """
    runs = np.asarray(scores, np.float64).ravel()
    if len(runs) < 2:
        return None
    resamples = np.random.default_rng(seed).choice(runs, (num_resamples, len(runs)))
    cut = len(runs) // 4
    means = np.sort(resamples, axis=1)[:, cut : len(runs) - cut].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
