"""Many copies of one environment stepped together: the one auto-reset.

Random numbers are drawn for all environments in one call, in an order in which those of
environment i do not depend on how many environments there are.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.base import TimeStep
from rljax.envs.hooks import find_hook
from rljax.envs.spaces import has_structure, is_same_kind, is_space
from rljax.envs.variation import check_unwrapped, one_of, rows_of
from rljax.numerics import random
from rljax.numerics.sums import add_compensated, add_up_to_largest

AutoReset: TypeAlias = Literal["same_step", "next_step", "disabled"]
"""What follows an episode's end; see `VectorEnv.step`."""


class VectorState(struct.PyTreeNode):
    """`B` environments in the middle of their episodes.

    Attributes:
        state: states; leaves `[B, ...]`.
        observation: what the policy sees next; leaves `[B, ...]`.
        done: bool `[B]`; the episode is over and the environment has not been restarted.
            Never true under same-step auto-reset.
        episode_return: float32 `[B]`, reward so far in the episode, to the last bit.
        episode_return_lost: float32 `[B]`; see `rljax.numerics.sums`.
        episode_length: int32 `[B]`, steps so far in the episode; 2**31 - 1 if more.
    """

    state: Any
    observation: Any
    done: jax.Array
    episode_return: jax.Array
    episode_return_lost: jax.Array
    episode_length: jax.Array


class Draws(NamedTuple):
    """The randomness of one step of `B` environments.

    Attributes:
        step: uniform numbers `[B, step_size]` if the environment takes numbers, else
            keys `[B]`; None where it is still to be drawn.
        reset: likewise for a reset, `[B, reset_size]` or `[B]`.
    """

    step: Any
    reset: Any


@dataclasses.dataclass(frozen=True)
class VectorEnv:
    """An environment as a batch: `B` copies, stepped together by one `vmap`.

    Only here does the library look whether an environment has `reset_from_noise` or
    `step_from_noise`, which make numbers for all copies cheap to draw. They are used
    where they are defined beside `reset` and `step`; see `rljax.envs.hooks`.

    Parameters may be one set for all, or a `ParamsPerEnv` of `rljax.envs.variation`.

    Attributes:
        env: an `rljax.Environment`.
    """

    env: Any

    @property
    def step_size(self) -> int | None:
        """Uniform numbers that a step takes; None if it takes a key."""
        hook = find_hook(self.env, "step_from_noise", "step")
        return None if hook is None else self.env.step_noise

    @property
    def reset_size(self) -> int | None:
        """Uniform numbers that a reset takes; None if it takes a key."""
        hook = find_hook(self.env, "reset_from_noise", "reset")
        return None if hook is None else self.env.num_noise

    def reset(self, key: jax.Array, params: Any, num_envs: int) -> VectorState:
        """Starts an episode in each of `num_envs` environments; consumes `key`."""
        return self._start(self._draw(key, self.reset_size, num_envs), params, num_envs)

    def reset_each(self, key: jax.Array, seeds: jax.Array, params: Any) -> VectorState:
        """Starts an episode in each environment by its own seed, uint32 `[B]`."""
        del key
        keys = jax.vmap(jax.random.key)(seeds)
        params, axis = rows_of(params, len(seeds))
        start = jax.vmap(self.env.reset, in_axes=(0, axis))(keys, params)
        return _fresh(start, len(seeds))

    def restart(
        self, key: jax.Array, params: Any, envs: VectorState, mask: jax.Array
    ) -> VectorState:
        """Starts new episodes where the bools `mask`, `[B]`, are true; consumes `key`."""
        return choose(mask, self.reset(key, params, len(mask)), envs)

    def step(
        self,
        key: jax.Array,
        params: Any,
        envs: VectorState,
        action: Any,
        *,
        autoreset: AutoReset = "same_step",
    ) -> tuple[VectorState, TimeStep, jax.Array]:
        """Takes one action in every environment, in one of Gymnasium's auto-reset modes.

        `same_step`: an environment whose episode ends is restarted at once, and the
            policy next sees the new episode's first observation; the final one is in the
            time step.
        `next_step`: the policy next sees the final observation, its action is ignored,
            and that step, of reward 0 and no flag, gives the new episode's first
            observation.
        `disabled`: an environment whose episode ended stands still, with reward 0 and no
            flag, until `restart` is called.

        Args:
            key: consumed.
            params: the environment's parameters.
            envs: where the environments are.
            action: leaves `[B, ...]`.
            autoreset: the mode.

        Returns:
            The environments afterwards; the time steps, leaves `[B, ...]`, their
            observations from before any same-step reset; and bool `[B]`, false where no
            action was taken, so that nothing is to be learned or counted.

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
        draws = self.draw(step_key, reset_key, len(envs.done))
        if autoreset == "same_step":
            (state, observation), timestep = self.step_and_reset(
                draws, params, envs.state, action
            )
            return (
                _count(envs, state, observation, timestep, restarted=True),
                timestep,
                jnp.ones_like(envs.done),
            )
        state, timestep = self.step_all(draws.step, params, envs.state, action)
        after = _count(envs, state, timestep.observation, timestep, restarted=False)
        waiting = envs
        if autoreset == "next_step":
            fresh = self._start(draws.reset, params, len(envs.done))
            waiting = choose(envs.done, fresh, envs)
        idle = TimeStep(
            observation=waiting.observation,
            reward=jnp.zeros_like(timestep.reward),
            terminated=jnp.zeros_like(timestep.terminated),
            truncated=jnp.zeros_like(timestep.truncated),
        )
        after, timestep = choose(envs.done, (waiting, idle), (after, timestep))
        return after, timestep, ~envs.done

    def step_and_reset(
        self, draws: Draws, params: Any, state: Any, action: Any
    ) -> tuple[tuple[Any, Any], TimeStep]:
        """Steps every environment, and restarts those whose episode ends.

        Args:
            draws: randomness of the step and of the resets.
            params: the environment's parameters.
            state: leaves `[B, ...]`.
            action: leaves `[B, ...]`.

        Returns:
            The states and observations to go on from; and the time steps, their
            observations from before any reset.
        """
        after, timestep = self.step_all(draws.step, params, state, action)
        fresh = self.reset_all(draws.reset, params)
        done = timestep.terminated | timestep.truncated
        return choose(done, fresh, (after, timestep.observation)), timestep

    def step_all(
        self, draws: Any, params: Any, state: Any, action: Any
    ) -> tuple[Any, TimeStep]:
        """Steps every environment, whether or not its episode is over.

        Raises:
            ValueError: the action is not of the action space, one for each environment;
                or parameters have a row for each without being a `ParamsPerEnv`.
        """
        step = find_hook(self.env, "step_from_noise", "step") or self.env.step
        num_envs = len(jax.tree.leaves(draws)[0])
        self._check_action(action, params, num_envs)
        params, axis = rows_of(params, num_envs)
        step_each = jax.vmap(step, in_axes=(0, 0, 0, axis))
        try:
            after, timestep = step_each(draws, state, action, params)
            if jnp.shape(timestep.reward) != (num_envs,):
                raise ValueError(
                    f"rewards have the shape {jnp.shape(timestep.reward)}."
                )
        except (TypeError, ValueError) as error:
            if axis is None:
                check_unwrapped(params, error)
            raise
        return after, timestep

    def _check_action(self, action: Any, params: Any, num_envs: int) -> None:
        """Checks structure, shapes and kinds of numbers, which a trace knows."""
        try:
            space = self.env.action_space(one_of(params))
        except jax.errors.ConcretizationTypeError:  # it needs the numbers themselves
            return
        if not has_structure(space, action):
            raise ValueError(
                f"actions must be of {space}, got {jax.tree.structure(action)}. A policy "
                f"returns the action itself, not its distribution."
            )
        parts = jax.tree.leaves(space, is_leaf=is_space)
        for leaf, part in zip(jax.tree.leaves(action), parts, strict=True):
            shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
            if shape != (num_envs, *part.shape):
                raise ValueError(
                    f"an action must have a row for each of {num_envs} environments, "
                    f"shape {(num_envs, *part.shape)}, got shape {shape}. Policies act on "
                    f"all of them at once: pass one of a single observation as "
                    f"jax.vmap(policy)."
                )
            if not is_same_kind(part, dtype):
                raise ValueError(
                    f"actions must be of {part}, got {dtype}. Convert them with "
                    f".astype({str(np.dtype(part.dtype))!r})."
                )

    def reset_all(self, draws: Any, params: Any) -> tuple[Any, Any]:
        """Start states and observations, leaves `[B, ...]`."""
        reset = find_hook(self.env, "reset_from_noise", "reset") or self.env.reset
        params, axis = rows_of(params, len(jax.tree.leaves(draws)[0]))
        return jax.vmap(reset, in_axes=(0, axis))(draws, params)

    def draw(
        self,
        step_key: jax.Array,
        reset_key: jax.Array,
        num_envs: int,
        ahead: Draws | None = None,
    ) -> Draws:
        """Draws what one step takes, except what `draw_ahead` has; consumes the keys."""
        step, reset = ahead or Draws(None, None)
        if step is None:
            step = self.draw_step(step_key, num_envs)
        if reset is None:
            reset = self._draw(reset_key, self.reset_size, num_envs)
        return Draws(step, reset)

    def draw_step(self, key: jax.Array, num_envs: int) -> jax.Array:
        """Draws what `step_all` takes; consumes `key`."""
        return self._draw(key, self.step_size, num_envs)

    def draw_ahead(
        self, step_key: jax.Array, reset_key: jax.Array, num_envs: int, num_steps: int
    ) -> Draws:
        """Draws the numbers, not the keys, of `T` steps: leaves `[T, B, size]` or None.

        Much cheaper than drawing in each step. Consumes the keys.
        """

        def numbers(key: jax.Array, size: int | None) -> jax.Array | None:
            if size is None:
                return None
            return jnp.moveaxis(random.uniforms(key, (num_envs, num_steps, size)), 1, 0)

        return Draws(
            numbers(step_key, self.step_size), numbers(reset_key, self.reset_size)
        )

    def _start(self, draws: Any, params: Any, num_envs: int) -> VectorState:
        return _fresh(self.reset_all(draws, params), num_envs)

    def _draw(self, key: jax.Array, size: int | None, num_envs: int) -> jax.Array:
        if size is None:
            return jax.random.split(key, num_envs)
        return random.uniforms(key, (num_envs, size))


def _fresh(start: tuple[Any, Any], num_envs: int) -> VectorState:
    """Environments at the starts of their episodes."""
    zeros = jnp.zeros(num_envs, jnp.float32)
    return VectorState(
        *start,
        done=jnp.zeros(num_envs, bool),
        episode_return=zeros,
        episode_return_lost=zeros,
        episode_length=jnp.zeros(num_envs, jnp.int32),
    )


def choose(mask: jax.Array, if_true: Any, otherwise: Any) -> Any:
    """Chooses whole environments of a pytree by the `[B]` bools `mask`."""

    def one(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(one, if_true, otherwise)


def _count(
    envs: VectorState, state: Any, observation: Any, step: TimeStep, *, restarted: bool
) -> VectorState:
    """The environments after a step, their episodes' returns and lengths counted."""
    done = step.terminated | step.truncated
    over = done & restarted
    so_far = envs.episode_return, envs.episode_return_lost
    total, lost = add_compensated(*so_far, step.reward)
    return VectorState(
        state=state,
        observation=observation,
        done=done & (not restarted),
        episode_return=jnp.where(over, 0, total),
        episode_return_lost=jnp.where(over, 0, lost),
        episode_length=jnp.where(over, 0, add_up_to_largest(envs.episode_length, 1)),
    )
