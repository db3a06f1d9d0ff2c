"""The minimum of a convex loss of linear functions, with a penalty: no learning rate."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Minimum(NamedTuple):
    """Where a search ended.

    Attributes:
        u: `[D]`, what was sought.
        z: `[C]`, its linear functions.
        residual: scalar, the size of the gradient there, relative to that at 0.
        num_iterations: scalar int32; each takes one linear map and one transposed.
    """

    u: jax.Array
    z: jax.Array
    residual: jax.Array
    num_iterations: jax.Array


class _Place(NamedTuple):
    """Where a search has got to, and where it goes next."""

    u: jax.Array  # [D]
    z: jax.Array  # [C]
    scaled: jax.Array  # [D], the gradient over the curvature that is expected
    direction: jax.Array  # [D]
    size: jax.Array  # scalar, gradient times scaled
    num_iterations: jax.Array  # int32


def minimize(
    linear: Callable[[jax.Array], jax.Array],
    derivatives: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    labels: jax.Array,
    weights: jax.Array,
    l2: jax.Array,
    over_curvature: Callable[[jax.Array], jax.Array],
    size: int,
    *,
    tolerance: jax.Array | float,
    max_iterations: jax.Array | int,
) -> Minimum:
    """Minimizes the sum of weights * loss(linear(u), labels), plus l2 |u|^2, over u.

    Nonlinear conjugate gradients with each line searched nearly to its minimum; where the
    loss is a square they are the linear ones. May be mapped with `jax.vmap`.

    Args:
        linear: `[D] -> [C]`, a linear map.
        derivatives: of the loss, the first and the second one by the number, which is not
            negative: `[C]` each, of numbers and labels `[C]`.
        labels: `[C]`.
        weights: `[C]`, at least 0.
        l2: scalar, above 0.
        over_curvature: multiplies a gradient `[D]` with about the inverse of the
            Hessian; the better, the fewer iterations.
        size: D.
        tolerance: of the gradient, relative to that at 0.
        max_iterations: after which the search is given up.

    References:
        Polak and Ribiere's direction, begun anew where it would turn back: Nocedal and
        Wright (2006), "Numerical Optimization", 5.2.
    """
    zero = jnp.zeros(size)
    transposed = jax.linear_transpose(linear, zero)

    def gradient_at(u, z):
        (by_z,) = transposed(weights * derivatives(z, labels)[0])
        return by_z + 2 * l2 * u

    def step(at: _Place) -> _Place:
        dz = linear(at.direction)
        t = _along(derivatives, labels, weights, at, dz, l2)
        u, z = at.u + t * at.direction, at.z + t * dz
        gradient = gradient_at(u, z)
        scaled = over_curvature(gradient)
        size = gradient @ scaled
        turn = jnp.maximum(size - gradient @ at.scaled, 0.0) / at.size
        direction = turn * at.direction - scaled
        downhill = direction @ gradient < 0
        direction = jnp.where(downhill, direction, -scaled)
        return _Place(u, z, scaled, direction, size, at.num_iterations + 1)

    z = jnp.zeros_like(weights)
    gradient = gradient_at(zero, z)
    scaled = over_curvature(gradient)
    first = _Place(zero, z, scaled, -scaled, gradient @ scaled, jnp.int32(0))

    def goes_on(at: _Place) -> jax.Array:
        return (at.size > tolerance**2 * first.size) & (
            at.num_iterations < max_iterations
        )

    last = jax.lax.while_loop(goes_on, step, first)
    some = first.size > 0
    share = last.size / jnp.where(some, first.size, 1.0)
    return Minimum(
        last.u, last.z, jnp.sqrt(jnp.maximum(share, 0.0)), last.num_iterations
    )


def _along(derivatives, labels, weights, at: _Place, dz, l2) -> jax.Array:
    """Returns t >= 0, the minimum at u + t direction: Newton's steps within a bracket."""
    cross, square = at.u @ at.direction, at.direction @ at.direction

    def tighten(_, state):
        t, low, high = state
        slopes, bends = derivatives(at.z + t * dz, labels)
        slope = weights @ (slopes * dz) + 2 * l2 * (cross + t * square)
        bend = weights @ (bends * dz**2) + 2 * l2 * square
        low, high = jnp.where(slope < 0, t, low), jnp.where(slope < 0, high, t)
        newton = t - slope / jnp.where(bend > 0, bend, 1.0)
        middle = jnp.where(jnp.isinf(high), 2 * t + 1, (low + high) / 2)
        inside = (newton > low) & (newton < high)
        return jnp.where(inside, newton, middle), low, high

    start = jnp.float32(0.0), jnp.float32(0.0), jnp.float32(math.inf)
    return jax.lax.fori_loop(0, 3, tighten, start)[0]
