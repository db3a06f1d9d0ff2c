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
from jax.flatten_util import ravel_pytree

from rljax.algorithms.losses import clipped_surrogate, clipped_value_loss
from rljax.algorithms.returns import gae
from rljax.base import Algorithm, Mean, Metrics, Network, Params, Transition
from rljax.envs.spaces import Discrete
from rljax.envs.vector import Lanes, start
from rljax.numerics import random
from rljax.numerics.validation import check_ranges
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
        for name in ("num_envs", "num_steps", "num_epochs", "num_minibatches"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be a positive integer, got {value!r}. Use {name} >= 1."
                )
        if self.batch_size >= 2**31:
            raise ValueError(
                f"num_envs * num_steps must be less than 2**31, got {self.num_envs:,} * "
                f"{self.num_steps:,}. Use fewer of either."
            )
        if self.normalize_advantages and self.num_minibatches == self.batch_size > 1:
            raise ValueError(
                f"a minibatch needs two transitions to normalize their advantages, got "
                f"num_minibatches={self.num_minibatches} for a batch of "
                f"{self.batch_size}. Use fewer minibatches, or normalize_advantages="
                f"False."
            )
        if self.batch_size % self.num_minibatches:
            raise ValueError(
                f"num_envs * num_steps must be divisible by num_minibatches, got "
                f"{self.num_envs} * {self.num_steps} = {self.batch_size} and "
                f"{self.num_minibatches}. Choose num_minibatches from the divisors of "
                f"{self.batch_size}: the nearest is "
                f"{_nearest_divisor(self.batch_size, self.num_minibatches)}."
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
        if total_steps < self.batch_size:
            raise ValueError(
                f"total_steps must pay for at least one update, got {total_steps:,} "
                f"where an update takes num_envs * num_steps = {self.num_envs:,} * "
                f"{self.num_steps:,} = {self.batch_size:,} environment steps. Use "
                f"total_steps >= {self.batch_size}, or smaller num_envs or num_steps."
            )
        if total_steps // self.batch_size >= 2**31:
            raise ValueError(
                f"total_steps must take fewer than 2**31 updates, got {total_steps:,}, "
                f"which takes {total_steps // self.batch_size:,}. Use fewer."
            )
        return total_steps // self.batch_size


class PPOHyperparams(struct.PyTreeNode):
    """Everything that may be traced: sweep any of these with `jax.vmap`."""

    learning_rate: float = 3e-4
    """Adam's step size at the first update; falls linearly to 0 at the last."""
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
    num_updates: float = math.inf
    """Updates over which the learning rate falls to 0; not how many are taken. Where it
    is infinite an experiment takes its own length, and the bare algorithm keeps the
    rate."""


class PPOState(struct.PyTreeNode):
    """All that a run needs to go on: checkpoint this and nothing else."""

    key: jax.Array
    step: jax.Array  # int32, updates taken
    params: Params
    opt_state: optax.OptState
    lanes: Lanes
    hyperparams: PPOHyperparams


def check_hyperparams(hyperparams: PPOHyperparams) -> None:
    """Checks ranges, on the host, before anything is traced; values may be arrays.

    Raises:
        ValueError: a value out of its range.
    """
    largest = float(np.finfo(np.float32).max)
    ranges = {
        "learning_rate": (0.0, largest),
        "max_grad_norm": (0.0, math.inf),
        "gamma": (0.0, 1.0),
        "gae_lambda": (0.0, 1.0),
        "clip_eps": (0.0, math.inf),
        "vf_clip_eps": (0.0, math.inf),
        "vf_coef": (0.0, largest),
        "ent_coef": (0.0, largest),
        "num_updates": (1.0, math.inf),
    }
    check_ranges(hyperparams, ranges)


def annealed(hyperparams: PPOHyperparams, num_updates: int) -> PPOHyperparams:
    """Lets the learning rate fall to 0 over a whole run, where no other number is set."""
    if hyperparams.num_updates != math.inf:
        return hyperparams
    return hyperparams.replace(num_updates=num_updates)


@functools.cache
def ppo(env: Any, network: Network, config: PPOConfig) -> Algorithm[PPOState]:
    """Makes PPO for one environment, one actor-critic and one set of sizes.

    Args:
        env: an `Environment`.
        network: a Flax module with `policy` and `value`, as in `rljax.algorithms.networks`.
        config: sizes.

    Returns:
        An algorithm whose hyperparameters are `PPOHyperparams` and whose task is the
        environment's parameters. Its metrics are `policy_loss`, `value_loss`,
        `entropy`, `approx_kl`, `clip_fraction`, `grad_norm`, `explained_variance`,
        `learning_rate`, `episode_return` and `episode_length`.
    """

    def init(key: jax.Array, hyperparams: PPOHyperparams, task: Any) -> PPOState:
        _check_scalars(hyperparams)
        key, network_key, reset_key = jax.random.split(key, 3)
        lanes = start(reset_key, env, task, config.num_envs)
        params = network.init(network_key, lanes.observation)
        _check_policy(network, params, env.action_space(task), lanes.observation)
        return PPOState(
            key=key,
            step=jnp.int32(0),
            params=params,
            opt_state=_optimizer(hyperparams.learning_rate).init(
                ravel_pytree(params)[0]
            ),
            lanes=lanes,
            hyperparams=jax.tree.map(
                lambda x: jnp.asarray(x, jnp.float32), hyperparams
            ),
        )

    def step(state: PPOState, task: Any) -> tuple[PPOState, Metrics]:
        key, rollout_key, noise_key, update_key = jax.random.split(state.key, 4)
        hyperparams = state.hyperparams
        fraction_left = jnp.maximum(0.0, 1.0 - state.step / hyperparams.num_updates)
        learning_rate = hyperparams.learning_rate * fraction_left
        optimizer = _optimizer(learning_rate)

        def policy(observation):
            return network.apply(state.params, observation, method="policy")

        def act_on(observation, noise):
            return policy(observation).sample_from(noise), None

        # Lanes first, so that a lane's noise does not depend on how many there are.
        ahead = jax.tree.map(
            lambda x: jnp.broadcast_to(
                x[:, None], (len(x), config.num_steps, *x.shape[1:])
            ),
            state.lanes.observation,
        )
        noise = jax.eval_shape(policy, ahead).noise(noise_key)
        lanes, transitions, episodes = unroll(
            rollout_key, env, task, state.lanes, act_on, config.num_steps,
            act_noise=jnp.moveaxis(noise, 1, 0),
        )  # fmt: skip
        batch = _with_advantages(
            network, state.params, transitions, lanes.observation, hyperparams
        )
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        # As one vector, the optimizer's step is a few operations instead of as many for
        # each layer.
        vector, as_params = ravel_pytree(state.params)

        def epoch(learner, order):
            return jax.lax.scan(update, learner, _deal(batch, order, config))

        def update(learner, minibatch):
            vector, opt_state = learner

            def loss(vector):
                return _loss(as_params(vector), network, minibatch, hyperparams)

            gradient, means = jax.grad(loss, has_aux=True)(vector)
            gradient, norm = _clip(gradient, hyperparams.max_grad_norm)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(vector, updates), opt_state), (means, norm)

        orders = _orders(update_key, config.num_epochs, config.batch_size)
        (vector, opt_state), (means, norms) = jax.lax.scan(
            epoch, (vector, state.opt_state), orders
        )
        params = as_params(vector)
        metrics = {name: _mean(means[..., i]) for i, name in enumerate(_LOSSES)} | {
            "grad_norm": _mean(norms),
            "explained_variance": _mean(_explained_variance(batch)),
            "learning_rate": _mean(learning_rate),
        }
        state = state.replace(
            key=key,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            lanes=lanes,
        )
        return state, metrics | episodes

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


class _Batch(struct.PyTreeNode):
    observation: Any
    action: Any
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array


def _with_advantages(
    network: Network,
    params: Params,
    transitions: Transition,
    last: Any,
    hyperparams: PPOHyperparams,
) -> _Batch:
    """Adds what the networks say, advantages and value targets, `[T, B]`."""
    policy, value = network.apply(params, transitions.observation)
    next_value = _next_values(network, params, transitions, value, last)
    estimate = functools.partial(
        gae, gamma=hyperparams.gamma, gae_lambda=hyperparams.gae_lambda
    )
    advantage = jax.vmap(estimate, in_axes=1, out_axes=1)(
        transitions.reward,
        value,
        next_value,
        transitions.terminated,
        transitions.truncated,
    )
    return _Batch(
        observation=transitions.observation,
        action=transitions.action,
        log_prob=policy.log_prob(transitions.action),
        value=value,
        advantage=advantage,
        target=advantage + value,
    )


def _next_values(
    network: Network, params: Params, steps: Transition, value: jax.Array, last: Any
) -> jax.Array:
    """`[T, B]` values of what the actions led to, before any reset.

    Those are the values of the next step's observations, which are known, except where
    an episode was cut off, whose final observation nobody else looks at.
    """
    last_value = network.apply(params, last, method="value")
    following = jnp.concatenate([value[1:], last_value[None]])
    cut = steps.truncated & ~steps.terminated

    def with_final():
        final = network.apply(params, steps.next_observation, method="value")
        return jnp.where(cut, final, following)

    return jax.lax.cond(cut.any(), with_final, lambda: following)


def _orders(key: jax.Array, count: int, size: int) -> jax.Array:
    """`count` random orders of `size` indices: int32 `[count, size]`."""
    low = (size - 1).bit_length()
    if low > 16:
        shuffle = functools.partial(jax.random.permutation, x=size)
        return jax.vmap(shuffle)(jax.random.split(key, count))
    # Random words with their index in the low bits: sorting one array of integers takes
    # a CPU a tenth of the time of sorting one by another. At least 16 bits are random.
    high = random.bits(key, (count, size)) >> low << low
    words = high | jnp.arange(size, dtype=jnp.uint32)[None]
    ordered = jax.lax.sort(words, dimension=1, is_stable=False)
    return (ordered & jnp.uint32((1 << low) - 1)).astype(jnp.int32)


def _deal(batch: _Batch, order: jax.Array, config: PPOConfig) -> _Batch:
    """Cuts a batch `[T * B, ...]`, put in order, into `[num_minibatches, size, ...]`.

    Advantages are normalized in each minibatch, if they are to be.
    """
    order = order.reshape(config.num_minibatches, -1)
    dealt = jax.tree.map(lambda x: x[order], batch)
    if not config.normalize_advantages:
        return dealt
    advantage = dealt.advantage
    mean, std = (f(advantage, axis=1, keepdims=True) for f in (jnp.mean, jnp.std))
    return dealt.replace(advantage=(advantage - mean) / (std + 1e-8))


_LOSSES = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


def _loss(
    params: Params, network: Network, batch: _Batch, hyperparams: PPOHyperparams
) -> tuple[jax.Array, jax.Array]:
    """The scalar loss of one minibatch, and the means of what `_LOSSES` names."""
    policy, value = network.apply(params, batch.observation)
    log_prob = policy.log_prob(batch.action)
    log_ratio = log_prob - batch.log_prob
    change = jnp.expm1(log_ratio)
    means = jnp.stack(
        [
            clipped_surrogate(
                log_prob, batch.log_prob, batch.advantage, clip_eps=hyperparams.clip_eps
            ),
            clipped_value_loss(
                value, batch.value, batch.target, clip_eps=hyperparams.vf_clip_eps
            ),
            policy.entropy(),
            # Schulman (2020), "Approximating KL divergence": k3, of the old policy.
            change - log_ratio,
            (jnp.abs(change) > hyperparams.clip_eps).astype(jnp.float32),
        ]
    ).mean(axis=1)
    policy_loss, value_loss, entropy, *_ = means
    loss = (
        policy_loss + hyperparams.vf_coef * value_loss - hyperparams.ent_coef * entropy
    )
    return loss, means


def _clip(
    gradient: jax.Array, max_norm: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """A vector, shortened to `max_norm` if it is longer, and how long it was."""
    # Not optax's, which keeps the norm to itself: it is wanted as a metric, too.
    norm = jnp.linalg.norm(gradient)
    smallest = jnp.finfo(norm.dtype).tiny
    return gradient * jnp.minimum(1, max_norm / jnp.maximum(norm, smallest)), norm


def _optimizer(learning_rate: jax.Array | float) -> optax.GradientTransformation:
    # Rebuilt at every use: the value may be traced, and a closure must not outlive it.
    return optax.adam(learning_rate, eps=1e-5)


def _explained_variance(batch: _Batch) -> jax.Array:
    """Share of the value targets' variance that the values foresaw; at most 1."""
    variance = batch.target.var()
    unexplained = (batch.target - batch.value).var()
    return 1.0 - unexplained / jnp.maximum(variance, 1e-8)


def _mean(x: jax.Array) -> Mean:
    return Mean(x.sum(), jnp.float32(x.size))


def _nearest_divisor(number: int, wanted: int) -> int:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = small + [number // d for d in small]
    return min(divisors, key=lambda d: (abs(d - wanted), d))


def _check_scalars(hyperparams: PPOHyperparams) -> None:
    for name in hyperparams.__dataclass_fields__:
        if shape := jnp.shape(getattr(hyperparams, name)):
            raise ValueError(
                f"{name} must be a scalar, got an array of shape {shape}. To train one "
                f"agent for each value, lift the algorithm with population(...)."
            )


def _check_policy(network: Network, params: Params, space: Any, observation: Any):
    """Refuses a network whose actions are not those that the environment takes."""

    def shape_of_one(params, observation):
        policy = network.apply(params, observation, method="policy")
        return policy.sample(jax.random.key(0)), getattr(policy, "logits", None)

    action, logits = jax.eval_shape(shape_of_one, params, observation)
    if isinstance(space, Discrete):
        fits = logits is not None and logits.shape[-1] == space.n
    else:
        fits = logits is None and action.shape[1:] == tuple(space.shape)
    if not fits:
        made = (
            f"actions of shape {action.shape[1:]}"
            if logits is None
            else f"{logits.shape[-1]} discrete actions"
        )
        raise ValueError(
            f"the network chooses among {made}, but the environment's action space is "
            f"{space}. Give the network the environment's number of actions (or its "
            f"action size)."
        )


Config, Hyperparams, make = PPOConfig, PPOHyperparams, ppo
