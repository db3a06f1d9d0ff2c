"""Rollouts: steps to learn from, and whole episodes to judge a policy by.

`unroll` collects what a learner learns from, and restarts an environment as soon as its
episode ends; `evaluate` plays whole episodes, one in each environment, and `record` keeps
every state of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Mean, Metrics, Transition
from rljax.envs.vector import VectorEnv, VectorState
from rljax.numerics.sharding import split_rows
from rljax.numerics.sums import add_compensated, add_up_to_largest


def unroll(
    key: jax.Array,
    env: Any,
    params: Any,
    envs: VectorState,
    act: Callable[[Any, Any], tuple[Any, Any]],
    num_steps: int,
    *,
    act_noise: Any = None,
) -> tuple[VectorState, Transition, Metrics]:
    """Steps every environment `num_steps` times, restarting each as its episode ends.

    After an episode's end the policy sees the next episode's first observation already in
    the next step (Gymnasium's same-step auto-reset); the ended episode's final observation
    is kept in `Transition.next_observation`. Numbers are drawn before the first step, as
    far as environment and policy take numbers: drawing costs more than stepping.

    Args:
        key: consumed.
        env: the environment.
        params: its parameters.
        envs: where the last rollout left off, or `VectorEnv(env).reset(...)`.
        act: `(observation, key) -> (action, extras)` over all environments at once.
        num_steps: number of steps T.
        act_noise: leaves `[T, ...]`; if not None, `act` gets a row of it, not a key.

    Returns:
        The environments afterwards; transitions, leaves `[T, B, ...]`; and over the
        episodes that ended, the means `episode_return` and `episode_length`.
    """
    vector, num_envs = VectorEnv(env), len(envs.done)
    key, step_key, reset_key = jax.random.split(key, 3)
    ahead = vector.draw_ahead(step_key, reset_key, num_envs, num_steps)
    act_noise, ahead = split_rows((act_noise, ahead), axis=1)

    def one_step(carry, drawn):
        key, state, observation = carry
        act_noise, ahead = drawn
        key, act_key, step_key, reset_key = jax.random.split(key, 4)
        action, extras = act(observation, act_key if act_noise is None else act_noise)
        draws = vector.draw(step_key, reset_key, num_envs, ahead)
        after, timestep = vector.step_and_reset(draws, params, state, action)
        transition = Transition(
            observation=observation,
            action=action,
            reward=timestep.reward,
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            next_observation=timestep.observation,
            extras=extras,
        )
        return (key, *after), transition

    carry = key, envs.state, envs.observation
    carry, transitions = jax.lax.scan(one_step, carry, (act_noise, ahead), num_steps)
    _, state, observation = carry
    envs = envs.replace(state=state, observation=observation)
    envs, metrics = _count_episodes(envs, transitions)
    return envs, transitions, metrics


def _count_episodes(
    envs: VectorState, steps: Transition
) -> tuple[VectorState, Metrics]:
    """Adds a rollout to the running returns and lengths; means over ended episodes."""

    # After the rollout's scan rather than in it, where it would cost more.
    def one_step(so_far, step):
        total, lost, length = so_far
        reward, done = step
        total, lost = add_compensated(total, lost, reward)
        length = add_up_to_largest(length, 1)
        after = [jnp.where(done, 0, x) for x in (total, lost, length)]
        return tuple(after), (total, length)

    so_far = envs.episode_return, envs.episode_return_lost, envs.episode_length
    done = steps.terminated | steps.truncated
    so_far, (returns, lengths) = jax.lax.scan(one_step, so_far, (steps.reward, done))
    envs = envs.replace(
        episode_return=so_far[0],
        episode_return_lost=so_far[1],
        episode_length=so_far[2],
    )
    lengths = lengths.astype(jnp.float32)
    count = done.sum(dtype=jnp.float32)
    return envs, {
        "episode_return": Mean(jnp.where(done, returns, 0).sum(), count),
        "episode_length": Mean(jnp.where(done, lengths, 0).sum(), count),
    }


class Episodes(NamedTuple):
    """Whole episodes, one in each environment.

    Attributes:
        returns: float32 `[N]` discounted sums of rewards.
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
    gamma: float | jax.Array = 1.0,
    continuing: bool = False,
) -> Episodes:
    """Plays `num_episodes` episodes from fresh starts, each to its end.

    Every episode counts once, however short: nothing is restarted, so good and bad
    episodes are equally likely to be seen.

    Args:
        key: consumed; give evaluation a key of its own.
        env: the environment.
        params: its parameters.
        act: `(observation, key) -> action` over all environments at once, greedy or not.
        num_episodes: number of episodes N.
        max_steps: bound on their length; static. At least the environment's own limit
            if they are all to finish.
        gamma: discount factor of the returns, in [0, 1].
        continuing: play on where only the clock ran out, as if there were none.

    Returns:
        What each episode gave.

    Raises:
        ValueError: no episode, or no step, is asked for; gamma lies outside [0, 1].
    """
    _check_counts("evaluate", num_episodes, max_steps)
    if not isinstance(gamma, jax.core.Tracer) and not 0 <= gamma <= 1:
        raise ValueError(
            f"gamma must lie in [0, 1], got {gamma}. Choose a value there."
        )
    vector = VectorEnv(env)

    def going(carry):
        _, _, _, episodes, _, _, time = carry
        return (time < max_steps) & ~jnp.all(episodes.finished)

    def one_step(carry):
        key, state, observation, episodes, lost, discount, time = carry
        key, act_key, step_key = jax.random.split(key, 3)
        action = act(observation, act_key)
        draws = vector.draw_step(step_key, num_episodes)
        state, timestep = vector.step_all(draws, params, state, action)
        alive = ~episodes.finished
        ended = timestep.terminated | (timestep.truncated & (not continuing))
        reward = jnp.where(alive, discount * timestep.reward, 0)
        returns, lost = add_compensated(episodes.returns, lost, reward)
        episodes = Episodes(
            returns=returns,
            lengths=episodes.lengths + alive,
            finished=episodes.finished | ended,
        )
        after = key, state, timestep.observation, episodes, lost
        return *after, discount * gamma, time + 1

    key, start_key = jax.random.split(key)
    envs = vector.reset(start_key, params, num_episodes)
    episodes = Episodes(
        returns=jnp.zeros(num_episodes, jnp.float32),
        lengths=jnp.zeros(num_episodes, jnp.int32),
        finished=jnp.zeros(num_episodes, bool),
    )
    one, zero = jnp.float32(1.0), jnp.int32(0)
    carry = key, envs.state, envs.observation, episodes, episodes.returns, one, zero
    return jax.lax.while_loop(going, one_step, carry)[3]


class Trajectory(NamedTuple):
    """Every state and step of an episode; of `B` of them, leaves `[T, B, ...]`.

    Attributes:
        state: leaves `[T + 1, ...]`: the start and what each step led to.
        observation: leaves `[T + 1, ...]`, likewise.
        action: leaves `[T, ...]`.
        reward: float32 `[T]`.
        terminated: bool `[T]`.
        truncated: bool `[T]`.
        valid: bool `[T]`; false after the episode's end, where nothing moves any more.
    """

    state: Any
    observation: Any
    action: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array


def record(
    key: jax.Array,
    env: Any,
    params: Any,
    act: Callable[[Any, jax.Array], Any],
    *,
    num_episodes: int,
    max_steps: int,
) -> Trajectory:
    """Plays `num_episodes` episodes from fresh starts and keeps everything.

    Args:
        key: consumed.
        env: the environment.
        params: its parameters.
        act: `(observation, key) -> action` over all environments at once, greedy or not.
        num_episodes: number of episodes B.
        max_steps: number of steps T kept of each; static.

    Returns:
        The trajectories, leaves `[T, B, ...]`; `episode` takes one out.

    Raises:
        ValueError: no episode, or no step, is asked for.
    """
    _check_counts("record", num_episodes, max_steps)
    vector = VectorEnv(env)

    def one_step(carry, _):
        key, envs = carry
        key, act_key, step_key = jax.random.split(key, 3)
        action = act(envs.observation, act_key)
        envs, timestep, valid = vector.step(
            step_key, params, envs, action, autoreset="disabled"
        )
        flags = timestep.terminated, timestep.truncated, valid
        after = envs.state, envs.observation
        return (key, envs), (after, (action, timestep.reward, *flags))

    key, start_key = jax.random.split(key)
    envs = vector.reset(start_key, params, num_episodes)
    first = envs.state, envs.observation
    _, (after, rest) = jax.lax.scan(one_step, (key, envs), length=max_steps)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, after)
    return Trajectory(*states, *rest)


def episode(trajectories: Trajectory, index: int) -> Trajectory:
    """One episode of what `record` returned, cut at its end; NumPy, on the host."""
    num_episodes = trajectories.valid.shape[1]
    if not 0 <= index < num_episodes:
        raise ValueError(
            f"index must be that of one of the {num_episodes} recorded, got {index}. Use 0 to "
            f"{num_episodes - 1}."
        )
    one = jax.device_get(jax.tree.map(lambda x: x[:, index], trajectories))
    length = int(np.sum(one.valid))

    def first(tree: Any, count: int) -> Any:
        return jax.tree.map(lambda x: x[:count], tree)

    state, observation, *rest = one
    return Trajectory(
        first(state, length + 1), first(observation, length + 1), *first(rest, length)
    )


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
        act: `(observation, key, greedy=bool) -> action`, over all environments at once.
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


def _check_counts(name: str, num_episodes: int, max_steps: int) -> None:
    if num_episodes < 1 or max_steps < 1:
        raise ValueError(
            f"{name} plays at least one episode of at least one step, got "
            f"num_episodes={num_episodes} and max_steps={max_steps}. Use 1 or more."
        )
