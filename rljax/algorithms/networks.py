"""Flax networks for control: policies and value functions; `make_network` chooses one.

An actor-critic has three methods: `policy(observation)`, a distribution of
`rljax.algorithms.distributions`; `value(observation)`; and `__call__`, both at once. Learners call
the one they need, so a rollout never computes values.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms.distributions import (
    Categorical,
    MultiCategorical,
    Normal,
    SquashedNormal,
)
from rljax.algorithms.encoders import Encoder, make_encoder
from rljax.base import Network
from rljax.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    has_structure,
    is_same_kind,
    split_mask,
)
from rljax.envs.variation import each_of, one_of
from rljax.numerics.linalg import matmul, orthogonal


class MLP(nn.Module):
    """Dense layers with tanh between them.

    Attributes:
        hidden: widths of the hidden layers.
        outputs: width of the linear output layer.
        output_scale: scale of the output layer's orthogonal initialization.
        encoder: makes observations vectors; by default they are.
    """

    hidden: tuple[int, ...]
    outputs: int
    output_scale: float = 1.0
    encoder: Encoder = None

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        """Maps `[..., D]`, or what the encoder takes, to `[..., outputs]`."""
        x = self.encoder(x) if self.encoder is not None else x.astype(jnp.float32)
        for width in self.hidden:
            x = nn.tanh(_dense(width, math.sqrt(2))(x))
        return _dense(self.outputs, self.output_scale)(x)


class _ActorCritic(nn.Module):
    def value(self, observation: Any) -> jax.Array:
        """`[...]` values of `[..., D]` observations."""
        return self.critic(split_mask(observation)[0])[..., 0]

    def __call__(self, observation: Any) -> tuple[Any, jax.Array]:
        """Policy and value of `[..., D]` observations."""
        return self.policy(observation), self.value(observation)


class ActorCritic(_ActorCritic):
    """Separate policy and value networks for discrete actions.

    Attributes:
        num_actions: number of actions A.
        hidden: widths of the hidden layers of either network.
        encoder: see `MLP`; `make_network` chooses it.
    """

    num_actions: int
    hidden: tuple[int, ...] = (64, 64)
    encoder: Encoder = None

    def setup(self):
        """Makes both networks."""
        self.actor = MLP(self.hidden, self.num_actions, 0.01, self.encoder)
        self.critic = MLP(self.hidden, 1, encoder=self.encoder)

    def policy(self, observation: Any) -> Categorical:
        """Action distribution for `[..., D]` observations.

        Of a dictionary with an `action_mask`, bool `[..., A]`, only actions whose mask is
        true have a probability above 0; at least one must be.
        """
        observation, mask = split_mask(observation)
        logits = self.actor(observation)
        return Categorical(
            logits if mask is None else jnp.where(mask, logits, -jnp.inf)
        )


class MultiActorCritic(_ActorCritic):
    """Separate policy and value networks for `MultiDiscrete` actions.

    Attributes:
        nvec: number of elements of each choice.
        hidden: widths of the hidden layers of either network.
        encoder: see `MLP`; `make_network` chooses it.
    """

    nvec: tuple[int, ...]
    hidden: tuple[int, ...] = (64, 64)
    encoder: Encoder = None

    def setup(self):
        """Makes both networks."""
        self.actor = MLP(self.hidden, sum(self.nvec), 0.01, self.encoder)
        self.critic = MLP(self.hidden, 1, encoder=self.encoder)

    def policy(self, observation: Any) -> MultiCategorical:
        """Action distribution for `[..., D]` observations; masks: `[..., sum(nvec)]`."""
        observation, mask = split_mask(observation)
        logits = self.actor(observation)
        if mask is not None:
            logits = jnp.where(mask, logits, -jnp.inf)
        return MultiCategorical(logits, self.nvec)


class NormalActorCritic(_ActorCritic):
    """Separate policy and value networks for continuous actions.

    Attributes:
        action_size: number of components D of an action.
        hidden: widths of the hidden layers of either network.
        low: lower bounds of the components, or one for all; None: actions are normal,
            without bounds. With bounds, normal numbers are squashed into them by tanh.
        high: upper bounds, likewise.
        encoder: see `MLP`; `make_network` chooses it.
    """

    action_size: int
    hidden: tuple[int, ...] = (64, 64)
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None
    encoder: Encoder = None

    def setup(self):
        """Makes both networks."""
        self.actor = MLP(self.hidden, self.action_size, 0.01, self.encoder)
        self.log_std = self.param(
            "log_std", nn.initializers.zeros, (self.action_size,), jnp.float32
        )
        self.critic = MLP(self.hidden, 1, encoder=self.encoder)

    def policy(self, observation: Any) -> Normal | SquashedNormal:
        """Action distribution for `[..., D]` observations; its spread is learned."""
        mean = self.actor(split_mask(observation)[0])
        normal = Normal(mean, jnp.broadcast_to(self.log_std, mean.shape))
        if self.low is None or self.high is None:
            return normal
        bounds = (x if isinstance(x, tuple) else (x,) for x in (self.low, self.high))
        return SquashedNormal(normal, *bounds)


def make_network(env: Any, params: Any, hidden: tuple[int, ...] = (64, 64)) -> Any:
    """The stock actor-critic for an environment's spaces.

    Observations may be of any space of `rljax.envs.spaces`, or dictionaries and tuples of
    them: vectors as they are, images through convolutions, the rest flattened. A `bool`
    part `action_mask` of a dictionary says which discrete actions there are.

    Args:
        env: the environment.
        params: its parameters.
        hidden: widths of the hidden layers.

    Raises:
        ValueError: no stock network fits a space; the message says which does.
    """
    params = one_of(params)
    encoder = make_encoder(split_mask(env.observation_space(params))[0])
    space = env.action_space(params)
    if isinstance(space, Discrete):
        return ActorCritic(space.n, hidden, encoder)
    if isinstance(space, MultiDiscrete):
        return MultiActorCritic(space.nvec, hidden, encoder)
    is_box = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
    if not is_box or len(space.shape) != 1:
        raise ValueError(
            f"the stock networks act in Discrete, MultiDiscrete and floating Boxes of one "
            f"axis, got {space}. Give the environment such a space (whole numbers: "
            f"MultiDiscrete), or write a network."
        )
    ends = (
        np.broadcast_to(np.asarray(x), space.shape) for x in (space.low, space.high)
    )
    low, high = (tuple(float(x) for x in end) for end in ends)
    if not np.isfinite((low, high)).all():
        if np.isfinite((low, high)).any():
            raise ValueError(
                f"the stock networks take actions with bounds on all sides or on none, "
                f"got {space}. Choose finite bounds, or write a network."
            )
        return NormalActorCritic(space.shape[0], hidden, encoder=encoder)
    with np.errstate(over="ignore"):
        width = np.subtract(high, low, dtype=np.float32)
    if not (np.isfinite(width) & (width > 0)).all():
        raise ValueError(
            f"the stock networks take action components between two different bounds that "
            f"are less than 3.4e38 apart, got {space}. Leave out a component without a "
            f"choice; scale one that is too wide."
        )
    return NormalActorCritic(space.shape[0], hidden, low, high, encoder)


def init_network(network: Network, key: jax.Array, observation: Any, space: Any) -> Any:
    """A network's parameters, once its observations and actions are known to fit.

    Args:
        network: an actor-critic.
        key: consumed.
        observation: a batch of observations, leaves `[B, ...]`.
        space: the environment's action space.

    Raises:
        ValueError: the network does not take such observations, or its actions do not
            fit the space.
    """
    batch = jax.tree.leaves(observation)[0].shape[0]
    try:
        policy, action, value, both = _shapes(network, key, observation)
        actions = jax.tree.leaves(action)
        if not value.shape == both[1].shape == (batch,) or any(
            x.shape[:1] != (batch,) for x in actions
        ):
            raise ValueError(
                f"of a batch of {batch} it gives values of shapes {value.shape} and, "
                f"when called, {both[1].shape}, and "
                f"actions of shape {', '.join(str(x.shape) for x in actions)}."
            )
    except Exception as error:
        shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", observation)
        raise ValueError(
            f"{type(network).__name__} does not take the environment's observations, "
            f"{shapes} each: {type(error).__name__}: {str(error).splitlines()[0]} Use "
            f"make_network(env, params), which takes every space."
        ) from error
    _check_actions(policy, action, space)
    return network.init(key, observation)


def check_action_bounds(network: Network, env: Any, params: Any) -> None:
    """Checks a network's actions against the action space of each set of parameters.

    `init_network` cannot, where it is traced: then bounds that depend on parameters have no
    values.

    Raises:
        ValueError: actions may lie outside.
    """
    if not all(hasattr(network, name) for name in ("policy", "value")):
        return  # another kind of network
    spaces = [env.action_space(row) for row in each_of(params)]
    if not any(isinstance(space, Box) for space in spaces):
        return
    key = jax.random.key(0)
    observation = jax.eval_shape(env.reset, key, one_of(params))[1]
    observation = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), observation
    )
    policy, action, *_ = _shapes(network, jax.random.clone(key), observation)
    for space in spaces:
        _check_actions(policy, action, space)


def _shapes(network: Network, key: jax.Array, observation: Any) -> Any:
    """Shapes of the policy, its actions, the values, and both at once."""

    def run(key: jax.Array, observation: Any) -> Any:
        params = network.init(key, observation)
        policy = network.apply(params, observation, method="policy")
        value = network.apply(params, observation, method="value")
        both = network.apply(params, observation)
        return policy, policy.sample(jax.random.key(0)), value, both

    return jax.eval_shape(run, key, observation)


def _check_actions(policy: Any, action: Any, space: Any) -> None:
    """Raises a ValueError if a policy's actions do not fit the action space."""
    shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", action)
    found = f"actions {shapes}"
    if isinstance(policy, Categorical):
        found = f"{policy.logits.shape[-1]} discrete actions"
        fits = isinstance(space, Discrete) and policy.logits.shape[-1] == space.n
    elif isinstance(policy, MultiCategorical):
        found = f"discrete actions of {policy.nvec}"
        fits = isinstance(space, MultiDiscrete) and policy.nvec == tuple(space.nvec)
    else:
        fits = has_structure(space, action) and jax.tree.all(
            jax.tree.map(_fits, action, space)
        )
    if fits and isinstance(policy, Normal | SquashedNormal) and isinstance(space, Box):
        low: tuple[float, ...] = (-np.inf,)
        high: tuple[float, ...] = (np.inf,)
        if isinstance(policy, SquashedNormal):
            low, high = policy.low, policy.high
        if not isinstance(space.low, jax.core.Tracer):
            ends = [np.asarray(x, np.float32) for x in (low, high)]
            bounds = [np.asarray(x, np.float32) for x in (space.low, space.high)]
            outside = np.any(ends[0] < bounds[0]) or np.any(ends[1] > bounds[1])
            fits = not outside
            found += f" from {np.min(low):g} to {np.max(high):g}"
    if not fits:
        raise ValueError(
            f"the network chooses among {found}, but the environment's action space is "
            f"{space}. Use make_network(env, params), or give the network the "
            f"environment's number of actions, action size, and low and high."
        )


def _fits(action: jax.ShapeDtypeStruct, space: Any) -> bool:
    """Whether actions `[B, ...]` have a space's shape and kind of number."""
    same_shape = action.shape[1:] == tuple(space.shape)
    return same_shape and is_same_kind(space, action.dtype)


def _dense(width: int, scale: float) -> nn.Dense:
    init = orthogonal(scale)
    return nn.Dense(width, kernel_init=init, dot_general=_product)


def _product(x, kernel, dimension_numbers, precision=None, **_):
    """The `dot_general` of `nn.Dense`, which contracts the last axis with the first."""
    del dimension_numbers, precision
    return matmul(x, kernel)
