"""Many rljax environments as a Stable-Baselines3 `VecEnv`, stepped in one compiled program.

Needs `pip install 'rljax[gym]' stable-baselines3`.

Example:
    PPO("MlpPolicy", StableBaselines3Env(CartPole(), CartPoleParams(), 8)).learn(100_000)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.envs.spaces import split_mask
from rljax.interop.gymnasium import GymnasiumVectorEnv

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError(
        "rljax.interop.stable_baselines3 needs Stable-Baselines3, which is not "
        "installed. Install it with: pip install stable-baselines3"
    ) from error


class StableBaselines3Env(VecEnv):
    """Many environments, each restarted in the step that ends its episode.

    An episode's last observation is in its `info["terminal_observation"]`, and
    `info["TimeLimit.truncated"]` says whether only the clock ran out. Where observations
    have an `action_mask`, `env_method("action_masks")` gives it, as sb3-contrib's
    `MaskablePPO` asks for it.

    Args:
        env: an rljax environment.
        params: its parameters, the same for all, or a `ParamsPerEnv`.
        num_envs: how many.
        render_mode: "rgb_array", if the environment has `draw`; or None.

    Raises:
        ValueError: a space has no counterpart; no environment; no such render mode.
    """

    def __init__(
        self, env: Any, params: Any, num_envs: int, *, render_mode: str | None = None
    ):
        self._envs = GymnasiumVectorEnv(
            env, params, num_envs, autoreset_mode="SameStep", render_mode=render_mode
        )
        self._actions: Any = None
        self._observation: Any = None
        spaces = self._envs.single_observation_space, self._envs.single_action_space
        super().__init__(num_envs, *spaces)

    def reset(self) -> Any:
        """Starts an episode in every environment; after `seed`, by its seed."""
        seeds = self._seeds if any(x is not None for x in self._seeds) else None
        observation, _ = self._envs.reset(seed=seeds)
        self._observation = observation
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Takes the actions of the next `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Steps: observations, rewards, whether episodes ended, and infos."""
        result = self._envs.step(self._actions)
        observation, rewards, terminated, truncated, final = result
        self._observation = observation
        ended = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(ended):
            infos[index] = {
                "terminal_observation": final["final_obs"][index],
                "TimeLimit.truncated": bool(truncated[index] & ~terminated[index]),
            }
        return observation, rewards.astype(np.float32), ended, infos

    def close(self) -> None:
        """Nothing has to be closed."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The present state of every environment, or of each None."""
        pictures = self._envs.render()
        return [None] * self.num_envs if pictures is None else list(pictures)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the batch, for each environment."""
        if attr_name == "action_masks" and self._is_masked():
            return [self._mask for _ in self._get_indices(indices)]
        value = getattr(self._envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raises: environments have no state of their own; give other params."""
        raise NotImplementedError(
            f"the environments are pure functions, got {attr_name}={value!r} to set. "
            f"Make a StableBaselines3Env with other params."
        )

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **options: Any
    ) -> list[Any]:
        """Gives the masks of "action_masks"; raises for methods of single environments."""
        masks = self._mask()
        if method_name == "action_masks" and masks is not None:
            return [masks[index] for index in self._get_indices(indices)]
        raise NotImplementedError(
            f"the environments are stepped together, got {method_name} to call. Use the "
            f"rljax environment."
        )

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """False for each."""
        return [False for _ in self._get_indices(indices)]

    def _is_masked(self) -> bool:
        return "action_mask" in getattr(self.observation_space, "spaces", ())

    def _mask(self) -> np.ndarray | None:
        """Bools `[num_envs, n]` of the actions allowed now; None without a mask."""
        return split_mask(self._observation)[1]
