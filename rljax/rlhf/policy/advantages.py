"""Advantages: by how much a completion, or a token of it, was better than expected."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from rljax.algorithms.returns import gae

Baseline = Literal["none", "batch", "group", "leave_one_out"]
Scale = Literal["none", "group", "batch"]

EPS = 1e-4
"""Added to a standard deviation before it divides, as TRL has it."""


def completion_advantages(
    rewards: jax.Array, group_size: int, *, baseline: Baseline, scale: Scale
) -> jax.Array:
    """Returns `[N]` rewards less a baseline, divided by a standard deviation.

    The baseline: the mean over the batch or over the group, or, with `leave_one_out`, the
    mean over the *others* of the group, with which the policy gradient has no bias at any
    group size. Of a group whose rewards are all equal the advantages are 0, or, with the
    batch's mean for a baseline, all equal.

    Dividing by the group's standard deviation changes what is optimized: with a
    divergence in the loss, the fixed point is pi_ref exp(r / (beta sigma)).

    Args:
        rewards: `[N]`, those of a group one after another.
        group_size: completions of each prompt.
        baseline: what is subtracted.
        scale: what divides: the standard deviation (of a sample, ddof 1) of the rewards
            of the group or of the batch, plus `EPS`.

    References:
        group and scale: Shao et al. (2024), https://arxiv.org/abs/2402.03300, 4.1.2;
        leave_one_out: Ahmadian et al. (2024), https://arxiv.org/abs/2402.14740, eq. 8;
        without a scale: Liu et al. (2025), https://arxiv.org/abs/2503.20783.
    """
    groups = rewards.reshape(-1, group_size)
    mean = groups.mean(axis=1, keepdims=True)
    advantages = groups
    if baseline == "batch":
        advantages = groups - rewards.mean()
    elif baseline == "group":
        advantages = groups - mean
    elif baseline == "leave_one_out":
        advantages = (groups - mean) * (group_size / (group_size - 1))
    if scale == "group":
        advantages = advantages / (groups.std(axis=1, ddof=1, keepdims=True) + EPS)
    elif scale == "batch":
        advantages = advantages / (rewards.std(ddof=1) + EPS)
    return advantages.reshape(-1)


def equal_groups(rewards: jax.Array, group_size: int) -> jax.Array:
    """Returns `[N / group_size]` bool: whether a group's rewards are all the same.

    From such a group nothing is learned where its mean is the baseline.
    """
    groups = rewards.reshape(-1, group_size)
    return groups.max(axis=1) == groups.min(axis=1)


def divergence_advantages(divergence: jax.Array, group_size: int) -> jax.Array:
    """Returns `[N, T]` minus the divergence of the tokens after each, less a baseline.

    The baseline is the mean at the same place over the others of the group, if there are
    any: it has no bias.

    Args:
        divergence: `[N, T]`, of each token, 0 after a completion's end.
        group_size: completions of each prompt.
    """
    later = jax.lax.cumsum(divergence, axis=1, reverse=True) - divergence
    if group_size == 1:
        return -later
    groups = later.reshape(-1, group_size, later.shape[1])
    apart = groups - groups.mean(axis=1, keepdims=True)
    return -(apart * (group_size / (group_size - 1))).reshape(later.shape)


def token_advantages(
    rewards: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    *,
    gae_lambda: float | jax.Array,
) -> jax.Array:
    """Returns `[N, T]` generalized advantage estimates with gamma = 1; 0 where masked.

    With lambda = 1 it is the sum of the rewards to come less the value. Add the values for
    what a critic is to learn.

    Args:
        rewards: `[N, T]`, of each token.
        values: `[N, T]`, expected before each token.
        mask: `[N, T]` bool, true from the first place up to a completion's end.
        gae_lambda: trace decay.

    References:
        Schulman et al. (2016), https://arxiv.org/abs/1506.02438, eq. 16.
    """
    rewards, values = jnp.where(mask, rewards, 0.0), jnp.where(mask, values, 0.0)
    # A completion's end ends the episode, whether it stopped or ran out of tokens.
    next_values = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    ends = mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
    never = jnp.zeros_like(ends)
    estimate = functools.partial(gae, gamma=1.0, gae_lambda=gae_lambda)
    advantages = jax.vmap(estimate)(rewards, values, next_values, ends, never)
    return jnp.where(mask, advantages, 0.0)


def at_last_token(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns `[N, T]` rewards that are 0 but at each completion's last token."""
    places = jnp.arange(mask.shape[1])[None]
    return jnp.where(places == mask.sum(axis=1)[:, None] - 1, scores[:, None], 0.0)


def whiten(x: jax.Array, mask: jax.Array, *, shift: bool = True) -> jax.Array:
    """Returns `x` scaled to variance 1, and with `shift` to mean 0, where the mask is true.

    Elsewhere it is 0. `EPS` is added to the standard deviation (of a sample, ddof 1); that
    of a single number, or none, counts as 0.

    Args:
        x: of any shape.
        mask: bool, of the same shape.
        shift: whether to subtract the mean, rather than keep it.
    """
    count = mask.sum()
    mean = jnp.where(mask, x, 0.0).sum() / jnp.maximum(count, 1)
    variance = jnp.where(mask, (x - mean) ** 2, 0.0).sum() / jnp.maximum(count - 1, 1)
    whitened = (x - mean) / (jnp.sqrt(variance) + EPS)
    return jnp.where(mask, whitened if shift else whitened + mean, 0.0)
