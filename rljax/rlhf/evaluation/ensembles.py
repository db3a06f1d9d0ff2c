"""One score of several members', each centred first.

A reward model's scores may be shifted by any constant without a change to its loss, so
that members trained alike differ in level. The least of them, uncentred, is the score of
one and the same member wherever its level is the lowest, and says nothing of doubt.
Coste et al. (2023), https://arxiv.org/abs/2310.02743, compare the three.
"""

import numpy as np
from numpy.typing import ArrayLike


def member_centres(members: ArrayLike) -> np.ndarray:
    """Returns `[M]`: the mean of each member's scores `[..., M]` over a reference set.

    Take it on completions of one kind, such as the training set's, and keep it: a batch
    centred by itself would have scores that depend on what else is in the batch.

    Raises:
        ValueError: there is no score, or one is not finite.
    """
    scores = _check(members)
    return scores.reshape(-1, scores.shape[-1]).mean(axis=0)


def ensemble_mean(members: ArrayLike, centres: ArrayLike) -> np.ndarray:
    """Returns the mean over members of centred scores `[..., M]`, without the last axis.

    `centres` `[M]` is what `member_centres` returns, here and below.
    """
    return _centred(members, centres).mean(axis=-1)


def ensemble_min(members: ArrayLike, centres: ArrayLike) -> np.ndarray:
    """Returns the least over members of centred scores, without the last axis.

    Example:
        >>> ensemble_min([[0.0, 11.0], [1.0, 9.0]], [0.5, 10.0])
        array([-0.5, -1. ])
    """
    return _centred(members, centres).min(axis=-1)


def ensemble_lower(
    members: ArrayLike, centres: ArrayLike, *, coef: float = 1.0
) -> np.ndarray:
    """Returns mean - coef * standard deviation of centred scores, without the last axis.

    The standard deviation is of the M members, not an estimate for more of them.
    """
    scores = _centred(members, centres)
    return scores.mean(axis=-1) - coef * scores.std(axis=-1)


def _centred(members: ArrayLike, centres: ArrayLike) -> np.ndarray:
    scores, levels = _check(members), np.asarray(centres, np.float64)
    if levels.shape != scores.shape[-1:]:
        raise ValueError(
            f"centres must have one number a member, {scores.shape[-1:]}, got "
            f"{levels.shape}. Use member_centres of a reference set."
        )
    return scores - levels


def _check(members: ArrayLike) -> np.ndarray:
    scores = np.asarray(members, np.float64)
    if not scores.ndim or not scores.size or not np.isfinite(scores).all():
        raise ValueError(
            f"an ensemble needs finite scores [..., M] of at least one member, got the "
            f"shape {scores.shape}, {(~np.isfinite(scores)).sum()} not finite. Leave out "
            f"what could not be scored."
        )
    return scores
