"""Gymnasium's counterparts of our spaces, and what lies in them."""

import copy
from typing import Any

import gymnasium
import jax
import numpy as np

from rljax.envs.spaces import Box, Discrete, MultiDiscrete
from rljax.numerics.identity import identity


def make_spaces(env: Any, params: Any) -> tuple[gymnasium.Space, gymnasium.Space]:
    """Those of observations and actions, its own for every caller."""
    try:
        about = identity((env, params))
    except ValueError:  # of an environment that holds what is no value
        return _space(env.observation_space(params)), _space(env.action_space(params))
    if about not in _SPACES:  # without computing, in a process that was forked
        parts = env.observation_space(params), env.action_space(params)
        _SPACES[about] = tuple(map(_space, parts))
    observations, actions = copy.deepcopy(_SPACES[about])
    return observations, actions


_SPACES: dict[str, Any] = {}


def _space(space: Any) -> gymnasium.Space:
    """Gymnasium's counterpart of a space, or of a dict or tuple of spaces."""
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n)
    if isinstance(space, MultiDiscrete):
        return gymnasium.spaces.MultiDiscrete(list(space.nvec), dtype=np.int32)
    if isinstance(space, Box) and np.dtype(space.dtype) == bool:
        return gymnasium.spaces.MultiBinary(space.shape)
    if isinstance(space, Box):
        low, high = (
            np.broadcast_to(np.asarray(bound, space.dtype), space.shape)
            for bound in (space.low, space.high)
        )
        return gymnasium.spaces.Box(low, high, dtype=space.dtype)
    if isinstance(space, dict):
        return gymnasium.spaces.Dict({k: _space(v) for k, v in space.items()})
    if type(space) in (tuple, list):
        return gymnasium.spaces.Tuple([_space(part) for part in space])
    raise ValueError(
        f"Gymnasium has spaces for our Discrete, MultiDiscrete, Box, and dicts and tuples "
        f"of them, got "
        f"{space!r}. Give the environment one of these."
    )


def fit(space: gymnasium.Space, observation: Any) -> Any:
    """An observation as Gymnasium wants it, in memory that the caller may write to."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: fit(part, observation[name]) for name, part in space.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        pairs = zip(space.spaces, observation, strict=True)
        return tuple(fit(part, value) for part, value in pairs)
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.int64(observation)
    return np.array(observation, space.dtype)


def checked(space: gymnasium.Space, action: Any) -> Any:
    """The action as NumPy; raises a ValueError if it lies outside the space.

    Numbers may be of any precision; whoever draws floating ones keeps to the bounds.
    """
    action = jax.tree.map(
        lambda x: np.asarray(x)[()] if isinstance(x, jax.Array) else x, action
    )
    action = _in_precision(space, action)
    if not space.contains(action):
        raise ValueError(
            f"actions lie in {space}, got {action!r}. Use action_space.sample(), or clip "
            f"to its low and high."
        )
    return fit(space, action)


def _in_precision(space: gymnasium.Space, action: Any) -> Any:
    """The action in the space's dtypes, but no number rounded to a whole one."""
    if isinstance(space, gymnasium.spaces.Dict) and isinstance(action, dict):
        names = space.spaces.keys() & action.keys()
        return action | {x: _in_precision(space[x], action[x]) for x in names}
    if isinstance(space, gymnasium.spaces.Tuple) and isinstance(action, tuple):
        return tuple(map(_in_precision, space.spaces, action))
    if isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.MultiDiscrete):
        array, floating = np.asarray(action), np.issubdtype(space.dtype, np.floating)
        if array.dtype.kind in ("fiu" if floating else "iu"):
            cast = array.astype(space.dtype)
            return cast if floating or np.array_equal(cast, array) else action
    return action
