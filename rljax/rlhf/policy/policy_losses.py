"""Losses of policies, token by token, and the weights with which they add up to one.

A loss is a sum over completions of `token_weights` times the sum over their tokens; the
weights know the whole minibatch, so that parts of it add up exactly.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from rljax.algorithms.loss_terms import clipped_surrogate_loss, policy_gradient_loss

Ratio = Literal["none", "token", "sequence_mean", "sequence_sum"]
Clip = Literal["two_sided", "truncated"]
Aggregation = Literal["tokens", "sequences", "sums", "constant"]

MAX_LOG_RATIO = 20.0  # exp of it is finite, and far beyond any clip


def log_ratios(
    log_probs: jax.Array, old_log_probs: jax.Array, mask: jax.Array, ratio: Ratio
) -> jax.Array:
    """Returns `[N, T]` log importance ratios, those of a sequence at each of its tokens.

    Args:
        log_probs: `[N, T]`, of tokens under the policy being learned.
        old_log_probs: `[N, T]`, under the policy that sampled them.
        mask: `[N, T]` bool.
        ratio: of each token; of a whole sequence (`sequence_sum`: the ratio of its
            probabilities); or the geometric mean over its tokens (`sequence_mean`).

    References:
        sequence_mean: Zheng et al. (2025), https://arxiv.org/abs/2507.18071, eq. 7.
    """
    by_token = jnp.where(mask, log_probs - old_log_probs, 0.0)
    if ratio in ("none", "token"):
        return by_token
    of_sequence = by_token.sum(axis=1, keepdims=True)
    if ratio == "sequence_mean":
        of_sequence = of_sequence / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return jnp.where(mask, of_sequence, 0.0)


def policy_losses(
    log_probs: jax.Array,
    log_ratio: jax.Array,
    advantages: jax.Array,
    *,
    ratio: Ratio,
    clip: Clip,
    clip_low: float | jax.Array,
    clip_high: float | jax.Array,
    ratio_max: float | jax.Array,
) -> jax.Array:
    """Returns `[N, T]` losses, to be minimized.

    Args:
        log_probs: `[N, T]`, of tokens under the policy being learned.
        log_ratio: `[N, T]`, as `log_ratios` returns it.
        advantages: `[N, T]`; constants.
        ratio: `none` for the plain policy gradient, -A log pi; else that of `log_ratio`.
        clip: two_sided, PPO's: -min(ratio A, clip(ratio, 1 - low, 1 + high) A), where a
            ratio counts as `ratio_max` at most; or truncated, CISPO's:
            -min(ratio, ratio_max) A log pi, of which only log pi has a gradient.
        clip_low: how far a ratio may fall below 1.
        clip_high: how far it may rise above 1.
        ratio_max: its largest value, as such, not a distance from 1; for two_sided it
            bounds the loss where A < 0 (dual clip), as TRL's `delta` does.

    References:
        two_sided: Schulman et al. (2017), https://arxiv.org/abs/1707.06347, eq. 7;
        low and high: Yu et al. (2025), https://arxiv.org/abs/2503.14476, eq. 10;
        dual clip: Ye et al. (2020), https://arxiv.org/abs/1912.09729, eq. 5;
        truncated: MiniMax (2025), https://arxiv.org/abs/2506.13585, eq. 4.
    """
    if ratio == "none":
        return policy_gradient_loss(log_probs, advantages)
    log_ratio = jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    if clip == "truncated":
        weight = jnp.minimum(jnp.exp(jax.lax.stop_gradient(log_ratio)), ratio_max)
        return policy_gradient_loss(log_probs, weight * advantages)
    return clipped_surrogate_loss(
        log_ratio,
        jnp.zeros_like(log_ratio),
        advantages,
        clip_eps=clip_low,
        clip_eps_high=clip_high,
        ratio_max=ratio_max,
    )


def is_clipped(
    log_ratio: jax.Array,
    advantages: jax.Array,
    *,
    ratio: Ratio,
    clip: Clip,
    clip_low: float | jax.Array,
    clip_high: float | jax.Array,
    ratio_max: float | jax.Array,
) -> jax.Array:
    """Returns `[N, T]` bool: where a clip takes the gradient away, or truncates a weight."""
    if ratio == "none":
        return jnp.zeros(log_ratio.shape, bool)
    value = jnp.exp(log_ratio)
    if clip == "truncated":
        return value > ratio_max
    low = (value < 1 - clip_low) & (advantages < 0)
    high = (value > 1 + clip_high) & (advantages > 0)
    return low | high | ((value > ratio_max) & (advantages < 0))


def token_weights(
    num_tokens: jax.Array,
    aggregation: Aggregation,
    max_tokens: int,
    num_rows: jax.Array | int | None = None,
) -> jax.Array:
    """Returns `[N]`: what each of a completion's token losses is multiplied by.

    Args:
        num_tokens: `[N]`, tokens learned of each completion of a minibatch.
        aggregation: `tokens`, the mean over all tokens [DAPO]; `sequences`, the mean over
            the tokens of a completion, then over completions [GRPO], which gives the
            tokens of long ones less weight; `sums`, the sum over the tokens, the mean
            over completions [REINFORCE]: the policy gradient itself; `constant`, that
            divided by the most tokens a completion may have [Dr. GRPO].
        max_tokens: T.
        num_rows: completions that a mean over them is of; None: N.

    References:
        Yu et al. (2025), https://arxiv.org/abs/2503.14476, section 3.3; Liu et al. (2025),
        https://arxiv.org/abs/2503.20783, section 3.
    """
    counts = num_tokens.astype(jnp.float32)
    ones = jnp.ones_like(counts)
    count = counts.shape[0] if num_rows is None else jnp.maximum(num_rows, 1)
    if aggregation == "tokens":
        return ones / jnp.maximum(counts.sum(), 1)
    if aggregation == "sequences":
        return ones / (jnp.maximum(counts, 1) * count)
    if aggregation == "sums":
        return ones / count
    return ones / (count * max_tokens)
