"""Rollouts: steps to learn from, and whole episodes to judge a policy by.

`unroll` collects what a learner learns from and restarts a lane as soon as its episode
ends; `evaluate` plays whole episodes, one on each lane, and `record` keeps every state
of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Mean, Metrics, Transition
from rljax.envs.vector import (
    Lanes,
    choose,
    draw_ahead,
    draw_reset,
    draw_step,
    reset_drawn,
    start,
    step,
    step_all,
    step_drawn,
)


def unroll(
    key: jax.Array,
    env: Any,
    params: Any,
    lanes: Lanes,
    act: Callable[[Any, Any], tuple[Any, Any]],
    num_steps: int,
    *,
    act_noise: Any = None,
) -> tuple[Lanes, Transition, Metrics]:
    """Steps every lane `num_steps` times, restarting each as its episode ends.

    A lane whose episode ended shows its next episode's first observation already in the
    next step (Gymnasium's same-step auto-reset); the ended episode's final observation
    is kept in `Transition.next_observation`. Numbers are drawn before the first step, as
    far as environment and policy take numbers: drawing costs more than stepping.

    Args:
        key: consumed.
        env: the environment.
        params: its parameters.
        lanes: where the last rollout left off, or `start(...)`.
        act: `(observation, key) -> (action, extras)` over all lanes at once.
        num_steps: number of steps T.
        act_noise: leaves `[T, ...]`; if given, `act` gets a row of it, not a key.

    Returns:
        The lanes afterwards; transitions, leaves `[T, B, ...]`; and over the episodes
        that ended, the means `episode_return` and `episode_length`.
    """
    num_envs = lanes.done.shape[0]
    key, step_ahead_key, reset_ahead_key = jax.random.split(key, 3)
    steps = resets = None
    if hasattr(env, "step_from_noise"):
        steps = draw_ahead(step_ahead_key, num_envs, num_steps, env.step_noise)
    if hasattr(env, "reset_from_noise"):
        resets = draw_ahead(reset_ahead_key, num_envs, num_steps, env.num_noise)

    def one_step(carry, drawn):
        key, state, observation = carry
        key, act_key, step_key, reset_key = jax.random.split(key, 4)
        for_act, for_step, for_reset = drawn
        if act_noise is None:
            for_act = act_key
        if for_step is None:
            for_step = draw_step(step_key, env, num_envs)
        if for_reset is None:
            for_reset = draw_reset(reset_key, env, num_envs)
        action, extras = act(observation, for_act)
        after, timestep = step_drawn(for_step, env, state, action, params)
        done = timestep.terminated | timestep.truncated
        transition = Transition(
            observation=observation,
            action=action,
            reward=timestep.reward,
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            next_observation=timestep.observation,
            extras=extras,
        )
        fresh = reset_drawn(for_reset, env, params)
        state, observation = choose(done, fresh, (after, timestep.observation))
        return (key, state, observation), transition

    (_, state, observation), transitions = jax.lax.scan(
        one_step,
        (key, lanes.state, lanes.observation),
        (act_noise, steps, resets),
        num_steps,
    )
    lanes = lanes.replace(state=state, observation=observation)
    lanes, metrics = _count_episodes(lanes, transitions)
    return lanes, transitions, metrics


def _count_episodes(lanes: Lanes, steps: Transition) -> tuple[Lanes, Metrics]:
    """Adds a rollout to the running returns and lengths; means over what ended."""
    done = steps.terminated | steps.truncated
    time = jnp.arange(len(done))[:, None]
    ended = jax.lax.cummax(jnp.where(done, time, -1))  # the last end until then
    before = jnp.concatenate([jnp.full_like(ended[:1], -1), ended[:-1]])

    def since_start(so_far, each):
        total = so_far[None] + jnp.cumsum(each, axis=0, dtype=so_far.dtype)
        earlier = jnp.take_along_axis(total, jnp.maximum(before, 0), axis=0)
        return total - jnp.where(before < 0, 0, earlier)

    returns = since_start(lanes.episode_return, steps.reward)
    lengths = since_start(lanes.episode_length, jnp.ones_like(time))
    count = done.sum(dtype=jnp.float32)
    lanes = lanes.replace(
        episode_return=jnp.where(done[-1], 0, returns[-1]),
        episode_length=jnp.where(done[-1], 0, lengths[-1]),
    )
    return lanes, {
        "episode_return": Mean(jnp.where(done, returns, 0).sum(), count),
        "episode_length": Mean(
            jnp.where(done, lengths, 0).sum(dtype=jnp.float32), count
        ),
    }


class Episodes(NamedTuple):
    """Whole episodes, one to a lane.

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
        act: `(observation, key) -> action` over all lanes at once, greedy or not.
        num_episodes: number of episodes N.
        max_steps: bound on their length; static. At least the environment's own limit
            if they are all to finish.
        gamma: discount factor of the returns, in [0, 1].
        continuing: play on where only the clock ran out, as if there were none.

    Returns:
        What each episode gave.

    Raises:
        ValueError: no episode, or no step, is asked for.
    """
    _check_counts("evaluate", num_episodes, max_steps)

    def going(carry):
        _, _, _, episodes, _, time = carry
        return (time < max_steps) & ~jnp.all(episodes.finished)

    def one_step(carry):
        key, state, observation, episodes, discount, time = carry
        key, act_key, step_key = jax.random.split(key, 3)
        action = act(observation, act_key)
        state, timestep = step_all(step_key, env, state, action, params)
        alive = ~episodes.finished
        ended = timestep.terminated | (timestep.truncated & (not continuing))
        episodes = Episodes(
            returns=episodes.returns + jnp.where(alive, discount * timestep.reward, 0),
            lengths=episodes.lengths + alive,
            finished=episodes.finished | ended,
        )
        return key, state, timestep.observation, episodes, discount * gamma, time + 1

    key, start_key = jax.random.split(key)
    lanes = start(start_key, env, params, num_episodes)
    episodes = Episodes(
        returns=jnp.zeros(num_episodes, jnp.float32),
        lengths=jnp.zeros(num_episodes, jnp.int32),
        finished=jnp.zeros(num_episodes, bool),
    )
    one, zero = jnp.float32(1.0), jnp.int32(0)
    carry = key, lanes.state, lanes.observation, episodes, one, zero
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
        act: `(observation, key) -> action` over all lanes at once, greedy or not.
        num_episodes: number of episodes B.
        max_steps: number of steps T kept of each; static.

    Returns:
        The trajectories, leaves `[T, B, ...]`; `episode` takes one out.

    Raises:
        ValueError: no episode, or no step, is asked for.
    """
    _check_counts("record", num_episodes, max_steps)

    def one_step(carry, _):
        key, lanes = carry
        key, act_key, step_key = jax.random.split(key, 3)
        action = act(lanes.observation, act_key)
        lanes, timestep, valid = step(
            step_key, env, params, lanes, action, autoreset="disabled"
        )
        flags = timestep.terminated, timestep.truncated, valid
        after = lanes.state, lanes.observation
        return (key, lanes), (after, (action, timestep.reward, *flags))

    key, start_key = jax.random.split(key)
    lanes = start(start_key, env, params, num_episodes)
    first = lanes.state, lanes.observation
    _, (after, rest) = jax.lax.scan(one_step, (key, lanes), length=max_steps)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, after)
    return Trajectory(*states, *rest)


def episode(trajectories: Trajectory, lane: int) -> Trajectory:
    """One lane of what `record` gave, cut at its episode's end; NumPy, on the host."""
    num_episodes = trajectories.valid.shape[1]
    if not 0 <= lane < num_episodes:
        raise ValueError(
            f"lane must be one of the {num_episodes} recorded, got {lane}. Use 0 to "
            f"{num_episodes - 1}."
        )
    one = jax.device_get(jax.tree.map(lambda x: x[:, lane], trajectories))
    length = int(np.sum(one.valid))

    def cut(tree: Any, end: int) -> Any:
        return jax.tree.map(lambda x: x[:end], tree)

    state, observation, *rest = one
    return Trajectory(
        cut(state, length + 1), cut(observation, length + 1), *cut(rest, length)
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


def _check_counts(name: str, num_episodes: int, max_steps: int) -> None:
    if num_episodes < 1 or max_steps < 1:
        raise ValueError(
            f"{name} plays at least one episode of at least one step, got "
            f"num_episodes={num_episodes} and max_steps={max_steps}. Use 1 or more."
        )
