"""What a model must beat, and folds to try it on: length alone, and cross-validation."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rljax.numerics.validation import check_at_least
from rljax.rlhf.evaluation.comparisons import Comparisons, credits
from rljax.rlhf.evaluation.proportions import proportion

LengthRule = Literal["longer", "shorter"]


def length_credits(comparisons: Comparisons, rule: LengthRule) -> np.ndarray:
    """Returns `[N]` chances that a judge agrees with a rule that sees lengths only.

    Two of a length are a tie, and count one half.

    Raises:
        ValueError: the lengths are not known.
    """
    if comparisons.lengths is None:
        raise ValueError(
            "a length-only baseline needs lengths, got none. Give Comparisons.of "
            "lengths=[N, 2], in tokens or in characters."
        )
    longer = comparisons.lengths[:, 0] - comparisons.lengths[:, 1]
    return credits(longer if rule == "longer" else -longer, comparisons.probs)


def choose_length_rule(training: Comparisons) -> LengthRule:
    """Returns which of the two is right more often; use training pairs, not the test's.

    "longer" where they are right as often.

    Raises:
        ValueError: the lengths are not known.
    """
    longer = proportion(length_credits(training, "longer")).share
    return "longer" if longer >= 0.5 else "shorter"


def k_folds(
    num_rows: int,
    num_folds: int = 5,
    *,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns, for each fold, the rows to train on and the rows to test on.

    Every row is tested once. So put each fold's scores at its test rows, and evaluate all
    pairs together: a difference within a pair has the same meaning whatever the fold.
    Each of the two is in increasing order.

    Args:
        num_rows: how many rows, such as pairs.
        num_folds: at least 2.
        seed: of the shuffle.
        groups: `[num_rows]`, rows of one number are never split, such as all pairs of a
            prompt; rows are apart unless given. Folds are then of about the same size.

    Raises:
        ValueError: there are fewer than 2 folds, or fewer rows or groups than folds.

    Example:
        >>> [test.tolist() for _, test in k_folds(4, 2, groups=[7, 7, 8, 8])]
        [[0, 1], [2, 3]]
    """
    check_at_least(2, num_folds=num_folds)
    labels = np.arange(num_rows) if groups is None else np.asarray(groups)
    if labels.shape != (num_rows,):
        raise ValueError(
            f"groups must have one number for each of {num_rows} rows, got the shape "
            f"{labels.shape}. Give one a row, or none."
        )
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < num_folds:
        raise ValueError(
            f"{num_folds} folds need as many rows that may be split, got {len(counts)}. "
            f"Use fewer folds, or more data."
        )
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    sizes, fold_of = np.zeros(num_folds, int), np.empty(len(counts), int)
    # The largest group first, each into the fold that has the fewest rows.
    for group in shuffled[np.argsort(-counts[shuffled], kind="stable")]:
        fold = int(sizes.argmin())
        fold_of[group], sizes[fold] = fold, sizes[fold] + counts[group]
    folds = fold_of[index]
    return [
        (np.flatnonzero(folds != i), np.flatnonzero(folds == i))
        for i in range(num_folds)
    ]
