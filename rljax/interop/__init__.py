"""Interfaces of other libraries, implemented by rljax's objects.

`rljax.interop.gymnasium` makes any environment a `gymnasium.Env` or a `gymnasium.vector.VectorEnv`. It
needs `pip install 'rljax[gym]'`, so it is not imported here. Imports every package but `commands`.
"""

__all__ = ["gymnasium"]
