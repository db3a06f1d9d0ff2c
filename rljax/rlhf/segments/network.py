"""The stock reward model r(observation, action) of environments."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.algorithms.encoders import Encoder, make_encoder
from rljax.algorithms.networks import MLP
from rljax.envs.spaces import split_mask
from rljax.envs.variation import one_of


class RewardNetwork(nn.Module):
    """A network of an observation and an action; its rewards may be shifted and scaled.

    Collections: `params`, and `scale` with scalars `mean` and `std`; the reward is the
    network's output less `mean`, over `std`.

    Attributes:
        hidden: widths of the hidden layers.
        encoder: makes observations vectors; None if they are.
        action_encoder: makes actions vectors; None if they are.
    """

    hidden: tuple[int, ...] = (64, 64)
    encoder: Encoder = None
    action_encoder: Encoder = None

    @nn.compact
    def __call__(self, observation: Any, action: Any) -> jax.Array:
        """float32 `[...]` rewards of `[..., D]` observations and the actions taken."""
        seen, _ = split_mask(observation)
        done = action
        if self.encoder is not None:
            seen = self.encoder(seen)
        if self.action_encoder is not None:
            done = self.action_encoder(done)
        x = jnp.concatenate([seen, done], axis=-1).astype(jnp.float32)
        output = MLP(self.hidden, 1)(x)[..., 0]
        mean = self.variable("scale", "mean", jnp.zeros, (), jnp.float32)
        std = self.variable("scale", "std", jnp.ones, (), jnp.float32)
        return (output - mean.value) / std.value


def make_reward_network(
    env: Any, params: Any, hidden: tuple[int, ...] = (64, 64)
) -> RewardNetwork:
    """The stock reward model for an environment's spaces.

    Observations and actions may be of any spaces that `rljax.make_network` takes.

    Args:
        env: the environment.
        params: its parameters.
        hidden: widths of the hidden layers.

    Raises:
        ValueError: a part of a space is of another kind.
    """
    params = one_of(params)
    space, _ = split_mask(env.observation_space(params))
    actions = env.action_space(params)
    return RewardNetwork(hidden, make_encoder(space), make_encoder(actions))
