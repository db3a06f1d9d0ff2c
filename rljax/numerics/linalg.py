"""Linear algebra without LAPACK, and products that are fast on CPUs."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from rljax.numerics import random


def orthogonal(scale: float = 1.0) -> Callable[..., jax.Array]:
    """Initializer: a uniformly random (semi-)orthogonal `[inputs, outputs]` matrix.

    The orthogonal factor of a Gaussian matrix's polar decomposition, by Newton and
    Schulz's iteration. Flax's own initializer calls LAPACK, which deadlocks at random
    when several are vmapped in one program on a CPU.

    Args:
        scale: the value of every singular value.

    References:
        Saxe et al. (2014), https://arxiv.org/abs/1312.6120; Higham (2008), Functions of
        Matrices, section 8.3.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
        if len(shape) != 2:
            raise ValueError(
                f"orthogonal makes matrices, got the shape {tuple(shape)}. Use another "
                f"initializer for arrays of another rank."
            )
        rows, columns = max(shape), min(shape)
        gaussian = random.normals(key, (rows, columns))
        # Singular values in (0, 1], from where the iteration takes each to 1.
        small = gaussian / jnp.linalg.norm(gaussian)
        product = functools.partial(jnp.matmul, precision="highest")
        identity = jnp.eye(columns, dtype=jnp.float32)

        def error_of(q):
            return product(q.T, q) - identity

        def iterate(carry):
            q, error = carry
            q = q - product(q, error) / 2
            return q, error_of(q)

        def is_far(carry):
            return jnp.abs(carry[1]).max() > 1e-4

        # Convergence is quadratic: one more step reaches float32's precision.
        q, error = jax.lax.while_loop(is_far, iterate, (small, error_of(small)))
        q = (q - product(q, error) / 2).astype(dtype)
        return scale * (q if shape[0] == rows else q.T)

    return init


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, with a backward pass that is fast on CPUs too."""
    return x @ kernel


def _forward(x, kernel):
    return x @ kernel, (x, kernel)


def _backward(saved, gradient):
    x, kernel = saved
    rows, by_row = (a.reshape(-1, a.shape[-1]) for a in (x, gradient))

    def transposed_first(rows, by_row):
        # XLA would fold the transposition into a product, for which it has no fast
        # kernel on a CPU: a fifth of the whole time of PPO.
        return jax.lax.optimization_barrier(rows.T) @ by_row

    kernel_gradient = jax.lax.platform_dependent(
        rows, by_row, cpu=transposed_first, default=lambda a, b: a.T @ b
    )
    return gradient @ kernel.T, kernel_gradient


matmul.defvjp(_forward, _backward)
