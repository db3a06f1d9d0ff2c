"""Best of n: of n completions that are sampled, the one with the highest score is given."""

import math

import numpy as np
from numpy.typing import ArrayLike

from rljax.numerics.validation import check_at_least


def best_of_n(scores: ArrayLike) -> np.ndarray:
    """Returns `[...]` the place of the best of N scores `[..., N]`; of equals, the first.

    Raises:
        ValueError: there are none, or a score is NaN.

    Example:
        >>> best_of_n([[0.1, 0.7, 0.3], [2.0, 1.0, 2.0]])
        array([1, 0])
    """
    return _checked("scores", scores).argmax(axis=-1)


def best_of_n_means(proxy: ArrayLike, gold: ArrayLike) -> np.ndarray:
    """Returns `[..., N]` unbiased estimates of E[gold of the best of n by proxy], n from 1.

    With N samples in the order of their proxy scores, the i-th is the best of n that are
    taken from them in C(i - 1, n - 1) of C(N, n) cases. Equal proxy scores share their
    gold scores, as if the best of equals were drawn.

    Args:
        proxy: `[..., N]`, by which the best is chosen, of samples from one distribution.
        gold: `[..., N]`, what they are worth.

    Raises:
        ValueError: there are none, a score is NaN, or the shapes differ.

    References:
        Gao et al. (2023), https://arxiv.org/abs/2210.10760, appendix I; the same estimate
        as pass@k's: Chen et al. (2021), https://arxiv.org/abs/2107.03374.

    Example:
        >>> best_of_n_means([1.0, 2.0, 3.0], [0.0, 3.0, 6.0])
        array([3., 5., 6.])
    """
    by, worth = _checked("proxy", proxy), _checked("gold", gold)
    if by.shape != worth.shape:
        raise ValueError(
            f"proxy and gold must be scores of the same samples, got shapes {by.shape} "
            f"and {worth.shape}."
        )
    size = by.shape[-1]
    flat = [_shared(*both) for both in zip(*map(_rows, (by, worth)), strict=True)]
    means = np.array(flat).reshape(-1, size) @ _weights(size)
    return means.reshape(by.shape)


def best_of_n_law(probs: ArrayLike, scores: ArrayLike, n: float) -> np.ndarray:
    """Returns `[S]` the probabilities with which best of n gives each of S completions.

    With P(s) the probability of a score of at most s, those of score s are given with
    probability P(s)^n - P(s-)^n together, and are to one another as before.

    Args:
        probs: `[S]`, of each completion; of sum 1.
        scores: `[S]`, by which the best of n is chosen.
        n: samples, at least 1.

    Raises:
        ValueError: the probabilities are none, or a score is NaN.

    References:
        Beirami et al. (2024), https://arxiv.org/abs/2401.01879, lemma 1.

    Example:
        >>> best_of_n_law([0.5, 0.25, 0.25], [0.0, 1.0, 1.0], 2)
        array([0.25 , 0.375, 0.375])
    """
    check_at_least(1, n=n)
    p, by = _checked("probs", probs), _checked("scores", scores)
    if p.shape != by.shape or p.ndim != 1:
        raise ValueError(
            f"probs and scores must be of the same S completions, got shapes {p.shape} and "
            f"{by.shape}."
        )
    if (p < 0).any() or not math.isclose(p.sum(), 1.0, rel_tol=1e-6):
        raise ValueError(
            f"probs must be at least 0 and of sum 1, got the sum {p.sum():g} and the least "
            f"{p.min():g}. Divide them by their sum."
        )
    _, group = np.unique(by, return_inverse=True)
    each = np.bincount(group, weights=p / p.sum())
    up_to = np.minimum(np.cumsum(each), 1.0)
    given = np.diff(up_to**n, prepend=0.0)
    # A score that does not come has no share to divide.
    ratio = np.divide(given, each, out=np.zeros_like(each), where=each > 0)
    law = p / p.sum() * ratio[group]
    return law / law.sum()


def best_of_n_kl_bound(n: ArrayLike) -> np.ndarray:
    """Returns `[...]` log n - (n - 1) / n, which KL(best of n || one sample) is at most.

    It is as much where no two samples have the same score; with ties it is less.

    References:
        Hilton (2023), "KL divergence of max-of-n", https://www.jacobh.co.uk/bon_kl.pdf;
        Beirami et al. (2024), https://arxiv.org/abs/2401.01879.

    Example:
        >>> best_of_n_kl_bound([1, 2, 16]).round(3)
        array([0.   , 0.193, 1.835])
    """
    counts = np.asarray(n, np.float64)
    if counts.size:
        check_at_least(1, n=float(counts.min()))
    return np.log(counts) - (counts - 1) / counts


def _checked(name: str, values: ArrayLike) -> np.ndarray:
    """Returns numbers in float64, one at least, none of them NaN."""
    array = np.asarray(values, np.float64)
    if not array.ndim or not array.shape[-1]:
        raise ValueError(f"{name} must have at least one number, got {values!r:.40}.")
    if np.isnan(array).any():
        raise ValueError(
            f"{name} must be numbers, got NaN at {np.argwhere(np.isnan(array))[0]}. Leave "
            f"out what has no score."
        )
    return array


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def _shared(by: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Returns gold scores from the worst proxy to the best, means among equals."""
    _, group, count = np.unique(by, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=worth) / count
    return np.repeat(means, count)


def _weights(size: int) -> np.ndarray:
    """Returns `[N, N]`, C(i - 1, n - 1) / C(N, n) for i and n from 1."""
    places = np.arange(1, size + 1, dtype=np.float64)
    weights = np.zeros((size, size))
    weights[-1] = places / size  # of the best
    for i in range(size - 1, 0, -1):
        weights[i - 1] = weights[i] * np.maximum(i + 1 - places, 0.0) / i
    return weights
