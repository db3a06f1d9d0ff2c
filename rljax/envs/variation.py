"""One environment with many parameters: a set for each copy, or drawn at every reset."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.base import TimeStep


class ParamsPerEnv(struct.PyTreeNode):
    """Parameters of a batch of environments: environment i has row `i % N`.

    To be given wherever parameters are: to a learner, `evaluate`, `simulate`, a
    sweep's problem, or the vector adapter.

    Attributes:
        params: the environment's parameters, every leaf `[N, ...]`; `rljax.stack` makes
            them.

    Example:
        lengths = ParamsPerEnv(stack(CartPoleParams(), length=[0.25, 0.5, 0.75, 1.0]))
    """

    params: Any

    def rows(self, index: jax.Array) -> "ParamsPerEnv":
        """Those of the environments `index`, `[B]`."""
        count = len(jax.tree.leaves(self.params)[0])
        return ParamsPerEnv(jax.tree.map(lambda x: x[index % count], self.params))


def rows_of(params: Any, num_envs: int) -> tuple[Any, int | None]:
    """The parameters of `num_envs` environments, and the axis to map them over."""
    if not isinstance(params, ParamsPerEnv):
        return params, None
    for leaf in jax.tree.leaves(params.params):
        if not jnp.ndim(leaf):
            raise ValueError(
                f"ParamsPerEnv takes parameters of which every leaf has a row for each "
                f"environment, got the number {leaf}. Use rljax.stack(params, name=[...])."
            )
    lengths = {len(leaf) for leaf in jax.tree.leaves(params.params)}
    if len(lengths) != 1:
        raise ValueError(
            f"ParamsPerEnv takes parameters of which every leaf has equally many rows, got "
            f"{', '.join(map(str, sorted(lengths))) or 'none'}. Use rljax.stack(params, "
            f"name=[...])."
        )
    if lengths != {num_envs}:
        params = params.rows(jnp.arange(num_envs, dtype=jnp.int32))
    return params.params, 0


def check_unwrapped(params: Any, error: Exception) -> None:
    """Raises a ValueError if parameters with rows may be why an environment fails."""
    arrays = [
        f"{jax.tree_util.keystr(path).lstrip('.')} of shape {jnp.shape(leaf)}"
        for path, leaf in jax.tree.leaves_with_path(params)
        if jnp.ndim(leaf)
    ]
    if arrays:
        raise ValueError(
            f"a step failed with the parameters {', '.join(arrays)}: "
            f"{str(error).splitlines()[0]} If each environment has its own, pass "
            f"rljax.ParamsPerEnv(rljax.stack(params, name=[...])); parameters given as "
            f"they are go to every environment whole."
        ) from error


def one_of(params: Any) -> Any:
    """The parameters of one environment, of which all have the same spaces."""
    if isinstance(params, ParamsPerEnv):
        return jax.tree.map(lambda x: x[0], params.params)
    return params


def each_of(params: Any) -> list[Any]:
    """The parameters of each environment, if it has some of its own, or else of all."""
    if not isinstance(params, ParamsPerEnv):
        return [params]
    rows = jax.tree.map(np.asarray, params.params)
    count = len(jax.tree.leaves(rows)[0])
    return [jax.tree.map(lambda x, i=i: x[i], rows) for i in range(count)]


def all_of(params: Any) -> Any:
    """The environment's own kind of parameters; leaves `[N, ...]` of several sets."""
    return params.params if isinstance(params, ParamsPerEnv) else params


def check_params(env: Any, params: Any) -> None:
    """Raises the environment's own ValueError for its parameters, if it checks them."""
    # Of its class: what a wrapper's __getattr__ finds checks another kind of parameters.
    if getattr(type(env), "check_params", None):
        env.check_params(all_of(params))


class RandomizedState(struct.PyTreeNode):
    """A state together with the parameters that were drawn for its episode."""

    state: Any
    params: Any


@dataclasses.dataclass(frozen=True)
class Randomized:
    """An environment whose parameters are drawn anew at each reset.

    Its spaces are those that the parameters have which it is given.

    Attributes:
        env: the environment.
        sample_params: `(key, params) -> params`; consumes `key`.

    Example:
        def any_length(key, params):
            return params.replace(length=jax.random.uniform(key, (), minval=0.25))

        env = Randomized(CartPole(), any_length)
    """

    env: Any
    sample_params: Callable[[jax.Array, Any], Any]

    def reset(self, key: jax.Array, params: Any) -> tuple[RandomizedState, Any]:
        """Draws parameters and starts an episode with them; consumes `key`."""
        params_key, key = jax.random.split(key)
        drawn = jax.tree.map(fixed_dtype, self.sample_params(params_key, params))
        state, observation = self.env.reset(key, drawn)
        return RandomizedState(state, drawn), observation

    def step(
        self, key: jax.Array, state: RandomizedState, action: Any, params: Any
    ) -> tuple[RandomizedState, TimeStep]:
        """Takes one action with the episode's parameters; consumes `key`."""
        del params
        after, timestep = self.env.step(key, state.state, action, state.params)
        return state.replace(state=after), timestep

    def observation_space(self, params: Any) -> Any:
        """The environment's, with these parameters."""
        return self.env.observation_space(params)

    def action_space(self, params: Any) -> Any:
        """The environment's, with these parameters."""
        return self.env.action_space(params)


def fixed_dtype(x: Any) -> jax.Array:
    """A Python number as an array of a fixed dtype."""
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jnp.bool_):
        return jnp.asarray(x)
    whole = jnp.issubdtype(dtype, jnp.integer)
    return jnp.asarray(x, jnp.int32 if whole else jnp.float32)
