"""What an update learns from: completions with their advantages; and its metrics."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import Mean, Metrics
from rljax.rlhf.policy.advantages import (
    at_last_token,
    completion_advantages,
    divergence_advantages,
    equal_groups,
    token_advantages,
    whiten,
)
from rljax.rlhf.policy.policy_losses import token_weights
from rljax.rlhf.policy.samples import Samples, cut_tokens
from rljax.rlhf.policy.settings import PolicyConfig, PolicyHyperparams, PolicyMethod


class Experience(struct.PyTreeNode):
    """N completions to learn from, of T tokens at most.

    Attributes:
        samples: the completions.
        advantages: `[N, T]`.
        targets: `[N, T]`, for the critic; None without one.
        learned: `[N]` bool, which are learned from at all.
        counted: `[N]` bool, which a mean over completions is of.
        weights: `[N]`, of each token's loss; None until the minibatch is known.
        value_weights: `[N]`, of each value's loss, likewise.
        places: `[N]` int32, each one's place in its minibatch, likewise.
    """

    samples: Samples
    advantages: jax.Array
    targets: Any
    learned: jax.Array
    counted: jax.Array
    weights: Any = None
    value_weights: Any = None
    places: Any = None

    @property
    def longest(self) -> jax.Array:
        """`[N]` int32: tokens of each row."""
        return self.samples.lengths

    def cut(self, length: int) -> "Experience":
        """Returns rows of so many tokens."""
        samples = self.samples.cut(length)
        tokens = samples.log_probs.shape[1]
        return self.replace(
            samples=samples,
            advantages=self.advantages[:, :tokens],
            targets=cut_tokens(self.targets, tokens),
        )

    def as_minibatch(self, method: PolicyMethod, max_new_tokens: int) -> "Experience":
        """Returns the same with weights, which need all of a minibatch."""
        tokens = self.samples.num_learned * self.learned
        learned = self.learned.astype(jnp.float32)
        weights = token_weights(
            tokens, method.aggregation, max_new_tokens, self.counted.sum()
        )
        of_values = token_weights(tokens, "tokens", max_new_tokens)
        return self.replace(
            weights=weights * learned,
            value_weights=of_values * learned,
            places=jnp.arange(len(tokens)),
        )


def learn_from(
    samples: Samples,
    rewards: jax.Array,
    hyperparams: PolicyHyperparams,
    beta: jax.Array,
    config: PolicyConfig,
) -> tuple[Experience, Metrics]:
    """Returns what an update learns from, and metrics of it.

    Args:
        samples: N completions.
        rewards: `[N]`, of each.
        hyperparams: of the penalties and of the estimation.
        beta: weight of the divergence.
        config: the method, and the size of a group.
    """
    shape = getattr(rewards, "shape", None)
    if shape != samples.lengths.shape:
        got = type(rewards).__name__ if shape is None else f"the shape {shape}"
        raise ValueError(
            f"rewards must be an array of one number for each of the "
            f"{len(samples.lengths)} completions, got {got}. Return one of that shape."
        )
    method, mask = config.method, samples.mask
    rewards = rewards.astype(jnp.float32)
    scores = rewards - penalties(samples, hyperparams)
    divergence = _divergence(method, samples)
    targets = None
    if method.critic == "none":
        totals = scores
        if method.kl == "reward":
            totals = scores - beta * divergence.sum(axis=1)
        advantages = completion_advantages(
            totals, config.group_size, baseline=method.baseline, scale=method.scale
        )
        if method.whiten:
            advantages = whiten(advantages, jnp.ones_like(advantages, bool))
        advantages = jnp.broadcast_to(advantages[:, None], mask.shape)
        if method.kl == "whole":
            # Not scaled, as the other part of its gradient is not.
            later = divergence_advantages(divergence, config.group_size)
            advantages = advantages + beta * later
        advantages = jnp.where(mask, advantages, 0.0)
    else:
        token_rewards = at_last_token(scores, mask)
        if method.kl in ("reward", "whole"):
            token_rewards -= beta * divergence
        advantages = token_advantages(
            token_rewards, samples.values, mask, gae_lambda=hyperparams.gae_lambda
        )
        targets = advantages + samples.values
        if method.whiten:
            advantages = whiten(advantages, mask)
    equal = equal_groups(scores, config.group_size)
    every = jnp.ones(rewards.shape, bool)
    counted = every
    if not method.learn_equal_groups:
        counted = jnp.repeat(~equal, config.group_size)
    experience = Experience(
        samples=samples,
        advantages=advantages,
        targets=targets,
        learned=counted if method.learn_unstopped else counted & samples.stopped,
        counted=counted,
    )

    tokens = mask.sum().astype(jnp.float32)
    metrics = {
        "reward": Mean.of(rewards),
        "score": Mean.of(scores),
        # The mean of -log pi, of tokens drawn from pi, is its entropy's.
        "entropy": Mean(-jnp.where(mask, samples.log_probs, 0.0).sum(), tokens),
        "completion_tokens": Mean.of(samples.num_learned.astype(jnp.float32)),
        "stopped": Mean.of(samples.stopped.astype(jnp.float32)),
        "equal_groups": Mean.of(equal.astype(jnp.float32)),
    }
    if method.kl != "none":
        metrics["kl"] = Mean.of(divergence.sum(axis=1))
        metrics["kl_per_token"] = Mean(divergence.sum(), tokens)
        metrics["beta"] = Mean.of(beta)
    if targets is not None:
        metrics["explained_variance"] = Mean.of(
            _explained_variance(samples.values, targets, mask)
        )
    return experience, metrics


def penalties(samples: Samples, hyperparams: PolicyHyperparams) -> jax.Array:
    """Returns `[N]`, what is subtracted from rewards: for not stopping, and for length.

    For length it is nothing up to T - buffer tokens, `length_penalty` at T, and rises
    linearly between them: Yu et al. (2025), https://arxiv.org/abs/2503.14476, eq. 13.
    """
    # Without a buffer it is that of T tokens alone, as with a buffer of one.
    buffer = jnp.maximum(hyperparams.length_buffer, 1.0)
    over = samples.num_learned - (samples.log_probs.shape[1] - buffer)
    share = jnp.clip(over / buffer, 0.0, 1.0)
    unstopped = hyperparams.stop_penalty * ~samples.stopped
    return unstopped + hyperparams.length_penalty * share


def _divergence(method: PolicyMethod, samples: Samples) -> jax.Array:
    """Returns `[N, T]` divergences of tokens, exact or estimated; 0 without a reference."""
    if method.kl == "none":
        return jnp.zeros(samples.mask.shape)
    if method.kl_estimator == "exact":
        return samples.kl
    log_ratio = samples.log_probs - samples.reference_log_probs
    return jnp.where(samples.mask, log_ratio, 0.0)


def _explained_variance(
    values: jax.Array, targets: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the share of the targets' variance that the values predicted; at most 1."""
    count = jnp.maximum(mask.sum(), 1)

    def variance(x: jax.Array) -> jax.Array:
        mean = jnp.where(mask, x, 0.0).sum() / count
        return jnp.where(mask, (x - mean) ** 2, 0.0).sum() / count

    return 1.0 - variance(targets - values) / jnp.maximum(variance(targets), 1e-8)
