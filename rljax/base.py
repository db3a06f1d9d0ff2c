"""Records and protocols that every other module uses.

In the shape descriptions `T` is time and `B` the number of environments.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

EnvState = TypeVar("EnvState")
EnvParams = TypeVar("EnvParams", contravariant=True)
State = TypeVar("State")

Params: TypeAlias = Any
"""A pytree of network parameters: plain nested dictionaries, as Flax Linen makes."""


class TimeStep(NamedTuple):
    """What one `Environment.step` emits; every leaf is unbatched.

    Attributes:
        observation: observation of the state the action led to, *before* any reset.
        reward: float32 scalar.
        terminated: bool scalar; the task ended, so the value beyond it is zero.
        truncated: bool scalar; only the clock ran out, so the value beyond it is not.
    """

    observation: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class Transition(NamedTuple):
    """One step as the learner sees it; a rollout stacks them to `[T, B, ...]`.

    Attributes:
        observation: what the policy saw.
        action: what it did.
        reward: float32.
        terminated: bool; the task ended.
        truncated: bool; the clock ran out. Both flags may be true.
        next_observation: observation the action led to, before any reset: where an
            episode ended it is that episode's final observation.
        extras: whatever the policy adds, such as the log-probability of the action.
    """

    observation: Any
    action: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_observation: Any
    extras: Any


class Network(Protocol):
    """The part of a Flax Linen module that learners use."""

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Makes parameters."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Applies the module, or one of its methods."""


class Environment(Protocol[EnvState, EnvParams]):
    """Pure functions of one environment. Batch with `jax.vmap`; never resets itself.

    An environment is hashable and holds no arrays: numbers belong in `params`. It may
    also have any of these:

        num_noise: int
        reset_from_noise(noise, params) -> (state, observation)
        step_noise: int
        step_from_noise(noise, state, action, params) -> (state, timestep)

    where a start, or a step, is a function of uniform noise, `[num_noise]` or
    `[step_noise]` in [0, 1): the noise of all environments is then drawn in one call,
    which is much cheaper than one key each;

        log_prob_reset(state, params) -> scalar
        log_prob_step(state, action, next_state, params) -> scalar

    the log-densities from which `rljax.rollouts.objectives.log_prob` builds a trajectory's;

        draw(state, action, params) -> Picture

    for its replay, see `rljax.envs.drawing`; and

        check_params(params)

    which raises a ValueError for parameters out of their ranges, before a sweep.

    `*_from_noise` and `log_prob_*` count only in the class that defines the `reset` or
    `step` they stand for: a subclass that overrides `step` is never answered for by what
    it inherits. It may say that one still holds: `log_prob_step = Parent.log_prob_step`.
    """

    def reset(self, key: jax.Array, params: EnvParams) -> tuple[EnvState, Any]:
        """Draws a start state; returns it with its observation. Consumes `key`."""

    def step(
        self, key: jax.Array, state: EnvState, action: Any, params: EnvParams
    ) -> tuple[EnvState, TimeStep]:
        """Takes one action. Consumes `key`."""

    def observation_space(self, params: EnvParams) -> Any:
        """The `rljax.envs.spaces` space in which every observation lies."""

    def action_space(self, params: EnvParams) -> Any:
        """The `rljax.envs.spaces` space of the actions that `step` takes."""


class Mean(NamedTuple):
    """A mean kept as its sum and its weight, so that means of means stay exact.

    Add two of them leaf by leaf (`jax.tree.map(jnp.add, a, b)`) to pool them.

    Attributes:
        total: weighted sum.
        weight: sum of the weights; zero where nothing was observed.
    """

    total: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, values: jax.Array) -> "Mean":
        """The mean of an array's elements."""
        return cls(values.sum(), jnp.float32(values.size))

    @property
    def value(self) -> jax.Array:
        """The mean; NaN where nothing was observed."""
        return self.total / self.weight


Metrics: TypeAlias = dict[str, Mean]
"""Diagnostics of an update. Never needed to go on."""


def _accept(state: Any, task: Any) -> None:
    del state, task


class Algorithm(NamedTuple, Generic[State]):
    """A learner as a pair of pure functions, as `optax.GradientTransformation` is.

    `task` is the pytree the learner reads and never writes: environment parameters,
    prompts and reward-model weights, or a dataset of preferences.

    Attributes:
        init: `(key, hyperparams, task) -> state`. The state has a field `step`, the
            number of updates taken, and holds everything needed to go on.
        step: `(state, task) -> (state, metrics)`; one update.
        check: `(state, task) -> None`; raises a ValueError for numbers out of their
            ranges. `train` calls it on the host, where they can be looked at.
    """

    init: Callable[[jax.Array, Any, Any], State]
    step: Callable[[State, Any], tuple[State, Metrics]]
    check: Callable[[State, Any], None] = _accept


class AlgorithmModule(Protocol):
    """The public names of an algorithm's module, such as `rljax.algorithms.ppo`.

    Attributes:
        Config: the static configuration; a frozen dataclass with `batch_size`,
            environment steps in an update, and `updates(total_steps)`.
        Hyperparams: the numbers that may be traced; a Flax struct.
    """

    Config: Any
    Hyperparams: Any

    def make(self, env: Any, network: Any, config: Any, /) -> Algorithm[Any]:
        """Makes the algorithm; cached, so that the same arguments compile once."""

    def act(
        self,
        network: Any,
        state: Any,
        observation: Any,
        key: Any,
        *,
        greedy: bool = False,
    ) -> Any:
        """Actions of the policy that was learned, for one observation or a batch."""

    def check_hyperparams(self, hyperparams: Any, /) -> None:
        """Raises a ValueError for hyperparameters out of their ranges."""
