"""Numerical building blocks that know nothing of reinforcement learning.

Counter-based random numbers, sine and cosine that fuse, linear algebra, compiler options, splitting
work over devices, statistics over seeds, and checks of values on the host. Imports nothing of rljax
but `extras` and `base`.
"""

__all__ = [
    "compiler", "linalg", "random", "sharding", "statistics", "trig", "validation",
]  # fmt: skip
