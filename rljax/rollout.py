"""Rollouts: many copies of an environment (lanes) stepped together.

`unroll` collects what a learner learns from and resets a lane as soon as its episode
ends; `evaluate` plays whole episodes, one on each lane.

Random numbers are drawn for all lanes in one call, in an order in which a lane's numbers
do not depend on how many lanes there are.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import Mean, Metrics, Transition


class Lanes(struct.PyTreeNode):
    """`B` environments in flight.

    Attributes:
        state: states; leaves `[B, ...]`.
        observation: what the policy sees next; leaves `[B, ...]`.
        episode_return: float32 `[B]`, reward so far in the running episodes.
        episode_length: int32 `[B]`, steps so far in the running episodes.
    """

    state: Any
    observation: Any
    episode_return: jax.Array
    episode_length: jax.Array


def start(key: jax.Array, env: Any, params: Any, num_envs: int) -> Lanes:
    """Starts an episode on each of `num_envs` lanes; consumes `key`."""
    state, observation = _reset(key, env, params, num_envs)
    return Lanes(
        state=state,
        observation=observation,
        episode_return=jnp.zeros(num_envs, jnp.float32),
        episode_length=jnp.zeros(num_envs, jnp.int32),
    )


def unroll(
    key: jax.Array,
    env: Any,
    params: Any,
    lanes: Lanes,
    act: Callable[[Any, jax.Array], tuple[Any, Any]],
    num_steps: int,
) -> tuple[Lanes, Transition, Metrics]:
    """Steps every lane `num_steps` times, restarting each as its episode ends.

    A lane whose episode ended shows its next episode's first observation already in the
    next step (Gymnasium's same-step auto-reset); the ended episode's final observation
    is kept in `Transition.next_observation`.

    Args:
        key: consumed.
        env: the environment.
        params: its parameters.
        lanes: where the last rollout left off, or `start(...)`.
        act: `(observation, key) -> (action, extras)` over all lanes at once.
        num_steps: number of steps T.

    Returns:
        The lanes afterwards; transitions, leaves `[T, B, ...]`; and over the episodes
        that ended, the means `episode_return` and `episode_length`.
    """
    num_envs = lanes.episode_return.shape[0]

    def step(carry, _):
        key, lanes = carry
        key, act_key, step_key, reset_key = jax.random.split(key, 4)
        action, extras = act(lanes.observation, act_key)
        state, timestep = _step(step_key, env, lanes.state, action, params)
        transition = Transition(
            observation=lanes.observation,
            action=action,
            reward=timestep.reward,
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            next_observation=timestep.observation,
            extras=extras,
        )
        done = timestep.terminated | timestep.truncated
        episode_return = lanes.episode_return + timestep.reward
        episode_length = lanes.episode_length + 1
        ended = (
            done.sum(dtype=jnp.float32),
            jnp.where(done, episode_return, 0.0).sum(),
            jnp.where(done, episode_length, 0).sum(dtype=jnp.float32),
        )
        state, observation = _where(
            done,
            _reset(reset_key, env, params, num_envs),
            (state, timestep.observation),
        )
        lanes = Lanes(
            state=state,
            observation=observation,
            episode_return=jnp.where(done, 0.0, episode_return),
            episode_length=jnp.where(done, 0, episode_length),
        )
        return (key, lanes), (transition, ended)

    (_, lanes), (transitions, ended) = jax.lax.scan(
        step, (key, lanes), length=num_steps
    )
    episodes, return_sum, length_sum = (x.sum() for x in ended)
    metrics = {
        "episode_return": Mean(return_sum, episodes),
        "episode_length": Mean(length_sum, episodes),
    }
    return lanes, transitions, metrics


class Episodes(NamedTuple):
    """Whole episodes, one to a lane.

    Attributes:
        returns: float32 `[N]` sums of rewards.
        lengths: int32 `[N]` steps taken.
        finished: bool `[N]`; false where the episode had not ended by `max_steps`, so
            that its return is a part of one.
    """

    returns: jax.Array
    lengths: jax.Array
    finished: jax.Array


def evaluate(
    key: jax.Array,
    env: Any,
    params: Any,
    act: Callable[[Any, jax.Array], Any],
    *,
    num_episodes: int,
    max_steps: int,
) -> Episodes:
    """Plays `num_episodes` episodes from fresh starts, each to its end.

    Every episode counts once, however short: nothing is restarted, so good and bad
    episodes are equally likely to be seen.

    Args:
        key: consumed; give evaluation a key of its own.
        env: the environment.
        params: its parameters.
        act: `(observation, key) -> action` over all lanes at once, greedy or not.
        num_episodes: number of episodes N.
        max_steps: bound on their length; static. At least the environment's own limit
            if they are all to finish.

    Returns:
        What each episode gave.

    Raises:
        ValueError: no episode, or no step, is asked for.
    """
    if num_episodes < 1 or max_steps < 1:
        raise ValueError(
            f"evaluate plays at least one episode of at least one step, got "
            f"num_episodes={num_episodes} and max_steps={max_steps}. Use 1 or more."
        )

    def going(carry):
        _, _, _, episodes, time = carry
        return (time < max_steps) & ~jnp.all(episodes.finished)

    def step(carry):
        key, state, observation, episodes, time = carry
        key, act_key, step_key = jax.random.split(key, 3)
        action = act(observation, act_key)
        state, timestep = _step(step_key, env, state, action, params)
        alive = ~episodes.finished
        episodes = Episodes(
            returns=episodes.returns + jnp.where(alive, timestep.reward, 0.0),
            lengths=episodes.lengths + alive,
            finished=episodes.finished | timestep.terminated | timestep.truncated,
        )
        return key, state, timestep.observation, episodes, time + 1

    key, reset_key = jax.random.split(key)
    state, observation = _reset(reset_key, env, params, num_episodes)
    episodes = Episodes(
        returns=jnp.zeros(num_episodes, jnp.float32),
        lengths=jnp.zeros(num_episodes, jnp.int32),
        finished=jnp.zeros(num_episodes, bool),
    )
    carry = key, state, observation, episodes, jnp.int32(0)
    return jax.lax.while_loop(going, step, carry)[3]


def greedy_and_sampled(
    key: jax.Array,
    env: Any,
    params: Any,
    act: Callable[..., Any],
    *,
    num_episodes: int,
    max_steps: int,
) -> dict[str, jax.Array]:
    """Mean returns of a policy at its most probable actions, and at drawn ones.

    Args:
        key: consumed.
        env: the environment.
        params: its parameters.
        act: `(observation, key, greedy=bool) -> action`, over all lanes at once.
        num_episodes: fresh episodes for either mean.
        max_steps: bound on their length; static.

    Returns:
        `greedy_return`, `sampled_return` and `unfinished`, the share of episodes that
        had not ended by `max_steps`.
    """
    keys = jax.random.split(key)
    greedy, sampled = (
        evaluate(
            keys[i],
            env,
            params,
            functools.partial(act, greedy=i == 0),
            num_episodes=num_episodes,
            max_steps=max_steps,
        )
        for i in range(2)
    )
    finished = jnp.stack([greedy.finished, sampled.finished])
    return {
        "greedy_return": greedy.returns.mean(),
        "sampled_return": sampled.returns.mean(),
        "unfinished": 1.0 - finished.mean(),
    }


def _reset(key: jax.Array, env: Any, params: Any, num_envs: int) -> tuple[Any, Any]:
    """Start states and observations of `num_envs` lanes; consumes `key`."""
    if hasattr(env, "reset_from_noise"):
        noise = jax.random.uniform(key, (num_envs, env.num_noise))
        return jax.vmap(env.reset_from_noise, in_axes=(0, None))(noise, params)
    keys = jax.random.split(key, num_envs)
    return jax.vmap(env.reset, in_axes=(0, None))(keys, params)


def _step(key: jax.Array, env: Any, state: Any, action: Any, params: Any):
    """Steps every lane; consumes `key`."""
    num_envs = jax.tree.leaves(state)[0].shape[0]
    keys = jax.random.split(key, num_envs)
    return jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, state, action, params)


def _where(done: jax.Array, if_done: Any, otherwise: Any) -> Any:
    """Chooses whole lanes of a pytree by the `[B]` bools `done`."""

    def choose(a, b):
        return jnp.where(done.reshape(done.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, if_done, otherwise)
