"""Lanes: many copies of an environment stepped together, and what follows an episode.

Random numbers are drawn for all lanes in one call, in an order in which a lane's numbers
do not depend on how many lanes there are.
"""

from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import TimeStep
from rljax.numerics import random

AutoReset: TypeAlias = Literal["same_step", "next_step", "disabled"]
"""What follows an episode's end; see `step`."""


class Lanes(struct.PyTreeNode):
    """`B` environments in flight.

    Attributes:
        state: states; leaves `[B, ...]`.
        observation: what the policy sees next; leaves `[B, ...]`.
        done: bool `[B]`; the episode is over and the lane has not been restarted. Never
            true under same-step auto-reset.
        episode_return: float32 `[B]`, reward so far in the episode.
        episode_length: int32 `[B]`, steps so far in the episode.
    """

    state: Any
    observation: Any
    done: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array


def start(key: jax.Array, env: Any, params: Any, num_envs: int) -> Lanes:
    """Starts an episode on each of `num_envs` lanes; consumes `key`."""
    state, observation = reset_drawn(draw_reset(key, env, num_envs), env, params)
    return Lanes(
        state=state,
        observation=observation,
        done=jnp.zeros(num_envs, bool),
        episode_return=jnp.zeros(num_envs, jnp.float32),
        episode_length=jnp.zeros(num_envs, jnp.int32),
    )


def restart(
    key: jax.Array, env: Any, params: Any, lanes: Lanes, mask: jax.Array
) -> Lanes:
    """Starts a new episode on the lanes that the bools `mask`, `[B]`, choose.

    Consumes `key`. The other lanes stay as they are.
    """
    fresh = start(key, env, params, lanes.done.shape[0])
    return choose(mask, fresh, lanes)


def step(
    key: jax.Array,
    env: Any,
    params: Any,
    lanes: Lanes,
    action: Any,
    *,
    autoreset: AutoReset = "same_step",
) -> tuple[Lanes, TimeStep, jax.Array]:
    """Takes one action on every lane; Gymnasium's three auto-reset modes.

    `same_step`: a lane whose episode ends is restarted at once, and the policy next sees
        the new episode's first observation; the final one is in the time step.
    `next_step`: the policy next sees the final observation, its action is ignored, and
        that step, of reward 0 and no flag, gives the new episode's first observation.
    `disabled`: a lane whose episode ended stands still, with reward 0 and no flag, until
        `restart` is called.

    Args:
        key: consumed.
        env: the environment.
        params: its parameters.
        lanes: where they are.
        action: leaves `[B, ...]`.
        autoreset: the mode.

    Returns:
        The lanes afterwards; the time steps, leaves `[B, ...]`, their observations from
        before any same-step reset; and bool `[B]`, false where no action was taken, so
        that nothing is to be learned or counted.

    Raises:
        ValueError: there is no such mode.

    References:
        https://farama.org/Vector-Autoreset-Mode
    """
    if autoreset not in get_args(AutoReset):
        raise ValueError(
            f"autoreset must be one of {', '.join(get_args(AutoReset))}, got "
            f"{autoreset!r}. Use one of them."
        )
    step_key, reset_key = jax.random.split(key)
    state, timestep = step_all(step_key, env, lanes.state, action, params)
    after = Lanes(
        state=state,
        observation=timestep.observation,
        done=timestep.terminated | timestep.truncated,
        episode_return=lanes.episode_return + timestep.reward,
        episode_length=lanes.episode_length + 1,
    )
    if autoreset == "same_step":
        everywhere = jnp.ones_like(after.done)
        return restart(reset_key, env, params, after, after.done), timestep, everywhere

    if autoreset == "next_step":
        waiting = restart(reset_key, env, params, lanes, lanes.done)
    else:
        waiting = lanes
    idle = TimeStep(
        observation=waiting.observation,
        reward=jnp.zeros_like(timestep.reward),
        terminated=jnp.zeros_like(timestep.terminated),
        truncated=jnp.zeros_like(timestep.truncated),
    )
    after, timestep = choose(lanes.done, (waiting, idle), (after, timestep))
    return after, timestep, ~lanes.done


def step_all(
    key: jax.Array, env: Any, state: Any, action: Any, params: Any
) -> tuple[Any, TimeStep]:
    """Steps the states of all lanes, whether or not their episodes are over.

    Args:
        key: consumed.
        env: the environment.
        state: leaves `[B, ...]`.
        action: leaves `[B, ...]`.
        params: its parameters.
    """
    num_envs = jax.tree.leaves(state)[0].shape[0]
    return step_drawn(draw_step(key, env, num_envs), env, state, action, params)


def draw_step(key: jax.Array, env: Any, num_envs: int) -> jax.Array:
    """What `step_drawn` consumes: numbers if the environment takes them, else keys."""
    if hasattr(env, "step_from_noise"):
        return random.uniforms(key, (num_envs, env.step_noise))
    return jax.random.split(key, num_envs)


def step_drawn(
    drawn: jax.Array, env: Any, state: Any, action: Any, params: Any
) -> tuple[Any, TimeStep]:
    """`step_all`, of what was drawn before."""
    one = getattr(env, "step_from_noise", env.step)
    return jax.vmap(one, in_axes=(0, 0, 0, None))(drawn, state, action, params)


def draw_ahead(key: jax.Array, num_envs: int, num_steps: int, size: int) -> jax.Array:
    """`[T, B, size]` numbers in [0, 1); a lane's do not depend on how many there are."""
    numbers = random.uniforms(key, (num_envs, num_steps, size))
    return jnp.moveaxis(numbers, 1, 0)


def draw_reset(key: jax.Array, env: Any, num_envs: int) -> jax.Array:
    """What `reset_drawn` consumes: numbers if the environment takes them, else keys."""
    if hasattr(env, "reset_from_noise"):
        return random.uniforms(key, (num_envs, env.num_noise))
    return jax.random.split(key, num_envs)


def reset_drawn(drawn: jax.Array, env: Any, params: Any) -> tuple[Any, Any]:
    """Start states and observations of all lanes, of what was drawn before."""
    one = getattr(env, "reset_from_noise", env.reset)
    return jax.vmap(one, in_axes=(0, None))(drawn, params)


def choose(mask: jax.Array, if_true: Any, otherwise: Any) -> Any:
    """Chooses whole lanes of a pytree by the `[B]` bools `mask`."""

    def one(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(one, if_true, otherwise)
