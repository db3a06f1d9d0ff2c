"""The objective of reinforcement learning, and the probability of a trajectory.

p_pi(tau) = p(s_0) * prod_t pi(a_t | s_t) p(s_{t+1} | s_t, a_t)
J(pi) = E_{tau ~ p_pi}[ sum_t gamma^t r(s_t, a_t) ]
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.envs.hooks import find_hook
from rljax.rollouts.rollout import Trajectory, evaluate


class Objective(NamedTuple):
    """An estimate of J(pi).

    Attributes:
        mean: float32 scalar.
        standard_error: float32 scalar: of the mean; NaN for a single episode.
        unfinished: share of the episodes that were cut off by `max_steps`. What they
            miss is at most `gamma**max_steps / (1 - gamma)` times the largest reward.
    """

    mean: jax.Array
    standard_error: jax.Array
    unfinished: jax.Array


def objective(
    key: jax.Array,
    env: Any,
    params: Any,
    act: Callable[[Any, jax.Array], Any],
    *,
    gamma: float | jax.Array,
    num_episodes: int,
    max_steps: int,
    continuing: bool = False,
) -> Objective:
    """Estimates J(pi) from whole episodes, or for the continuing task.

    Args:
        key: consumed.
        env: the environment.
        params: its parameters.
        act: the policy, `(observation, key) -> action` over all environments at once.
        gamma: discount factor, in [0, 1].
        num_episodes: number of episodes.
        max_steps: bound on their length; for a continuing task use `horizon`.
        continuing: play on after truncation, as if there were no time limit.
    """
    play = functools.partial(evaluate, num_episodes=num_episodes, max_steps=max_steps)
    episodes = play(key, env, params, act, gamma=gamma, continuing=continuing)
    return Objective(
        mean=episodes.returns.mean(),
        standard_error=jnp.std(episodes.returns, ddof=1) / math.sqrt(num_episodes),
        unfinished=1.0 - episodes.finished.mean(),
    )


def horizon(gamma: float, tolerance: float = 1e-4) -> int:
    """Steps after which the rest of a continuing task weighs less than `tolerance`.

    The least T with `gamma**T <= tolerance`.

    Raises:
        ValueError: gamma is not within [0, 1), or the tolerance not within (0, 1).

    Example:
        >>> horizon(0.99)
        917
    """
    if not 0 <= gamma < 1 or not 0 < tolerance < 1:
        raise ValueError(
            f"a horizon needs gamma in [0, 1) and tolerance in (0, 1), got "
            f"gamma={gamma} and tolerance={tolerance}. Without discounting only "
            f"episodes have a finite sum."
        )
    return max(1, math.ceil(math.log(tolerance) / math.log(gamma))) if gamma else 1


class LogProb(NamedTuple):
    """log p_pi(tau) by its three kinds of factor; float32 scalars.

    Attributes:
        start: log p(s_0).
        policy: sum over t of log pi(a_t | s_t); all of it that depends on the policy.
        dynamics: sum over t of log p(s_{t+1} | s_t, a_t).
    """

    start: jax.Array
    policy: jax.Array
    dynamics: jax.Array

    @property
    def total(self) -> jax.Array:
        """All of it: log p_pi(tau)."""
        return self.start + self.policy + self.dynamics


def log_prob(
    env: Any,
    params: Any,
    log_policy: Callable[[Any, Any], jax.Array],
    trajectory: Trajectory,
) -> LogProb:
    """The log-probability (density) of one trajectory under a policy.

    Args:
        env: an environment with `log_prob_reset(state, params)` and
            `log_prob_step(state, action, next_state, params)`.
        params: its parameters.
        log_policy: `(observation, action) -> log pi(action | observation)`, batched over
            time: leaves `[T, ...]` to `[T]`.
        trajectory: one episode, leaves `[T, ...]`; of several, `jax.vmap` over axis 1.

    Raises:
        ValueError: the environment has no such hooks, or there are several episodes.
    """
    hooks: list[Any] = []
    for method in ("reset", "step"):
        hooks.append(find_hook(env, f"log_prob_{method}", method))
        if hooks[-1] is None:
            raise ValueError(
                f"the probability of a trajectory needs an environment with "
                f"log_prob_reset and log_prob_step, got {type(env).__name__}, which has "
                f"no log_prob_{method} in the class that defines its {method}. Add it "
                f"there; see rljax/envs/thermostat.py."
            )
    log_prob_reset, log_prob_step = hooks
    if jnp.ndim(trajectory.valid) != 1:
        raise ValueError(
            f"log_prob takes one trajectory, leaves [T, ...], got valid of shape "
            f"{jnp.shape(trajectory.valid)}. Use jax.vmap over axis 1."
        )
    start = jax.tree.map(lambda x: x[0], trajectory.state)
    after = jax.tree.map(lambda x: x[1:], trajectory.state)
    before, observation = jax.tree.map(
        lambda x: x[:-1], (trajectory.state, trajectory.observation)
    )
    steps = jax.vmap(log_prob_step, in_axes=(0, 0, 0, None))(
        before, trajectory.action, after, params
    )
    choices = log_policy(observation, trajectory.action)
    return LogProb(
        start=log_prob_reset(start, params),
        policy=jnp.where(trajectory.valid, choices, 0.0).sum(),
        dynamics=jnp.where(trajectory.valid, steps, 0.0).sum(),
    )
