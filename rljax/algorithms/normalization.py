"""Observations and rewards of about unit scale: running moments that a learner keeps.

Part of its state, so that a policy is saved together with what it saw its world through.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import Transition
from rljax.numerics.sums import add_compensated

LARGEST = 10.0
"""What is normalized is clipped to within this."""


class Moments(struct.PyTreeNode):
    """Mean and variance of all rows so far.

    Attributes:
        mean: `[...]`; 0 before the first row.
        variance: `[...]`; 1 before the first row.
        count: float32 scalar, how many rows.
        count_lost: see `rljax.numerics.sums`.
    """

    mean: jax.Array
    variance: jax.Array
    count: jax.Array
    count_lost: jax.Array

    @classmethod
    def of_nothing(cls, shape: tuple[int, ...]) -> "Moments":
        """Those of no rows."""
        zero = jnp.float32(0)
        return cls(
            jnp.zeros(shape, zero.dtype), jnp.ones(shape, zero.dtype), zero, zero
        )

    def add(self, rows: jax.Array) -> "Moments":
        """Those of `[N, ...]` more rows, too (Chan et al., 1983)."""
        more = jnp.float32(len(rows))
        count, lost = add_compensated(self.count, self.count_lost, more)
        share = more / count
        mean, variance = (x.astype(more.dtype) for x in (rows.mean(0), rows.var(0)))
        difference = mean - self.mean
        variance = (1 - share) * self.variance + share * variance
        return Moments(
            mean=self.mean + share * difference,
            variance=variance + share * (1 - share) * difference**2,
            count=count,
            count_lost=lost,
        )


class ReturnScale(struct.PyTreeNode):
    """The spread of discounted returns, by which rewards are divided.

    Attributes:
        moments: of the returns so far in all environments at every step, scalars.
        running: `[B]`, the discounted sums of the episodes that are going on.
    """

    moments: Moments
    running: jax.Array


class Normalizer(struct.PyTreeNode):
    """What observations and rewards are normalized by; either may be None.

    Attributes:
        observations: a pytree like an observation of `Moments`, None where a part of it
            is not of floating numbers.
        rewards: of the returns.
    """

    observations: Any
    rewards: ReturnScale | None

    def learn_and_normalize(
        self, steps: Transition, gamma: Any
    ) -> tuple["Normalizer", Transition]:
        """Learns from a rollout, leaves `[T, B, ...]`; and the rollout, normalized.

        Its observations by the moments of before, as the policy saw them; its rewards by
        the moments afterwards.
        """
        observations, rewards = self.observations, self.rewards
        if observations is not None:
            observations = jax.tree.map(
                lambda moments, x: moments and moments.add(x.reshape(-1, *x.shape[2:])),
                observations,
                steps.observation,
                is_leaf=_is_moments,
            )
        if rewards is not None:
            done = steps.terminated | steps.truncated

            def one_step(running, step):
                reward, done = step
                running = running * gamma + reward
                return jnp.where(done, 0.0, running), running

            running, returns = jax.lax.scan(
                one_step, rewards.running, (steps.reward, done)
            )
            rewards = ReturnScale(rewards.moments.add(returns.reshape(-1)), running)
            scaled = steps.reward / _spread(rewards.moments)
            steps = steps._replace(reward=jnp.clip(scaled, -LARGEST, LARGEST))
        steps = steps._replace(
            observation=normalize(self, steps.observation),
            next_observation=normalize(self, steps.next_observation),
        )
        return Normalizer(observations, rewards), steps


def make_normalizer(config: Any, observation: Any) -> Normalizer | None:
    """A normalizer that has seen nothing; None if none is asked for.

    Args:
        config: has the bools `normalize_observations` and `normalize_rewards`.
        observation: a batch of observations, leaves `[B, ...]`.

    Raises:
        ValueError: observations are to be normalized, and have no floating numbers.
    """
    if not config.normalize_observations and not config.normalize_rewards:
        return None

    def of_nothing(x: jax.Array) -> Moments | None:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return Moments.of_nothing(x.shape[1:]) if floating else None

    found = jax.tree.map(of_nothing, observation)
    if config.normalize_observations and not jax.tree.leaves(found):
        dtypes = sorted({str(x.dtype) for x in jax.tree.leaves(observation)})
        raise ValueError(
            f"normalize_observations needs observations of floating numbers, got "
            f"{', '.join(dtypes)}. Convert them in the environment, or switch it off."
        )
    num_envs = len(jax.tree.leaves(observation)[0])
    scale = ReturnScale(Moments.of_nothing(()), jnp.zeros(num_envs, jnp.float32))
    return Normalizer(
        found if config.normalize_observations else None,
        scale if config.normalize_rewards else None,
    )


def normalize(normalizer: Normalizer | None, observation: Any) -> Any:
    """Observations, leaves `[..., *shape]`, of about mean 0 and variance 1, float32."""
    if normalizer is None or normalizer.observations is None:
        return observation

    def one(moments: Moments | None, x: jax.Array) -> jax.Array:
        if moments is None:
            return x
        mean, spread = (
            jnp.broadcast_to(y, x.shape) for y in (moments.mean, _spread(moments))
        )
        scaled = jnp.clip((x - mean) / spread, -LARGEST, LARGEST)
        return scaled.astype(spread.dtype)

    return jax.tree.map(one, normalizer.observations, observation, is_leaf=_is_moments)


def _spread(moments: Moments) -> jax.Array:
    return jnp.sqrt(moments.variance + 1e-8)


def _is_moments(x: Any) -> bool:
    return x is None or isinstance(x, Moments)
