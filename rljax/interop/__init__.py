"""Interfaces of other libraries, implemented by rljax's objects.

`rljax.interop.gymnasium` makes any environment a `gymnasium.Env` or a `gymnasium.vector.VectorEnv`, and
`rljax.interop.stable_baselines3` a `VecEnv`, with masks for sb3-contrib. They need those libraries, so they
are not imported here. Imports every package but `commands`.
"""

__all__ = ["gymnasium", "stable_baselines3"]
