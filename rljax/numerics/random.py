"""Random numbers as a function of what they are for, cheap enough to fuse into a step.

JAX's generators cost more than an environment's physics. Where only noise is wanted, and
much of it, the keys of steps come from them, and the numbers of a step's lanes from pcg4d,
a hash of four words to four, of a few multiplications.

References:
    Jarzynski & Olano (2020), "Hash functions for GPU rendering", Journal of Computer
    Graphics Techniques 9 (3), with the results of its TestU01 runs.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def pcg4d(
    x: jax.Array, y: jax.Array, z: jax.Array, w: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Four uint32 words of four, of any shapes that broadcast."""
    x, y, z, w = (v * np.uint32(1664525) + np.uint32(1013904223) for v in (x, y, z, w))
    x, y, z, w = _mix(x, y, z, w)
    x, y, z, w = (v ^ (v >> np.uint32(16)) for v in (x, y, z, w))
    return _mix(x, y, z, w)


def bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random uint32 words; those of a row do not depend on how many rows there are.

    Args:
        key: consumed; a typed key.
        shape: of the result; its first axis is that of rows.
    """
    indices = jnp.arange(math.prod(shape[1:]), dtype=jnp.uint32)
    first, second = jax.random.bits(key, (2,))
    row = jax.lax.broadcasted_iota(jnp.uint32, shape or (1,), 0)
    column = jnp.broadcast_to(indices.reshape(shape[1:]), row.shape)
    words, *_ = pcg4d(row, first, second, column)
    return words.reshape(shape)


def uniforms(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 numbers in [0, 1), multiples of 2**-23, of the words of `bits`."""
    return _to_unit_interval(bits(key, shape))


def normals(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 numbers of the standard normal distribution, at most 5.4 from 0."""
    # In the middle of each of 2**23 equal intervals, none of them at infinity.
    middle = uniforms(key, shape) * 2 - np.float32(1 - 2**-23)
    return math.sqrt(2) * jax.lax.erf_inv(middle)


def gumbels(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """float32 numbers of the standard Gumbel distribution."""
    smallest = np.float32(2**-24)
    return -jnp.log(-jnp.log(jnp.maximum(uniforms(key, shape), smallest)))


def uniform(step_key: jax.Array, lane: jax.Array, number: int) -> jax.Array:
    """Numbers in [0, 1), as many as there are lanes; equal to those of any other batch.

    Args:
        step_key: uint32 `[2]`, random, another for every step.
        lane: uint32 `[B]`, which lanes they are for.
        number: which of a lane's numbers in this step.

    Returns:
        float32 `[B]`, multiples of 2**-23.
    """
    words, *_ = pcg4d(lane, step_key[0], step_key[1], jnp.uint32(number))
    return _to_unit_interval(words)


def _to_unit_interval(words: jax.Array) -> jax.Array:
    one_to_two = (words >> np.uint32(9)) | np.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(one_to_two, jnp.float32) - 1


def _mix(x, y, z, w):
    x = x + y * w
    y = y + z * x
    z = z + x * y
    w = w + y * z
    return x, y, z, w
