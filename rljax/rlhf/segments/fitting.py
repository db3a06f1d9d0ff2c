"""Fits a reward model to comparisons of segments.

Christiano et al. (2017), "Deep reinforcement learning from human preferences",
https://arxiv.org/abs/1706.03741: the probability that one segment is preferred is that of
Bradley and Terry's model, of the sums of the rewards predicted over either.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rljax.base import Mean, Metrics, Network, Params
from rljax.numerics import random
from rljax.rlhf.segments.comparisons import Segment, SegmentPairs
from rljax.rlhf.training.losses import bradley_terry_loss


def predicted_returns(network: Network, weights: Any, segments: Segment) -> jax.Array:
    """`[...]` sums of predicted rewards over the valid steps of segments `[..., L]`."""
    rewards = network.apply(weights, segments.observation, segments.action)
    return jnp.where(segments.valid, rewards, 0).sum(axis=-1)


def fit_reward(
    key: jax.Array,
    network: Network,
    weights: Any,
    pairs: SegmentPairs,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: jax.Array | float,
    weight_decay: jax.Array | float,
    centred: bool,
) -> tuple[Any, Metrics]:
    """Takes AdamW's steps on batches of comparisons, from `weights`, to a rate of 0.

    Args:
        key: consumed.
        network: a module as `RewardNetwork`, with the collections `params` and `scale`.
        weights: the collections to start from.
        pairs: the comparisons; none leaves the weights as they are.
        num_steps: gradient steps; static.
        batch_size: comparisons in each, drawn with replacement; static.
        learning_rate: Adam's step size at first; it falls as half a cosine.
        weight_decay: of all weights, relative to the learning rate.
        centred: shift rewards, too, so that their mean over all segments is 0; else they
            are only scaled, to a standard deviation of 1. Where episodes end early, the
            shift matters.

    Returns:
        The collections; and the means `reward_loss`, in nats, and `reward_accuracy`, over
        all comparisons, ties counting one half.
    """
    schedule = optax.cosine_decay_schedule(1.0, num_steps)
    adam = optax.scale_by_adam()
    start = weights["params"]
    unscaled = {"mean": jnp.float32(0.0), "std": jnp.float32(1.0)}

    def loss(params: Params, rows: jax.Array) -> jax.Array:
        segments, probs = jax.tree.map(lambda x: x[rows], (pairs.segments, pairs.probs))
        variables = {"params": params, "scale": unscaled}
        returns = predicted_returns(network, variables, segments)
        return bradley_terry_loss(returns, 0.0, probs).mean()

    def gradient_step(carry, step):
        key, params, moments = carry
        key, row_key = jax.random.split(key)
        share = random.uniforms(row_key, (batch_size,))
        rows = jnp.minimum((share * pairs.count).astype(jnp.int32), pairs.count - 1)
        gradient = jax.grad(loss)(params, rows)
        direction, moments = adam.update(gradient, moments)
        rate = learning_rate * schedule(step)
        params = jax.tree.map(
            lambda p, d: p - rate * (d + weight_decay * p), params, direction
        )
        return (key, params, moments), None

    steps = jnp.arange(num_steps, dtype=jnp.int32)
    carry = key, start, adam.init(start)
    (_, params, _), _ = jax.lax.scan(gradient_step, carry, steps)
    params = jax.tree.map(lambda a, b: jnp.where(pairs.count > 0, a, b), params, start)
    rewards = network.apply(
        {"params": params, "scale": unscaled},
        pairs.segments.observation,
        pairs.segments.action,
    )
    scale = _scale_of(pairs, rewards, centred)
    return {"params": params, "scale": scale}, _metrics(pairs, rewards)


def _filled(pairs: SegmentPairs) -> jax.Array:
    """Bool `[N]`: the rows that hold a comparison."""
    return jnp.arange(len(pairs.probs), dtype=jnp.int32) < pairs.count


def _scale_of(
    pairs: SegmentPairs, rewards: jax.Array, centred: bool
) -> dict[str, jax.Array]:
    """Mean, or 0, and standard deviation of the rewards `[N, 2, L]` that were compared."""
    used = pairs.segments.valid & _filled(pairs)[:, None, None]
    count = jnp.maximum(used.sum(), 1)
    mean = jnp.where(used, rewards, 0).sum() / count
    variance = jnp.where(used, (rewards - mean) ** 2, 0).sum() / count
    std = jnp.where(variance > 0, jnp.sqrt(jnp.maximum(variance, 1e-12)), 1.0)
    return {"mean": mean if centred else jnp.zeros_like(mean), "std": std}


def _metrics(pairs: SegmentPairs, rewards: jax.Array) -> Metrics:
    """Loss and accuracy over all comparisons, by rewards `[N, 2, L]` as they were fitted."""
    scores = jnp.where(pairs.segments.valid, rewards, 0).sum(axis=-1)
    losses = bradley_terry_loss(scores, 0.0, pairs.probs)
    sign = jnp.sign(scores[:, 0] - scores[:, 1])
    correct = (1 + (2 * pairs.probs - 1) * sign) / 2
    filled, number = _filled(pairs), pairs.count.astype(jnp.float32)
    return {
        name: Mean(jnp.where(filled, x, 0).sum(), number)
        for name, x in (("reward_loss", losses), ("reward_accuracy", correct))
    }
