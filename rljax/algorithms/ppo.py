"""Proximal policy optimization.

Schulman et al. (2017), https://arxiv.org/abs/1707.06347, with the details that Huang et
al. (2022), "The 37 implementation details of PPO", found to matter, and with episodes
that ran out of time bootstrapped from their final observation.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from rljax.algorithms.distributions import draw_policy_noise
from rljax.algorithms.losses import clipped_surrogate, clipped_value_loss
from rljax.algorithms.networks import check_policy
from rljax.algorithms.returns import gae
from rljax.base import Algorithm, Mean, Metrics, Network, Params, Transition
from rljax.envs.vector import VectorEnv, VectorState
from rljax.numerics.random import permutations
from rljax.numerics.validation import (
    check_positive_integers,
    check_ranges,
    check_scalars,
    nearest_divisor,
    updates_within,
)
from rljax.rollouts.rollout import unroll


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Everything that fixes an array's shape or the program's structure. Static.

    Raises:
        ValueError: a size is not positive, or the batch cannot be cut into minibatches.
    """

    num_envs: int = 16
    """Environments stepped together."""
    num_steps: int = 128
    """Steps of each environment between two updates."""
    num_epochs: int = 4
    """Passes over a batch of num_envs * num_steps transitions."""
    num_minibatches: int = 4
    """Gradient steps in a pass."""
    normalize_advantages: bool = True
    """Shift and scale the advantages of a minibatch to mean 0 and variance 1."""

    def __post_init__(self):
        check_positive_integers(
            self, "num_envs", "num_steps", "num_epochs", "num_minibatches"
        )
        batch = f"num_envs * num_steps = {self.num_envs:,} * {self.num_steps:,}"
        if self.batch_size >= 2**31:
            raise ValueError(
                f"num_envs * num_steps must be less than 2**31, got {batch}. Use fewer of "
                f"either."
            )
        if self.normalize_advantages and self.num_minibatches == self.batch_size > 1:
            raise ValueError(
                f"a minibatch needs two transitions to normalize their advantages, got "
                f"num_minibatches={self.num_minibatches} for a batch of "
                f"{self.batch_size}. Use fewer minibatches, or normalize_advantages="
                f"False."
            )
        if self.batch_size % self.num_minibatches:
            nearest = nearest_divisor(self.batch_size, self.num_minibatches)
            raise ValueError(
                f"num_envs * num_steps must be divisible by num_minibatches, got {batch} "
                f"= {self.batch_size} and {self.num_minibatches}. Choose num_minibatches "
                f"from the divisors of {self.batch_size}: the nearest is {nearest}."
            )

    @property
    def batch_size(self) -> int:
        """Environment steps in one update."""
        return self.num_envs * self.num_steps

    def updates(self, total_steps: int) -> int:
        """The largest number of updates within a budget of environment steps.

        Raises:
            ValueError: the budget does not pay for one update.
        """
        return updates_within(total_steps, self.batch_size)


class PPOHyperparams(struct.PyTreeNode):
    """Everything that may be traced: sweep any of these with `jax.vmap`."""

    learning_rate: float = 3e-4
    """Adam's step size at the first update."""
    decay_updates: float = math.inf
    """Updates over which the learning rate falls linearly to 0; inf keeps it constant."""
    max_grad_norm: float = 0.5
    """Bound on the global norm of the gradient."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Trace decay of the advantage estimate."""
    clip_eps: float = 0.2
    """How far a probability ratio may move from 1 in one update."""
    vf_clip_eps: float = math.inf
    """How far a value may move in one update; no bound by default."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""


class PPOState(struct.PyTreeNode):
    """All that a run needs to go on: checkpoint this and nothing else."""

    key: jax.Array
    step: jax.Array  # int32, updates taken
    params: Params
    opt_state: optax.OptState
    envs: VectorState
    hyperparams: PPOHyperparams


def check_hyperparams(hyperparams: PPOHyperparams) -> None:
    """Checks ranges, on the host, before anything is traced; values may be arrays.

    Raises:
        ValueError: a value out of its range.
    """
    largest = float(np.finfo(np.float32).max)
    ranges = {
        "learning_rate": (0.0, largest),
        "decay_updates": (1.0, math.inf),
        "max_grad_norm": (0.0, math.inf),
        "gamma": (0.0, 1.0),
        "gae_lambda": (0.0, 1.0),
        "clip_eps": (0.0, math.inf),
        "vf_clip_eps": (0.0, math.inf),
        "vf_coef": (0.0, largest),
        "ent_coef": (0.0, largest),
    }
    check_ranges(hyperparams, ranges)


@functools.cache
def ppo(env: Any, network: Network, config: PPOConfig) -> Algorithm[PPOState]:
    """Makes PPO for one environment, one actor-critic and one set of sizes.

    Args:
        env: an `Environment`.
        network: a Flax module with `policy` and `value`, as in `algorithms.networks`.
        config: sizes.

    Returns:
        An algorithm whose hyperparameters are `PPOHyperparams` and whose task is the
        environment's parameters. Its metrics are `policy_loss`, `value_loss`,
        `entropy`, `approx_kl`, `clip_fraction`, `grad_norm`, `explained_variance`,
        `learning_rate`, `episode_return` and `episode_length`.
    """

    def init(key: jax.Array, hyperparams: PPOHyperparams, task: Any) -> PPOState:
        check_scalars(hyperparams)
        key, network_key, reset_key = jax.random.split(key, 3)
        envs = VectorEnv(env).reset(reset_key, task, config.num_envs)
        params = network.init(network_key, envs.observation)
        check_policy(network, params, env.action_space(task), envs.observation)
        hyperparams = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyperparams)
        return PPOState(
            key=key,
            step=jnp.int32(0),
            params=params,
            opt_state=_optimizer(hyperparams, jnp.int32(0)).init(params),
            envs=envs,
            hyperparams=hyperparams,
        )

    def step(state: PPOState, task: Any) -> tuple[PPOState, Metrics]:
        key, env_key, action_key, update_key = jax.random.split(state.key, 4)
        envs, transitions, episodes = collect(state, task, env_key, action_key)
        batch = estimate(state, transitions, envs.observation)
        params, opt_state, losses = update(state, batch, update_key)
        metrics = episodes | {
            **{name: Mean.of(values) for name, values in losses.items()},
            "explained_variance": Mean.of(_explained_variance(batch)),
            "learning_rate": Mean.of(_learning_rate(state.hyperparams, state.step)),
        }
        state = state.replace(
            key=key,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            envs=envs,
        )
        return state, metrics

    def collect(state, task, env_key, action_key):
        """Plays `num_steps` steps in every environment with the present policy."""

        def policy(observation):
            return network.apply(state.params, observation, method="policy")

        def act(observation, noise):
            return policy(observation).sample_from(noise), None

        # All noise in one call before the rollout: drawing costs more than stepping.
        noise = draw_policy_noise(
            action_key, policy, state.envs.observation, config.num_steps
        )
        return unroll(
            env_key, env, task, state.envs, act, config.num_steps, act_noise=noise
        )

    def estimate(state, transitions, last_observation):
        """Adds log-probabilities, values, advantages and value targets, `[T, B]`."""
        policy, value = network.apply(state.params, transitions.observation)
        next_value = _next_values(
            network, state.params, transitions, value, last_observation
        )
        advantage = jax.vmap(
            functools.partial(
                gae,
                gamma=state.hyperparams.gamma,
                gae_lambda=state.hyperparams.gae_lambda,
            ),
            in_axes=1,
            out_axes=1,
        )(
            transitions.reward,
            value,
            next_value,
            transitions.terminated,
            transitions.truncated,
        )
        return Batch(
            observation=transitions.observation,
            action=transitions.action,
            log_prob=policy.log_prob(transitions.action),
            value=value,
            advantage=advantage,
            target=advantage + value,
        )

    def update(state, batch, key):
        """Takes `num_epochs * num_minibatches` gradient steps on the batch."""
        optimizer = _optimizer(state.hyperparams, state.step)
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

        def epoch(learner, order):
            rows = order.reshape(config.num_minibatches, -1)
            minibatches = jax.tree.map(lambda x: x[rows], batch)
            return jax.lax.scan(gradient_step, learner, minibatches)

        def gradient_step(learner, minibatch):
            params, opt_state = learner
            if config.normalize_advantages:
                advantage = _normalize(minibatch.advantage)
                minibatch = minibatch.replace(advantage=advantage)
            gradient, losses = jax.grad(_loss, has_aux=True)(
                params, network, minibatch, state.hyperparams
            )
            losses["grad_norm"] = optax.tree.norm(gradient)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(params, updates), opt_state), losses

        orders = permutations(key, config.num_epochs, config.batch_size)
        learner = state.params, state.opt_state
        (params, opt_state), losses = jax.lax.scan(epoch, learner, orders)
        return params, opt_state, losses

    return Algorithm(init, step)


def act(
    network: Network,
    state: PPOState,
    observation: Any,
    key: jax.Array,
    *,
    greedy: bool = False,
) -> Any:
    """Actions of the policy that was learned, for one observation or a batch.

    Args:
        network: the module that was trained.
        state: the learner's state; only its params are read.
        observation: leaves `[..., D]`.
        key: consumed; unused if greedy.
        greedy: take the most probable action instead of drawing one.
    """
    policy = network.apply(state.params, observation, method="policy")
    return policy.mode() if greedy else policy.sample(key)


Config, Hyperparams, make = (
    PPOConfig,
    PPOHyperparams,
    ppo,
)  # as every algorithm's module


class Batch(struct.PyTreeNode):
    """What an update learns from; leaves `[T, B, ...]`, or `[size, ...]` of a minibatch."""

    observation: Any
    action: Any
    log_prob: jax.Array  # of the action, under the policy that took it
    value: jax.Array  # estimate before the update
    advantage: jax.Array
    target: jax.Array  # of the value


def _next_values(
    network: Network, params: Params, steps: Transition, value: jax.Array, last: Any
) -> jax.Array:
    """`[T, B]` values of the states that the actions led to, before any reset.

    Those are the values of the next step's observations, which are known, except where
    an episode was truncated: its final observation is nowhere else in the batch.
    """
    last_value = network.apply(params, last, method="value")
    following = jnp.concatenate([value[1:], last_value[None]])
    cut_off = steps.truncated & ~steps.terminated

    def with_final():
        final = network.apply(params, steps.next_observation, method="value")
        return jnp.where(cut_off, final, following)

    return jax.lax.cond(cut_off.any(), with_final, lambda: following)


def _loss(
    params: Params, network: Network, batch: Batch, hyperparams: PPOHyperparams
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of one minibatch, and its parts: all means over the minibatch."""
    policy, value = network.apply(params, batch.observation)
    log_prob = policy.log_prob(batch.action)
    log_ratio = log_prob - batch.log_prob
    ratio_minus_1 = jnp.expm1(log_ratio)
    parts = {
        "policy_loss": clipped_surrogate(
            log_prob, batch.log_prob, batch.advantage, clip_eps=hyperparams.clip_eps
        ),
        "value_loss": clipped_value_loss(
            value, batch.value, batch.target, clip_eps=hyperparams.vf_clip_eps
        ),
        "entropy": policy.entropy(),
        # k3 of Schulman (2020), "Approximating KL divergence": KL(old policy || new).
        "approx_kl": ratio_minus_1 - log_ratio,
        "clip_fraction": (jnp.abs(ratio_minus_1) > hyperparams.clip_eps) * 1.0,
    }
    means = {name: values.mean() for name, values in parts.items()}
    loss = (
        means["policy_loss"]
        + hyperparams.vf_coef * means["value_loss"]
        - hyperparams.ent_coef * means["entropy"]
    )
    return loss, means


def _optimizer(
    hyperparams: PPOHyperparams, step: jax.Array
) -> optax.GradientTransformation:
    # Rebuilt at every use: the values may be traced, and a closure must not outlive them.
    # As one vector, a step is a few operations rather than as many for each layer. A
    # bound of zero would divide a gradient of zero by its norm.
    smallest = jnp.finfo(jnp.float32).tiny
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(jnp.maximum(hyperparams.max_grad_norm, smallest)),
            optax.adam(_learning_rate(hyperparams, step), eps=1e-5),
        )
    )


def _learning_rate(hyperparams: PPOHyperparams, step: jax.Array) -> jax.Array:
    fraction_left = jnp.maximum(0.0, 1.0 - step / hyperparams.decay_updates)
    return hyperparams.learning_rate * fraction_left


def _normalize(x: jax.Array) -> jax.Array:
    return (x - x.mean()) / (x.std() + 1e-8)


def _explained_variance(batch: Batch) -> jax.Array:
    """Share of the value targets' variance that the values predicted; at most 1."""
    unexplained = (batch.target - batch.value).var()
    return 1.0 - unexplained / jnp.maximum(batch.target.var(), 1e-8)
