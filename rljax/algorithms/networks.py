"""Flax networks for control: policies and value functions of a vector observation.

An actor-critic has three methods: `policy(observation)`, a distribution of
`rljax.algorithms.distributions`; `value(observation)`; and `__call__`, both at once. Learners call
the one they need, so a rollout never computes values.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.algorithms.distributions import Categorical, Normal
from rljax.base import Network, Params
from rljax.envs.spaces import Discrete
from rljax.numerics.linalg import matmul, orthogonal


class MLP(nn.Module):
    """Dense layers with tanh between them.

    Attributes:
        hidden: widths of the hidden layers.
        outputs: width of the linear output layer.
        output_scale: scale of the output layer's orthogonal initialization.
    """

    hidden: tuple[int, ...]
    outputs: int
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., D]` to `[..., outputs]`."""
        for width in self.hidden:
            x = nn.tanh(_dense(width, math.sqrt(2))(x))
        return _dense(self.outputs, self.output_scale)(x)


class _ActorCritic(nn.Module):
    def value(self, observation: jax.Array) -> jax.Array:
        """`[...]` values of `[..., D]` observations."""
        return self.critic(observation)[..., 0]

    def __call__(self, observation: jax.Array) -> tuple[Any, jax.Array]:
        """Policy and value of `[..., D]` observations."""
        return self.policy(observation), self.value(observation)


class ActorCritic(_ActorCritic):
    """Separate policy and value networks for discrete actions.

    Attributes:
        num_actions: number of actions A.
        hidden: widths of the hidden layers of either network.
    """

    num_actions: int
    hidden: tuple[int, ...] = (64, 64)

    def setup(self):
        """Makes both networks."""
        self.actor = MLP(self.hidden, self.num_actions, output_scale=0.01)
        self.critic = MLP(self.hidden, 1)

    def policy(self, observation: jax.Array) -> Categorical:
        """Action distribution for `[..., D]` observations."""
        return Categorical(self.actor(observation))


class NormalActorCritic(_ActorCritic):
    """Separate policy and value networks for continuous actions.

    Actions are drawn from a normal distribution, without bounds: an environment whose
    actions have some clips them in its `step`.

    Attributes:
        action_size: number of components D of an action.
        hidden: widths of the hidden layers of either network.
    """

    action_size: int
    hidden: tuple[int, ...] = (64, 64)

    def setup(self):
        """Makes both networks."""
        self.actor = MLP(self.hidden, self.action_size, output_scale=0.01)
        self.log_std = self.param("log_std", nn.initializers.zeros, (self.action_size,))
        self.critic = MLP(self.hidden, 1)

    def policy(self, observation: jax.Array) -> Normal:
        """Action distribution for `[..., D]` observations; its spread is learned."""
        mean = self.actor(observation)
        return Normal(mean, jnp.broadcast_to(self.log_std, mean.shape))


def check_policy(
    network: Network, params: Params, space: Any, observation: Any
) -> None:
    """Checks that a network's actions fit the environment's action space.

    `observation` is a batch of observations, leaves `[B, ...]`.

    Raises:
        ValueError: the actions do not fit.
    """

    def sample(params: Any, observation: Any) -> Any:
        policy = network.apply(params, observation, method="policy")
        return policy.sample(jax.random.key(0)), getattr(policy, "logits", None)

    action, logits = jax.eval_shape(sample, params, observation)
    discrete = isinstance(space, Discrete)
    if logits is None:
        found = f"actions of shape {action.shape[1:]}"
        fits = not discrete and action.shape[1:] == tuple(space.shape)
    else:
        found = f"{logits.shape[-1]} discrete actions"
        fits = discrete and logits.shape[-1] == space.n
    if not fits:
        raise ValueError(
            f"the network chooses among {found}, but the environment's action space is "
            f"{space}. Give the network the environment's number of actions (or its "
            f"action size)."
        )


def _dense(width: int, scale: float) -> nn.Dense:
    init = orthogonal(scale)
    return nn.Dense(width, kernel_init=init, dot_general=_product)


def _product(x, kernel, dimension_numbers, precision=None, **_):
    """The `dot_general` of `nn.Dense`, which contracts the last axis with the first."""
    del dimension_numbers, precision
    return matmul(x, kernel)
