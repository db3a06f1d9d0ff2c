"""An rljax environment as a `gymnasium.Env`, or many as a `gymnasium.vector.VectorEnv`.

Needs `pip install 'rljax[gym]'`.

Example:
    env = GymnasiumEnv(CartPole(), CartPoleParams(), render_mode="rgb_array")
    observation, info = env.reset(seed=0)
"""

import functools
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.hooks import find_owner
from rljax.envs.variation import ParamsPerEnv, one_of, rows_of
from rljax.envs.vector import VectorEnv, choose
from rljax.numerics.random import is_key
from rljax.numerics.validation import check_at_least
from rljax.report.gif import frame
from rljax.training.populations import member

try:
    import gymnasium
    from gymnasium.error import ResetNeeded
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space

    from rljax.interop.gymnasium_spaces import checked, fit, make_spaces
except ImportError as error:
    raise ImportError(
        "rljax.interop.gymnasium needs gymnasium, which is not installed. Install it "
        "with: pip install 'rljax[gym]'"
    ) from error


_is_used = _is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = _is_forked or _is_used


os.register_at_fork(after_in_child=_after_fork)


class _Adapter:
    """One environment or many; each call takes its key from a sequence of keys."""

    np_random: Any

    def __init__(self, env: Any, params: Any, render_mode: str | None):
        modes = [None, "rgb_array"] if find_owner(env, "draw") else [None]
        if render_mode not in modes:
            raise ValueError(
                f"render_mode must be one of {modes} for {type(env).__name__}, got "
                f"{render_mode!r}. Choose one; a method draw(state, action, params) "
                f"makes an environment renderable."
            )
        self.render_mode = render_mode
        self._env, self._params = env, params
        if not _is_forked:
            self._params = jax.tree.map(jnp.asarray, params)
        global _is_used
        _is_used = True
        self._key: jax.Array | None = None

    def _seed(self, seed: int | None) -> None:
        if _is_forked:
            raise RuntimeError(
                "JAX cannot compute in a process forked from one that has used it: the "
                "first computation would hang. Start processes afresh, "
                'AsyncVectorEnv(..., context="spawn"), or use GymnasiumVectorEnv, which '
                "steps all environments in one program."
            )
        if seed is not None or self._key is None:
            self._key = jax.random.key(int(self.np_random.integers(2**32)))

    def _call(self, env: Any, method: str, *args: Any, **options: Any) -> Any:
        self._key, result = _run(env, method, self._key, *args, **options)
        return result

    def _is_rendered(self, state: Any) -> bool:
        if self.render_mode is not None and state is None:
            raise ResetNeeded("there is nothing to render yet. Call reset().")
        return self.render_mode is not None


class GymnasiumEnv(_Adapter, gymnasium.Env):
    """One environment.

    Args:
        env: an rljax environment.
        params: its parameters.
        render_mode: "rgb_array", if the environment has `draw`; or None.

    Raises:
        ValueError: a space has no counterpart, there is no such render mode, or
            parameters are those of several environments.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 50,
    }

    def __init__(self, env: Any, params: Any, *, render_mode: str | None = None):
        if isinstance(params, ParamsPerEnv):
            raise ValueError(
                "GymnasiumEnv is one environment, got a ParamsPerEnv. Use "
                "GymnasiumVectorEnv, or pass one set of parameters."
            )
        super().__init__(env, params, render_mode)
        self.observation_space, self.action_space = make_spaces(env, params)
        self._state: Any = None
        self._action: Any = None
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; a seed makes it, and those that follow, repeatable.

        Raises:
            ValueError: there are options; an environment has parameters instead.
        """
        _check_options(options, ())
        super().reset(seed=seed)
        self._seed(seed)
        self._state, observation = self._call(self._env, "reset", self._params)
        self._action, self._over = None, False
        return fit(self.observation_space, observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one action.

        Raises:
            ResetNeeded: the episode is over, or none was started.
            ValueError: the action lies outside the action space.
        """
        if self._over:
            raise ResetNeeded("the episode is over, or none was started. Call reset().")
        action = checked(self.action_space, action)
        inputs = self._state, action, self._params
        self._state, timestep = self._call(self._env, "step", *inputs)
        self._action = action
        observation = fit(self.observation_space, timestep.observation)
        terminated, truncated = bool(timestep.terminated), bool(timestep.truncated)
        self._over = terminated or truncated
        return observation, float(timestep.reward), terminated, truncated, {}

    def render(self) -> Any:
        """The present state as `[H, W, 3]` uint8; None without a render mode.

        Raises:
            ResetNeeded: no episode was started.
        """
        if not self._is_rendered(self._state):
            return None
        state, params = _numpy((self._state, self._params))
        return frame(self._env.draw(state, self._action, params))


class GymnasiumVectorEnv(_Adapter, gymnasium.vector.VectorEnv):
    """Many environments stepped together, in one compiled program.

    Args:
        env: an rljax environment.
        params: its parameters, the same for all, or a `ParamsPerEnv`.
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
        super().__init__(env, params, render_mode)
        check_at_least(1, num_envs=num_envs)
        self.num_envs = num_envs
        spaces = make_spaces(env, one_of(params))
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        try:
            self._mode = AutoresetMode(autoreset_mode)
        except ValueError:
            names = ", ".join(mode.value for mode in AutoresetMode)
            raise ValueError(
                f"autoreset_mode must be one of {names}, got {autoreset_mode!r}. "
                f"Choose one."
            ) from None
        self.metadata = GymnasiumEnv.metadata | {"autoreset_mode": self._mode}
        self._all = VectorEnv(env)
        self._envs: Any = None
        self._done = np.zeros(num_envs, bool)
        self._actions: Any = None
        self._acted = np.zeros(num_envs, bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in every environment, or in those of `options["reset_mask"]`.

        Args:
            seed: makes what follows repeatable: an integer; or one for each environment,
                None for an unpredictable one, whose first episode then depends on its
                seed only.
            options: `{"reset_mask": bool[num_envs]}`, at least one of them true.

        Raises:
            ValueError: the seed, the mask, or an option is of another kind.
            ResetNeeded: a mask, before all environments were started.
        """
        _check_options(options, ("reset_mask",))
        seeds = None if isinstance(seed, int | np.integer | None) else self._each(seed)
        one: Any = seed if seeds is None else hash(tuple(seeds)) % 2**31
        super().reset(seed=one)
        self._seed(one)
        mask = self._mask(options or {})
        if seeds is not None:
            start = functools.partial(_run, self._all, "reset_each", self._key)
            self._key, fresh = start(jnp.uint32(seeds), self._params)
            self._envs = (
                fresh if self._envs is None else _chosen(mask, fresh, self._envs)
            )
        elif self._envs is None:
            start = functools.partial(self._call, self._all, "reset")
            self._envs = start(self._params, num_envs=self.num_envs)
        else:
            inputs = self._params, self._envs, mask
            self._envs = self._call(self._all, "restart", *inputs)
        self._done = self._done & ~mask
        self._acted = self._acted & ~mask
        return fit(self.observation_space, self._envs.observation), {}

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
        actions = checked(self.action_space, actions)
        inputs = self._params, self._envs, actions
        self._envs, timestep, valid = self._call(
            self._all, "step", *inputs, autoreset=self._mode.name.lower()
        )
        final = fit(self.observation_space, timestep.observation)
        reward, terminated, truncated = _numpy(timestep[1:])
        ended = terminated | truncated
        self._done, self._actions, self._acted = ended, actions, np.array(valid)
        info: dict[str, Any] = {}
        if self._mode == AutoresetMode.SAME_STEP and ended.any():
            info = _final(final, ended)
            self._done, self._acted = np.zeros_like(ended), self._acted & ~ended
        observation = fit(self.observation_space, self._envs.observation)
        return observation, reward.astype(np.float64), terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present state of every environment as `[H, W, 3]` uint8, or None.

        Raises:
            ResetNeeded: no episode was started.
        """
        if not self._is_rendered(self._envs):
            return None
        states, params = _numpy((self._envs.state, self._params))
        all_params, axis = rows_of(params, self.num_envs)

        def picture(index: int) -> np.ndarray:
            state, action = member((states, self._actions), index)
            last = action if self._acted[index] else None
            one = all_params if axis is None else member(all_params, index)
            return frame(self._env.draw(state, last, one))

        return tuple(map(picture, range(self.num_envs)))

    def _each(self, seed: Any) -> list[int]:
        """A seed for each environment."""
        right = isinstance(seed, Sequence | np.ndarray) and len(seed) == self.num_envs
        if not right or not all(
            x is None or (isinstance(x, int | np.integer) and 0 <= x < 2**32)
            for x in seed
        ):
            raise ValueError(
                f"seed must be an integer, or one in [0, 2**32) for each of "
                f"{self.num_envs} environments, got {seed!r}. Use seed=0, say."
            )
        entropy = np.random.SeedSequence().generate_state(self.num_envs).tolist()
        pairs = zip(seed, entropy, strict=True)
        return [x if one is None else int(one) for one, x in pairs]

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


_chosen = jax.jit(choose)


@functools.partial(
    jax.jit, static_argnums=(0, 1), static_argnames=("num_envs", "autoreset")
)
def _run(env: Any, method: str, key: jax.Array, *args: Any, **options: Any) -> Any:
    key, subkey = jax.random.split(key)
    return key, getattr(env, method)(subkey, *args, **options)


def _check_options(options: dict[str, Any] | None, names: tuple[str, ...]) -> None:
    if unknown := set(options or {}) - set(names):
        known = f"only {', '.join(names)}" if names else "none"
        raise ValueError(
            f"reset takes {known} of options, got {', '.join(sorted(unknown))}. Change "
            f"an environment by its params."
        )


def _numpy(tree: Any) -> Any:
    """The tree with leaves copied into NumPy arrays; keys unchanged."""
    return jax.tree.map(lambda x: x if is_key(x) else np.array(x), tree)
