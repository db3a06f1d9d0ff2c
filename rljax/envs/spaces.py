"""Spaces of actions and observations: their shape, dtype and bounds."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

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
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[Any] = np.dtype(np.int32)

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(
                f"Discrete needs at least one element, got n={self.n}. Use n >= 1."
            )

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws one element uniformly; consumes `key`."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def contains(self, x: Any) -> jax.Array:
        """Bool scalar: whether `x` is an integer scalar within the range."""
        array = _as_array(x, ())
        if array is None or not jnp.issubdtype(array.dtype, jnp.integer):
            return jnp.bool_(False)
        return (array >= 0) & (array < self.n)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several discrete choices at once: component i is one of `0, ..., nvec[i] - 1`.

    Raises:
        ValueError: there is no component, or one without elements.
    """

    nvec: tuple[int, ...]
    dtype: ClassVar[Any] = np.dtype(np.int32)

    def __post_init__(self):
        # Of an array or a list, too.
        object.__setattr__(self, "nvec", tuple(int(n) for n in self.nvec))
        if not self.nvec or min(self.nvec) < 1:
            raise ValueError(
                f"MultiDiscrete needs at least one element for each of its components, "
                f"got nvec={self.nvec}. Use nvec=(2, 3), say."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one element: `[len(nvec)]`."""
        return (len(self.nvec),)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws one element uniformly; consumes `key`."""
        return jax.random.randint(
            key, self.shape, 0, np.asarray(self.nvec, np.int32), jnp.int32
        )

    def contains(self, x: Any) -> jax.Array:
        """Bool scalar: whether `x` has the shape, and integers within the ranges."""
        array = _as_array(x, self.shape)
        if array is None or not jnp.issubdtype(array.dtype, jnp.integer):
            return jnp.bool_(False)
        return jnp.all((array >= 0) & (array < np.asarray(self.nvec, np.int32)))


@dataclasses.dataclass(frozen=True)
class Box:
    """Arrays of one shape and dtype between two bounds, both included.

    Attributes:
        low: lower bound, a scalar or an array of `shape`; may be `-inf`, may be traced.
        high: upper bound, likewise.
        shape: shape of one element.
        dtype: element type: floating, bool, or an integer type whose bounds lie within
            -2**31 and 2**31 - 2.

    Raises:
        ValueError: a lower bound lies above its upper bound, or an integer one too far.
    """

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any = np.float32

    def __post_init__(self):
        if any(isinstance(x, jax.core.Tracer) for x in (self.low, self.high)):
            return
        integer = np.issubdtype(self.dtype, np.integer)
        low, high = np.asarray(self.low), np.asarray(self.high)
        if integer and (np.any(high >= 2**31 - 1) or np.any(low < -(2**31))):
            raise ValueError(
                f"an integer Box needs -2**31 <= low and high < 2**31 - 1, got "
                f"low={self.low} and high={self.high}. Use smaller bounds."
            )
        if np.any(low > high):
            raise ValueError(
                f"Box needs low <= high, got low={self.low} and high={self.high}. Swap "
                f"them."
            )

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws one element; consumes `key`.

        Uniform where both bounds are finite; otherwise a standard normal, clipped to
        the bounds.
        """
        low = jnp.broadcast_to(jnp.asarray(self.low), self.shape)
        high = jnp.broadcast_to(jnp.asarray(self.high), self.shape)
        if jnp.issubdtype(self.dtype, jnp.integer) or self.dtype in (bool, np.bool_):
            # randint excludes the upper bound; high + 1 fits into int32.
            drawn = jax.random.randint(
                key, self.shape, low.astype(jnp.int32), high.astype(jnp.int32) + 1
            )
            return drawn.astype(self.dtype)
        uniform_key, normal_key = jax.random.split(key)
        low, high = low.astype(self.dtype), high.astype(self.dtype)
        bounded = jnp.isfinite(low) & jnp.isfinite(high)
        share = jax.random.uniform(uniform_key, self.shape, self.dtype)
        # Not low + share * (high - low), which overflows where the bounds are huge.
        uniform = jnp.where(bounded, low, 0) * (1 - share)
        uniform += jnp.where(bounded, high, 0) * share
        normal = jax.random.normal(normal_key, self.shape, self.dtype)
        return jnp.clip(jnp.where(bounded, uniform, normal), low, high)

    def contains(self, x: Any) -> jax.Array:
        """Bool scalar: whether `x` has the shape and dtype and lies within the bounds."""
        array = _as_array(x, self.shape)
        if array is None or array.dtype != self.dtype:
            return jnp.bool_(False)
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        return jnp.all((array >= low) & (array <= high))


def is_space(x: Any) -> bool:
    """Whether it is one space, rather than a dictionary or tuple of spaces."""
    return hasattr(x, "contains")


def has_structure(space: Any, x: Any) -> bool:
    """Whether `x` has a part for each space of a pytree of spaces, in the same places."""
    wanted: Any = jax.tree.structure(space, is_leaf=is_space)
    return wanted == jax.tree.structure(x)


def is_same_kind(space: Any, dtype: Any) -> bool:
    """Whether numbers are floating, whole or bools, as those of the space are."""
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    both = dtype, np.dtype(space.dtype)
    return any(all(jnp.issubdtype(x, kind) for x in both) for kind in kinds)


def split_mask(observation: Any) -> tuple[Any, Any]:
    """An observation, or its space, and the action mask in it; None if there is none."""
    if not isinstance(observation, Mapping) or "action_mask" not in observation:
        return observation, None
    rest = {name: x for name, x in observation.items() if name != "action_mask"}
    only = rest["observation"] if rest.keys() == {"observation"} else rest
    return only, observation["action_mask"]


def num_choices(space: Any) -> tuple[int, ...] | None:
    """Elements of each choice of a `Discrete` or `MultiDiscrete`; None of other spaces."""
    if isinstance(space, Discrete):
        return (space.n,)
    return tuple(space.nvec) if isinstance(space, MultiDiscrete) else None


def split_choices(mask: Any, sizes: tuple[int, ...]) -> list[Any]:
    """A mask `[..., sum(sizes)]` as one of each choice."""
    ends = np.cumsum(sizes).tolist()
    return [mask[..., a:b] for a, b in zip([0, *ends], ends, strict=False)]


def sample_action(space: Any, key: jax.Array, observation: Any) -> Any:
    """A random action, uniform among those that the observation's mask allows, if any.

    Args:
        space: the action space, or a pytree of spaces.
        key: consumed.
        observation: of one environment.
    """
    _, mask = split_mask(observation)
    if mask is None:
        count = len(jax.tree.leaves(space, is_leaf=is_space))
        keys = iter(jax.random.split(key, count) if count > 1 else [key])
        return jax.tree.map(lambda x: x.sample(next(keys)), space, is_leaf=is_space)
    allowed = split_choices(mask, num_choices(space) or ())
    scores = [
        jnp.where(mask, jax.random.uniform(x, mask.shape, jnp.float32), -1.0)
        for mask, x in zip(allowed, jax.random.split(key, len(allowed)), strict=True)
    ]
    chosen = jnp.stack([jnp.argmax(x) for x in scores]).astype(jnp.int32)
    return chosen if isinstance(space, MultiDiscrete) else chosen[0]


def _as_array(x: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """An array or a number of this shape; None of another, and of a container."""
    leaves = jax.tree.leaves(x)
    is_leaf = len(leaves) == 1 and leaves[0] is x
    return jnp.asarray(x) if is_leaf and jnp.shape(x) == tuple(shape) else None
