"""An rljax environment as a `gymnasium.Env`, or many as a `gymnasium.vector.VectorEnv`.

Needs `pip install 'rljax[gym]'`.

Example:
    env = GymnasiumEnv(CartPole(), CartPoleParams(), render_mode="rgb_array")
    observation, info = env.reset(seed=0)
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.spaces import Box, Discrete
from rljax.envs.vector import AutoReset, VectorEnv, VectorState
from rljax.report.gif import frame

try:
    import gymnasium
    from gymnasium.error import ResetNeeded
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise ImportError(
        "rljax.interop.gymnasium needs gymnasium, which is not installed. Install it "
        "with: pip install 'rljax[gym]'"
    ) from error

_MODES: dict[AutoresetMode, AutoReset] = {
    AutoresetMode.SAME_STEP: "same_step",
    AutoresetMode.NEXT_STEP: "next_step",
    AutoresetMode.DISABLED: "disabled",
}


class GymnasiumEnv(gymnasium.Env):
    """One environment.

    Args:
        env: an rljax environment.
        params: its parameters.
        render_mode: "rgb_array", if the environment has `draw`; or None.

    Raises:
        ValueError: a space has no counterpart, or there is no such render mode.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 50,
    }

    def __init__(self, env: Any, params: Any, *, render_mode: str | None = None):
        _check_render_mode(env, render_mode)
        self.render_mode = render_mode
        self.observation_space = _space(env.observation_space(params))
        self.action_space = _space(env.action_space(params))
        self._env, self._params = env, jax.tree.map(jnp.asarray, params)
        self._key: jax.Array | None = None
        self._state: Any = None
        self._action: Any = None
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; a seed makes it, and those that follow, repeatable."""
        super().reset(seed=seed)
        if seed is not None or self._key is None:
            self._key = _key(self.np_random)
        self._key, self._state, observation = _reset(self._env, self._key, self._params)
        self._action, self._over = None, False
        return _fit(self.observation_space, observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one action.

        Raises:
            ResetNeeded: the episode is over, or none was started.
            ValueError: the action lies outside the action space.
        """
        if self._over:
            raise ResetNeeded("the episode is over, or none was started. Call reset().")
        action = _checked(self.action_space, action)
        self._key, self._state, timestep = _step(
            self._env, self._key, self._state, action, self._params
        )
        self._action = action
        observation = _fit(self.observation_space, timestep.observation)
        terminated, truncated = bool(timestep.terminated), bool(timestep.truncated)
        self._over = terminated or truncated
        return observation, float(timestep.reward), terminated, truncated, {}

    def render(self) -> Any:
        """The present state as `[H, W, 3]` uint8; None without a render mode.

        Raises:
            ResetNeeded: no episode was started.
        """
        if self.render_mode is None:
            return None
        if self._state is None:
            raise ResetNeeded("there is nothing to render yet. Call reset().")
        state, params = _numpy((self._state, self._params))
        return frame(self._env.draw(state, self._action, params))


class GymnasiumVectorEnv(gymnasium.vector.VectorEnv):
    """Many environments stepped together, in one compiled program.

    Args:
        env: an rljax environment.
        params: its parameters, the same for all.
        num_envs: how many.
        autoreset_mode: what follows an episode's end; Gymnasium's default.
        render_mode: "rgb_array", if the environment has `draw`; or None.

    Raises:
        ValueError: a space has no counterpart; there is no such mode; no environment.
    """

    metadata: dict[str, Any]

    def __init__(
        self,
        env: Any,
        params: Any,
        num_envs: int,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ):
        _check_render_mode(env, render_mode)
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}. Raise it.")
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = _space(env.observation_space(params))
        self.single_action_space = _space(env.action_space(params))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        mode = _mode(autoreset_mode)
        self.metadata = GymnasiumEnv.metadata | {"autoreset_mode": mode}
        self._mode = mode
        self._env, self._params = env, jax.tree.map(jnp.asarray, params)
        self._key: jax.Array | None = None
        self._envs: VectorState | None = None
        self._done = np.zeros(num_envs, bool)
        self._actions: Any = None
        self._acted = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in every environment, or in those of `options["reset_mask"]`.

        Args:
            seed: makes what follows repeatable; one integer for all environments.
            options: `{"reset_mask": bool[num_envs]}`, at least one of them true.

        Raises:
            ValueError: the seed or the mask is of another kind.
            ResetNeeded: a mask, before all environments were started.
        """
        if seed is not None and not isinstance(seed, int | np.integer):
            raise ValueError(
                f"seed must be one integer for all environments, got {seed!r}. Use seed=0, say."
            )
        super().reset(seed=seed)
        if seed is not None or self._key is None:
            self._key = _key(self.np_random)
        mask = self._mask(options or {})
        if self._envs is None:
            self._key, self._envs = _start(
                self._env, self._key, self._params, self.num_envs
            )
        else:
            self._key, self._envs = _restart(
                self._env, self._key, self._params, self._envs, mask
            )
        self._done = self._done & ~mask
        self._acted = self._acted & ~mask
        return _fit(self.observation_space, self._envs.observation), {}

    def step(
        self, actions: Any
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one action in every environment.

        Under same-step auto-reset the final observations of the episodes that ended are
        in `info["final_obs"]`, where `info["_final_obs"]` is true.

        Raises:
            ResetNeeded: no episode was started; or one is over, without auto-reset.
            ValueError: the actions lie outside the action space.
        """
        if self._envs is None:
            raise ResetNeeded("no episode was started. Call reset().")
        if self._mode == AutoresetMode.DISABLED and self._done.any():
            raise ResetNeeded(
                f"the episodes of environments {np.flatnonzero(self._done).tolist()} are over. "
                f"Call reset(options={{'reset_mask': terminated | truncated}})."
            )
        actions = _checked(self.action_space, actions)
        self._key, self._envs, timestep, valid = _step_all(
            self._env, self._key, self._params, self._envs, actions, _MODES[self._mode]
        )
        final = _fit(self.observation_space, timestep.observation)
        reward, terminated, truncated = _numpy(timestep[1:])
        ended = terminated | truncated
        self._done, self._actions, self._acted = ended, actions, np.array(valid)
        info: dict[str, Any] = {}
        if self._mode == AutoresetMode.SAME_STEP and ended.any():
            info = _final(final, ended)
            self._done, self._acted = np.zeros_like(ended), self._acted & ~ended
        observation = _fit(self.observation_space, self._envs.observation)
        return observation, reward.astype(np.float64), terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present state of every environment as `[H, W, 3]` uint8, or None.

        Raises:
            ResetNeeded: no episode was started.
        """
        if self.render_mode is None:
            return None
        if self._envs is None:
            raise ResetNeeded("there is nothing to render yet. Call reset().")
        states, params = _numpy((self._envs.state, self._params))

        def picture(index: int) -> Any:
            state, action = jax.tree.map(lambda x: x[index], (states, self._actions))
            last = action if self._acted[index] else None
            return self._env.draw(state, last, params)

        return tuple(frame(picture(index)) for index in range(self.num_envs))

    def _mask(self, options: dict[str, Any]) -> np.ndarray:
        if "reset_mask" not in options:
            return np.ones(self.num_envs, bool)
        mask = options["reset_mask"]
        right = isinstance(mask, np.ndarray) and mask.dtype == bool
        if not right or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"reset_mask must be a bool array of shape ({self.num_envs},) with at "
                f"least one True, got {mask!r}. Use terminated | truncated."
            )
        if self._envs is None:
            raise ResetNeeded("no episode was started. Call reset() without a mask.")
        return mask


def _final(observation: Any, ended: np.ndarray) -> dict[str, Any]:
    """Gymnasium's record of final observations; an object array, as Gymnasium's are."""
    final = np.full(len(ended), None, dtype=object)
    for index in np.flatnonzero(ended):
        final[index] = jax.tree.map(lambda x, index=index: x[index], observation)
    return {
        "final_obs": final,
        "_final_obs": ended.copy(),
        "final_info": {},
        "_final_info": ended.copy(),
    }


@functools.partial(jax.jit, static_argnums=0)
def _reset(env: Any, key: jax.Array, params: Any) -> Any:
    key, reset_key = jax.random.split(key)
    return key, *env.reset(reset_key, params)


@functools.partial(jax.jit, static_argnums=0)
def _step(env: Any, key: jax.Array, state: Any, action: Any, params: Any) -> Any:
    key, step_key = jax.random.split(key)
    return key, *env.step(step_key, state, action, params)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _start(env: Any, key: jax.Array, params: Any, num_envs: int) -> Any:
    key, start_key = jax.random.split(key)
    return key, VectorEnv(env).reset(start_key, params, num_envs)


@functools.partial(jax.jit, static_argnums=0)
def _restart(env: Any, key: jax.Array, params: Any, old: VectorState, mask: Any) -> Any:
    key, start_key = jax.random.split(key)
    return key, VectorEnv(env).restart(start_key, params, old, mask)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _step_all(
    env: Any, key: jax.Array, params: Any, old: Any, action: Any, autoreset: AutoReset
) -> Any:
    key, step_key = jax.random.split(key)
    result = VectorEnv(env).step(step_key, params, old, action, autoreset=autoreset)
    return key, *result


def _space(space: Any) -> gymnasium.Space:
    """Gymnasium's counterpart of a space, or of a dict or tuple of spaces."""
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n)
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
        f"Gymnasium has spaces for Discrete, Box, and dicts and tuples of them, got "
        f"{space!r}. Give the environment one of these."
    )


def _key(random: np.random.Generator) -> jax.Array:
    return jax.random.key(int(random.integers(2**32)))


def _fit(space: gymnasium.Space, observation: Any) -> Any:
    """An observation as Gymnasium wants it, in memory that the caller may write to."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: _fit(part, observation[name]) for name, part in space.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        pairs = zip(space.spaces, observation, strict=True)
        return tuple(_fit(part, value) for part, value in pairs)
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.int64(observation)
    return np.array(observation, space.dtype)


def _numpy(tree: Any) -> Any:
    """The tree with leaves copied into NumPy arrays; keys unchanged."""

    def plain(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return x if is_key else np.array(x)

    return jax.tree.map(plain, tree)


def _checked(space: gymnasium.Space, action: Any) -> Any:
    """The action as NumPy; raises a ValueError if it lies outside the space."""

    def of_numpy(x):
        return np.asarray(x)[()] if isinstance(x, jax.Array) else x

    action = jax.tree.map(of_numpy, action)
    if not space.contains(action):
        raise ValueError(
            f"actions lie in {space}, got {action!r}. Use action_space.sample(), say."
        )
    return _fit(space, action)


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        names = ", ".join(mode.value for mode in AutoresetMode)
        raise ValueError(
            f"autoreset_mode must be one of {names}, got {mode!r}. Choose one."
        ) from None


def _check_render_mode(env: Any, render_mode: str | None) -> None:
    modes = [None, "rgb_array"] if hasattr(env, "draw") else [None]
    if render_mode not in modes:
        raise ValueError(
            f"render_mode must be one of {modes} for {type(env).__name__}, got "
            f"{render_mode!r}. Choose one; a method draw(state, action, params) makes an "
            f"environment renderable."
        )
