"""Proximal policy optimization: collect steps, estimate advantages, update the networks.

Schulman et al. (2017), https://arxiv.org/abs/1707.06347, with these of the details in Huang
et al. (2022), "The 37 implementation details of PPO": orthogonal initialization, Adam with
eps 1e-5, GAE, advantages normalized in each minibatch, a bound on the gradient's global
norm; off by default are linear decay of the learning rate, a clipped value loss and an
entropy bonus. Episodes that ran out of time bootstrap from their final observation.

`T` is `num_steps`, time; `B` is `num_envs`; `M` is a minibatch, `T * B / num_minibatches`.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.flatten_util import ravel_pytree

from rljax.algorithms.distributions import draw_policy_noise
from rljax.algorithms.loss_terms import clipped_surrogate_loss, clipped_value_loss
from rljax.algorithms.networks import check_action_bounds, init_network
from rljax.algorithms.normalization import Normalizer, make_normalizer, normalize
from rljax.algorithms.returns import gae
from rljax.base import Algorithm, Mean, Metrics, Network, Params, Transition
from rljax.envs.variation import check_params, one_of
from rljax.envs.vector import VectorEnv, VectorState
from rljax.numerics.random import permutations
from rljax.numerics.sharding import split_rows
from rljax.numerics.validation import (
    check_minibatches,
    check_positive_integers,
    check_ranges,
    check_scalars,
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
    normalize_observations: bool = False
    """Shift and scale observations by their running moments."""
    normalize_rewards: bool = False
    """Divide rewards by the running spread of discounted returns."""

    def __post_init__(self):
        check_positive_integers(
            self, "num_envs", "num_steps", "num_epochs", "num_minibatches"
        )
        check_minibatches(self)

    @property
    def batch_size(self) -> int:
        """Environment steps in one update."""
        return self.num_envs * self.num_steps

    def updates(self, total_steps: int) -> int:
        """The largest number of updates within a budget of environment steps."""
        return updates_within(total_steps, self.batch_size)


class PPOHyperparams(struct.PyTreeNode):
    """Everything that may be traced: sweep any of these with `jax.vmap`."""

    learning_rate: float = 3e-4
    """Adam's step size at the first update."""
    decay_updates: float = math.inf
    """Updates after which the learning rate, falling linearly, is 0; inf: constant."""
    max_grad_norm: float = 0.5
    """Bound on the global norm of the gradient."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Trace decay of the advantage estimate."""
    clip_eps: float = 0.2
    """Distance of a probability ratio from 1 at which its gradient is cut off."""
    vf_clip_eps: float = math.inf
    """The same for a value's distance from what it was; by default no bound."""
    vf_coef: float = 0.5
    """Weight of the value loss, which is half the squared error."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""


class PPOState(struct.PyTreeNode):
    """All that changes in a run: checkpoint this and nothing else."""

    key: jax.Array
    step: jax.Array  # int32, calls of `Algorithm.step` so far
    params: Params
    opt_state: optax.OptState
    envs: VectorState
    hyperparams: PPOHyperparams
    normalizer: Normalizer | None = None


class Batch(struct.PyTreeNode):
    """What is learned from: leaves `[T, B, ...]`, of a minibatch `[M, ...]`."""

    observation: Any
    action: Any
    log_prob: jax.Array  # of the action, under the policy that took it
    value: jax.Array  # V(observation) before the update
    advantage: jax.Array
    target: jax.Array  # for the value


def check_hyperparams(hyperparams: PPOHyperparams) -> None:
    """Raises a ValueError for a value out of its range; values may be arrays.

    `train`, sweeps and experiments call it: a jitted `init` cannot look at values.
    """
    largest = float(jnp.finfo(jnp.float32).max)  # they are factors: inf * 0 is NaN
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

    Cached: a call like an earlier one gives the same functions; nothing compiles twice.

    Args:
        env: an `Environment`; hashable, as are the others.
        network: a Flax module whose methods `policy` and `value` give a distribution and
            values, and a call both, as in `algorithms.networks`.
        config: sizes.

    Returns:
        An algorithm whose hyperparameters are `PPOHyperparams` and whose task is the
        environment's parameters, or a `ParamsPerEnv` of them. Its metrics: `policy_loss`,
        `value_loss`, `entropy`, `approx_kl`, `clip_fraction`, `grad_norm` before clipping,
        `explained_variance`, `learning_rate`, and of the episodes that ended
        `episode_return` and `episode_length`.
    """

    def init(key: jax.Array, hyperparams: PPOHyperparams, task: Any) -> PPOState:
        check_scalars(hyperparams)
        key, network_key, reset_key = jax.random.split(key, 3)
        envs = VectorEnv(env).reset(reset_key, task, config.num_envs)
        space = env.action_space(one_of(task))  # all sets of parameters have the same
        params = init_network(network, network_key, envs.observation, space)
        hyperparams = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyperparams)
        optimizer = _optimizer(hyperparams, jnp.int32(0))
        return PPOState(
            key=key,
            step=jnp.int32(0),
            params=params,
            opt_state=optimizer.init(ravel_pytree(params)[0]),
            envs=envs,
            hyperparams=hyperparams,
            normalizer=make_normalizer(config, envs.observation),
        )

    def step(state: PPOState, task: Any) -> tuple[PPOState, Metrics]:
        """One update: collect, estimate, update."""
        key, env_key, action_key, update_key = jax.random.split(state.key, 4)
        envs, transitions, metrics = collect(state, task, env_key, action_key)
        # Observations (the next ones, too) are normalized by the moments that the policy
        # acted with, rewards by those just learned. Without a normalizer, nothing is.
        last_observation = normalize(state.normalizer, envs.observation)
        if (normalizer := state.normalizer) is not None:
            normalizer, transitions = normalizer.learn_and_normalize(
                transitions, state.hyperparams.gamma
            )
        batch = estimate(state, transitions, last_observation)
        params, opt_state, means = update(state, batch, update_key)
        means["explained_variance"] = _explained_variance(batch)
        means["learning_rate"] = _learning_rate(state.hyperparams, state.step)
        metrics |= {name: Mean.of(values) for name, values in means.items()}
        state = state.replace(
            key=key,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            envs=envs,
            normalizer=normalizer,
        )
        return state, metrics

    def collect(
        state: PPOState, task: Any, env_key: jax.Array, action_key: jax.Array
    ) -> tuple[VectorState, Transition, Metrics]:
        """Takes T steps in each of B environments with the present policy.

        An environment is reset within the step that ends its episode; the observation
        before that reset is the transition's `next_observation`.
        """

        def policy(observation):
            observation = normalize(state.normalizer, observation)
            return network.apply(state.params, observation, method="policy")

        def sample(observation, noise):
            # The action is kept as it is sampled; there are no extras to keep.
            return policy(observation).sample_from(noise), None

        # All noise in one call is much cheaper. Of `policy` only the shapes are needed.
        noise = draw_policy_noise(
            action_key, policy, state.envs.observation, config.num_steps
        )
        return unroll(
            env_key, env, task, state.envs, sample, config.num_steps, act_noise=noise
        )

    def estimate(state: PPOState, steps: Transition, last_observation: Any) -> Batch:
        """Makes the batch `[T, B]`: log-probabilities, values, advantages, targets.

        The networks have not changed since the rollout: evaluated once over all of it,
        they give what they would have given in each step, faster.
        """
        policy, value = network.apply(state.params, steps.observation)
        next_value = _next_values(network, state.params, steps, value, last_observation)
        gamma, gae_lambda = state.hyperparams.gamma, state.hyperparams.gae_lambda
        # `gae` is of one environment, `[T]`; an end of either kind also ends its trace.
        advantages = functools.partial(gae, gamma=gamma, gae_lambda=gae_lambda)
        advantage = jax.vmap(advantages, in_axes=1, out_axes=1)(
            steps.reward, value, next_value, steps.terminated, steps.truncated
        )
        return Batch(
            observation=steps.observation,
            action=steps.action,
            log_prob=policy.log_prob(steps.action),
            value=value,
            advantage=advantage,
            target=advantage + value,
        )

    def update(
        state: PPOState, batch: Batch, key: jax.Array
    ) -> tuple[Params, optax.OptState, dict[str, jax.Array]]:
        """Takes gradient steps; the means are `[num_epochs, num_minibatches]`."""
        optimizer = _optimizer(state.hyperparams, state.step)
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        # As one vector, the optimizer's step is a few operations, not some for each layer.
        vector, as_params = ravel_pytree(state.params)

        def loss(vector, minibatch):
            return _loss(as_params(vector), network, minibatch, state.hyperparams)

        def gradient_step(carry, minibatch):
            vector, opt_state = carry
            if config.normalize_advantages:
                advantage = _standardize(minibatch.advantage)
                minibatch = minibatch.replace(advantage=advantage)
            gradient, means = jax.grad(loss, has_aux=True)(vector, minibatch)
            means["grad_norm"] = optax.tree.norm(gradient)
            change, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(vector, change), opt_state), means

        def epoch(carry, order):
            rows = order.reshape(config.num_minibatches, -1)
            minibatches = split_rows(jax.tree.map(lambda x: x[rows], batch), axis=1)
            return jax.lax.scan(gradient_step, carry, minibatches)

        orders = permutations(key, config.num_epochs, config.batch_size)
        learned = vector, state.opt_state
        (vector, opt_state), means = jax.lax.scan(epoch, learned, orders)
        return as_params(vector), opt_state, means

    def check(state: PPOState, task: Any) -> None:
        """What `train` calls before it compiles."""
        check_hyperparams(state.hyperparams)
        check_params(env, task)
        if not state.step.ndim:  # of a population, sweeps check every member's
            check_action_bounds(network, env, task)

    return Algorithm(init, step, check)


def act(
    network: Network,
    state: PPOState,
    observation: Any,
    key: jax.Array,
    *,
    greedy: bool = False,
) -> Any:
    """Actions of the learned policy, for one observation or a batch of them.

    Args:
        network: the module that was trained.
        state: of which only the params and the normalizer are read.
        observation: leaves `[..., D]`, as the environment gives them.
        key: consumed; unused if greedy.
        greedy: take the most probable action instead of drawing one.
    """
    observation = normalize(state.normalizer, observation)
    policy = network.apply(state.params, observation, method="policy")
    return policy.mode() if greedy else policy.sample(key)


# Names by which sweeps find an algorithm's parts, with `act` and `check_hyperparams`.
Config, Hyperparams, make = PPOConfig, PPOHyperparams, ppo


def _next_values(
    network: Network, params: Params, steps: Transition, value: jax.Array, last: Any
) -> jax.Array:
    """`[T, B]` values of the states that the actions led to, before any reset.

    The next step's `value`; where an episode was truncated, that of its final observation,
    which was not evaluated yet. Where one terminated, a number that `gae` does not use.
    """
    last_value = network.apply(params, last, method="value")
    following = jnp.concatenate([value[1:], last_value[None]])
    cut_off = steps.truncated & ~steps.terminated

    def with_final():
        final = network.apply(params, steps.next_observation, method="value")
        return jnp.where(cut_off, final, following)

    # Only if there are any; in a vmapped population both branches are computed.
    return jax.lax.cond(cut_off.any(), with_final, lambda: following)


def _loss(
    params: Params, network: Network, batch: Batch, hyperparams: PPOHyperparams
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a minibatch, to be minimized; and its terms and diagnostics, means."""
    policy, value = network.apply(params, batch.observation)
    log_prob = policy.log_prob(batch.action)
    log_ratio = log_prob - batch.log_prob
    ratio_minus_1 = jnp.expm1(log_ratio)
    per_transition = {  # each `[M]`
        "policy_loss": clipped_surrogate_loss(
            log_prob, batch.log_prob, batch.advantage, clip_eps=hyperparams.clip_eps
        ),
        "value_loss": clipped_value_loss(
            value, batch.value, batch.target, clip_eps=hyperparams.vf_clip_eps
        ),
        "entropy": policy.entropy(),
        # k3 of Schulman (2020), "Approximating KL divergence": KL(old policy || new).
        "approx_kl": ratio_minus_1 - log_ratio,
        "clip_fraction": jnp.abs(ratio_minus_1) > hyperparams.clip_eps,
    }
    means = {name: values.mean() for name, values in per_transition.items()}
    loss = (
        means["policy_loss"]
        + hyperparams.vf_coef * means["value_loss"]
        - hyperparams.ent_coef * means["entropy"]
    )
    return loss, means


def _optimizer(
    hyperparams: PPOHyperparams, step: jax.Array
) -> optax.GradientTransformation:
    # Rebuilt at every use: one kept from trace to trace would hold the first one's tracers.
    least = jnp.finfo(jnp.float32).tiny  # 0 would give 0 / 0 where the gradient is 0
    bound = jnp.maximum(hyperparams.max_grad_norm, least)
    return optax.chain(
        optax.clip_by_global_norm(bound),
        optax.adam(_learning_rate(hyperparams, step), eps=1e-5),
    )


def _learning_rate(hyperparams: PPOHyperparams, step: jax.Array) -> jax.Array:
    fraction_left = jnp.maximum(0.0, 1.0 - step / hyperparams.decay_updates)
    return hyperparams.learning_rate * fraction_left


def _standardize(x: jax.Array) -> jax.Array:
    return (x - x.mean()) / (x.std() + 1e-8)


def _explained_variance(batch: Batch) -> jax.Array:
    """Share of the value targets' variance that the values predicted; at most 1."""
    unexplained = (batch.target - batch.value).var()
    return 1.0 - unexplained / jnp.maximum(batch.target.var(), 1e-8)
