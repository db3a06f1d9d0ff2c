"""Spaces: what an action or an observation is."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers `0, ..., n - 1`, as int32 scalars.

    Raises:
        ValueError: `n` is not positive.
    """

    n: int

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(
                f"Discrete needs at least one element, got n={self.n}. Use n >= 1."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one element: `()`."""
        return ()

    @property
    def dtype(self) -> Any:
        """Element type: int32."""
        return np.dtype(np.int32)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws one element uniformly; consumes `key`."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def contains(self, x: Any) -> jax.Array:
        """Bool scalar: whether `x` is an integer scalar within the range."""
        x = jnp.asarray(x)
        if x.shape != () or not jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.bool_(False)
        return (x >= 0) & (x < self.n)


@dataclasses.dataclass(frozen=True)
class Box:
    """Arrays of one shape and dtype between two bounds, both included.

    Attributes:
        low: lower bound, a scalar or an array of `shape`; may be `-inf`, may be traced.
        high: upper bound, likewise.
        shape: shape of one element.
        dtype: element type.
    """

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any = np.float32

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws one element; consumes `key`.

        Uniform where both bounds are finite; otherwise a standard normal, clipped to
        the bounds.
        """
        uniform_key, normal_key = jax.random.split(key)
        low = jnp.broadcast_to(jnp.asarray(self.low, self.dtype), self.shape)
        high = jnp.broadcast_to(jnp.asarray(self.high, self.dtype), self.shape)
        bounded = jnp.isfinite(low) & jnp.isfinite(high)
        fraction = jax.random.uniform(uniform_key, self.shape, self.dtype)
        safe_low, safe_high = jnp.where(bounded, low, 0), jnp.where(bounded, high, 1)
        normal = jax.random.normal(normal_key, self.shape, self.dtype)
        uniform = safe_low + fraction * (safe_high - safe_low)
        return jnp.clip(jnp.where(bounded, uniform, normal), low, high)

    def contains(self, x: Any) -> jax.Array:
        """Bool scalar: whether `x` has the shape and dtype and lies within the bounds."""
        x = jnp.asarray(x)
        if x.shape != tuple(self.shape) or x.dtype != self.dtype:
            return jnp.bool_(False)
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        return jnp.all((x >= low) & (x <= high))
