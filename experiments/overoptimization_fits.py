"""Curves of gold reward over the distance to the reference, fitted by least squares.

Gao et al. (2023), https://arxiv.org/abs/2210.10760, equations 1 and 2, with d the root of
KL(pi || pi_ref): best of n gains d (alpha - beta d), and optimization d (alpha - beta log d).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Fit(NamedTuple):
    """The coefficients of a curve, and how well it fits.

    Attributes:
        alpha: how steep it is at first.
        beta: how soon it bends.
        r2: share of the gains' variance that it explains; negative if the mean does
            better, NaN if they do not vary.
        peak: the distance at which it is highest; inf if it does not turn down.
    """

    alpha: float
    beta: float
    r2: float
    peak: float


def fit_best_of_n(distances: ArrayLike, gains: ArrayLike) -> Fit:
    """Returns the fit of d (alpha - beta d) to gains `[K]` at distances `[K]`, at least 0.

    Example:
        >>> round(fit_best_of_n([0.5, 1.0, 2.0], [1.25, 2.0, 2.0]).peak, 6)
        1.5
    """
    d = np.asarray(distances, np.float64)
    alpha, beta, r2 = _least_squares(d, d**2, gains)
    return Fit(alpha, beta, r2, alpha / (2 * beta) if beta > 0 else math.inf)


def fit_optimization(distances: ArrayLike, gains: ArrayLike) -> Fit:
    """Returns the fit of d (alpha - beta log d) to gains `[K]` at distances `[K]`, above 0."""
    d = np.asarray(distances, np.float64)
    alpha, beta, r2 = _least_squares(d, d * np.log(d), gains)
    # Beyond exp(700) there is no number, and no peak that anything could reach.
    turns = beta > 0 and alpha / beta < 700
    return Fit(alpha, beta, r2, math.exp(alpha / beta - 1) if turns else math.inf)


def _least_squares(
    rise: np.ndarray, bend: np.ndarray, gains: ArrayLike
) -> tuple[float, float, float]:
    """Returns alpha, beta and R^2 of alpha * rise - beta * bend."""
    wanted = np.asarray(gains, np.float64)
    columns = np.stack([rise, -bend], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(columns, wanted, rcond=None)
    missed = ((wanted - columns @ [alpha, beta]) ** 2).sum()
    spread = ((wanted - wanted.mean()) ** 2).sum()
    r2 = 1 - missed / spread if spread > 0 else math.nan
    return float(alpha), float(beta), float(r2)
