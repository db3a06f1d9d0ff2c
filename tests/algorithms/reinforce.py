"""REINFORCE, the plainest policy gradient: a new algorithm is this one file.

Williams (1992), https://doi.org/10.1007/BF00992696, with the reward to go.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rljax.algorithms.returns import discounted_returns
from rljax.base import Algorithm, Mean
from rljax.envs.vector import VectorEnv
from rljax.numerics.validation import check_ranges
from rljax.rollouts.rollout import unroll


@dataclasses.dataclass(frozen=True)
class Config:
    num_envs: int = 8
    num_steps: int = 64

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.num_steps

    def updates(self, total_steps: int) -> int:
        return total_steps // self.batch_size


class Hyperparams(struct.PyTreeNode):
    learning_rate: float = 1e-2
    gamma: float = 0.99


class State(struct.PyTreeNode):
    key: jax.Array
    step: jax.Array
    params: Any
    opt_state: optax.OptState
    envs: Any
    hyperparams: Hyperparams


def check_hyperparams(hyperparams):
    check_ranges(hyperparams, {"learning_rate": (0.0, 1e9), "gamma": (0.0, 1.0)})


def act(network, state, observation, key, *, greedy=False):
    policy = network.apply(state.params, observation, method="policy")
    return policy.mode() if greedy else policy.sample(key)


@functools.cache
def make(env, network, config):
    def init(key, hyperparams, task):
        key, network_key, reset_key = jax.random.split(key, 3)
        envs = VectorEnv(env).reset(reset_key, task, config.num_envs)
        params = network.init(network_key, envs.observation)
        hyperparams = jax.tree.map(jnp.float32, hyperparams)
        opt_state = optax.adam(hyperparams.learning_rate).init(params)
        return State(key, jnp.int32(0), params, opt_state, envs, hyperparams)

    def step(state, task):
        def policy(params, observation):
            return network.apply(params, observation, method="policy")

        key, rollout_key = jax.random.split(state.key)
        explore = lambda x, key: (policy(state.params, x).sample(key), None)  # noqa: E731
        envs, steps, episodes = unroll(
            rollout_key, env, task, state.envs, explore, config.num_steps
        )
        to_go = functools.partial(discounted_returns, gamma=state.hyperparams.gamma)
        returns = jax.vmap(to_go, 1, 1)(steps.reward, steps.terminated, steps.truncated)
        advantage = (returns - returns.mean()) / (returns.std() + 1e-8)

        def loss(params):
            log_prob = policy(params, steps.observation).log_prob(steps.action)
            return -(log_prob * advantage).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        optimizer = optax.adam(state.hyperparams.learning_rate)
        changes, opt_state = optimizer.update(gradient, state.opt_state)
        params = optax.apply_updates(state.params, changes)
        state = state.replace(
            key=key, step=state.step + 1, params=params, opt_state=opt_state, envs=envs
        )
        return state, episodes | {"policy_loss": Mean(value, jnp.float32(1))}

    return Algorithm(init, step)
