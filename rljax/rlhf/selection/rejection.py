"""Rejection sampling: fine-tune on the best of what was sampled, and on what compares to it.

Of M samples, each has a score and the number of its prompt:

    chosen = best_per_prompt(scores, prompts)              # Llama 2's choice
    control = matched_control(key, chosen, prompts)        # as many of each prompt
    task = SFTTask(take(samples, chosen), params)

Only against a control of as many samples of the same prompts does a gain come from the
scores rather than from more training. Touvron et al. (2023), Llama 2,
https://arxiv.org/abs/2307.09288, section 3.2.3; Dong et al. (2023), RAFT,
https://arxiv.org/abs/2304.06767; Lambert (2025), "RLHF", https://rlhfbook.com, chapter 9.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rljax.numerics.validation import check_at_least
from rljax.rlhf.data.rows import Completions


def best_per_prompt(
    scores: ArrayLike, prompts: ArrayLike, count: int = 1
) -> np.ndarray:
    """Returns the places of each prompt's best samples, prompt by prompt, best first.

    Of equal scores the first comes first; a prompt of fewer than `count` gives all it has.

    Args:
        scores: `[M]`.
        prompts: `[M]` int, the number of each sample's prompt.
        count: of samples for a prompt.

    Raises:
        ValueError: the shapes differ, or a score is NaN.

    Example:
        >>> best_per_prompt([0.3, 0.9, 0.5, 0.1], [0, 0, 1, 1])
        array([1, 2])
    """
    by, of = _checked(scores, prompts)
    check_at_least(1, count=count)
    order = np.lexsort((-by, of))  # stable
    _, first, sizes = np.unique(of[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, sizes)
    return order[rank < count]


def top_overall(scores: ArrayLike, count: int) -> np.ndarray:
    """Returns the places of the best samples of all prompts, the best first.

    Raises:
        ValueError: a score is NaN, or there are fewer than `count`.

    Example:
        >>> top_overall([0.3, 0.9, 0.5, 0.1], 2)
        array([1, 2])
    """
    by, _ = _checked(scores, np.zeros(len(np.asarray(scores)), np.int64))
    if not 1 <= count <= len(by):
        raise ValueError(
            f"count must lie in [1, {len(by)}], the samples there are, got {count}."
        )
    return np.argsort(-by, kind="stable")[:count]


def scored_at_least(scores: ArrayLike, threshold: float) -> np.ndarray:
    """Returns the places of samples whose score is the threshold or above, in order.

    Raises:
        ValueError: a score is NaN, or none is high enough.

    Example:
        >>> scored_at_least([0.3, 0.9, 0.5, 0.1], 0.5)
        array([1, 2])
    """
    by, _ = _checked(scores, np.zeros(len(np.asarray(scores)), np.int64))
    places = (by >= threshold).nonzero()[0]
    if not len(places):
        raise ValueError(
            f"no score is at least {threshold:g}, the highest is {by.max():g}. Lower the "
            f"threshold."
        )
    return places


def matched_control(
    key: jax.Array, chosen: ArrayLike, prompts: ArrayLike
) -> np.ndarray:
    """Returns the places of as many samples of each prompt, drawn at random.

    They are drawn without replacement from all samples of the prompt, so that some may be
    chosen ones; in the order of the prompts.

    Args:
        key: consumed.
        chosen: `[C]` int, the places to match, as a function here returns them.
        prompts: `[M]` int, the number of each sample's prompt.

    Raises:
        ValueError: a place comes twice, or is not one of the samples.

    Example:
        >>> prompts = np.array([0, 0, 1, 1, 1, 2])
        >>> control = matched_control(jax.random.key(0), [1, 2, 4], prompts)
        >>> prompts[control]
        array([0, 1, 1])
    """
    places, of = np.asarray(chosen), np.asarray(prompts)
    if (
        len(np.unique(places)) < len(places)
        or not np.isin(places, np.arange(len(of))).all()
    ):
        raise ValueError(
            f"chosen must be different places among the {len(of)} samples, got "
            f"{places!r:.60}."
        )
    numbers, which = np.unique(of, return_inverse=True)
    wanted = np.bincount(which[places], minlength=len(numbers))
    # A prompt's samples in the order of random numbers: the first are a draw of any size.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    order = np.lexsort((rng.permutation(len(of)), which))
    sizes = np.bincount(which)
    rank = np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[rank < np.repeat(wanted, sizes)]


def take(samples: Any, places: ArrayLike) -> Completions:
    """Returns rows for fine-tuning: the samples at these places.

    Args:
        samples: a record of M rows with `ids`, `lengths` and `starts`, as `Completions`.
        places: `[C]` int.
    """
    rows = jnp.asarray(np.asarray(places), jnp.int32)
    return Completions(
        ids=samples.ids[rows],
        lengths=samples.lengths[rows],
        starts=samples.starts[rows],
    )


def _checked(scores: ArrayLike, prompts: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    by, of = np.asarray(scores, np.float64), np.asarray(prompts)
    if by.ndim != 1 or by.shape != of.shape or not by.size:
        raise ValueError(
            f"scores and prompts must be one number for each sample, got shapes "
            f"{by.shape} and {of.shape}."
        )
    if np.isnan(by).any():
        raise ValueError(
            f"the score of sample {np.isnan(by).argmax()} is NaN. Leave it out."
        )
    return by, of
