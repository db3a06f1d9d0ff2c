"""Losses of reward models and of language models: elementwise, at least float32.

The caller adds them up and divides by a count, so that parts of a batch add up exactly.
"""

import jax
import jax.numpy as jnp


def bradley_terry_loss(
    scores: jax.Array,
    margins: jax.Array | float = 0.0,
    probs: jax.Array | float = 1.0,
    *,
    label_smoothing: jax.Array | float = 0.0,
    centring: jax.Array | float = 0.0,
) -> jax.Array:
    """Returns `[B]` minus log-likelihoods of comparisons.

    With d = chosen - rejected - margin, -p log sigma(d) - (1 - p) log sigma(-d), where
    p = probs, moved towards 1/2 by label smoothing e: (1 - e) p + e (1 - p); and
    centring * (chosen + rejected)^2, which keeps scores near 0.

    Args:
        scores: `[B, 2]`, of the chosen completion and of the rejected one.
        margins: `[B]`, by how much the chosen one is to be better.
        probs: `[B]`, the probability that the chosen one is preferred.
        label_smoothing: the share of labels that are wrong, in [0, 1/2).
        centring: the weight of the second term.

    References:
        Bradley and Terry (1952); margins: Touvron et al. (2023), Llama 2,
        https://arxiv.org/abs/2307.09288; centring: Eisenstein et al. (2023),
        https://arxiv.org/abs/2312.09244, as TRL has it.
    """
    chosen, rejected = scores[..., 0], scores[..., 1]
    difference = chosen - rejected - margins
    p = smoothed_probs(probs, label_smoothing)
    loss = -p * jax.nn.log_sigmoid(difference)
    loss -= (1 - p) * jax.nn.log_sigmoid(-difference)
    return loss + centring * (chosen + rejected) ** 2


def smoothed_probs(
    probs: jax.Array | float, label_smoothing: jax.Array | float
) -> jax.Array | float:
    """Returns the probability of a label of which a share `label_smoothing` is wrong.

    Conservative DPO: Mitchell (2023), "A note on DPO with noisy preferences & relationship
    to IPO", https://ericmitchell.ai/cdpo.pdf.
    """
    return (1 - label_smoothing) * probs + label_smoothing * (1 - probs)


def plackett_luce_loss(scores: jax.Array, present: jax.Array) -> jax.Array:
    """Returns `[B]` minus log-likelihoods of rankings: the best is drawn, then the next.

    -sum_k (s_k - log sum_{j >= k} exp s_j) over all places but the last; of two it is the
    Bradley-Terry loss.

    Args:
        scores: `[B, K]`, from the best to the worst.
        present: `[B, K]` bool, false where a ranking has fewer than K, at its end.

    References:
        Plackett (1975), "The analysis of permutations"; Luce (1959).
    """
    lowest = jnp.finfo(scores.dtype).min
    masked = jnp.where(present, scores, lowest)
    rest = jax.lax.cumlogsumexp(masked, axis=masked.ndim - 1, reverse=True)
    return jnp.where(present, rest - scores, 0.0).sum(axis=-1)


def preference_loss(
    scores: jax.Array,
    present: jax.Array,
    margins: jax.Array | float = 0.0,
    probs: jax.Array | float = 1.0,
    *,
    label_smoothing: jax.Array | float = 0.0,
    centring: jax.Array | float = 0.0,
) -> jax.Array:
    """Returns `[B]`: Bradley and Terry's loss of pairs, Plackett and Luce's of rankings.

    Args:
        scores: `[B, K]`, from the best to the worst.
        present: `[B, K]` bool, as `plackett_luce_loss` takes it; a row of two is a pair.
        margins: `[B]`, of pairs, as are the others.
        probs: `[B]`.
        label_smoothing: the share of labels that are wrong.
        centring: the weight of the term that keeps scores near 0.
    """
    pairs = bradley_terry_loss(
        scores[:, :2],
        margins,
        probs,
        label_smoothing=label_smoothing,
        centring=centring,
    )
    if scores.shape[1] == 2:
        return pairs
    longer = present.sum(axis=1) > 2
    return jnp.where(longer, plackett_luce_loss(scores, present), pairs)


def regression_loss(scores: jax.Array, ratings: jax.Array) -> jax.Array:
    """Returns `[B]` squared errors of scores `[B]`."""
    return (scores - ratings) ** 2


def completion_loss(log_probs: jax.Array, learned: jax.Array) -> jax.Array:
    """Returns `[B]` minus log-probabilities of completions, summed over their tokens.

    Args:
        log_probs: `[B, L - 1]`, of each row's tokens but the first.
        learned: `[B, L - 1]` bool, which of these are learned.
    """
    return -jnp.where(learned, log_probs, 0.0).sum(axis=-1)
