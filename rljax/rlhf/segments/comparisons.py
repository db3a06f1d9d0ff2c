"""Segments of rollouts, compared by a simulated person; kept in arrays of fixed shapes.

`T` is time, `B` environments, `L` the steps of a segment, `S` segments, `P` pairs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.base import Transition
from rljax.numerics import random


class Segment(struct.PyTreeNode):
    """What a person is shown, and a reward model learns from: leaves `[..., L, ...]`.

    Attributes:
        observation: what the policy saw.
        action: what it did.
        valid: bool `[..., L]`; false after the end of the episode.
    """

    observation: Any
    action: Any
    valid: jax.Array


class SegmentPairs(struct.PyTreeNode):
    """Comparisons so far, in the first `count` of `N` rows.

    Attributes:
        segments: leaves `[N, 2, L, ...]`.
        probs: float32 `[N]`, the probability that the first is preferred: 0 or 1 where
            somebody has chosen.
        count: int32 scalar.
    """

    segments: Segment
    probs: jax.Array
    count: jax.Array


class CutSegments(NamedTuple):
    """Segments and, unknown to the learner, what they are worth."""

    segments: Segment
    returns: jax.Array


def cut_segments(steps: Transition, utility: jax.Array, length: int) -> CutSegments:
    """Cuts a rollout into segments, one after the other; a rest is left out.

    A segment ends with its episode, if that comes first.

    Args:
        steps: leaves `[T, B, ...]`.
        utility: `[T, B]`, of each step, by which a person judges: the true reward, say.
        length: steps of a segment L, at most T.

    Returns:
        Segments, leaves `[S, L, ...]` with `S = T // L * B`, and their returns `[S]`, the
        sums of the utility over valid steps.
    """
    num_steps = len(steps.reward) // length * length

    def cut(x: jax.Array) -> jax.Array:
        pieces = x[:num_steps].reshape(-1, length, *x.shape[1:])
        return jnp.moveaxis(pieces, 2, 1).reshape(-1, length, *x.shape[2:])

    done = cut(steps.terminated | steps.truncated)
    ended_before = jnp.cumsum(done, axis=1) - done
    valid = ended_before == 0
    observation, action = jax.tree.map(cut, (steps.observation, steps.action))
    returns = jnp.where(valid, cut(utility), 0).sum(axis=1)
    return CutSegments(Segment(observation, action, valid), returns)


def prefers_first(
    key: jax.Array, returns: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """Draws which of two segments a simulated person prefers.

    The first with the probability sigma((R_1 - R_2) / temperature); at temperature 0 the
    better one, and either of two equally good.

    Args:
        key: consumed.
        returns: `[P, 2]`.
        temperature: in units of the return.

    Returns:
        bool `[P]`.

    References:
        Bradley & Terry (1952), "Rank analysis of incomplete block designs".
    """
    least = np.finfo(np.float32).tiny
    difference = returns[:, 0] - returns[:, 1]
    probability = jax.nn.sigmoid(difference / jnp.maximum(temperature, least))
    return random.uniforms(key, difference.shape) < probability


def draw_pairs(key: jax.Array, num_segments: int, num_pairs: int) -> jax.Array:
    """int32 `[P, 2]` numbers of two different segments each; consumes `key`."""
    first_key, second_key = jax.random.split(key)
    first = jax.random.randint(first_key, (num_pairs,), 0, num_segments)
    further = jax.random.randint(second_key, (num_pairs,), 1, num_segments)
    return jnp.stack([first, (first + further) % num_segments], axis=1)


def no_pairs(like: Segment, capacity: int) -> SegmentPairs:
    """Room for `capacity` comparisons of segments; `like` is one, or several: `[S, L]`."""

    def room(x: jax.Array) -> jax.Array:
        return jnp.zeros((capacity, 2, *x.shape[1:]), x.dtype)

    return SegmentPairs(
        jax.tree.map(room, like), jnp.zeros(capacity, jnp.float32), jnp.int32(0)
    )


def add_pairs(
    pairs: SegmentPairs, segments: Segment, first: jax.Array, num_new: jax.Array
) -> SegmentPairs:
    """Adds the first `num_new` of `P` comparisons, as far as there is room.

    Args:
        pairs: those so far.
        segments: leaves `[P, 2, L, ...]`.
        first: bool `[P]`, whether the first is preferred.
        num_new: int32 scalar, at most P; may be traced.
    """
    index = jnp.arange(len(first), dtype=jnp.int32)
    capacity = len(pairs.probs)
    row = jnp.where(index < num_new, pairs.count + index, capacity)

    def put(room: jax.Array, new: jax.Array) -> jax.Array:
        return room.at[row].set(new.astype(room.dtype), mode="drop")

    count = jnp.minimum(pairs.count + num_new, capacity).astype(jnp.int32)
    kept = jax.tree.map(put, pairs.segments, segments)
    return SegmentPairs(kept, put(pairs.probs, first), count)
