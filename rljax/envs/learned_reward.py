"""An environment whose reward is a model's: weights among its parameters, learned elsewhere."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import Network, TimeStep
from rljax.envs.hooks import find_hook, find_owner
from rljax.envs.variation import ParamsPerEnv, check_params


class LearnedRewardParams(struct.PyTreeNode):
    """The environment's parameters, and the weights of the reward model."""

    env: Any
    reward: Any


class LearnedRewardState(struct.PyTreeNode):
    """A state, and what the policy sees of it, which the reward depends on."""

    state: Any
    observation: Any


@dataclasses.dataclass(frozen=True)
class LearnedReward:
    """The environment with the reward r(observation, action) of a model.

    Everything else is the environment's, bit for bit: start, dynamics, ends of episodes,
    and whichever optional methods it has. `env` with `params.env` plays the same policy for
    the true reward.

    Attributes:
        env: the environment.
        model: a Flax module: `apply(weights, observation, action)` is a scalar, for one
            observation, which the policy saw, and the action it took; hashable.

    Example:
        env = LearnedReward(Thermostat(), model)
        params = LearnedRewardParams(env=ThermostatParams(), reward=weights)
        learner = rljax.ppo(env, network, config)
    """

    env: Any
    model: Network

    def reset(
        self, key: jax.Array, params: LearnedRewardParams
    ) -> tuple[LearnedRewardState, Any]:
        """The environment's start; consumes `key`."""
        return _start(self.env.reset(key, params.env))

    def step(
        self,
        key: jax.Array,
        state: LearnedRewardState,
        action: Any,
        params: LearnedRewardParams,
    ) -> tuple[LearnedRewardState, TimeStep]:
        """The environment's step, but for the reward; consumes `key`."""
        return self._step(self.env.step, key, state, action, params)

    def observation_space(self, params: LearnedRewardParams) -> Any:
        """The environment's."""
        return self.env.observation_space(params.env)

    def action_space(self, params: LearnedRewardParams) -> Any:
        """The environment's."""
        return self.env.action_space(params.env)

    def check_params(self, params: LearnedRewardParams) -> None:
        """Raises the environment's ValueError for its parameters, if it checks them."""
        check_params(self.env, params.env)

    # The optional methods of the environment; None where it has none that counts.

    @property
    def num_noise(self) -> int:
        """Uniform numbers that a start takes."""
        return self.env.num_noise

    @property
    def step_noise(self) -> int:
        """Uniform numbers that a step takes."""
        return self.env.step_noise

    @property
    def reset_from_noise(self) -> Any:
        """`(noise, params) -> (state, observation)`, or None."""
        reset = find_hook(self.env, "reset_from_noise", "reset")
        if reset is None:
            return None
        return lambda noise, params: _start(reset(noise, params.env))

    @property
    def step_from_noise(self) -> Any:
        """`(noise, state, action, params) -> (state, timestep)`, or None."""
        step = find_hook(self.env, "step_from_noise", "step")
        return None if step is None else functools.partial(self._step, step)

    @property
    def log_prob_reset(self) -> Any:
        """`(state, params) -> scalar`, or None."""
        log_prob = find_hook(self.env, "log_prob_reset", "reset")
        if log_prob is None:
            return None
        return lambda state, params: log_prob(state.state, params.env)

    @property
    def log_prob_step(self) -> Any:
        """`(state, action, next_state, params) -> scalar`, or None."""
        log_prob = find_hook(self.env, "log_prob_step", "step")
        if log_prob is None:
            return None
        return lambda state, action, after, params: log_prob(
            state.state, action, after.state, params.env
        )

    @property
    def draw(self) -> Any:
        """`(state, action, params) -> Picture`, or None."""
        if not find_owner(self.env, "draw"):
            return None
        return lambda state, action, params: self.env.draw(
            state.state, action, params.env
        )

    def _step(
        self,
        step: Any,
        randomness: jax.Array,
        state: LearnedRewardState,
        action: Any,
        params: LearnedRewardParams,
    ) -> tuple[LearnedRewardState, TimeStep]:
        after, timestep = step(randomness, state.state, action, params.env)
        reward = self.model.apply(params.reward, state.observation, action)
        if jnp.shape(reward):
            raise ValueError(
                f"the reward of one observation and action must be a scalar, got shape "
                f"{jnp.shape(reward)} from {type(self.model).__name__}. Drop its axes."
            )
        timestep = timestep._replace(reward=reward.astype(jnp.float32))
        return LearnedRewardState(after, timestep.observation), timestep


def with_reward(params: Any, reward: Any) -> Any:
    """Parameters of a `LearnedReward`, from the environment's and the model's weights.

    Of a `ParamsPerEnv`, every environment has the same reward.
    """
    if not isinstance(params, ParamsPerEnv):
        return LearnedRewardParams(params, reward)
    count = len(jax.tree.leaves(params.params)[0])
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), reward)
    return ParamsPerEnv(LearnedRewardParams(params.params, rows))


def _start(pair: tuple[Any, Any]) -> tuple[LearnedRewardState, Any]:
    return LearnedRewardState(*pair), pair[1]
