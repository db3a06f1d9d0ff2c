"""Statistics over runs: what a handful of seeds says, and how sure it is."""

from typing import Any

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


def bootstrap_interval(
    scores: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the interquartile mean over runs `[N]`.

    Returns:
        Its two ends, or None where there is none: for fewer than two runs, as one run
        says nothing of spread, and where a score is NaN.
    """
    runs = np.asarray(scores, np.float64).ravel()
    if len(runs) < 2 or np.isnan(runs).any():
        return None
    resamples = np.random.default_rng(seed).choice(runs, (num_resamples, len(runs)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(_interquartile_means(resamples), [tail, 1 - tail])
    return float(low), float(high)


def summarize(returns: ArrayLike) -> dict[str, Any]:
    """The headline figures of the final returns of runs `[N]`."""
    return {
        "returns": np.asarray(returns).tolist(),
        "return_iqm": interquartile_mean(returns),
        "return_ci95": bootstrap_interval(returns),
    }


def _interquartile_means(rows: np.ndarray) -> np.ndarray:
    """The interquartile mean of each row of `[R, N]`."""
    count = rows.shape[1]
    cut = count // 4
    means = np.sort(rows, axis=1)[:, cut : count - cut].mean(axis=1)
    return np.where(np.isnan(rows).any(axis=1), np.nan, means)
