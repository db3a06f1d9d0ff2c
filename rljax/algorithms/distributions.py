"""Distributions over actions: the output of a policy network.

Each is a pytree of parameters whose leading axes are batch axes, and four pure functions
of it: `sample`, `log_prob`, `entropy` and `kl`; `mode` is the greedy action. A sample is a
function, `sample_from`, of `noise` that does not depend on the parameters, so that a rollout
draws the noise of all its steps in one go.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.numerics import random


class Categorical(struct.PyTreeNode):
    """A distribution over `A` discrete actions.

    Attributes:
        logits: `[..., A]` unnormalised log-probabilities.
    """

    logits: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """`[...]` int32 actions; consumes `key`."""
        return self.sample_from(self.noise(key))

    def noise(self, key: jax.Array) -> jax.Array:
        """`[..., A]` Gumbel noise; only the shape of the logits matters."""
        return random.gumbels(key, self.logits.shape).astype(self.logits.dtype)

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """`[...]` int32 actions of noise that was drawn before; the Gumbel-max trick."""
        return jnp.argmax(self.logits + noise, axis=-1).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """`[...]` int32: the most probable actions; the first where several tie."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """`[...]` log-probabilities of `[...]` integer actions.

        Example:
            >>> float(jnp.exp(Categorical(jnp.zeros(4)).log_prob(jnp.int32(2))))
            0.25
        """
        log_probs = jax.nn.log_softmax(self.logits)
        # By comparison: the gradient of a gather is a scatter, which is slow.
        taken = jax.nn.one_hot(action, log_probs.shape[-1], dtype=bool)
        return jnp.sum(jnp.where(taken, log_probs, 0.0), axis=-1)

    def entropy(self) -> jax.Array:
        """`[...]` entropies, in nats."""
        prob, log_prob = _prob_and_log_prob(self.logits)
        return -jnp.sum(prob * log_prob, axis=-1)

    def kl(self, other: "Categorical") -> jax.Array:
        """`[...]` KL(self || other), in nats."""
        prob, log_prob = _prob_and_log_prob(self.logits)
        log_other = jax.nn.log_softmax(other.logits)
        difference = log_prob - jnp.where(prob > 0, log_other, 0.0)
        return jnp.sum(prob * difference, axis=-1)


def _prob_and_log_prob(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    # An impossible action (logit -inf) gets log-probability 0, so that it contributes
    # 0 log 0 = 0 to a sum, and to its gradient, instead of NaN.
    log_prob = jax.nn.log_softmax(logits)
    possible = ~jnp.isneginf(log_prob)
    log_prob = jnp.where(possible, log_prob, 0.0)
    return jnp.where(possible, jnp.exp(log_prob), 0.0), log_prob


class MultiCategorical(struct.PyTreeNode):
    """Independent distributions over the discrete choices of `MultiDiscrete` actions.

    Attributes:
        logits: `[..., sum(nvec)]` unnormalised log-probabilities, choice after choice.
        nvec: elements of each of the `K` choices.
    """

    logits: jax.Array
    nvec: tuple[int, ...] = struct.field(pytree_node=False)

    def sample(self, key: jax.Array) -> jax.Array:
        """`[..., K]` int32 actions; consumes `key`."""
        return self.sample_from(self.noise(key))

    def noise(self, key: jax.Array) -> jax.Array:
        """`[..., sum(nvec)]` Gumbel noise; only the shape of the logits matters."""
        return Categorical(self.logits).noise(key)

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """`[..., K]` int32 actions of noise that was drawn before."""
        noises = self.replace(logits=noise).choices()
        pairs = zip(self.choices(), noises, strict=True)
        return jnp.stack([x.sample_from(y.logits) for x, y in pairs], axis=-1)

    def mode(self) -> jax.Array:
        """`[..., K]` int32: the most probable actions; the first where several tie."""
        return jnp.stack([choice.mode() for choice in self.choices()], axis=-1)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """`[...]` log-probabilities of `[..., K]` integer actions."""
        chosen = jnp.moveaxis(action, -1, 0)
        pairs = zip(self.choices(), chosen, strict=True)
        return sum((choice.log_prob(x) for choice, x in pairs), jnp.float32(0))

    def entropy(self) -> jax.Array:
        """`[...]` entropies, in nats."""
        return sum((choice.entropy() for choice in self.choices()), jnp.float32(0))

    def kl(self, other: "MultiCategorical") -> jax.Array:
        """`[...]` KL(self || other), in nats."""
        pairs = zip(self.choices(), other.choices(), strict=True)
        return sum((one.kl(theirs) for one, theirs in pairs), jnp.float32(0))

    def choices(self) -> list[Categorical]:
        """The distribution of each choice, logits `[..., nvec[i]]`."""
        ends = np.cumsum(self.nvec)[:-1].tolist()
        return [Categorical(x) for x in jnp.split(self.logits, ends, axis=-1)]


class Normal(struct.PyTreeNode):
    """Independent normal distributions over the `D` components of a continuous action.

    Attributes:
        mean: `[..., D]`.
        log_std: `[..., D]` logarithms of the standard deviations.
    """

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """`[..., D]` actions; consumes `key`."""
        return self.sample_from(self.noise(key))

    def noise(self, key: jax.Array) -> jax.Array:
        """`[..., D]` standard normal noise; only the shape of the mean matters."""
        return random.normals(key, self.mean.shape).astype(self.mean.dtype)

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """`[..., D]` actions of noise that was drawn before."""
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> jax.Array:
        """`[..., D]`: the mean."""
        return self.mean

    def log_prob(self, action: jax.Array) -> jax.Array:
        """`[...]` log-densities of `[..., D]` actions, summed over the components."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        density = -0.5 * z**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return jnp.sum(density, axis=-1)

    def entropy(self) -> jax.Array:
        """`[...]` differential entropies, in nats."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: "Normal") -> jax.Array:
        """`[...]` KL(self || other), in nats."""
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        shift = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        log_ratio = other.log_std - self.log_std
        return jnp.sum(log_ratio + 0.5 * (ratio + shift - 1.0), axis=-1)


class SquashedNormal(struct.PyTreeNode):
    """Normal numbers squashed by tanh into the bounds of an action, `D` components.

    An action is `low + (high - low) (tanh(u) + 1) / 2` of normal `u`.

    Attributes:
        normal: the distribution of `u`.
        low: lower bounds, of each component or of all.
        high: upper bounds, likewise.

    References:
        Haarnoja et al. (2018), https://arxiv.org/abs/1801.01290, appendix C.
    """

    normal: Normal
    low: tuple[float, ...] = struct.field(pytree_node=False)
    high: tuple[float, ...] = struct.field(pytree_node=False)

    def sample(self, key: jax.Array) -> jax.Array:
        """`[..., D]` actions within the bounds; consumes `key`."""
        return self.sample_from(self.noise(key))

    def noise(self, key: jax.Array) -> jax.Array:
        """`[..., D]` standard normal noise; only the shape of the mean matters."""
        return self.normal.noise(key)

    def sample_from(self, noise: jax.Array) -> jax.Array:
        """`[..., D]` actions of noise that was drawn before."""
        return self._squash(self.normal.sample_from(noise))

    def mode(self) -> jax.Array:
        """`[..., D]`: the squashed mean, which is the median."""
        return self._squash(self.normal.mean)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """`[...]` log-densities of `[..., D]` actions, summed over the components."""
        middle, half = self._middle_and_half(action)
        # At the bounds themselves u is infinite.
        share = jnp.clip((action - middle) / half, -_NEAR_ONE, _NEAR_ONE)
        u = jnp.arctanh(share)
        return self.normal.log_prob(u) - jnp.sum(self._log_slope(u), axis=-1)

    def entropy(self) -> jax.Array:
        """`[...]` differential entropies, in nats, by Gauss and Hermite's quadrature."""
        std = jnp.exp(self.normal.log_std)
        points, weights = np.polynomial.hermite_e.hermegauss(24)
        nodes = points.astype(np.float32).reshape(-1, *(1,) * std.ndim)
        u = self.normal.mean[None] + std[None] * nodes
        shares = (weights / math.sqrt(2 * math.pi)).astype(np.float32)
        slopes = jnp.tensordot(shares, self._log_slope(u), axes=1)
        return self.normal.entropy() + jnp.sum(slopes, axis=-1)

    def kl(self, other: "SquashedNormal") -> jax.Array:
        """`[...]` KL(self || other), in nats; both have the same bounds."""
        return self.normal.kl(other.normal)  # squashing both alike changes nothing

    def _squash(self, u: jax.Array) -> jax.Array:
        middle, half = self._middle_and_half(u)
        ends = (
            np.broadcast_to(np.asarray(x, np.float32), u.shape)
            for x in (self.low, self.high)
        )
        return jnp.clip(middle + half * jnp.tanh(u), *ends)

    def _middle_and_half(self, like: jax.Array) -> list[np.ndarray]:
        low, high = (np.asarray(x, np.float32) for x in (self.low, self.high))
        return [np.broadcast_to(x / 2, like.shape) for x in (low + high, high - low)]

    def _log_slope(self, u: jax.Array) -> jax.Array:
        """The logarithm of d action / d u."""
        _, half = self._middle_and_half(u)
        return 2 * (math.log(2) - u - jax.nn.softplus(-2 * u)) + np.log(half)


_NEAR_ONE = np.float32(1 - 2**-22)


def draw_policy_noise(
    key: jax.Array, policy: Callable[[Any], Any], observation: Any, num_steps: int
) -> Any:
    """Noise `[T, B, ...]` from which a policy's actions of `T` steps are sampled.

    Environment i's noise does not depend on how many environments there are.

    Args:
        key: consumed.
        policy: maps observations to their distribution.
        observation: leaves `[B, ...]`; only the shapes matter.
        num_steps: number of steps T.
    """

    def all_steps(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(x), num_steps, *x.shape[1:]), x.dtype)

    shapes = jax.eval_shape(policy, jax.tree.map(all_steps, observation))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), shapes.noise(key))
